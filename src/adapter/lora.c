/* lora.c: low-rank addition, y' = y + (alpha / R) (x Aᵀ) Bᵀ.
 *   A  lora_A.weight [R, I], starts Kaiming-uniform;  B  lora_B.weight [O, R], starts at zero
 * Names are PEFT's. source  Hu et al. 2021 §4.1; PEFT LoraLayer.
 * SPDX-License-Identifier: MIT */
#include "adapter/adapter.h"
#include "op/op.h"
#include <math.h>
#include <stdio.h>

static const char *key(const adapter_site *s, const char *suffix, char name[160]) {
    snprintf(name, 160, "%s%s", s->layer, suffix);
    return name;
}

static status declare(const adapter_site *s) {
    status st = OK;
    char name[160];
    if (s->w.n != 2) return fail(E_UNSUPPORTED, "%s: lora here takes linear layers, this weight has %d dimensions", s->layer, s->w.n);
    TRY(params_declare(s->ps, key(s, ".lora_A.weight", name), SHAPE(s->rank, s->w.d[1]), false));
    params_find(s->ps, name)->trainable = true;
    TRY(params_declare(s->ps, key(s, ".lora_B.weight", name), SHAPE(s->w.d[0], s->rank), false));
    params_find(s->ps, name)->trainable = true;
out:
    return st;
}

static status init(const adapter_site *s, uint32_t seed) {
    status st = OK;
    char name[160];
    int64_t na = s->rank * s->w.d[1], nb = s->w.d[0] * s->rank;
    float bound = 1.0f / sqrtf((float)s->w.d[1]); /* kaiming_uniform(a = sqrt 5): sqrt(6 / (6 I)) */
    float *v = mem_zalloc((size_t)MAX(na, nb) * sizeof *v);
    if (!v) return fail(E_HOST_MEMORY, "no host memory to initialise %s", s->layer);
    TRY(params_set(s->ps, key(s, ".lora_B.weight", name), v, nb));
    rng_key k = {{seed, 1}, rng_stream(key(s, ".lora_A.weight", name))};
    for (int64_t i = 0; i < na; i++) v[i] = bound * (2 * (float)rng_uniform(k, 0, (uint64_t)i) - 1);
    TRY(params_set(s->ps, name, v, na));
out:
    mem_free(v);
    return st;
}

static tensor *output(graph *g, const adapter_site *s, tensor *x, tensor *y) {
    char name[160];
    tensor *a = params_tensor(s->ps, g, key(s, ".lora_A.weight", name), s->at);
    tensor *b = params_tensor(s->ps, g, key(s, ".lora_B.weight", name), s->at);
    tensor *low = op_scale(g, op_linear(g, x, a, NULL), s->alpha / (float)s->rank);
    return op_linear_full(g, low, b, NULL, y, ACT_NONE);
}

const adapter_info adapter_lora_info = {
    .name = "lora", .keys = ".lora_A.weight .lora_B.weight", .declare = declare, .init = init, .output = output};
