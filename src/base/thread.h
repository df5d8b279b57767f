/* thread.h: threads that work beside the caller (reading ahead, composing), and the one thing they
 * wait on. Compute inside a step belongs to the team of host/, not here.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "base/base.h"

typedef struct os_thread os_thread;
/* errors  E_HOST_MEMORY. Signals stay with the thread that started the program. */
status os_thread_start(void (*body)(void *ctx), void *ctx, os_thread **out);
void   os_thread_join(os_thread *t); /* waits for body to return; accepts NULL */

/* A lock and one condition: wait gives the lock up until somebody wakes, and may return without
 * reason, so it belongs in a loop around the question. */
typedef struct os_monitor os_monitor;
status os_monitor_create(os_monitor **out);
void   os_monitor_destroy(os_monitor *m); /* accepts NULL */
void   os_monitor_lock(os_monitor *m);
void   os_monitor_unlock(os_monitor *m);
void   os_monitor_wait(os_monitor *m);
void   os_monitor_wake_all(os_monitor *m);
