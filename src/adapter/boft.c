/* boft.c: orthogonal finetuning by butterflies: R is a product of block-diagonal rotations, each on
 * other strides, so that few numbers make a dense rotation; and every output is scaled. Each factor
 * is a shuffle, a product with blocks, and the shuffle back: never a d x d matrix, which is what
 * makes the usual code slow. source  Liu et al. 2024 §4; PEFT BOFT layer (the authors' code)
 * SPDX-License-Identifier: MIT */
#include "adapter/rotation.h"

#define BOFT_BLOCK 4 /* as PEFT */

static status dims(const adapter_site *s, rotation_dims *z) {
    int64_t d = rotation_axis(s), want = s->opts->block ? s->opts->block : BOFT_BLOCK,
            m = s->opts->factors ? s->opts->factors : 1;
    if (m < 1 || m > ADAPTER_MAX_FACTORS)
        return fail(E_USAGE, "%s: %lld butterfly factors: expected 1 to %d", s->layer, (long long)m,
                    ADAPTER_MAX_FACTORS);
    if (want < 2)
        return fail(E_USAGE, "%s: a rotation needs blocks of at least 2, not %lld", s->layer,
                    (long long)want);
    int64_t stride = (int64_t)1 << (m - 1), b = 0;
    if (m == 1) b = adapter_block(d, want);
    /* several factors: even blocks, a multiple of 2^(m-1) of them */
    for (int64_t off = 0; b == 0 && d % (2 * stride) == 0 && off < d; off++) {
        int64_t lo = want - off, hi = want + off;
        if (lo >= 2 && lo % 2 == 0 && d % (lo * stride) == 0)
            b = lo;
        else if (hi % 2 == 0 && d % (hi * stride) == 0)
            b = hi;
    }
    if (b == 0)
        return fail(
            E_UNSUPPORTED,
            "%s: %lld butterfly factors need %lld to be a multiple of %lld; choose fewer factors",
            s->layer, (long long)m, (long long)d, (long long)(2 * stride));
    if (b > ROTATION_MAX_CAYLEY)
        return fail(E_UNSUPPORTED, "%s: rotation blocks of %lld: at most %d; choose smaller ones",
                    s->layer, (long long)b, ROTATION_MAX_CAYLEY);
    *z = (rotation_dims){d, m, d / b, b};
    return OK;
}

static status tensors(const adapter_site *s, adapter_tensor t[], int *n) {
    rotation_dims z;
    status st = dims(s, &z);
    return st == OK ? rotation_tensors(s, &z, t, n) : st;
}

static status merge(const adapter_site *s, const float *const t[], double m, bool inverse,
                    float *w) {
    rotation_dims z;
    status st = dims(s, &z);
    return st == OK ? rotation_merge(s, &z, rotation_cayley_host, t, m, inverse, w) : st;
}

const adapter_info adapter_boft_info = {.name = "boft",
                                        .tensors = tensors,
                                        .init = rotation_init,
                                        .by_weight = rotation_by_weight,
                                        .input = oft_input,
                                        .weight = oft_weight,
                                        .output = oft_output,
                                        .scales_output = rotation_scales_output,
                                        .merge = merge};
