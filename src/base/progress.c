/* progress.c: how far a long job is, on stderr: a bar with the time left on a terminal, plain lines
 * in a log. SPDX-License-Identifier: MIT */
#include "base/base.h"

#include <stdio.h>

#define REDRAW_SECONDS  0.1 /* terminal */
#define LINE_SECONDS    2.0 /* log: a new tenth prints at most this often … */
#define SILENCE_SECONDS 30. /* … and a slow job is not silent longer than this */
#define BAR_MAX         40

static void format_seconds(double s, char *out, size_t bytes) {
    int64_t t = s > 0 ? (int64_t)(s + 0.5) : 0;
    if (t >= 3600)
        snprintf(out, bytes, "%lld:%02d:%02d", (long long)(t / 3600), (int)(t / 60 % 60),
                 (int)(t % 60));
    else
        snprintf(out, bytes, "%d:%02d", (int)(t / 60), (int)(t % 60));
}

/* "120/500  0:31 left  loss 0.123" */
static void format_state(const progress *p, double now, const char *note, char *out, size_t bytes) {
    char left[32] = "", clock[24];
    double spent = now - p->start;
    if (p->total > 0 && p->done >= p->total) {
        format_seconds(spent, clock, sizeof clock);
        snprintf(left, sizeof left, "  in %s", clock);
    } else if (p->total > 0 && p->done > p->first) {
        format_seconds(spent / (double)(p->done - p->first) * (double)(p->total - p->done), clock, sizeof clock);
        snprintf(left, sizeof left, "  %s left", clock);
    }
    const char *gap = note && *note ? "  " : "";
    if (p->total > 0)
        snprintf(out, bytes, "%lld/%lld%s%s%s", (long long)p->done, (long long)p->total, left, gap,
                 note ? note : "");
    else
        snprintf(out, bytes, "%lld%s%s", (long long)p->done, gap, note ? note : "");
}

static int tenth(const progress *p) {
    return p->total > 0 ? (int)((double)p->done / (double)p->total * 10) : 0;
}

static void draw(progress *p, double now, const char *note) {
    char state[256];
    format_state(p, now, note, state, sizeof state);
    p->last = now;
    if (!p->tty) {
        p->shown = tenth(p);
        fprintf(stderr, "%s: %s\n", p->what, state);
        return;
    }
    char bar[BAR_MAX * 3 + 4] = "", line[512];
    int room = os_terminal_columns() - 6 - (int)strlen(p->what) - (int)strlen(state);
    int width = p->total > 0 ? MIN(room, BAR_MAX) : 0;
    if (width >= 5) {
        int full = (int)((double)width * (double)MIN(p->done, p->total) / (double)p->total);
        bar[0] = '[';
        memset(bar + 1, '=', (size_t)full);
        memset(bar + 1 + full, ' ', (size_t)(width - full));
        memcpy(bar + 1 + width, "] ", 3);
    }
    int n = snprintf(line, sizeof line, "%s %s%s", p->what, bar, state);
    int columns = os_terminal_columns() - 1; /* a wrapped line could not be redrawn */
    fprintf(stderr, "\r%.*s\033[K", MAX(MIN(n, columns), 0), line);
    fflush(stderr);
    p->shown = 1;
}

void progress_begin(progress *p, const char *what, int64_t total) {
    double now = os_seconds();
    *p = (progress){
        .what = what, .total = total, .start = now, .last = now, .tty = os_is_terminal(2)};
    if (p->tty) draw(p, now, NULL);
}

void progress_step(progress *p, int64_t done, const char *note) {
    double now = os_seconds(), since = now - p->last;
    p->done = done;
    bool complete = p->total > 0 && done >= p->total;
    bool due = p->tty ? since >= REDRAW_SECONDS
                      : (since >= LINE_SECONDS && tenth(p) > p->shown) || since >= SILENCE_SECONDS;
    if (complete || due) draw(p, now, note);
}

void progress_end(progress *p) {
    if (p->tty && p->shown) fputc('\n', stderr);
    p->shown = 0;
}
