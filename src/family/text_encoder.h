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

/* ids [N, T] u32, T = max_position_embeddings or fewer -> [N, T, hidden] T: the hidden state after layer
 * num_hidden_layers - skip, and final_layer_norm. skip 0 = all layers (A1111's clip skip 1). extra [E, hidden] (NULL): ids
 * vocab_size + i read row i (textual inversion). */
tensor *text_encode(nn *m, const text_config *c, tensor *ids, tensor *extra, int skip);
status  text_declare(params *ps, const text_config *c);
