/* prodigy.c: Prodigy: Adam that finds its own learning rate: from how far the weights are from
 * where they began, along the gradients seen so far, it estimates the distance d to where they
 * should be. d only grows. Three plans, because two sums over all weights are needed on the way and
 * the host decides between them; adapters are small. Defaults and order of the authors' optimiser.
 * source  Mishchenko & Defazio 2023, algorithm 4 SPDX-License-Identifier: MIT */
#include "train/prodigy.h"
#include <math.h>

enum { FACTOR, KEEP_M, ADD_M, KEEP_V, ADD_V, KEEP_S, ADD_S, KEEP_P, STEP, FLOOR, NUMBERS };

static int flats(const optimizer *o) {
    int n = 0;
    for (int k = 0; k < o->n_parts; k++) n += o->part[k]->n_flat;
    return n;
}

/* Number `which` of flat f, to be multiplied with all of it. */
static tensor *number(graph *g, tensor *all, int f, int which) {
    return op_reshape(g, op_slice(g, op_slice(g, all, 0, f, f + 1), 1, which, which + 1), 1);
}

static tensor *numbers_of(graph *g, const optimizer *o) {
    return graph_input(g, "numbers", DT_F32, SHAPE(flats(o), NUMBERS));
}

/* keep * state + add * x, stored */
static tensor *blend(graph *g, array *state, tensor *x, tensor *keep, tensor *add) {
    tensor *to = graph_array(g, state);
    tensor *y = op_add(g, op_mul(g, to, keep), op_mul(g, x, add));
    op_store(g, to, y);
    return y;
}

/* Of every flat: the gradients' norm and their product with the way back to the start. */
static void record_measure(optimizer *o, graph *g) {
    tensor *norms = NULL, *dots = NULL;
    for (int k = 0; k < o->n_parts; k++)
        for (int i = 0; i < o->part[k]->n_flat; i++) {
            const param_flat *f = &o->part[k]->flat[i];
            tensor *grad = graph_array(g, f->grad),
                   *back = op_sub(g, graph_array(g, o->flat[k][i].start), graph_array(g, f->value));
            tensor *norm = op_square(g, op_norm2(g, grad, DIMS_ALL)),
                   *dot = op_sum(g, op_mul(g, grad, back), DIMS_ALL);
            norms = norms ? op_concat(g, 0, norms, norm) : norm;
            dots = dots ? op_concat(g, 0, dots, dot) : dot;
        }
    graph_output(g, dots, "dots");
    graph_output(g,
                 op_clip_factor(g, norms, graph_array(g, o->limits), graph_array(g, o->found_inf)),
                 "factor");
}

static void record_gather(optimizer *o, graph *g) {
    tensor *h = numbers_of(g, o), *sums = NULL;
    for (int k = 0, at = 0; k < o->n_parts; k++)
        for (int i = 0; i < o->part[k]->n_flat; i++, at++) {
            const struct optimizer_flat *f = &o->flat[k][i];
            tensor *x =
                op_mul(g, graph_array(g, o->part[k]->flat[i].grad), number(g, h, at, FACTOR));
            blend(g, f->m, x, number(g, h, at, KEEP_M), number(g, h, at, ADD_M));
            blend(g, f->v, op_square(g, x), number(g, h, at, KEEP_V), number(g, h, at, ADD_V));
            tensor *s = blend(g, f->s, x, number(g, h, at, KEEP_S), number(g, h, at, ADD_S));
            tensor *sum = op_sum(g, op_abs(g, s), DIMS_ALL);
            sums = sums ? op_concat(g, 0, sums, sum) : sum;
        }
    graph_output(g, sums, "sums");
}

static void record_apply(optimizer *o, graph *g) {
    tensor *h = numbers_of(g, o);
    for (int k = 0, at = 0; k < o->n_parts; k++)
        for (int i = 0; i < o->part[k]->n_flat; i++, at++) {
            const param_flat *f = &o->part[k]->flat[i];
            tensor *below =
                op_add(g, op_sqrt(g, graph_array(g, o->flat[k][i].v)), number(g, h, at, FLOOR));
            tensor *way = op_div(g, graph_array(g, o->flat[k][i].m), below);
            tensor *p = blend(g, f->value, way, number(g, h, at, KEEP_P), number(g, h, at, STEP));
            if (f->copy) op_store(g, graph_array(g, f->copy), p);
            if (o->averaging)
                op_ema(g, graph_array(g, o->flat[k][i].average), graph_array(g, f->value),
                       graph_array(g, o->decay));
        }
}

static void record_clear(optimizer *o, graph *g) {
    for (int k = 0; k < o->n_parts; k++)
        for (int i = 0; i < o->part[k]->n_flat; i++) {
            const param_flat *f = &o->part[k]->flat[i];
            op_store(g, graph_array(g, f->grad), op_zeros(g, DT_F32, SHAPE(f->count)));
        }
}

status prodigy_create(optimizer *o) {
    static const struct {
        const char *label;
        void (*record)(optimizer *o, graph *g);
    } plans[PRODIGY_PLANS] = {{"prodigy measure", record_measure},
                              {"prodigy gather", record_gather},
                              {"prodigy apply", record_apply},
                              {"prodigy clear", record_clear}};
    status st = OK;
    o->d = PRODIGY_START;
    for (int i = 0; i < PRODIGY_PLANS; i++) {
        graph *g = graph_create(o->part[0]->dev);
        if (!g) return graph_status(g);
        plans[i].record(o, g);
        TRY(graph_compile(g, &(plan_params){.label = plans[i].label}, &o->prodigy[i]));
    }
out:
    return st;
}

static double rate_of(const optimizer *o, const optimizer_params *p, int part) {
    return o->d * (double)p->lr * (double)(p->lr_factor[part] > 0 ? p->lr_factor[part] : 1.0f);
}

/* What the two plans multiply with. rate: of every part, from d before this step. */
static void fill(const optimizer *o, const optimizer_params *p, const double *rate, double was,
                 float factor, float (*h)[NUMBERS]) {
    double b1 = (double)p->beta1, b2 = (double)p->beta2;
    for (int k = 0, at = 0; k < o->n_parts; k++)
        for (int i = 0; i < o->part[k]->n_flat; i++, at++) {
            bool decays = o->part[k]->flat[i].group == GROUP_DECAY;
            const double x[NUMBERS] = {[FACTOR] = (double)factor,
                                       [KEEP_M] = b1,
                                       [ADD_M] = was * (1 - b1),
                                       [KEEP_V] = b2,
                                       [ADD_V] = was * was * (1 - b2),
                                       [KEEP_S] = sqrt(b2),
                                       [ADD_S] = was / PRODIGY_START * rate[k],
                                       [KEEP_P] =
                                           1 - (decays ? (double)p->weight_decay * rate[k] : 0),
                                       [STEP] = -rate[k],
                                       [FLOOR] = o->d * (double)p->eps};
            for (int n = 0; n < NUMBERS; n++) h[at][n] = (float)x[n];
        }
}

/* The estimate from what was gathered; false when there is nothing to go by yet. */
static bool estimate(optimizer *o, const float *sums) {
    double below = 0;
    for (int i = 0; i < flats(o); i++) below += (double)sums[i];
    if (below > 0) o->d = MAX(o->d, o->numerator / below);
    return below > 0;
}

static status take_step(optimizer *o, const optimizer_params *p, float factor, const float *dots,
                        float (*h)[NUMBERS], float *sums) {
    status st = OK;
    double rate[OPTIMIZER_MAX_PARTS], was = o->d;
    o->numerator *= sqrt((double)p->beta2);
    for (int k = 0, at = 0; k < o->n_parts; k++) {
        rate[k] = rate_of(o, p, k);
        for (int i = 0; i < o->part[k]->n_flat; i++, at++)
            o->numerator += was / PRODIGY_START * rate[k] * (double)factor * (double)dots[at];
    }
    fill(o, p, rate, was, factor, h);
    TRY(plan_write(o->prodigy[PRODIGY_GATHER], "numbers", h));
    TRY(plan_run(o->prodigy[PRODIGY_GATHER], NULL, NULL));
    TRY(plan_read(o->prodigy[PRODIGY_GATHER], "sums", sums));
    if (!estimate(o, sums)) goto out;
    fill(o, p, rate, was, factor, h);
    TRY(plan_write(o->prodigy[PRODIGY_APPLY], "numbers", h));
    TRY(plan_run(o->prodigy[PRODIGY_APPLY], NULL, NULL));
out:
    return st;
}

status prodigy_step(optimizer *o, const optimizer_params *p, float factor[2], bool *inf) {
    status st = OK;
    uint32_t found = 0;
    size_t n = (size_t)flats(o);
    float *room = mem_alloc(sizeof *room * n * (NUMBERS + 2)), *dots = room, *sums = room + n;
    if (!room) return fail(E_HOST_MEMORY, "no host memory for a step");
    TRY(plan_run(o->prodigy[PRODIGY_MEASURE], NULL, NULL));
    TRY(array_read(o->found_inf, &found));
    TRY(plan_read(o->prodigy[PRODIGY_MEASURE], "factor", factor));
    TRY(plan_read(o->prodigy[PRODIGY_MEASURE], "dots", dots));
    *inf = found != 0;
    if (!*inf)
        TRY(take_step(o, p, factor[0], dots, (float(*)[NUMBERS])(void *)(room + 2 * n), sums));
    TRY(plan_run(o->prodigy[PRODIGY_CLEAR], NULL, NULL));
out:
    mem_free(room);
    return st;
}
