/* vae.h: autoencoders: AutoencoderKL (vae_kl.c) and the norm-free AutoencoderTiny (vae_tiny.c), in diffusers' names.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "nn/nn.h"

#define VAE_MAX_LEVELS 6
typedef enum vae_kind { VAE_KL, VAE_TINY, VAE_KIND_COUNT } vae_kind;
/* Field names follow the config.json of diffusers' AutoencoderKL and AutoencoderTiny. */
typedef struct vae_config {
    vae_kind kind;
    int in_channels, out_channels, latent_channels, levels, block_out_channels[VAE_MAX_LEVELS];
    float scaling_factor, shift_factor;            /* latent = (z - shift) * scale */
    /* KL */
    int layers_per_block, norm_num_groups; bool use_quant_conv, use_post_quant_conv, mid_block_add_attention;
    /* tiny; block_out_channels is the decoder's there */
    int encoder_block_out_channels[VAE_MAX_LEVELS], num_encoder_blocks[VAE_MAX_LEVELS], num_decoder_blocks[VAE_MAX_LEVELS];
    float latent_magnitude, latent_shift; int upsampling_scaling_factor;
    int pool_groups;                               /* TAEF2: groups of the pooled branch in the blocks next to the latent; 0 = none */
} vae_config;

/* Pixels per latent cell along a side. levels is 1..VAE_MAX_LEVELS; what follows checks it (E_UNSUPPORTED). */
int vae_factor(const vae_config *c);
/* vae_encode: image [N, H, W, 3] T in [-1, 1] (tiny: as diffusers, also [-1, 1]) -> KL: [N, H/f, W/f, 2L] mean and log-variance
 * (unclamped, unscaled); tiny: [N, H/f, W/f, L].   errors E_SHAPE when H or W is not a multiple of the factor */
tensor *vae_encode(nn *m, const vae_config *c, tensor *image);
/* vae_decode: latent [N, h, w, L] T, unscaled (z) -> [N, h*f, w*f, 3] T, about [-1, 1], not clamped */
tensor *vae_decode(nn *m, const vae_config *c, tensor *latent);
status vae_declare(params *ps, const vae_config *c);  /* encoder and decoder */
