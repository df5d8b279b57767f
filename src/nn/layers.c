/* layers.c: linear, convolution and norms by name, with their adapters.
 * How a layer and its adapters become ops: adapter/adapter.c.
 * SPDX-License-Identifier: MIT */
#include "nn/nn.h"
#include <stdarg.h>
#include <stdio.h>

const char *nn_path(nn *m, const char *fmt, ...) {
    char text[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    char *copy = graph_alloc(m->g, strlen(text) + 1);
    return copy ? strcpy(copy, text) : "";
}

tensor *nn_cells(nn *m, tensor *x) {
    if (!m->canvas) return x;
    int64_t r = m->canvas->rows, c = m->canvas->cols, n = x->s.d[0], h = x->s.d[1] / r, w = x->s.d[2] / c, ch = x->s.d[3];
    if (h * r != x->s.d[1] || w * c != x->s.d[2])
        graph_fail(m->g, HERE, E_SHAPE, "a picture of %lldx%lld does not divide into %lldx%lld cells", (long long)x->s.d[2], (long long)x->s.d[1],
                   (long long)c, (long long)r);
    x = op_transpose(m->g, op_reshape(m->g, x, n, r, h, c, w, ch), 0, 1, 3, 2, 4, 5);
    return op_reshape(m->g, x, n * r * c, h, w, ch);
}

tensor *nn_tiled(nn *m, tensor *x) {
    if (!m->canvas) return x;
    int64_t r = m->canvas->rows, c = m->canvas->cols, n = x->s.d[0] / (r * c), h = x->s.d[1], w = x->s.d[2], ch = x->s.d[3];
    x = op_transpose(m->g, op_reshape(m->g, x, n, r, c, h, w, ch), 0, 1, 3, 2, 4, 5);
    return op_reshape(m->g, x, n, r * h, c * w, ch);
}

/* The parameter name.suffix, declared first when the model is being declared. */
static tensor *param_of(nn *m, const char *name, const char *suffix, shape s, bool vector, const char *at) {
    const char *full = nn_path(m, "%s.%s", name, suffix);
    if (m->ps->declaring) {
        status st = params_declare(m->ps, full, s, vector);
        if (st != OK) graph_fail(m->g, at, st, "%s", error_message());
    }
    return params_tensor(m->ps, m->g, full, at);
}

tensor *nn_linear_(nn *m, const char *name, tensor *x, int64_t out, bool bias, tensor *residual, const char *at) {
    shape ws = SHAPE(out, x->s.d[x->s.n - 1]);
    tensor *w = param_of(m, name, "weight", ws, false, at);
    tensor *b = bias ? param_of(m, name, "bias", SHAPE(out), true, at) : NULL;
    return adapter_layer(m->g, m->adapter, &(adapter_call){name, at, x, w, b, residual, ws, NULL});
}

tensor *nn_conv2d_(nn *m, const char *name, tensor *x, int64_t out, int k, int stride, int pad, bool bias, tensor *residual, const char *at) {
    shape ws = SHAPE(out, x->s.d[x->s.n - 1], k, k);
    tensor *w = param_of(m, name, "weight", ws, false, at);
    tensor *b = bias ? param_of(m, name, "bias", SHAPE(out), true, at) : NULL;
    uint32_t begin = pad == NN_PAD_END ? 0 : (uint32_t)pad, end = pad == NN_PAD_END ? 1 : (uint32_t)pad;
    conv2d_attrs conv = {.stride = (uint32_t)stride, .pad_t = begin, .pad_l = begin, .pad_b = end, .pad_r = end, .act = ACT_NONE};
    if (residual) residual = nn_cells(m, residual);
    return nn_tiled(m, adapter_layer(m->g, m->adapter, &(adapter_call){name, at, nn_cells(m, x), w, b, residual, ws, &conv}));
}

tensor *nn_group_norm_(nn *m, const char *name, tensor *x, int groups, float eps, bool silu, const char *at) {
    shape c = SHAPE(x->s.d[x->s.n - 1]);
    tensor *scale = param_of(m, name, "weight", c, true, at), *shift = param_of(m, name, "bias", c, true, at);
    return nn_tiled(m, op_group_norm_(m->g, nn_cells(m, x), scale, shift, groups, eps, silu, at));
}

tensor *nn_layer_norm_(nn *m, const char *name, tensor *x, float eps, const char *at) {
    shape c = SHAPE(x->s.d[x->s.n - 1]);
    return op_layer_norm_(m->g, x, param_of(m, name, "weight", c, true, at), param_of(m, name, "bias", c, true, at), eps, at);
}
