/* record_plot.c: a curve with numbered axes, and sheets of pictures. No plotting library: a run
 * must be watchable on a machine that has nothing but this program. SPDX-License-Identifier: MIT */
#include "train/record.h"
#include <math.h>
#include <stdio.h>

enum {
    W = 960,
    H = 540,
    LEFT = 84,
    RIGHT = 16,
    TOP = 16,
    BOTTOM = 44,
    DOT = 3 /* px of one dot of the font */
};
static const uint8_t white[3] = {255, 255, 255}, ink[3] = {40, 40, 40}, grid[3] = {222, 222, 222},
                     pale[3] = {160, 190, 230}, strong[3] = {20, 70, 160};

/* 3 x 5 dots a character, rows from the top, three bits each */
static const char letters[] = "0123456789.-k_abcdefghijlmnopqrstuvwxyz";
static const uint16_t font[] = {075557, 026227, 071747, 071717, 055711, 074717, 074757, 071244,
                                075757, 075717, 000002, 000700, 045655, 000007, 025755, 065656,
                                034443, 065556, 074647, 074644, 034553, 055755, 072227, 011152,
                                044447, 057755, 065555, 025552, 065644, 025563, 065655, 034216,
                                072222, 055557, 055552, 055775, 055255, 055222, 071247};

static void put(image *im, int x, int y, const uint8_t c[3]) {
    if (x >= 0 && y >= 0 && x < im->w && y < im->h)
        memcpy(im->px + 3 * ((size_t)y * (size_t)im->w + (size_t)x), c, 3);
}

static void box(image *im, int x, int y, int w, int h, const uint8_t c[3]) {
    for (int j = 0; j < h; j++)
        for (int i = 0; i < w; i++) put(im, x + i, y + j, c);
}

static int width_of(const char *text) { return (int)strlen(text) * 4 * DOT - DOT; }

static void words(image *im, int x, int y, const char *text, const uint8_t c[3]) {
    for (int i = 0; text[i]; i++) {
        const char *at = strchr(letters, text[i] >= 'A' && text[i] <= 'Z' ? text[i] + 32 : text[i]);
        for (int bit = 0; at && bit < 15; bit++)
            if (font[at - letters] >> (14 - bit) & 1)
                box(im, x + i * 4 * DOT + bit % 3 * DOT, y + bit / 3 * DOT, DOT, DOT, c);
    }
}

/* right: x is the text's right end, else its middle, moved so far that the text stays in the picture */
static void number(image *im, int x, int y, double value, bool right) {
    char text[32];
    bool kilo = value >= 10000;
    snprintf(text, sizeof text, "%.6g", kilo ? value / 1000 : value);
    if (kilo) snprintf(text + strlen(text), 2, "k");
    int width = width_of(text);
    x -= right ? width : width / 2;
    words(im, MAX(0, MIN(x, im->w - width)), y, text, ink);
}

static void stroke(image *im, double x0, double y0, double x1, double y1, int thick,
                   const uint8_t c[3]) {
    int n = (int)ceil(MAX(fabs(x1 - x0), fabs(y1 - y0))) + 1;
    for (int i = 0; i <= n; i++) {
        double f = (double)i / n;
        box(im, (int)lround(x0 + f * (x1 - x0)) - thick / 2,
            (int)lround(y0 + f * (y1 - y0)) - thick / 2, thick, thick, c);
    }
}

typedef struct axes {
    double x0, x1, y0, y1;
} axes; /* y0, y1: logarithms */

static double px_x(const axes *a, double x) {
    return LEFT + (x - a->x0) / (a->x1 - a->x0) * (W - LEFT - RIGHT);
}
static double px_y(const axes *a, double y) {
    return H - BOTTOM - (log10(y) - a->y0) / (a->y1 - a->y0) * (H - TOP - BOTTOM);
}

static bool drawable(double y) { return isfinite(y) && y > 0; }

static bool limits(const double *x, const double *y, int64_t n, axes *a) {
    double low = INFINITY, high = 0;
    *a = (axes){.x0 = n ? x[0] : 0, .x1 = n ? x[n - 1] : 1};
    if (!(a->x1 > a->x0)) a->x1 = a->x0 + 1;
    for (int64_t i = 0; i < n; i++)
        if (drawable(y[i])) low = MIN(low, y[i]), high = MAX(high, y[i]);
    if (!(high > 0)) return false;
    a->y0 = log10(low) - 0.03;
    a->y1 = log10(high) + 0.03;
    return true;
}

static void draw_grid(image *im, const axes *a) {
    double step = pow(10, floor(log10((a->x1 - a->x0) / 2)));
    while ((a->x1 - a->x0) / step > 8) step *= 2;
    for (double x = ceil(a->x0 / step) * step; x <= a->x1; x += step) {
        box(im, (int)px_x(a, x), TOP, 1, H - TOP - BOTTOM, grid);
        number(im, (int)px_x(a, x), H - BOTTOM + 14, x, false);
    }
    int decades = (int)(a->y1 - a->y0),
        every = decades >= 3 ? 9 : 1; /* all of 1..9, or powers of ten alone */
    int last = -1000;
    for (int e = (int)floor(a->y0); e <= (int)ceil(a->y1); e++)
        for (int d = 1; d < 10; d += every) {
            double y = d * pow(10, e);
            if (log10(y) < a->y0 || log10(y) > a->y1) continue;
            int at = (int)px_y(a, y);
            box(im, LEFT, at, W - LEFT - RIGHT, 1, grid);
            if (last != -1000 && last - at < 6 * DOT + 2) continue;
            number(im, LEFT - 8, at - 5 * DOT / 2, y, true);
            last = at;
        }
}

status plot_curve(const double *x, const double *y, int64_t n, image *out) {
    axes a;
    status st = image_create(W, H, 3, out);
    if (st != OK) return st;
    box(out, 0, 0, W, H, white);
    if (!limits(x, y, n, &a)) return OK;
    draw_grid(out, &a);
    double mean = NAN, keep = 1 - 1 / MAX(1.0, (double)n / 60), last_x = 0, last_y = 0,
           last_mean = 0;
    for (int pass = 0; pass < 2; pass++) {
        mean = NAN;
        for (int64_t i = 0; i < n; i++) {
            if (!drawable(y[i])) continue;
            bool first = isnan(mean);
            mean = first ? y[i] : keep * mean + (1 - keep) * y[i];
            double at = px_x(&a, x[i]), value = px_y(&a, y[i]), smooth = px_y(&a, mean);
            if (pass == 0)
                stroke(out, first ? at : last_x, first ? value : last_y, at, value, 1, pale);
            else
                stroke(out, first ? at : last_x, first ? smooth : last_mean, at, smooth, 3, strong);
            last_x = at, last_y = value, last_mean = smooth;
        }
    }
    box(out, LEFT, TOP, 2, H - TOP - BOTTOM, ink);
    box(out, LEFT, H - BOTTOM, W - LEFT - RIGHT, 2, ink);
    return OK;
}

/* ---- several lines, both axes linear ---- */
typedef struct range {
    double from, to;
} range;

static range range_of(const plot_line *l, int n, bool x) {
    range r = {INFINITY, -INFINITY};
    for (int i = 0; i < n; i++)
        for (int k = 0; k < l[i].n; k++) {
            double v = x ? l[i].x[k] : l[i].y[k];
            if (isfinite(v)) r.from = MIN(r.from, v), r.to = MAX(r.to, v);
        }
    if (!(r.to >= r.from)) return (range){0, 1};
    double more = MAX((r.to - r.from) * 0.05, 1e-6);
    return (range){r.from - more, r.to + more};
}

static double place(range r, double v, int from, int to) {
    return from + (v - r.from) / (r.to - r.from) * (to - from);
}

static void draw_linear_grid(image *im, range r, bool x) {
    double step = pow(10, floor(log10((r.to - r.from) / 2)));
    while ((r.to - r.from) / step > 8) step *= 2;
    for (double v = ceil(r.from / step) * step; v <= r.to; v += step) {
        double shown = fabs(v) < step / 2 ? 0 : v;
        int at = (int)(x ? place(r, v, LEFT, W - RIGHT) : place(r, v, H - BOTTOM, TOP));
        if (x) {
            box(im, at, TOP, 1, H - TOP - BOTTOM, grid);
            number(im, at, H - BOTTOM + 14, shown, false);
        } else {
            box(im, LEFT, at, W - LEFT - RIGHT, 1, grid);
            number(im, LEFT - 8, at - 5 * DOT / 2, shown, true);
        }
    }
}

status plot_lines(const plot_line *line, int n, const char *x_name, const char *y_name,
                  image *out) {
    static const uint8_t colors[PLOT_LINES][3] = {{200, 60, 40},  {20, 70, 160},  {20, 140, 90},
                                                  {220, 140, 20}, {120, 60, 160}, {90, 90, 90},
                                                  {0, 160, 190},  {190, 60, 130}};
    range x, y;
    status st = image_create(W, H, 3, out);
    if (st != OK) return st;
    n = MIN(n, PLOT_LINES);
    x = range_of(line, n, true), y = range_of(line, n, false);
    box(out, 0, 0, W, H, white);
    draw_linear_grid(out, x, true);
    draw_linear_grid(out, y, false);
    for (int i = 0; i < n; i++) {
        double was_x = 0, was_y = 0;
        for (int k = 0; k < line[i].n; k++) {
            double px = place(x, line[i].x[k], LEFT, W - RIGHT),
                   py = place(y, line[i].y[k], H - BOTTOM, TOP);
            if (k) stroke(out, was_x, was_y, px, py, 3, colors[i]);
            box(out, (int)px - 4, (int)py - 4, 9, 9, colors[i]);
            was_x = px, was_y = py;
        }
        words(out, W - RIGHT - 12 - width_of(line[i].name), H - BOTTOM - 60 - 22 * (n - 1 - i),
              line[i].name, colors[i]);
    }
    words(out, W - RIGHT - 12 - width_of(x_name), H - BOTTOM - 24, x_name, ink);
    words(out, LEFT + 12, TOP + 8, y_name, ink);
    box(out, LEFT, TOP, 2, H - TOP - BOTTOM, ink);
    box(out, LEFT, H - BOTTOM, W - LEFT - RIGHT, 2, ink);
    return OK;
}

status sheet_save(const uint8_t *rgb, int n, int side, int columns, const char *path) {
    status st = OK;
    image im = {0};
    TRY(image_sheet(n, columns, side, side, &im));
    for (int i = 0; i < n; i++)
        image_sheet_put(&im, columns, i, side, side, rgb + 3 * (size_t)i * (size_t)side * (size_t)side);
    TRY(image_save_png(path, &im, NULL, 0));
out:
    image_free(&im);
    return st;
}
