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

/* The taps of a 3-tap kernel, along dim of w, that meet the same source pixel when it stands twice: what is left are two
 * taps for even places and two for odd ones. */
static tensor *taps(graph *g, tensor *w, int dim, bool odd) {
    tensor *a = op_slice(g, w, dim, 0, 1), *b = op_slice(g, w, dim, 1, 2), *c = op_slice(g, w, dim, 2, 3);
    return odd ? op_concat(g, dim, op_add(g, a, b), c) : op_concat(g, dim, a, op_add(g, b, c));
}

/* 3x3 convolution of x upsampled twofold (nearest), without making the upsampled image: each of the four places in a pixel is
 * a 2x2 convolution of x, 16 taps instead of 36. */
static tensor *upsampled_conv(nn *m, const char *name, tensor *x, int64_t out) {
    graph *g = m->g;
    int64_t n = x->s.d[0], h = x->s.d[1], w = x->s.d[2];
    const char *full = nn_path(m, "%s.weight", name);
    status st = m->ps->declaring ? params_declare(m->ps, full, SHAPE(out, x->s.d[3], 3, 3), false) : OK;
    if (st != OK) graph_fail(g, HERE, st, "%s", error_message());
    tensor *kernel = params_tensor(m->ps, g, full, HERE), *row[2];
    for (uint32_t i = 0; i < 2; i++) {
        tensor *tall = taps(g, kernel, 2, i == 1), *place[2];
        for (uint32_t j = 0; j < 2; j++)
            place[j] = op_conv2d_(g, x, taps(g, tall, 3, j == 1), NULL, NULL, (conv2d_attrs){1, 1 - i, 1 - j, i, j, ACT_NONE}, HERE);
        row[i] = op_reshape(g, op_concat(g, 3, place[0], place[1]), n, h, 1, 2 * w, out);
    }
    return op_reshape(g, op_concat(g, 2, row[0], row[1]), n, 2 * h, 2 * w, out);
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
        at += l < last; /* the upsampling */
        const char *name = nn_path(m, "decoder.layers.%d", at++);
        if (l < last && f == 2) h = upsampled_conv(m, name, h, c->block_out_channels[l]);
        else if (l < last) h = nn_conv2d_bare(m, name, op_upsample(m->g, h, f * h->s.d[1], f * h->s.d[2]), c->block_out_channels[l], 3, 1, 1);
        else h = nn_conv2d(m, name, h, c->out_channels, 3, 1, 1);
    }
    return op_affine(m->g, h, 2.0f, -1.0f);
}
