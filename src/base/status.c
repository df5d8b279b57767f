/* status.c: the thread's last failure: one line for people and the frames it passed through.
 * Thread-local because each thread fails on its own; fixed buffers because out-of-memory must be
 * reportable. SPDX-License-Identifier: MIT */
#include "base/base.h"

#include <stdarg.h>
#include <stdio.h>

#define MESSAGE_BYTES 2048
#define TRACE_BYTES   8192

static _Thread_local char message[MESSAGE_BYTES];
static _Thread_local char trace[TRACE_BYTES];
static _Thread_local size_t trace_used;

status fail(status st, const char *fmt, ...) {
    char text[MESSAGE_BYTES]; /* an argument may be error_message() itself */
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (n < 0)
        snprintf(text, sizeof text, "%s (the message could not be formatted)", status_name(st));
    for (char *c = text; *c; c++) /* names from hostile files must not steer the terminal */
        if ((unsigned char)*c < 0x20 && *c != '\n') *c = '?';
    memcpy(message, text, strlen(text) + 1);
    trace[0] = 0;
    trace_used = 0;
    return st;
}

status error_trace(status st, const char *at, const char *what) {
    size_t room = sizeof trace - trace_used;
    int n = snprintf(trace + trace_used, room, "%s: %s\n", at, what);
    if (n < 0) return st;
    if ((size_t)n < room)
        trace_used += (size_t)n;
    else
        trace[trace_used] = 0; /* full: keep whole frames, the innermost are the ones that matter */
    return st;
}

const char *error_message(void) { return message; }
const char *error_backtrace(void) { return trace; }

void error_clear(void) {
    message[0] = trace[0] = 0;
    trace_used = 0;
}

const char *status_name(status st) {
    switch (st) {
    case OK:
        return "ok";
    case E_USAGE:
        return "usage";
    case E_IO:
        return "input/output";
    case E_FORMAT:
        return "format";
    case E_SHAPE:
        return "shape";
    case E_UNSUPPORTED:
        return "unsupported";
    case E_HOST_MEMORY:
        return "out of host memory";
    case E_GPU_MEMORY:
        return "out of GPU memory";
    case E_DEVICE_LOST:
        return "device lost";
    case E_CANCELLED:
        return "cancelled";
    case STATUS_COUNT:
        break;
    }
    return "unknown status";
}
