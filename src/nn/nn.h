/* nn.h: blocks every model family shares. One call = one named layer of the checkpoint: it records the
 * nodes and, while the model is being declared, adds the layer's parameters with their shapes.
 * Names are the checkpoint's ("down_blocks.0.resnets.0.conv1"); nn_path builds them.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "adapter/adapter.h"
#include "op/op.h"

typedef struct nn {
    graph *g; params *ps;
    const adapter_set *adapter;            /* NULL = none */
} nn;

/* A name in the graph's arena, printf style; never NULL. */
const char *nn_path(nn *m, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* x [..., I] -> [..., out]; weight [out, I], bias [out] when bias is set. Applies adapters before the bias. */
tensor *nn_linear_(nn *m, const char *name, tensor *x, int64_t out, bool bias, tensor *residual, const char *at);
#define nn_linear(m, name, x, out, bias) nn_linear_(m, name, x, out, bias, NULL, HERE)
#define nn_linear_add(m, name, x, out, bias, residual) nn_linear_(m, name, x, out, bias, residual, HERE)
/* x [N, H, W, I] -> [N, OH, OW, out]; weight [out, I, k, k] */
tensor *nn_conv2d_(nn *m, const char *name, tensor *x, int64_t out, int k, int stride, int pad, tensor *residual, const char *at);
#define nn_conv2d(m, name, x, out, k, stride, pad) nn_conv2d_(m, name, x, out, k, stride, pad, NULL, HERE)
#define nn_conv2d_add(m, name, x, out, k, stride, pad, residual) nn_conv2d_(m, name, x, out, k, stride, pad, residual, HERE)
tensor *nn_group_norm_(nn *m, const char *name, tensor *x, int groups, float eps, bool silu, const char *at);
#define nn_group_norm(m, name, x, groups, eps, silu) nn_group_norm_(m, name, x, groups, eps, silu, HERE)
tensor *nn_layer_norm_(nn *m, const char *name, tensor *x, float eps, const char *at);
#define nn_layer_norm(m, name, x, eps) nn_layer_norm_(m, name, x, eps, HERE)

/* Attention layer as in diffusers: to_q, to_k, to_v without bias, to_out.0 with.
 *   x [N, T, C], context [N, S, D] (NULL = self-attention) -> [N, T, C] + residual */
tensor *nn_attention(nn *m, const char *name, tensor *x, tensor *context, int heads, tensor *residual);
/* diffusers BasicTransformerBlock: self-attention, cross-attention, GEGLU feed-forward; x [N, T, C] */
tensor *nn_transformer_block(nn *m, const char *name, tensor *x, tensor *context, int heads);
/* diffusers ResnetBlock2D: x [N, H, W, I], time embedding emb [N, E] (NULL = none) -> [N, H, W, out] */
tensor *nn_resblock(nn *m, const char *name, tensor *x, tensor *emb, int64_t out, int groups, float eps);
