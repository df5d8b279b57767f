/* unet.h: the conditional UNet of Stable Diffusion 1.x and 2.x and smaller networks of the same shape.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "nn/nn.h"

#define UNET_MAX_LEVELS 6
#define UNET_MAX_SKIPS 64                  /* (layers_per_block + 1) * levels */
#define UNET_MAX_ATTENTIONS 128            /* transformer blocks in all */
/* Field names follow diffusers' UNet2DConditionModel config. */
typedef struct unet_config {
    int in_channels, out_channels, levels, layers_per_block;
    int block_out_channels[UNET_MAX_LEVELS];
    bool attention[UNET_MAX_LEVELS];       /* down level i has transformers; the up path mirrors it */
    int heads[UNET_MAX_LEVELS];            /* attention heads at level i (diffusers' field attention_head_dim says heads) */
    int transformer_layers[UNET_MAX_LEVELS]; /* transformer_layers_per_block; 0 = 1 */
    int cross_attention_dim, norm_num_groups;
    float norm_eps;
    bool use_linear_projection, flip_sin_to_cos;
    float freq_shift;
    int time_cond_proj_dim;                /* distilled guidance (LCM): width of its embedding; 0 = none */
} unet_config;

/* Two levels, 16 and 32 channels: the network of the ten-losses test and of `imago train-tiny`. */
extern const unet_config unet_tiny;

/* The text that the cross-attention layers look at: either the encoder's output, or the keys and values that
 * unet_context made of it once for all steps, in the order in which the layers run. */
typedef struct unet_text {
    tensor *context;                       /* [N, S, cross_attention_dim] T; NULL when k and v are given */
    tensor *k[UNET_MAX_ATTENTIONS], *v[UNET_MAX_ATTENTIONS]; /* [N, S, C] each */
} unet_text;

/* unet_denoise: the network's prediction.
 *   x [N, H, W, in] T, t [N] f32 (timesteps); guidance [N, time_cond_proj_dim] T (NULL = none)
 *   returns [N, H, W, out] T     H and W are any: an odd side halves upwards, and the way up meets the skip's size again
 *   errors  E_UNSUPPORTED for a config out of the limits above; E_SHAPE
 *   source  Rombach et al. 2022; diffusers UNet2DConditionModel */
tensor *unet_denoise(nn *m, const unet_config *c, tensor *x, tensor *t, const unet_text *text, tensor *guidance);
/* The same network told more than it was made for: added to what conv_in makes of x, and to the time embedding before its last
 * activation. Zeros, or NULL, leave it as it was. An extended conv_in, [O, in + more, 3, 3], is a convolution added to the old one. */
typedef struct unet_more { tensor *input; tensor *time; } unet_more; /* [N, H, W, block_out_channels[0]] T; [N, 4 block_out_channels[0]] T */
tensor *unet_denoise_more(nn *m, const unet_config *c, tensor *x, tensor *t, const unet_text *text, tensor *guidance, const unet_more *more);
/* Records the key and value projections of every cross-attention layer into k and v [UNET_MAX_ATTENTIONS]; returns how
 * many there are. */
int unet_context(nn *m, const unet_config *c, tensor *context, tensor **k, tensor **v);
/* Records the network once on a graph that is never compiled, which declares every parameter. */
status unet_declare(params *ps, const unet_config *c, const adapter_set *adapter);
