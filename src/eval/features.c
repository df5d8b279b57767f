/* features.c: what a picture looks like, as one vector: SqueezeNet's taps, each laid over a grid of
 * 4 x 4 cells, so that vectors of many pictures can be kept and compared without the network.
 * source  Zhang et al. 2018 SPDX-License-Identifier: MIT */
#include "eval/eval.h"
#include "family/squeezenet.h"
#include <math.h>
#include <stdio.h>

enum { GRID = 4 };

struct extractor {
    params net;
    plan *p;
    int side, batch, channels[SQUEEZENET_TAPS], w[SQUEEZENET_TAPS], h[SQUEEZENET_TAPS];
    float *px, *tap;
};

static const char *tap_name(int i, char name[8]) {
    snprintf(name, 8, "tap%d", i);
    return name;
}

static status record(extractor *e) {
    tensor *tap[SQUEEZENET_TAPS];
    char name[8];
    int64_t largest = 0, all = 0;
    graph *g = graph_create(e->net.dev);
    if (!g) return fail(E_HOST_MEMORY, "no host memory for a graph");
    nn m = {g, &e->net, NULL};
    squeezenet_features(&m, graph_input(g, "x", DT_F32, SHAPE(e->batch, e->side, e->side, 3)), tap);
    for (int i = 0; i < SQUEEZENET_TAPS; i++) {
        e->h[i] = (int)tap[i]->s.d[1], e->w[i] = (int)tap[i]->s.d[2];
        e->channels[i] = (int)tap[i]->s.d[3];
        all += e->channels[i];
        largest = MAX(largest, tensor_count(tap[i]));
        graph_output(g, tap[i], tap_name(i, name));
    }
    status st = graph_compile(g, NULL, &e->p);
    if (st != OK) return st;
    if (all * GRID * GRID != EXTRACTOR_FLOATS)
        return fail(E_FORMAT, "SqueezeNet gives %lld features a cell, expected %d", (long long)all,
                    EXTRACTOR_FLOATS / (GRID * GRID));
    e->tap = mem_alloc((size_t)largest * sizeof *e->tap);
    e->px = mem_zalloc((size_t)e->batch * (size_t)e->side * (size_t)e->side * 3 * sizeof *e->px);
    return e->tap && e->px ? OK : fail(E_HOST_MEMORY, "no host memory for features");
}

status extractor_open(device *d, const char *weights, int side, int batch, extractor **out) {
    status st = OK;
    *out = NULL;
    if (side < JUDGE_MIN_SIDE)
        return fail(E_UNSUPPORTED, "pictures of %d px: SqueezeNet needs %d", side, JUDGE_MIN_SIDE);
    extractor *e = mem_zalloc(sizeof *e);
    if (!e) return fail(E_HOST_MEMORY, "no host memory for SqueezeNet");
    e->side = side, e->batch = batch;
    params_init(&e->net, d, DT_F32);
    TRY(squeezenet_load(&e->net, weights));
    TRY(record(e));
    *out = e;
    e = NULL;
out:
    extractor_close(e);
    return st;
}

void extractor_close(extractor *e) {
    if (!e) return;
    plan_destroy(e->p);
    params_fini(&e->net);
    mem_free(e->px);
    mem_free(e->tap);
    mem_free(e);
}

/* Cell sums of one picture's tap [h, w, C], each cell then of length 1 (a silent one stays 0). */
static void pool_cells(const float *f, int h, int w, int c, float *out) {
    memset(out, 0, sizeof *out * (size_t)(GRID * GRID * c));
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            float *cell = out + (size_t)((y * GRID / h * GRID + x * GRID / w) * c);
            for (int k = 0; k < c; k++) cell[k] += f[(size_t)((y * w + x) * c + k)];
        }
    for (int i = 0; i < GRID * GRID; i++) {
        float *cell = out + (size_t)(i * c);
        double sum = 0;
        for (int k = 0; k < c; k++) sum += (double)cell[k] * (double)cell[k];
        float scale = sum > 0 ? (float)(1 / sqrt(sum)) : 0;
        for (int k = 0; k < c; k++) cell[k] *= scale;
    }
}

status extractor_read(extractor *e, int n, const uint8_t *rgb, float *out) {
    status st = OK;
    char name[8];
    size_t one = (size_t)e->side * (size_t)e->side * 3;
    for (int at = 0; at < n; at += e->batch) {
        int k = MIN(e->batch, n - at);
        float *vector = out + (size_t)at * EXTRACTOR_FLOATS;
        for (size_t i = 0; i < one * (size_t)k; i++)
            e->px[i] = image_unit(rgb[one * (size_t)at + i]);
        TRY(plan_write(e->p, "x", e->px));
        TRY(plan_run(e->p, NULL, NULL));
        for (int t = 0, from = 0; t < SQUEEZENET_TAPS; t++) {
            size_t size = (size_t)e->h[t] * (size_t)e->w[t] * (size_t)e->channels[t];
            TRY(plan_read(e->p, tap_name(t, name), e->tap));
            for (int i = 0; i < k; i++)
                pool_cells(e->tap + size * (size_t)i, e->h[t], e->w[t], e->channels[t],
                           vector + (size_t)i * EXTRACTOR_FLOATS + from);
            from += GRID * GRID * e->channels[t];
        }
    }
out:
    return st;
}

double features_distance(const float *a, const float *b) {
    double sum = 0;
    for (int i = 0; i < EXTRACTOR_FLOATS; i += 16) {
        float part = 0;
        for (int k = 0; k < 16; k++) part += (a[i + k] - b[i + k]) * (a[i + k] - b[i + k]);
        sum += (double)part;
    }
    return sum / (GRID * GRID * SQUEEZENET_TAPS);
}
