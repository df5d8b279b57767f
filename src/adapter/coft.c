/* coft.c: oft that may not turn far: after every update each block's Q is brought back into the
 * ball of radius eps / sqrt(blocks) (Frobenius), as PEFT does. eps 0 stands for the paper's 6e-5
 * b^2. source  Qiu et al. 2023 §4.2 (projected gradient); PEFT OFTRotationModule._project_batch
 * SPDX-License-Identifier: MIT */
#include "adapter/rotation.h"
#include <math.h>

#define PAPER_EPS 6e-5f

float coft_radius(const adapter_site *s) {
    rotation_dims z;
    if (oft_dims(s, &z) != OK) return 0;
    float eps = s->opts->eps > 0 ? s->opts->eps : PAPER_EPS * (float)(z.b * z.b);
    return eps / sqrtf((float)z.blocks);
}

static void project(graph *g, const adapter_site *s) {
    tensor *a = adapter_param(g, s, ROTATION_KEY);
    float r = coft_radius(s);
    if (r <= 0) return;
    adapter_site whole = *s; /* the parameter itself, whatever the strength */
    whole.strength = NULL;
    tensor *q = rotation_skew(g, &whole);
    tensor *norm = op_clamp_(g, op_reduce_(g, q, R_NORM2, 4u | 8u, s->at), r, INFINITY, s->at);
    tensor *shrink = op_binary_(g, op_zeros_(g, DT_F32, SHAPE(1), r, s->at), norm, B_DIV, s->at);
    op_store_(g, a, op_binary_(g, q, shrink, B_MUL, s->at), false, s->at);
}

static status tensors(const adapter_site *s, adapter_tensor t[], int *n) {
    if (!(s->opts->eps >= 0))
        return fail(E_USAGE, "%s: coft's eps is %g: expected 0 (the paper's) or more", s->layer,
                    (double)s->opts->eps);
    return oft_tensors(s, t, n);
}

const adapter_info adapter_coft_info = {.name = "coft",
                                        .tensors = tensors,
                                        .init = rotation_init,
                                        .by_weight = rotation_by_weight,
                                        .input = oft_input,
                                        .weight = oft_weight,
                                        .output = oft_output,
                                        .scales_output = rotation_scales_output,
                                        .merge = oft_merge,
                                        .project = project};
