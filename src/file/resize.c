/* resize.c: other sizes. Lanczos with three lobes, widened when shrinking, first along rows, then
 * along columns, in PIL's arithmetic: weights in double, then integers of 22 bits, and 8 bits
 * between the passes. So models see the pixels that their training pipelines saw. source  Pillow,
 * src/libImaging/Resample.c SPDX-License-Identifier: MIT */
#include "file/image_internal.h"

#include <assert.h>
#include <math.h>

#define LOBES     3.0
#define PRECISION 22 /* bits of a weight: 8 bits of pixel and 2 of overshoot make 32 */
#define HALF      (1 << (PRECISION - 1))

/* Output i is the sum over k < n[i] of input first[i] + k times weight[i * room + k]. */
typedef struct taps {
    int outputs, room;
    int *first, *n;
    int32_t *weight;
} taps;

typedef struct span {
    float begin, end;
} span; /* part of a side, in pixels; float as in PIL */

static double sinc(double x) { return x == 0 ? 1 : sin(M_PI * x) / (M_PI * x); }
static double lanczos(double x) { return x >= -LOBES && x < LOBES ? sinc(x) * sinc(x / LOBES) : 0; }

static uint8_t clip(int32_t v) {
    v >>= PRECISION;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

static void taps_fini(taps *t) {
    mem_free(t->first);
    mem_free(t->n);
    mem_free(t->weight);
    *t = (taps){0};
}

static status taps_init(taps *t, int in, span from, int out) {
    double scale = (double)(from.end - from.begin) / out, widen = MAX(scale, 1.0),
           support = LOBES * widen;
    *t = (taps){.outputs = out, .room = (int)ceil(support) * 2 + 1};
    t->first = mem_alloc((size_t)out * sizeof *t->first);
    t->n = mem_alloc((size_t)out * sizeof *t->n);
    t->weight = mem_alloc((size_t)out * (size_t)t->room * sizeof *t->weight);
    double *w = mem_alloc((size_t)t->room * sizeof *w);
    if (!t->first || !t->n || !t->weight || !w) {
        mem_free(w);
        taps_fini(t);
        return fail(E_HOST_MEMORY, "no memory to scale %d pixels to %d", in, out);
    }
    for (int i = 0; i < out; i++) {
        double center = from.begin + (i + 0.5) * scale, sum = 0;
        int first = MAX((int)(center - support + 0.5), 0),
            end = MIN((int)(center + support + 0.5), in);
        t->first[i] = first, t->n[i] = end - first;
        for (int k = 0; k < end - first; k++)
            sum += w[k] = lanczos((k + first - center + 0.5) / widen);
        for (int k = 0; k < end - first; k++) {
            double v = (sum != 0 ? w[k] / sum : w[k]) * (1 << PRECISION);
            t->weight[(int64_t)i * t->room + k] = (int32_t)(v < 0 ? v - 0.5 : v + 0.5);
        }
    }
    mem_free(w);
    return OK;
}

/* ---- the two passes ---- */
static inline __attribute__((always_inline)) void row_pass(const uint8_t *in, uint8_t *out,
                                                           const taps *t, int c) {
    for (int i = 0; i < t->outputs; i++) {
        const uint8_t *p = in + (size_t)t->first[i] * (size_t)c;
        const int32_t *w = t->weight + (int64_t)i * t->room;
        int32_t sum[4] = {HALF, HALF, HALF, HALF};
        for (int k = 0; k < t->n[i]; k++, p += c)
            for (int j = 0; j < c; j++) sum[j] += p[j] * w[k];
        for (int j = 0; j < c; j++) *out++ = clip(sum[j]);
    }
}

static void scale_rows(const uint8_t *in, int w, int h, int c, const taps *t, uint8_t *out) {
    for (int y = 0; y < h; y++, in += (size_t)w * (size_t)c, out += (size_t)t->outputs * (size_t)c)
        if (c == 1)
            row_pass(in, out, t, 1);
        else if (c == 3)
            row_pass(in, out, t, 3);
        else
            row_pass(in, out, t, 4);
}

/* Rows of `bytes`, of which the first at `in` has the number `offset`. sum: room for one row. */
static void scale_columns(const uint8_t *in, size_t bytes, int offset, const taps *t,
                          int32_t *restrict sum, uint8_t *out) {
    for (int i = 0; i < t->outputs; i++, out += bytes) {
        for (size_t x = 0; x < bytes; x++) sum[x] = HALF;
        for (int k = 0; k < t->n[i]; k++) {
            const uint8_t *p = in + (size_t)(t->first[i] - offset + k) * bytes;
            int32_t w = t->weight[(int64_t)i * t->room + k];
            for (size_t x = 0; x < bytes; x++) sum[x] += p[x] * w;
        }
        for (size_t x = 0; x < bytes; x++) out[x] = clip(sum[x]);
    }
}

/* The part `from` of px [h, w, c] to `out`; only the rows that are needed pass the first stage. */
static status scale(const uint8_t *px, int w, int h, span from_x, span from_y, image *out) {
    status st = OK;
    taps tx = {0}, ty = {0};
    uint8_t *between = NULL;
    int c = out->channels;
    size_t row = (size_t)out->w * (size_t)c;
    int32_t *sum = mem_alloc(row * sizeof *sum);
    TRY(taps_init(&tx, w, from_x, out->w));
    TRY(taps_init(&ty, h, from_y, out->h));
    int first = ty.first[0], rows = ty.first[out->h - 1] + ty.n[out->h - 1] - first;
    between = mem_alloc((size_t)rows * row);
    if (!sum || !between) {
        st = fail(E_HOST_MEMORY, "no memory to scale %d x %d pixels to %d x %d", w, h, out->w,
                  out->h);
        goto out;
    }
    scale_rows(px + (size_t)first * (size_t)w * (size_t)c, w, rows, c, &tx, between);
    scale_columns(between, row, first, &ty, sum, out->px);
out:
    mem_free(between);
    taps_fini(&ty);
    taps_fini(&tx);
    mem_free(sum);
    return st;
}

/* ---- alpha ---- */
static int over_255(int v) {
    return (v + 128 + ((v + 128) >> 8)) >> 8;
} /* v / 255, rounded, for v <= 255 * 255 */

static void premultiply(const uint8_t *in, int64_t n, uint8_t *out) {
    for (; n > 0; n--, in += 4, out += 4) {
        for (int c = 0; c < 3; c++) out[c] = (uint8_t)over_255(in[c] * in[3]);
        out[3] = in[3];
    }
}

static void unpremultiply(uint8_t *px, int64_t n) {
    for (; n > 0; n--, px += 4)
        if (px[3] != 0 && px[3] != 255)
            for (int c = 0; c < 3; c++) px[c] = (uint8_t)MIN(255 * px[c] / px[3], 255);
}

/* The part of `im` to w x h. */
static status resample(const image *im, span from_x, span from_y, int w, int h, image *out) {
    status st = OK;
    uint8_t *multiplied = NULL;
    int64_t n = (int64_t)im->w * im->h;
    TRY(image_create(w, h, im->channels, out));
    if (from_x.begin == 0 && from_y.begin == 0 && from_x.end == (float)w &&
        from_y.end == (float)h && im->w == w && im->h == h) {
        memcpy(out->px, im->px, (size_t)n * (size_t)im->channels);
        goto out;
    }
    if (im->channels == 4) {
        multiplied = mem_alloc((size_t)n * 4);
        if (!multiplied) {
            st = fail(E_HOST_MEMORY, "no memory to scale %d x %d pixels", im->w, im->h);
            goto out;
        }
        premultiply(im->px, n, multiplied);
    }
    TRY(scale(multiplied ? multiplied : im->px, im->w, im->h, from_x, from_y, out));
    if (im->channels == 4) unpremultiply(out->px, (int64_t)w * h);
out:
    mem_free(multiplied);
    if (st != OK) image_free(out);
    return st;
}

status image_resize(const image *im, int w, int h, image *out) {
    return resample(im, (span){0, (float)im->w}, (span){0, (float)im->h}, w, h, out);
}

/* ---- fitting ---- */
static status crop(const image *im, int w, int h, image *out) {
    double wide = (double)im->w / im->h, want = (double)w / h;
    double cw = im->w, ch = im->h;
    if (wide > want) cw = want * im->h;
    if (wide < want) ch = im->w / want;
    double x = (im->w - cw) * 0.5, y = (im->h - ch) * 0.5;
    return resample(im, (span){(float)x, (float)(x + cw)}, (span){(float)y, (float)(y + ch)}, w, h,
                    out);
}

static status pad(const image *im, int w, int h, const uint8_t fill[3], image *out) {
    status st = OK;
    image small = {0};
    double wide = (double)im->w / im->h, want = (double)w / h;
    int sw = w, sh = h; /* rint: to even, as Python rounds */
    if (wide > want) sh = MAX(1, (int)rint((double)im->h / im->w * w));
    if (wide < want) sw = MAX(1, (int)rint((double)im->w / im->h * h));
    size_t c = (size_t)im->channels;
    TRY(image_create(w, h, im->channels, out));
    TRY(image_resize(im, sw, sh, &small));
    for (size_t i = 0; i < (size_t)w * (size_t)h * c; i++)
        out->px[i] = c == 1 ? fill[0] : i % c < 3 ? fill[i % c] : 255;
    size_t x = (size_t)rint((w - sw) * 0.5), y = (size_t)rint((h - sh) * 0.5);
    for (size_t i = 0; i < (size_t)sh; i++)
        memcpy(out->px + ((y + i) * (size_t)w + x) * c, small.px + i * (size_t)sw * c,
               (size_t)sw * c);
out:
    image_free(&small);
    if (st != OK) image_free(out);
    return st;
}

status image_fit_to(const image *im, int w, int h, image_fit fit, const uint8_t fill[3],
                    image *out) {
    *out = (image){0};
    if (w < 1 || h < 1)
        return fail(E_UNSUPPORTED, "a picture of %d x %d pixels cannot be made", w, h);
    switch (fit) {
    case FIT_CROP:
        return crop(im, w, h, out);
    case FIT_PAD:
        return pad(im, w, h, fill, out);
    case FIT_STRETCH:
        break;
    }
    return image_resize(im, w, h, out);
}
