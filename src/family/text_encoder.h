/* text_encoder.h: CLIP's text tower (te_clip.c): CLIP-L of SD 1.x, OpenCLIP-H of SD 2.x, and smaller ones, in
 * transformers' names ("text_model.encoder.layers.0.self_attn.q_proj.weight").
 * SPDX-License-Identifier: MIT */
#pragma once
#include "nn/nn.h"

/* Field names follow the config.json of transformers' CLIPTextModel. */
typedef struct text_config {
    int vocab_size, hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, max_position_embeddings;
    host_act hidden_act;                           /* quick_gelu (CLIP-L) or gelu (OpenCLIP) */
    float layer_norm_eps;
} text_config;

/* text_encode: ids [N, T] u32, T = max_position_embeddings or fewer -> [N, T, hidden] T: the hidden state after layer
 * num_hidden_layers - skip, and final_layer_norm. skip 0 = all layers (A1111's clip skip 1).
 * extra: rows that are not in the table (textual inversion), or NULL.   errors E_SHAPE, E_USAGE (skip) */
typedef struct text_extra {
    tensor *rows;                                  /* [E, hidden] T */
    tensor *pick;                                  /* [N, T] u32: text_extra_pick of ids */
} text_extra;
tensor *text_encode(nn *m, const text_config *c, tensor *ids, const text_extra *extra, int skip);
/* pick[i] for ids[i]: which row of (all token embeddings of this call, then extra's rows) position i reads. ids of vocab_size
 * and above mean extra row id - vocab_size; in ids itself they may stay. count = N T. */
void    text_extra_pick(const text_config *c, const uint32_t *ids, int64_t count, uint32_t *pick);
status  text_declare(params *ps, const text_config *c, const adapter_set *adapter); /* adapter: NULL = none */
