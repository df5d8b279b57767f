/* lora.c: low-rank addition, W' = W + m (alpha / R) B A; as a layer, y' = y + m (alpha / R)
 * B(A(x)), where a convolution's A has the layer's kernel, stride and padding, and B is 1x1.
 *   lora_A.weight [R, I] or [R, I, kh, kw], starts Kaiming-uniform;  lora_B.weight [O, R] or [O, R,
 * 1, 1], starts at zero DoRA: the sum is scaled to a trained norm of its own, W'' = g V / |V|, V =
 * W + (alpha / R) B A, row by row; lora_magnitude_vector [O], starts at the norms of W. The
 * gradient is the true one: PEFT takes |V| for a constant, which leaves a part along V in it that
 * the scaling removes from the result anyhow. Strength m: W + m (W'' - W). Names are PEFT's. source
 * Hu et al. 2021 §4.1; Liu et al. 2024 (DoRA); Kalajdzievski 2023 (rsLoRA); PEFT LoraLayer.
 * SPDX-License-Identifier: MIT */
#include "adapter/adapter.h"
#include <math.h>
#include <stdio.h>

#define TINY_NORM 1e-12f /* a row of zeros stays one */

static int64_t columns(const adapter_site *s) { return shape_count(&s->w) / s->w.d[0]; }

static float scale_of(const adapter_site *s) {
    const adapter_options *o = s->opts;
    if (o->alpha == 0) return 1.0f;
    return o->alpha / (o->rslora ? sqrtf((float)o->rank) : (float)o->rank);
}

static status tensors(const adapter_site *s, adapter_tensor t[], int *n) {
    int64_t r = s->opts->rank;
    const int64_t *w = s->w.d;
    if (r < 1)
        return fail(E_USAGE, "%s: lora needs a rank of at least 1, not %lld", s->layer,
                    (long long)r);
    bool conv = s->w.n == 4;
    t[0] = (adapter_tensor){".lora_A.weight", conv ? SHAPE(r, w[1], w[2], w[3]) : SHAPE(r, w[1]),
                            false, false};
    t[1] = (adapter_tensor){".lora_B.weight", conv ? SHAPE(w[0], r, 1, 1) : SHAPE(w[0], r), false,
                            false};
    *n = s->left ? 1 : 2;
    if (s->opts->dora && s->left)
        return fail(E_UNSUPPORTED, "%s: DoRA does not share its left factor", s->layer);
    if (s->opts->dora)
        t[(*n)++] = (adapter_tensor){".lora_magnitude_vector",
                                     SHAPE(s->opts->dora_columns ? w[1] : w[0]), true, false};
    return OK;
}

/* Rows of W, or its input channels, as runs: norm k is over `outer` runs of `inner` numbers,
 * `stride` apart, from k * first. */
typedef struct norms {
    int64_t count, first, outer, stride, inner;
} norms;
static norms norms_of(const adapter_site *s) {
    int64_t cols = columns(s), per = cols / s->w.d[1];
    if (s->opts->dora_columns) return (norms){s->w.d[1], per, s->w.d[0], cols, per};
    return (norms){s->w.d[0], cols, 1, cols, cols};
}

static double norm_at(const norms *z, const float *w, int64_t k) {
    double sum = 0;
    for (int64_t o = 0; o < z->outer; o++)
        for (int64_t i = 0; i < z->inner; i++)
            sum += pow((double)w[k * z->first + o * z->stride + i], 2);
    return sqrt(sum);
}

static void init(const adapter_site *s, float *const t[], const float *w, uint32_t seed) {
    char name[ADAPTER_KEY_BYTES];
    snprintf(name, sizeof name, "%s.lora_A.weight", s->layer);
    rng_key k = {{seed, 1}, rng_stream(name)};
    float bound =
        1.0f / sqrtf((float)columns(s)); /* kaiming_uniform(a = sqrt 5): sqrt(6 / (6 I)) */
    for (int64_t i = 0; i < s->opts->rank * columns(s); i++)
        t[0][i] = bound * (2 * (float)rng_uniform(k, 0, (uint64_t)i) - 1);
    if (!s->opts->dora) return;
    norms z = norms_of(s);
    for (int64_t i = 0; i < z.count; i++) t[2][i] = (float)norm_at(&z, w, i);
}

static tensor *left(graph *g, const adapter_site *s) {
    adapter_site of = *s;
    if (s->left) of.ps = s->left;
    return adapter_param(g, &of, ".lora_B.weight");
}

static bool by_weight(const adapter_site *s) { return s->opts->dora; }

/* (alpha / R) B A [O, columns] f32 */
static tensor *product(graph *g, const adapter_site *s) {
    int64_t r = s->opts->rank;
    tensor *a = op_reshape_(g, adapter_param(g, s, ".lora_A.weight"), SHAPE(r, columns(s)), s->at);
    tensor *b = op_reshape_(g, left(g, s), SHAPE(s->w.d[0], r), s->at);
    return op_matmul_(g, op_scale_(g, b, scale_of(s), 0, s->at), a, NULL, NULL,
                      (matmul_attrs){.out = DT_COUNT}, s->at);
}

static tensor *weight(graph *g, const adapter_site *s, tensor *w) {
    int64_t o = s->w.d[0], i = s->w.d[1], per = columns(s) / i;
    tensor *full = op_cast_(g, w, DT_F32, s->at),
           *delta = op_reshape_(g, product(g, s), s->w, s->at);
    if (s->opts->dora) {
        bool cols = s->opts->dora_columns;
        tensor *v =
            op_reshape_(g, op_binary_(g, full, delta, B_ADD, s->at), SHAPE(o, i, per), s->at);
        tensor *norm = op_clamp_(g, op_reduce_(g, v, R_NORM2, cols ? 1u | 4u : 2u | 4u, s->at),
                                 TINY_NORM, INFINITY, s->at);
        tensor *want = op_reshape_(g, adapter_param(g, s, ".lora_magnitude_vector"),
                                   cols ? SHAPE(1, i, 1) : SHAPE(o, 1, 1), s->at);
        v = op_binary_(g, v, op_binary_(g, want, norm, B_DIV, s->at), B_MUL, s->at);
        v = op_reshape_(g, v, s->w, s->at);
        if (!s->strength) return op_cast_(g, v, w->dtype, s->at);
        delta = op_binary_(g, v, full, B_SUB, s->at);
    }
    return op_cast_(g, op_binary_(g, full, adapter_scaled(g, s, delta), B_ADD, s->at), w->dtype,
                    s->at);
}

static tensor *output(graph *g, const adapter_site *s, tensor *x, tensor *y) {
    tensor *a = op_cast_(g, adapter_param(g, s, ".lora_A.weight"), x->dtype, s->at);
    tensor *b =
        op_cast_(g, op_scale_(g, left(g, s), scale_of(s), 0, s->at),
                 x->dtype, s->at);
    if (s->conv) {
        tensor *low = adapter_scaled(g, s, op_conv2d_(g, x, a, NULL, NULL, *s->conv, s->at));
        return op_conv2d_(g, low, b, NULL, y, (conv2d_attrs){.stride = 1, .act = ACT_NONE}, s->at);
    }
    matmul_attrs linear = {.trans_b = 1, .out = DT_COUNT};
    tensor *low = adapter_scaled(g, s, op_matmul_(g, x, a, NULL, NULL, linear, s->at));
    return op_matmul_(g, low, b, NULL, y, linear, s->at);
}

static status merge(const adapter_site *s, const float *const t[], double m, bool inverse,
                    float *w) {
    int64_t o = s->w.d[0], cols = columns(s), r = s->opts->rank;
    double k = (double)scale_of(s) * (s->opts->dora ? 1
                                      : inverse     ? -m
                                                    : m),
           *row = mem_alloc((size_t)cols * sizeof *row);
    float *v = s->opts->dora ? mem_alloc((size_t)(o * cols) * sizeof *v) : w;
    status st = OK;
    if (s->left) TRY(fail(E_UNSUPPORTED, "%s: its left factor is another adapter's", s->layer));
    if (!row || !v) TRY(fail(E_HOST_MEMORY, "no host memory to merge %s", s->layer));
    if (s->opts->dora && inverse)
        TRY(fail(E_UNSUPPORTED,
                 "%s: DoRA cannot be taken out of a weight, whose old norms are gone: start from "
                 "the base model",
                 s->layer));
    for (int64_t i = 0; i < o; i++) {
        for (int64_t c = 0; c < cols; c++) row[c] = 0;
        for (int64_t q = 0; q < r; q++)
            for (int64_t c = 0; c < cols; c++)
                row[c] += (double)t[1][i * r + q] * (double)t[0][q * cols + c];
        for (int64_t c = 0; c < cols; c++)
            v[i * cols + c] = (float)((double)w[i * cols + c] + k * row[c]);
    }
    if (!s->opts->dora) goto out;
    norms z = norms_of(s);
    for (int64_t i = 0; i < z.count; i++) {
        double scale = (double)t[2][i] / fmax(norm_at(&z, v, i), (double)TINY_NORM);
        for (int64_t q = 0; q < z.outer; q++)
            for (int64_t c = 0; c < z.inner; c++) {
                int64_t at = i * z.first + q * z.stride + c;
                w[at] = (float)((1 - m) * (double)w[at] + m * scale * (double)v[at]);
            }
    }
out:
    if (v != w) mem_free(v);
    mem_free(row);
    return st;
}

const adapter_info adapter_lora_info = {.name = "lora",
                                        .tensors = tensors,
                                        .init = init,
                                        .by_weight = by_weight,
                                        .weight = weight,
                                        .output = output,
                                        .per_entry = true,
                                        .merge = merge};
