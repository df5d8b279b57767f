/* init.c: see init.h. PyTorch's default (uniform, variance 1 / (3 fan_in)) shrinks a norm-free
 * signal by 0.58 a layer, and an autoencoder of 20 layers then starts at gradients near zero.
 * source: base recipe of this project; Zhang et al. 2019 (Fixup) for branches that start at zero
 * SPDX-License-Identifier: MIT */
#include "train/init.h"
#include <math.h>

static bool ends_with(const char *s, const char *tail) {
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && strcmp(s + n - k, tail) == 0;
}

static status set_normal(params *ps, const param *p, uint32_t seed, double std) {
    status st = OK;
    int64_t n = shape_count(&p->s);
    rng_key key = {{seed, 0}, rng_stream(p->name)};
    float *v = mem_zalloc(sizeof *v * (size_t)n);
    if (!v) TRY(fail(E_HOST_MEMORY, "no host memory to initialise %s", p->name));
    for (int64_t i = 0; std > 0 && i < n; i++)
        v[i] = (float)(std * rng_normal(key, 0, (uint64_t)i));
    TRY(params_set(ps, p->name, v, n));
out:
    mem_free(v);
    return st;
}

static double fan_in(const param *p) {
    double n = 1;
    for (int d = 1; d < p->s.n; d++) n *= (double)p->s.d[d];
    return n;
}

status init_vae_tiny(params *ps, uint32_t seed) {
    status st = OK;
    for (int i = 0; i < ps->n; i++) {
        const param *p = &ps->p[i];
        bool zero = p->vector || ends_with(p->name, ".conv.4.weight");
        double gain = i == ps->n - 2 ? 0.01
                      : strcmp(p->name, "encoder.layers.0.weight") == 0
                          ? 1
                          : 2; /* ps->n - 2: to pixels */
        TRY(set_normal(ps, p, seed, zero ? 0 : sqrt(gain / fan_in(p))));
    }
out:
    return st;
}

static status set_ones(params *ps, const param *p) {
    float *v = mem_alloc(sizeof *v * (size_t)shape_count(&p->s));
    if (!v) return fail(E_HOST_MEMORY, "no host memory to initialise %s", p->name);
    for (int64_t i = 0; i < shape_count(&p->s); i++) v[i] = 1;
    status st = params_set(ps, p->name, v, shape_count(&p->s));
    mem_free(v);
    return st;
}

static status init_normed(params *ps, uint32_t seed, const char *const *zero, int n_zero) {
    status st = OK;
    for (int i = 0; i < ps->n; i++) {
        const param *p = &ps->p[i];
        double std = p->vector ? 0 : 1 / sqrt(3 * fan_in(p));
        if (ends_with(p->name, "token_embedding.weight")) std = 0.02;
        if (ends_with(p->name, "position_embedding.weight")) std = 0.01;
        for (int k = 0; k < n_zero; k++)
            if (ends_with(p->name, zero[k])) std = 0;
        if (p->vector && ends_with(p->name, ".weight"))
            TRY(set_ones(ps, p));
        else
            TRY(set_normal(ps, p, seed, std));
    }
out:
    return st;
}

status init_unet(params *ps, uint32_t seed) {
    static const char *const zero[] = {".conv2.weight", ".proj_out.weight", "conv_out.weight"};
    return init_normed(ps, seed, zero, 3);
}

status init_text(params *ps, uint32_t seed) { return init_normed(ps, seed, NULL, 0); }
