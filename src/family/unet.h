/* unet.h: the conditional UNet of Stable Diffusion 1.x and 2.x and smaller networks of the same shape.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "nn/nn.h"

#define UNET_MAX_LEVELS 6
/* Field names follow diffusers' UNet2DConditionModel config. */
typedef struct unet_config {
    int in_channels, out_channels, levels, layers_per_block;
    int block_out_channels[UNET_MAX_LEVELS];
    bool attention[UNET_MAX_LEVELS];       /* down level i has transformers; the up path mirrors it */
    int heads[UNET_MAX_LEVELS];            /* attention heads at level i */
    int cross_attention_dim, norm_num_groups;
    float norm_eps;
    bool use_linear_projection, flip_sin_to_cos;
    float freq_shift;
} unet_config;

/* Two levels, 16 and 32 channels: the network of the ten-losses test and of `imago train-tiny`. */
extern const unet_config unet_tiny;

/* unet_denoise: the network's prediction.
 *   x [N, H, W, in] T, t [N] f32 (timesteps), context [N, S, cross_attention_dim] T
 *   returns [N, H, W, out] T     errors  E_SHAPE when H or W is not a multiple of 2^(levels-1)
 *   source  Rombach et al. 2022; diffusers UNet2DConditionModel */
tensor *unet_denoise(nn *m, const unet_config *c, tensor *x, tensor *t, tensor *context);
/* Records the network once on a graph that is never compiled, which declares every parameter. */
status unet_declare(params *ps, const unet_config *c, const adapter_set *adapter);
