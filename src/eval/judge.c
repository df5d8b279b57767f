/* judge.c: how far two pictures are apart. Both go through SqueezeNet as one batch, and the graph
 * ends in the distance itself: one number comes back, no features.
 * source  Zhang et al. 2018 SPDX-License-Identifier: MIT */
#include "eval/eval.h"
#include "family/squeezenet.h"
#include <assert.h>
#include <math.h>

static const float silent = 1e-10f; /* beside lengths of tens: divides a vector of zeros to zeros */

struct judge {
    params net;
    plan *p, *embed;
    int w, h;             /* that p is for */
    int embed_w, embed_h; /* that embed is for */
};

double pixel_distance(const image *a, const image *b) {
    assert(a->w == b->w && a->h == b->h && a->channels == 3 && b->channels == 3);
    size_t n = (size_t)a->w * (size_t)a->h * 3;
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)a->px[i] - (double)b->px[i];
        sum += d * d;
    }
    return sqrt(sum / (double)n) / 255;
}

status judge_open(device *d, const char *weights, judge **out) {
    judge *j = mem_zalloc(sizeof *j);
    *out = NULL;
    if (!j) return fail(E_HOST_MEMORY, "no host memory for SqueezeNet");
    params_init(&j->net, d, DT_F32);
    status st = squeezenet_load(&j->net, weights);
    if (st == OK)
        *out = j;
    else
        judge_close(j);
    return st;
}

void judge_close(judge *j) {
    if (!j) return;
    plan_destroy(j->p);
    plan_destroy(j->embed);
    params_fini(&j->net);
    mem_free(j);
}

/* Every position's channels as a vector of length 1. */
static tensor *unit_features(graph *g, tensor *f) {
    return op_div(g, f, op_affine(g, op_norm2(g, f, 1u << 3), 1.0f, silent));
}

/* f [2, h, w, C] -> [1, 1, 1, 1]: mean over positions of the squared distance of unit vectors */
static tensor *layer_distance(graph *g, tensor *f) {
    tensor *unit = unit_features(g, f);
    tensor *off = op_sub(g, op_slice(g, unit, 0, 0, 1), op_slice(g, unit, 0, 1, 2));
    return op_scale(g, op_mean(g, op_square(g, off), DIMS_ALL), (float)f->s.d[3]);
}

static status prepare(judge *j, int w, int h) {
    tensor *tap[SQUEEZENET_TAPS], *sum = NULL;
    if (j->p && j->w == w && j->h == h) return OK;
    assert(w >= JUDGE_MIN_SIDE && h >= JUDGE_MIN_SIDE);
    plan_destroy(j->p);
    j->p = NULL;
    graph *g = graph_create(j->net.dev);
    if (!g) return fail(E_HOST_MEMORY, "no host memory for a graph");
    nn m = {g, &j->net, NULL};
    squeezenet_features(&m, graph_input(g, "x", DT_F32, SHAPE(2, h, w, 3)), tap);
    for (int i = 0; i < SQUEEZENET_TAPS; i++) {
        tensor *d = layer_distance(g, tap[i]);
        sum = sum ? op_add(g, sum, d) : d;
    }
    graph_output(g, op_scale(g, sum, 1.0f / SQUEEZENET_TAPS), "distance");
    j->w = w, j->h = h;
    return graph_compile(g, NULL, &j->p);
}

status judge_distance(judge *j, const image *a, const image *b, double *d) {
    status st = OK;
    float *x = NULL, seen = 0;
    assert(a->w == b->w && a->h == b->h && a->channels == 3 && b->channels == 3);
    size_t n = (size_t)a->w * (size_t)a->h * 3;
    TRY(prepare(j, a->w, a->h));
    if (!(x = mem_alloc(2 * n * sizeof *x)))
        TRY(fail(E_HOST_MEMORY, "no host memory for two pictures of %d x %d", a->w, a->h));
    for (size_t i = 0; i < n; i++) {
        x[i] = image_unit(a->px[i]);
        x[n + i] = image_unit(b->px[i]);
    }
    TRY(plan_write(j->p, "x", x));
    TRY(plan_run(j->p, NULL, NULL));
    TRY(plan_read_f32(j->p, "distance", &seen));
    *d = (double)seen;
out:
    mem_free(x);
    return st;
}

enum { EMBED_FROM = 4 }; /* fire5: below it, edges and colours */

static status prepare_embed(judge *j, int w, int h) {
    tensor *tap[SQUEEZENET_TAPS], *all = NULL;
    if (j->embed && j->embed_w == w && j->embed_h == h) return OK;
    assert(w >= JUDGE_MIN_SIDE && h >= JUDGE_MIN_SIDE);
    plan_destroy(j->embed);
    j->embed = NULL;
    graph *g = graph_create(j->net.dev);
    if (!g) return fail(E_HOST_MEMORY, "no host memory for a graph");
    nn m = {g, &j->net, NULL};
    squeezenet_features(&m, graph_input(g, "x", DT_F32, SHAPE(1, h, w, 3)), tap);
    for (int i = EMBED_FROM; i < SQUEEZENET_TAPS; i++) {
        tensor *mean = op_mean(g, tap[i], 1u << 1 | 1u << 2);
        tensor *unit = unit_features(g, mean);
        all = all ? op_concat(g, 3, all, unit) : unit;
    }
    graph_output(g, op_scale(g, all, 1 / sqrtf(SQUEEZENET_TAPS - EMBED_FROM)), "v");
    j->embed_w = w, j->embed_h = h;
    return graph_compile(g, NULL, &j->embed);
}

status judge_embed(judge *j, const image *im, float v[JUDGE_EMBED]) {
    status st = OK;
    assert(im->channels == 3);
    size_t n = (size_t)im->w * (size_t)im->h * 3;
    float *x = mem_alloc(n * sizeof *x);
    if (!x) return fail(E_HOST_MEMORY, "no host memory for a picture of %d x %d", im->w, im->h);
    TRY(prepare_embed(j, im->w, im->h));
    for (size_t i = 0; i < n; i++) x[i] = image_unit(im->px[i]);
    TRY(plan_write(j->embed, "x", x));
    TRY(plan_run(j->embed, NULL, NULL));
    TRY(plan_read_f32(j->embed, "v", v));
out:
    mem_free(x);
    return st;
}
