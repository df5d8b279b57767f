/* log.c: lines on stderr above a level. The level is the program's one mutable global besides the
 * fault ring and the interrupt flag; it starts as IMAGO_LOG says.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

static atomic_int level_set = -1; /* -1: nobody called log_set_level, the debug switch holds */

void log_set_level(log_level level) { atomic_store(&level_set, (int)level); }

void log_to(log_level level, const char *fmt, ...) {
    static const char *const prefix[LOG_LEVEL_COUNT] = {"error: ", "warning: ", "", "debug: "};
    int limit = atomic_load(&level_set);
    if ((int)level > (limit >= 0 ? limit : (int)debug_get()->log)) return;
    char line[2048];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    /* One call, so that lines of several threads do not mix; on a terminal first wipe a progress
     * bar. */
    fprintf(stderr, "%s%s%s\n", os_is_terminal(2) ? "\r\033[K" : "", prefix[level], line);
}
