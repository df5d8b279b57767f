/* nn.h: blocks every model family shares. One call = one named layer of the checkpoint: it records the
 * nodes and, while the model is being declared, adds the layer's parameters with their shapes.
 * Names are the checkpoint's ("down_blocks.0.resnets.0.conv1"); nn_path builds them.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "adapter/adapter.h"
#include "op/op.h"

/* Which keys every entry of the batch looks at, alike in all attention layers of a network: frames of a morph, pictures
 * that borrow from others. Self-attention's bank is the batch itself; where n_keys > 0, only these rows of it, one run
 * after the other, are made into keys and values. Cross-attention's bank is the text as it was given. */
#define ATTENTION_RULE_RUNS 3
typedef struct attention_rule {
    int n_sets; const attention_set *sets, *text_sets; /* [N][n_sets] each, all of bank 0 */
    tensor *weights;                       /* [N, n_sets] f32; NULL = 1 */
    int n_keys; struct { int begin, end; } keys[ATTENTION_RULE_RUNS];
    bool mean;                             /* every entry gets the mean of all attention outputs, before the last layer */
    tensor *offset;                        /* self-attention only: [N, n_sets, parts] f32 per part of a set: -inf hides it; NULL = 0 */
    /* Called by every self-attention layer in turn with its keys and values [entries, T, C]: may keep them, and may give those of
     * an earlier plan, which are then bank 1 of `sets`. NULL = not called. */
    void (*bank)(void *ctx, graph *g, tensor *k, tensor *v, tensor **other_k, tensor **other_v); void *ctx;
} attention_rule;

/* Pictures tiled into one, rows x cols of them: [N, rows h, cols w, C]. Convolutions (with their padding), group norms and time
 * embeddings then work cell by cell; attention sees the tiled picture, each query only keys whose cell its row of `table` shows.
 * Text comes per cell, [N rows cols, S, D]. Plain networks agree with the cells as a batch under an attention_rule. */
typedef struct nn_canvas {
    int rows, cols;
    tensor *table, *text_table;            /* [E, E] f32 of E = N rows cols cells: 0, or -inf = does not see */
    /* u32 [N, tokens]: the cell, 0..E-1, of every token of the tiled picture, or of the cells' texts end to end. Never NULL. */
    tensor *(*ids)(void *ctx, graph *g, int64_t n, int64_t tokens, bool text); void *ctx;
} nn_canvas;

typedef struct nn {
    graph *g; params *ps;
    const adapter_set *adapter;            /* the first of those on this model; NULL = none */
    const attention_rule *rule;            /* NULL: every entry looks at itself */
    const nn_canvas *canvas;               /* NULL: a picture is one picture; else no rule */
} nn;

/* Between a tiled picture and its cells, [N, rows h, cols w, C] <-> [N rows cols, h, w, C]; x itself without a canvas. */
tensor *nn_cells(nn *m, tensor *x);
tensor *nn_tiled(nn *m, tensor *x);

/* A name in the graph's arena, printf style; never NULL. */
const char *nn_path(nn *m, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* x [..., I] -> [..., out]; weight [out, I], bias [out] when bias is set. Applies adapters before the bias. */
tensor *nn_linear_(nn *m, const char *name, tensor *x, int64_t out, bool bias, tensor *residual, const char *at);
#define nn_linear(m, name, x, out, bias) nn_linear_(m, name, x, out, bias, NULL, HERE)
#define nn_linear_add(m, name, x, out, bias, residual) nn_linear_(m, name, x, out, bias, residual, HERE)
/* x [N, H, W, I] -> [N, OH, OW, out]; weight [out, I, k, k]. pad: rows and columns on every side, or NN_PAD_END: one below
 * and one on the right (the downsamplers of AutoencoderKL) */
#define NN_PAD_END (-1)
tensor *nn_conv2d_(nn *m, const char *name, tensor *x, int64_t out, int k, int stride, int pad, bool bias, tensor *residual, const char *at);
#define nn_conv2d(m, name, x, out, k, stride, pad) nn_conv2d_(m, name, x, out, k, stride, pad, true, NULL, HERE)
#define nn_conv2d_add(m, name, x, out, k, stride, pad, residual) nn_conv2d_(m, name, x, out, k, stride, pad, true, residual, HERE)
#define nn_conv2d_bare(m, name, x, out, k, stride, pad) nn_conv2d_(m, name, x, out, k, stride, pad, false, NULL, HERE)
tensor *nn_group_norm_(nn *m, const char *name, tensor *x, int groups, float eps, bool silu, const char *at);
#define nn_group_norm(m, name, x, groups, eps, silu) nn_group_norm_(m, name, x, groups, eps, silu, HERE)
tensor *nn_layer_norm_(nn *m, const char *name, tensor *x, float eps, const char *at);
#define nn_layer_norm(m, name, x, eps) nn_layer_norm_(m, name, x, eps, HERE)

/* Attention: x [N, T, C] -> [N, T, C] + residual; four linear layers, the last always with a bias */
typedef struct nn_attention_params {
    const char *const *layers;             /* names of q, k, v and out; NULL = diffusers' to_q, to_k, to_v, to_out.0 */
    int heads; bool bias, causal;          /* bias: q, k and v have one too */
    tensor *context;                       /* [N, S, D]; NULL = self-attention */
    tensor *k, *v;                         /* [N, S, C]: what the layers made of context earlier; both or neither */
    tensor *residual;
} nn_attention_params;
tensor *nn_attention_(nn *m, const char *name, tensor *x, const nn_attention_params *p);
#define nn_attention(m, name, x, ...) nn_attention_(m, name, x, &(nn_attention_params){__VA_ARGS__})
/* diffusers BasicTransformerBlock: self-attention, cross-attention to context or to its k and v, GEGLU feed-forward; x [N, T, C] */
tensor *nn_transformer_block(nn *m, const char *name, tensor *x, tensor *context, tensor *k, tensor *v, int heads);
/* diffusers ResnetBlock2D: x [N, H, W, I], emb [N, E] = silu of the time embedding (NULL = none) -> [N, H, W, out] */
tensor *nn_resblock(nn *m, const char *name, tensor *x, tensor *emb, int64_t out, int groups, float eps);
