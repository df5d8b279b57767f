/* clip_factor: one number that unscales and clips all gradients, made where the gradients are.
 *   parts      [P] f32   sums of squares of the gradients, still times loss_scale^2
 *   limits     [2] f32   {max_norm, 0 = no clipping; loss_scale}
 *   found_inf  [1] u32   state: set to 1 when the sum is not finite, else left as it is
 *   returns [2] f32 {factor, norm}: norm of the unscaled gradient,
 *   factor = min(1, max_norm / (norm + 1e-6)) / loss_scale; 0 when the sum is not finite
 *   errors  E_SHAPE
 *   source  torch.nn.utils.clip_grad_norm_; Micikevicius et al. 2018 §3.2 (loss scaling)
 * SPDX-License-Identifier: MIT */
#include "op/move.h"
#include <math.h>

extern const op_info op_clip_factor_info;

tensor *op_clip_factor_(graph *g, tensor *parts, tensor *limits, tensor *found_inf,
                        const char *here) {
    return op_record(g, &op_clip_factor_info, here, NULL, OP_IN(parts, limits, found_inf));
}

static status infer(graph *g, node *n) {
    (void)g;
    dtype t = n->in[0]->dtype;
    if (t != dtype_acc(t) || n->in[1]->dtype != t || tensor_count(n->in[1]) != 2 ||
        n->in[2]->dtype != DT_U32 || tensor_count(n->in[2]) != 1)
        return fail(E_SHAPE, "clip_factor takes parts f32, limits f32 [2], found_inf u32 [1]");
    out_set(n, 0, t, SHAPE(2));
    return OK;
}

static status encode(gpu_cmd *c, const node *n) {
    struct {
        uint32_t n;
    } push = {(uint32_t)tensor_count(n->in[0])};
    return gpu_dispatch(c, .shader = "clip_factor", .type = DT_U32, .groups = {1, 1, 1},
                        .bind = {n->in[0]->span, n->in[1]->span, n->in[2]->span, n->out[0]->span},
                        .n_bind = 4, .push = &push, .push_bytes = sizeof push, .work = push.n);
}

static void ref(const node *n) {
    double sum = 0, max_norm = IN(1, 0), scale = IN(1, 1);
    for (int64_t i = 0; i < tensor_count(n->in[0]); i++) sum += IN(0, i);
    double norm = sqrt(sum) / scale,
           factor = max_norm > 0 ? fmin(1, max_norm / (norm + 1e-6)) / scale : 1 / scale;
    bool finite = isfinite(sum) && sum <= 3.4028234663852886e38; /* what is finite in f32 */
    if (!finite) SET_IN(2, 0, 1);
    SET(0, 0, finite ? factor : 0);
    SET(0, 1, norm);
}

/* a[0]: max_norm, a[1]: loss_scale, a[2]: 1 = with an infinite part */
static tensor *build(graph *g, tensor **in, const op_case *c) {
    dtype t = in[0]->dtype;
    tensor *limits = op_concat(g, 0, op_fill(g, t, SHAPE(1), (float)c->a[0]),
                               op_fill(g, t, SHAPE(1), (float)c->a[1]));
    tensor *parts =
        c->a[2] != 0 ? op_concat(g, 0, in[0], op_fill(g, t, SHAPE(1), INFINITY)) : in[0];
    return op_clip_factor_(g, parts, limits, in[1], HERE);
}

static const op_case cases[] = {
    CASE("f32[1]=0:9 u32<1[1]", .a = {1, 1}),      CASE("f32[1]=0:0.1 u32<1[1]", .a = {1, 1}),
    CASE("f32[37]=0:9 u32<2[1]", .a = {0.5, 128}), CASE("f32[300]=0:9 u32<1[1]", .a = {0, 64}),
    CASE("f32[5]=0:9 u32<1[1]", .a = {1, 2, 1}),
};

const op_info op_clip_factor_info = {.name = "clip_factor",
                                     .n_in = 3,
                                     .n_out = 1,
                                     .types = TYPES_F32,
                                     .writes = 1u << 2,
                                     .infer = infer,
                                     .encode = encode,
                                     .ref = ref,
                                     .build = build,
                                     CASES(cases)};
