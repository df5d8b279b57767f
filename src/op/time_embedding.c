/* time_embedding: sinusoidal embedding of the timestep.
 *   t  [N] f32
 *   returns [N, dim] f32: with half = dim / 2 (rounded down) and f_i = max_period^(-i / (half -
 * shift)): sin(t f_0..), cos(t f_0..); flip puts cos first; an odd dim ends in a 0 The angle
 * reaches 1000 rad, where f32 keeps 5 digits of the phase; so angles are counted in turns, as sums
 * of two floats in the shader and in double on the host, and reduced before sin. errors  E_SHAPE
 * source  Vaswani et al. 2017 §3.5; diffusers get_timestep_embedding SPDX-License-Identifier: MIT
 */
#include "op/move.h"
#include <math.h>

typedef struct time_attrs {
    int32_t dim;
    uint32_t flip;
    float shift, max_period;
} time_attrs;
extern const op_info op_time_embedding_info;

tensor *op_time_embedding_(graph *g, tensor *t, int dim, bool flip, float shift, float max_period,
                           const char *here) {
    return op_record(g, &op_time_embedding_info, here, &(time_attrs){dim, flip, shift, max_period},
                     OP_IN(t));
}

static status infer(graph *g, node *n) {
    (void)g;
    const time_attrs *a = ATTRS(n, time_attrs);
    const tensor *t = n->in[0];
    if (t->s.n != 1 || t->dtype != dtype_acc(t->dtype))
        return fail(E_SHAPE, "time_embedding takes t [N] f32");
    if (a->dim < 2 || !((float)(a->dim / 2) - a->shift > 0) || !(a->max_period > 0))
        return fail(E_SHAPE,
                    "time_embedding: dim %d with shift %g and period %g has no frequencies", a->dim,
                    (double)a->shift, (double)a->max_period);
    out_set(n, 0, t->dtype, SHAPE(t->s.d[0], a->dim));
    return OK;
}

/* Ratio of two neighbouring frequencies. */
static double ratio(const time_attrs *a) {
    return exp(-log((double)a->max_period) / ((double)(a->dim / 2) - (double)a->shift));
}

static void split(double v, float *hi, float *lo) {
    *hi = (float)v;
    *lo = (float)(v - (double)*hi);
}

static status encode(gpu_cmd *c, const node *n) {
    const time_attrs *a = ATTRS(n, time_attrs);
    struct {
        uint32_t n, dim, flip;
        float ratio_hi, ratio_lo, turn_hi, turn_lo;
    } push = {(uint32_t)n->in[0]->s.d[0], (uint32_t)a->dim, a->flip};
    split(ratio(a), &push.ratio_hi, &push.ratio_lo);
    split(0.5 / 3.14159265358979323846, &push.turn_hi, &push.turn_lo);
    return move_dispatch(c,
                         (gpu_dispatch_params){.shader = "time_embedding",
                                               .type = DT_U32,
                                               .bind = {n->in[0]->span, n->out[0]->span},
                                               .n_bind = 2,
                                               .push = &push,
                                               .push_bytes = sizeof push},
                         (uint64_t)push.n * (uint64_t)div_up(a->dim, 2));
}

static void ref(const node *n) {
    const time_attrs *a = ATTRS(n, time_attrs);
    int64_t half = a->dim / 2;
    double r = log(ratio(a));
    EACH(i, n->out[0]) {
        int64_t k = i % a->dim;
        double angle = IN(0, i / a->dim) * exp(r * (double)(k % half));
        bool cosine = (k < half) == (a->flip != 0);
        SET(0, i, k >= 2 * half ? 0 : cosine ? cos(angle) : sin(angle));
    }
}

/* a: dim, flip, shift */
static tensor *build(graph *g, tensor **in, const op_case *c) {
    return op_time_embedding_(g, in[0], (int)c->a[0], c->a[1] != 0, (float)c->a[2], 10000.0f, HERE);
}

static const op_case cases[] = {
    CASE("f32[1]=0:1", .a = {2, 1, 0}),
    CASE("f32[3]=0:1000", .a = {31, 0, 1}),
    CASE("f32[4]=0:1000", .a = {32, 1, 0}),
    CASE("f32[33]=900:1000", .a = {320, 1, 0}),
};

const op_info op_time_embedding_info = {.name = "time_embedding",
                                        .n_in = 1,
                                        .n_out = 1,
                                        .attrs_size = sizeof(time_attrs),
                                        .types = TYPES_F32,
                                        .infer = infer,
                                        .encode = encode,
                                        .ref = ref,
                                        .build = build,
                                        CASES(cases)};
