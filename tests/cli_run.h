/* cli_run.h: runs the program as a user does, through the shell, and looks at what it said.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "test.h"
#include <sys/wait.h>

static char out[1 << 17]; /* stdout and stderr of the last run */

/* Runs head and args; "%c" in args is fill[i] where marks[i] is c. Returns the exit code. */
static inline int cli_run(const char *head, const char *args, const char *marks, const char *const *fill) {
    char cmd[4096];
    int n = snprintf(cmd, sizeof cmd, "%s ", head);
    for (const char *a = args; *a; a++) {
        const char *mark = a[0] == '%' && a[1] ? strchr(marks, a[1]) : NULL;
        n += mark ? snprintf(cmd + n, sizeof cmd - (size_t)n, "%s", fill[mark - marks]) : snprintf(cmd + n, sizeof cmd - (size_t)n, "%c", *a);
        a += mark != NULL;
        REQUIRE(n < 4000);
    }
    snprintf(cmd + n, sizeof cmd - (size_t)n, " 2>&1");
    FILE *p = popen(cmd, "r");
    REQUIRE(p != NULL);
    size_t got = fread(out, 1, sizeof out - 1, p);
    out[got] = 0;
    int st = pclose(p);
    REQUIRE(WIFEXITED(st)); /* no crash, no signal */
    return WEXITSTATUS(st);
}

static inline bool says(const char *text) {
    if (strstr(out, text)) return true;
    printf("missing '%s' in: %s\n", text, out);
    return false;
}

static inline bool one_line(void) { return strchr(out, '\n') == out + strlen(out) - 1; }
