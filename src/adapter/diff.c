/* diff.c: the whole difference, W' = W + m D: what ComfyUI and LyCORIS call full; every other
 * adapter can be written as one. diff [O, I] or [O, I, kh, kw], starts at zero
 * SPDX-License-Identifier: MIT */
#include "adapter/adapter.h"

static status tensors(const adapter_site *s, adapter_tensor t[], int *n) {
    t[0] = (adapter_tensor){".diff", s->w, false, false};
    *n = 1;
    return OK;
}

static bool by_weight(const adapter_site *s) {
    (void)s;
    return true;
}

static tensor *weight(graph *g, const adapter_site *s, tensor *w) {
    tensor *d = adapter_scaled(g, s, adapter_param(g, s, ".diff"));
    return op_cast_(g, op_binary_(g, op_cast_(g, w, DT_F32, s->at), d, B_ADD, s->at), w->dtype,
                    s->at);
}

static status merge(const adapter_site *s, const float *const t[], double m, bool inverse,
                    float *w) {
    int64_t n = shape_count(&s->w);
    for (int64_t i = 0; i < n; i++)
        w[i] = (float)((double)w[i] + (inverse ? -m : m) * (double)t[0][i]);
    return OK;
}

const adapter_info adapter_diff_info = {
    .name = "diff", .tensors = tensors, .by_weight = by_weight, .weight = weight, .merge = merge};
