/* os_posix_thread.c: threads and monitors by POSIX threads.
 * SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "base/thread.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>

struct os_thread {
    pthread_t id;
    void (*body)(void *ctx);
    void *ctx;
};

struct os_monitor {
    pthread_mutex_t lock;
    pthread_cond_t changed;
};

static void *thread_main(void *p) {
    os_thread *t = p;
    t->body(t->ctx);
    return NULL;
}

status os_thread_start(void (*body)(void *ctx), void *ctx, os_thread **out) {
    os_thread *t = *out = NULL;
    sigset_t all, before;
    t = mem_alloc(sizeof *t);
    if (!t) return fail(E_HOST_MEMORY, "no memory to start a thread");
    t->body = body, t->ctx = ctx;
    /* A thread inherits the mask: Ctrl-C must not land in one that cannot answer it. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = fault_hit() ? -1 : pthread_create(&t->id, NULL, thread_main, t);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) {
        mem_free(t);
        return fail(E_HOST_MEMORY, "the system refuses another thread: give fewer threads");
    }
    *out = t;
    return OK;
}

void os_thread_join(os_thread *t) {
    if (!t) return;
    int error = pthread_join(t->id, NULL);
    assert(!error), (void)error;
    mem_free(t);
}

status os_monitor_create(os_monitor **out) {
    os_monitor *m = *out = mem_alloc(sizeof *m);
    if (!m) return fail(E_HOST_MEMORY, "no memory for a lock");
    pthread_mutex_init(&m->lock, NULL); /* neither can fail with default attributes on Linux */
    pthread_cond_init(&m->changed, NULL);
    return OK;
}

void os_monitor_destroy(os_monitor *m) {
    if (!m) return;
    pthread_cond_destroy(&m->changed);
    pthread_mutex_destroy(&m->lock);
    mem_free(m);
}

void os_monitor_lock(os_monitor *m) { pthread_mutex_lock(&m->lock); }
void os_monitor_unlock(os_monitor *m) { pthread_mutex_unlock(&m->lock); }
void os_monitor_wait(os_monitor *m) { pthread_cond_wait(&m->changed, &m->lock); }
void os_monitor_wake_all(os_monitor *m) { pthread_cond_broadcast(&m->changed); }
