/* oft_neumann.c: oft whose Cayley transform is a short series in Q (OFTv2): no matrix is inverted,
 * and R is a rotation only nearly: at angle 2 atan t its stretch is 1 - t^4 for the usual five
 * terms, sqrt(1 + t^10) for six. R = I + 2Q + 2Q^2 + … + 2Q^(n-2) + Q^(n-1)   n terms, PEFT >= 0.18
 * (n = 3 is one more: as n = 4) R = I + 2Q + 2Q^2 + … + 2Q^(n-1)             PEFT 0.16, 0.17 It
 * approximates (I + Q)(I - Q)^-1: the inverse of what oft does with the same numbers, as in PEFT.
 * source  Qiu et al. 2025; PEFT OFTRotationModule._cayley_batch
 * SPDX-License-Identifier: MIT */
#include "adapter/rotation.h"

#define NEUMANN_TERMS 5 /* as PEFT */

/* The highest power and the coefficient of power k >= 1. */
static int last_power(const adapter_options *o) {
    int n = o->terms ? o->terms : NEUMANN_TERMS;
    return !o->old_series && n == 3 ? 3 : n - 1;
}

static double coefficient(const adapter_options *o, int k) {
    int last = last_power(o), n = o->terms ? o->terms : NEUMANN_TERMS;
    if (k < last) return 2;
    return o->old_series || n == 2 ? 2 : 1;
}

static status tensors(const adapter_site *s, adapter_tensor t[], int *n) {
    rotation_dims z;
    status st = OK;
    if (s->opts->terms && (s->opts->terms < 2 || s->opts->terms > 64))
        return fail(E_USAGE, "%s: a series of %d terms: expected 2 to 64", s->layer,
                    s->opts->terms);
    TRY(oft_dims(s, &z));
    TRY(rotation_tensors(s, &z, t, n));
out:
    return st;
}

/* Horner's rule: P = c_K Q; P = c_k Q + Q P */
static tensor *delta(graph *g, const adapter_site *s) {
    tensor *q = rotation_skew(g, s);
    int last = last_power(s->opts);
    tensor *p = op_scale_(g, q, (float)coefficient(s->opts, last), 0, s->at);
    for (int k = last - 1; k >= 1; k--) {
        tensor *own = op_scale_(g, q, (float)coefficient(s->opts, k), 0, s->at);
        p = op_matmul_(g, q, p, NULL, own, (matmul_attrs){.out = DT_COUNT}, s->at);
    }
    return rotation_dropped(g, s, p);
}

static tensor *input(graph *g, const adapter_site *s, tensor *x) {
    return s->opts->output_side ? x : rotation_input(g, s, delta(g, s), x);
}
static tensor *weight(graph *g, const adapter_site *s, tensor *w) {
    return rotation_weight(g, s, delta(g, s), w);
}
static tensor *output(graph *g, const adapter_site *s, tensor *x, tensor *y) {
    (void)x;
    return rotation_output(g, s, s->opts->output_side ? delta(g, s) : NULL, y);
}

static void delta_host(const adapter_options *o, int64_t b, const double *q, double *d,
                       double *work) {
    int last = last_power(o);
    for (int64_t i = 0; i < b * b; i++) d[i] = coefficient(o, last) * q[i];
    for (int k = last - 1; k >= 1; k--) {
        for (int64_t i = 0; i < b * b; i++) {
            work[i] = coefficient(o, k) * q[i];
            for (int64_t e = 0; e < b; e++) work[i] += q[i / b * b + e] * d[e * b + i % b];
        }
        memcpy(d, work, (size_t)(b * b) * sizeof *d);
    }
}

static status merge(const adapter_site *s, const float *const t[], double m, bool inverse,
                    float *w) {
    rotation_dims z;
    status st = oft_dims(s, &z);
    return st == OK ? rotation_merge(s, &z, delta_host, t, m, inverse, w) : st;
}

const adapter_info adapter_oft_neumann_info = {.name = "oft_neumann",
                                               .tensors = tensors,
                                               .init = rotation_init,
                                               .by_weight = rotation_by_weight,
                                               .input = input,
                                               .weight = weight,
                                               .output = output,
                                               .scales_output = rotation_scales_output,
                                               .merge = merge};
