/* compose_draw.c: the canvas. Pictures are resized with premultiplied alpha and composited in
 * float; so no colour from under transparency bleeds into edges. Cubic resampling, widened when
 * shrinking; at scale 1 and whole pixels it is the picture itself, bit for bit.
 * SPDX-License-Identifier: MIT */
#include "train/compose_internal.h"

#include <assert.h>
#include <math.h>

enum { MAX_TAPS = 20 }; /* 4 / DRAW_SCALE_MIN + 2, and room */

/* For each canvas column (or row) the picture's columns it is made of. What lies outside the
 * picture is transparent and has no entry; nor have weights of 0, so that an unscaled picture costs
 * little. */
typedef struct taps {
    int n[SIDE], at[SIDE][MAX_TAPS];
    float weight[SIDE][MAX_TAPS];
} taps;

/* Catmull and Rom's cubic, a = -1/2 (Keys 1981). */
static float cubic(float x) {
    x = fabsf(x);
    if (x < 1) return (1.5f * x - 2.5f) * x * x + 1;
    if (x < 2) return ((-0.5f * x + 2.5f) * x - 4) * x + 2;
    return 0;
}

static void make_taps(taps *t, int begin, int end, float scale, float center, bool mirror) {
    const float stretch = scale < 1 ? 1 / scale : 1;
    const int n = (int)ceilf(4 * stretch) + 1;
    assert(n <= MAX_TAPS);
    for (int x = begin; x < end; x++) {
        float c = ((float)x + 0.5f - center) / scale, sum = 0;
        c = (mirror ? -c : c) + SIDE / 2;
        const int first = (int)floorf(c - 2 * stretch);
        t->n[x] = 0;
        for (int at = first; at < first + n; at++) {
            float weight = cubic(((float)at + 0.5f - c) / stretch);
            sum += weight;
            if (weight == 0 || at < 0 || at >= SIDE) continue;
            t->at[x][t->n[x]] = at;
            t->weight[x][t->n[x]++] = weight;
        }
        for (int k = 0; k < t->n[x]; k++) t->weight[x][k] /= sum;
    }
}

void draw_fill(compose_work *w, draw_rect r, const uint8_t rgb[3]) {
    for (int y = r.y0; y < r.y1; y++)
        for (int x = r.x0; x < r.x1; x++)
            for (int c = 0; c < 3; c++) w->canvas[(y * SIDE + x) * 3 + c] = rgb[c];
}

void draw_prepare(compose_work *w) {
    draw_rect box = {SIDE, SIDE, 0, 0};
    for (int i = 0; i < SIDE * SIDE; i++) {
        const uint8_t *p = w->rgba + i * 4;
        float alpha = p[3], k = alpha / 255;
        for (int c = 0; c < 3; c++) w->src[i * 4 + c] = p[c] * k;
        w->src[i * 4 + 3] = alpha;
        if (p[3] <= 8) continue; /* a shadow's last breath is not the thing */
        int x = i % SIDE, y = i / SIDE;
        box.x0 = MIN(box.x0, x), box.x1 = MAX(box.x1, x + 1);
        box.y0 = MIN(box.y0, y), box.y1 = MAX(box.y1, y + 1);
    }
    w->box = box.x0 < box.x1 ? box : (draw_rect){0, 0, SIDE, SIDE};
}

static void resize_rows(compose_work *w, draw_rect r, const taps *tx) {
    for (int y = 0; y < SIDE; y++)
        for (int x = r.x0; x < r.x1; x++) {
            float sum[4] = {0};
            for (int k = 0; k < tx->n[x]; k++) {
                const float *p = w->src + (y * SIDE + tx->at[x][k]) * 4;
                for (int c = 0; c < 4; c++) sum[c] += tx->weight[x][k] * p[c];
            }
            memcpy(w->mid + (y * SIDE + x) * 4, sum, sizeof sum);
        }
}

/* p: premultiplied, from a cubic, which overshoots at edges. */
static void composite(float *to, const float *p) {
    float alpha = MIN(MAX(p[3], 0), 255), rest = 1 - alpha * (1 / 255.0f);
    for (int c = 0; c < 3; c++) to[c] = MIN(MAX(p[c], 0), alpha) + to[c] * rest;
}

void draw_picture(compose_work *w, draw_rect r, draw_place p) {
    taps tx, ty;
    float row[SIDE * 4];
    assert(p.scale >= DRAW_SCALE_MIN && p.scale <= DRAW_SCALE_MAX);
    make_taps(&tx, r.x0, r.x1, p.scale, p.x, p.mirror);
    make_taps(&ty, r.y0, r.y1, p.scale, p.y, false);
    resize_rows(w, r, &tx);
    for (int y = r.y0; y < r.y1; y++) {
        memset(row, 0, sizeof row);
        for (int k = 0; k < ty.n[y]; k++) {
            const float *from = w->mid + ty.at[y][k] * SIDE * 4, weight = ty.weight[y][k];
            for (int i = r.x0 * 4; i < r.x1 * 4; i++) row[i] += weight * from[i];
        }
        for (int x = r.x0; x < r.x1; x++) composite(w->canvas + (y * SIDE + x) * 3, row + x * 4);
    }
}

void draw_finish(const compose_work *w, uint8_t *rgb) {
    for (int i = 0; i < SIDE * SIDE * 3; i++) rgb[i] = (uint8_t)(w->canvas[i] + 0.5f);
}

/* ---- colour ---- */
void draw_measure_hue(const compose_work *w, draw_hue *out) {
    double x = 0, y = 0, chroma = 0, value = 0, alpha = 0;
    for (int i = 0; i < SIDE * SIDE; i++) {
        const uint8_t *p = w->rgba + i * 4;
        double a = p[3] / 255.0, most = MAX(p[0], MAX(p[1], p[2])) / 255.0;
        double least = MIN(p[0], MIN(p[1], p[2])) / 255.0, weight = a * (most - least);
        /* the hue as a direction in the plane across the grey axis */
        x += a * (p[0] - 0.5 * (p[1] + p[2])) / 255;
        y += a * 0.8660254037844386 * (p[1] - p[2]) / 255;
        chroma += weight, value += weight * most, alpha += a;
    }
    double degrees = atan2(y, x) * (180 / 3.14159265358979323846);
    *out = (draw_hue){.degrees = (float)(degrees < 0 ? degrees + 360 : degrees),
                      .chroma = alpha > 0 ? (float)(chroma / alpha) : 0,
                      .focus = chroma > 0 ? (float)(sqrt(x * x + y * y) / chroma) : 0,
                      .value = chroma > 0 ? (float)(value / chroma) : 0};
}

static float hue_of(const uint8_t *p, float most, float spread) { /* in sixths of the circle */
    if (p[0] == most) return ((float)p[1] - p[2]) / spread;
    if (p[1] == most) return ((float)p[2] - p[0]) / spread + 2;
    return ((float)p[0] - p[1]) / spread + 4;
}

void draw_turn_hue(compose_work *w, float degrees, float saturation) {
    for (int i = 0; i < SIDE * SIDE; i++) {
        uint8_t *p = w->rgba + i * 4;
        float most = MAX(p[0], MAX(p[1], p[2])), spread = most - MIN(p[0], MIN(p[1], p[2]));
        if (spread <= 0) continue;
        float hue = hue_of(p, most, spread) + degrees / 60;
        spread = MIN(spread * saturation, most);
        for (int c = 0; c < 3; c++) { /* each channel is a trapezoid over the circle */
            float k = fmodf(hue + (float)(5 - 2 * c) + 12, 6);
            float down = MIN(MAX(MIN(k, 4 - k), 0), 1);
            p[c] = (uint8_t)(most - spread * down + 0.5f);
        }
    }
}

double draw_likeness(const compose_work *w, const uint8_t rgb[3]) {
    int opaque = 0, like = 0;
    for (int i = 0; i < SIDE * SIDE; i++) {
        const uint8_t *p = w->rgba + i * 4;
        if (p[3] < 128) continue;
        int r = p[0] - rgb[0], g = p[1] - rgb[1], b = p[2] - rgb[2];
        opaque++, like += r * r + g * g + b * b < 48 * 48;
    }
    return opaque ? (double)like / opaque : 0;
}

uint8_t draw_least_alpha(const compose_work *w, float scale) {
    int margin = (int)(SIDE / 2 * (1 - 1 / scale));
    uint8_t least = 255;
    for (int y = margin; y < SIDE - margin; y++)
        for (int x = margin; x < SIDE - margin; x++)
            least = MIN(least, w->rgba[(y * SIDE + x) * 4 + 3]);
    return least;
}
