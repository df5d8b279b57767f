/* oft.c: orthogonal finetuning: the input of a layer turned by a block-diagonal rotation, W' = W
 * R^T, R the Cayley transform (I - Q)(I + Q)^-1 of a skew matrix that starts at 0. Angles between
 * the rows of W, and their lengths, stay. The sign is PEFT's (use_cayley_neumann false); LyCORIS's
 * other sign is that of -Q. source  Qiu et al. 2023; PEFT OFTRotationModule._cayley_batch
 * SPDX-License-Identifier: MIT */
#include "adapter/rotation.h"

#define OFT_BLOCK 32 /* as PEFT */

status oft_dims(const adapter_site *s, rotation_dims *z) {
    int64_t d = rotation_axis(s), want = s->opts->block ? s->opts->block : OFT_BLOCK;
    if (want < 2)
        return fail(E_USAGE, "%s: a rotation needs blocks of at least 2, not %lld", s->layer,
                    (long long)want);
    int64_t b = adapter_block(d, want);
    *z = (rotation_dims){d, 1, s->opts->share ? 1 : d / b, b};
    return OK;
}

status oft_tensors(const adapter_site *s, adapter_tensor t[], int *n) {
    rotation_dims z;
    status st = oft_dims(s, &z);
    if (st == OK && z.b > ROTATION_MAX_CAYLEY)
        st = fail(E_UNSUPPORTED, "%s: rotation blocks of %lld: at most %d; choose smaller ones",
                  s->layer, (long long)z.b, ROTATION_MAX_CAYLEY);
    return st == OK ? rotation_tensors(s, &z, t, n) : st;
}

static tensor *delta(graph *g, const adapter_site *s) {
    return rotation_dropped(g, s, rotation_cayley(g, rotation_skew(g, s), s->at));
}
tensor *oft_input(graph *g, const adapter_site *s, tensor *x) {
    return s->opts->output_side ? x : rotation_input(g, s, delta(g, s), x);
}
tensor *oft_weight(graph *g, const adapter_site *s, tensor *w) {
    return rotation_weight(g, s, delta(g, s), w);
}
tensor *oft_output(graph *g, const adapter_site *s, tensor *x, tensor *y) {
    (void)x;
    return rotation_output(g, s, s->opts->output_side ? delta(g, s) : NULL, y);
}

status oft_merge(const adapter_site *s, const float *const t[], double m, bool inverse, float *w) {
    rotation_dims z;
    status st = oft_dims(s, &z);
    return st == OK ? rotation_merge(s, &z, rotation_cayley_host, t, m, inverse, w) : st;
}

const adapter_info adapter_oft_info = {.name = "oft",
                                       .tensors = oft_tensors,
                                       .init = rotation_init,
                                       .by_weight = rotation_by_weight,
                                       .input = oft_input,
                                       .weight = oft_weight,
                                       .output = oft_output,
                                       .scales_output = rotation_scales_output,
                                       .merge = oft_merge};
