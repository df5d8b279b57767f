/* vae_tiny.c: AutoencoderTiny, a distilled autoencoder of plain convolutions and relu, without norms; and TAEF2, whose
 * blocks next to the latent first add a pooled branch.
 * Layers are numbered as in the nn.Sequential they come from, where relu and upsampling count too. The network works on
 * pixels in 0..1: diffusers' wrapper scales from and to -1..1, and softly clamps latents to 3 tanh(z / 3).
 * source: diffusers AutoencoderTiny; TAESD and TAEF2 by Ollin Boer Bohan
 * SPDX-License-Identifier: MIT */
#include "family/vae_internal.h"

static const float pool_eps = 1e-5f;

/* x + conv1x1(relu(group_norm(conv1x1(x)))), four times as wide inside */
static tensor *pooled(nn *m, const char *name, tensor *x, int groups) {
    int64_t ch = x->s.d[3];
    tensor *h = nn_conv2d_bare(m, nn_path(m, "%s.pool.0", name), x, 4 * ch, 1, 1, 0);
    h = op_relu(m->g, nn_group_norm(m, nn_path(m, "%s.pool.1", name), h, groups, pool_eps, false));
    return op_add(m->g, x, nn_conv2d_bare(m, nn_path(m, "%s.pool.3", name), h, ch, 1, 1, 0));
}

static tensor *block(nn *m, const char *name, tensor *x, int pool_groups) {
    int64_t ch = x->s.d[3];
    if (pool_groups) x = pooled(m, name, x, pool_groups);
    tensor *h = op_relu(m->g, nn_conv2d(m, nn_path(m, "%s.conv.0", name), x, ch, 3, 1, 1));
    h = op_relu(m->g, nn_conv2d(m, nn_path(m, "%s.conv.2", name), h, ch, 3, 1, 1));
    return op_relu(m->g, nn_conv2d_add(m, nn_path(m, "%s.conv.4", name), h, ch, 3, 1, 1, x));
}

tensor *vae_tiny_encode(nn *m, const vae_config *c, tensor *image) {
    tensor *h = op_affine(m->g, image, 0.5f, 0.5f);
    int at = 0, last = c->levels - 1;
    for (int l = 0; l < c->levels; l++) {
        const char *name = nn_path(m, "encoder.layers.%d", at++);
        int ch = c->encoder_block_out_channels[l];
        h = l == 0 ? nn_conv2d(m, name, h, ch, 3, 1, 1) : nn_conv2d_bare(m, name, h, ch, 3, 2, 1);
        for (int i = 0; i < c->num_encoder_blocks[l]; i++)
            h = block(m, nn_path(m, "encoder.layers.%d", at++), h, l == last ? c->pool_groups : 0);
    }
    return nn_conv2d(m, nn_path(m, "encoder.layers.%d", at), h, c->latent_channels, 3, 1, 1);
}

tensor *vae_tiny_decode(nn *m, const vae_config *c, tensor *latent) {
    tensor *h = op_scale(m->g, op_tanh(m->g, op_scale(m->g, latent, 1.0f / 3)), 3.0f);
    int last = c->levels - 1, f = c->upsampling_scaling_factor;
    h = op_relu(m->g, nn_conv2d(m, "decoder.layers.0", h, c->block_out_channels[0], 3, 1, 1));
    for (int l = 0, at = 2; l < c->levels; l++) {
        for (int i = 0; i < c->num_decoder_blocks[l]; i++)
            h = block(m, nn_path(m, "decoder.layers.%d", at++), h, l == 0 ? c->pool_groups : 0);
        if (l < last) {
            h = op_upsample(m->g, h, f * h->s.d[1], f * h->s.d[2]);
            at++;
        }
        const char *name = nn_path(m, "decoder.layers.%d", at++);
        h = l < last ? nn_conv2d_bare(m, name, h, c->block_out_channels[l], 3, 1, 1) : nn_conv2d(m, name, h, c->out_channels, 3, 1, 1);
    }
    return op_affine(m->g, h, 2.0f, -1.0f);
}
