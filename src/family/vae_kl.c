/* vae_kl.c: AutoencoderKL, the autoencoder of latent diffusion: encoder and decoder of residual blocks.
 * Facts that cause bugs:
 *   - every norm has eps 1e-6, and no block sees a time embedding;
 *   - a downsampler pads one row below and one column on the right only;
 *   - the attention of the middle has one head as wide as the image has channels, its own group norm, and biases on
 *     q, k and v; it adds its input itself;
 *   - the decoder has one residual block more per level than the encoder.
 * source: Rombach et al. 2022; diffusers AutoencoderKL
 * SPDX-License-Identifier: MIT */
#include "family/vae_internal.h"

static const float eps = 1e-6f;

static tensor *resblock(nn *m, const vae_config *c, const char *name, tensor *x, int level) {
    return nn_resblock(m, name, x, NULL, c->block_out_channels[level], c->norm_num_groups, eps);
}

static tensor *middle(nn *m, const vae_config *c, const char *side, tensor *h) {
    int last = c->levels - 1;
    h = resblock(m, c, nn_path(m, "%s.mid_block.resnets.0", side), h, last);
    if (c->mid_block_add_attention) {
        const char *name = nn_path(m, "%s.mid_block.attentions.0", side);
        int64_t n = h->s.d[0], rows = h->s.d[1], cols = h->s.d[2], ch = h->s.d[3];
        tensor *x = op_reshape(m->g, h, n, rows * cols, ch);
        tensor *y = nn_group_norm(m, nn_path(m, "%s.group_norm", name), x, c->norm_num_groups, eps, false);
        y = nn_attention(m, name, y, .heads = 1, .bias = true, .residual = x);
        h = op_reshape(m->g, y, n, rows, cols, ch);
    }
    return resblock(m, c, nn_path(m, "%s.mid_block.resnets.1", side), h, last);
}

tensor *vae_kl_encode(nn *m, const vae_config *c, tensor *image) {
    int last = c->levels - 1, moments = 2 * c->latent_channels;
    tensor *h = nn_conv2d(m, "encoder.conv_in", image, c->block_out_channels[0], 3, 1, 1);
    for (int l = 0; l < c->levels; l++) {
        for (int i = 0; i < c->layers_per_block; i++) h = resblock(m, c, nn_path(m, "encoder.down_blocks.%d.resnets.%d", l, i), h, l);
        if (l < last) h = nn_conv2d(m, nn_path(m, "encoder.down_blocks.%d.downsamplers.0.conv", l), h, c->block_out_channels[l], 3, 2, NN_PAD_END);
    }
    h = middle(m, c, "encoder", h);
    h = nn_group_norm(m, "encoder.conv_norm_out", h, c->norm_num_groups, eps, true);
    h = nn_conv2d(m, "encoder.conv_out", h, moments, 3, 1, 1);
    return c->use_quant_conv ? nn_conv2d(m, "quant_conv", h, moments, 1, 1, 0) : h;
}

tensor *vae_kl_decode(nn *m, const vae_config *c, tensor *latent) {
    int last = c->levels - 1;
    tensor *h = latent;
    if (c->use_post_quant_conv) h = nn_conv2d(m, "post_quant_conv", h, c->latent_channels, 1, 1, 0);
    h = nn_conv2d(m, "decoder.conv_in", h, c->block_out_channels[last], 3, 1, 1);
    h = middle(m, c, "decoder", h);
    for (int u = 0; u < c->levels; u++) {
        int l = last - u;
        for (int i = 0; i <= c->layers_per_block; i++) h = resblock(m, c, nn_path(m, "decoder.up_blocks.%d.resnets.%d", u, i), h, l);
        if (l > 0) {
            h = op_upsample(m->g, h, 2 * h->s.d[1], 2 * h->s.d[2]);
            h = nn_conv2d(m, nn_path(m, "decoder.up_blocks.%d.upsamplers.0.conv", u), h, c->block_out_channels[l], 3, 1, 1);
        }
    }
    h = nn_group_norm(m, "decoder.conv_norm_out", h, c->norm_num_groups, eps, true);
    return nn_conv2d(m, "decoder.conv_out", h, c->out_channels, 3, 1, 1);
}
