/* debug.c: the four switches of the environment, read once. No other file calls getenv (cli/ reads
 * HOME, XDG_CACHE_HOME and NO_COLOR and hands them down).
 * SPDX-License-Identifier: MIT */
#include "base/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <threads.h>

static debug_switches switches = {.log = LOG_INFO};
static once_flag once = ONCE_FLAG_INIT;

/* Not log_warn: the log asks debug_get, which is what runs now. */
static void unknown(const char *name, const char *seen, const char *expected) {
    fprintf(stderr, "warning: %s=%s is not understood and ignored; expected %s\n", name, seen,
            expected);
}

static void read_log(const char *s) {
    static const char *const names[LOG_LEVEL_COUNT] = {"error", "warn", "info", "debug"};
    for (int i = 0; i < LOG_LEVEL_COUNT; i++)
        if (!strcmp(s, names[i])) {
            switches.log = (log_level)i;
            return;
        }
    unknown("IMAGO_LOG", s, "error, warn, info or debug");
}

static void read_check(const char *s) {
    const struct {
        const char *name;
        bool *on;
    } words[] = {{"finite", &switches.check_finite},
                 {"ref", &switches.check_ref},
                 {"guard", &switches.check_guard},
                 {"tiles", &switches.gpu_tiles}};
    for (const char *p = s; *p;) {
        size_t n = strcspn(p, ","), i = 0;
        while (i < ARRAY_LEN(words) &&
               !(strlen(words[i].name) == n && !strncmp(p, words[i].name, n)))
            i++;
        if (i < ARRAY_LEN(words))
            *words[i].on = true;
        else if (n)
            unknown("IMAGO_CHECK", s, "a list of finite,ref,guard,tiles");
        p += n + (p[n] == ',');
    }
}

static void read_all(void) {
    const char *s = getenv("IMAGO_LOG");
    if (s && *s) read_log(s);
    s = getenv("IMAGO_CHECK");
    if (s && *s) read_check(s);
    s = getenv("IMAGO_DUMP");
    if (s && *s) switches.dump_dir = s;
    s = getenv("IMAGO_PROFILE");
    switches.profile = s && *s && strcmp(s, "0") != 0;
}

const debug_switches *debug_get(void) {
    call_once(&once, read_all);
    return &switches;
}
