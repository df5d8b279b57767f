/* unet.c: the conditional UNet, a straight line of named layers.
 * Facts that cause bugs:
 *   - the time embedding is [cos, sin] (flip_sin_to_cos) with shift 0, and passes silu inside every ResBlock;
 *   - the skip is concatenated after the upward stream, channels (h, skip);
 *   - transformers' proj_in/proj_out are 1x1 convolutions unless use_linear_projection; their norm has eps 1e-6;
 *   - an upsampler doubles H and W, downsampling is a stride-2 convolution with padding 1.
 * SPDX-License-Identifier: MIT */
#include "family/unet.h"

const unet_config unet_tiny = {
    .in_channels = 4, .out_channels = 4, .levels = 2, .layers_per_block = 1,
    .block_out_channels = {16, 32}, .attention = {true, true}, .heads = {2, 2},
    .cross_attention_dim = 24, .norm_num_groups = 4, .norm_eps = 1e-5f, .flip_sin_to_cos = true};

/* diffusers Transformer2DModel: x [N, H, W, C] */
static tensor *transformer(nn *m, const unet_config *c, const char *name, tensor *x, tensor *context, int heads) {
    int64_t n = x->s.d[0], h = x->s.d[1], w = x->s.d[2], ch = x->s.d[3];
    tensor *y = nn_group_norm(m, nn_path(m, "%s.norm", name), x, c->norm_num_groups, 1e-6f, false);
    const char *in = nn_path(m, "%s.proj_in", name), *out = nn_path(m, "%s.proj_out", name);
    if (!c->use_linear_projection) y = nn_conv2d(m, in, y, ch, 1, 1, 0);
    y = op_reshape(m->g, y, n, h * w, ch);
    if (c->use_linear_projection) y = nn_linear(m, in, y, ch, true);
    y = nn_transformer_block(m, nn_path(m, "%s.transformer_blocks.0", name), y, context, heads);
    if (c->use_linear_projection) {
        y = nn_linear_add(m, out, y, ch, true, op_reshape(m->g, x, n, h * w, ch));
        return op_reshape(m->g, y, n, h, w, ch);
    }
    return nn_conv2d_add(m, out, op_reshape(m->g, y, n, h, w, ch), ch, 1, 1, 0, x);
}

static tensor *time_embed(nn *m, const unet_config *c, tensor *t, dtype type) {
    int ch = c->block_out_channels[0];
    tensor *e = op_cast(m->g, op_time_embedding(m->g, t, ch, c->flip_sin_to_cos, c->freq_shift), type);
    e = op_silu(m->g, nn_linear(m, "time_embedding.linear_1", e, 4 * ch, true));
    return nn_linear(m, "time_embedding.linear_2", e, 4 * ch, true);
}

tensor *unet_denoise(nn *m, const unet_config *c, tensor *x, tensor *t, tensor *context) {
    graph *g = m->g;
    tensor *skip[UNET_MAX_LEVELS * 8];
    int n_skip = 0, last = c->levels - 1, groups = c->norm_num_groups;
    float eps = c->norm_eps;
    if (x->s.d[1] % (1 << last) || x->s.d[2] % (1 << last))
        graph_fail(g, HERE, E_SHAPE, "latent of %lld x %lld: both sides must be multiples of %d", (long long)x->s.d[1], (long long)x->s.d[2], 1 << last);
    tensor *emb = time_embed(m, c, t, x->dtype);
    tensor *h = skip[n_skip++] = nn_conv2d(m, "conv_in", x, c->block_out_channels[0], 3, 1, 1);
    for (int l = 0; l < c->levels; l++) {
        graph_segment(g, nn_path(m, "down.%d", l));
        for (int i = 0; i < c->layers_per_block; i++) {
            h = nn_resblock(m, nn_path(m, "down_blocks.%d.resnets.%d", l, i), h, emb, c->block_out_channels[l], groups, eps);
            if (c->attention[l]) h = transformer(m, c, nn_path(m, "down_blocks.%d.attentions.%d", l, i), h, context, c->heads[l]);
            skip[n_skip++] = h;
        }
        if (l < last) h = skip[n_skip++] = nn_conv2d(m, nn_path(m, "down_blocks.%d.downsamplers.0.conv", l), h, c->block_out_channels[l], 3, 2, 1);
    }
    graph_segment(g, "mid");
    h = nn_resblock(m, "mid_block.resnets.0", h, emb, c->block_out_channels[last], groups, eps);
    h = transformer(m, c, "mid_block.attentions.0", h, context, c->heads[last]);
    h = nn_resblock(m, "mid_block.resnets.1", h, emb, c->block_out_channels[last], groups, eps);
    for (int u = 0; u < c->levels; u++) {
        int l = last - u;
        graph_segment(g, nn_path(m, "up.%d", u));
        for (int i = 0; i <= c->layers_per_block; i++) {
            h = op_concat(g, 3, h, skip[--n_skip]);
            h = nn_resblock(m, nn_path(m, "up_blocks.%d.resnets.%d", u, i), h, emb, c->block_out_channels[l], groups, eps);
            if (c->attention[l]) h = transformer(m, c, nn_path(m, "up_blocks.%d.attentions.%d", u, i), h, context, c->heads[l]);
        }
        if (l > 0) {
            h = op_upsample(g, h, 2 * h->s.d[1], 2 * h->s.d[2]);
            h = nn_conv2d(m, nn_path(m, "up_blocks.%d.upsamplers.0.conv", u), h, c->block_out_channels[l], 3, 1, 1);
        }
    }
    graph_segment(g, NULL);
    h = nn_group_norm(m, "conv_norm_out", h, groups, eps, true);
    return nn_conv2d(m, "conv_out", h, c->out_channels, 3, 1, 1);
}

status unet_declare(params *ps, const unet_config *c, const adapter_set *adapter) {
    graph *g = graph_create(ps->dev);
    if (!g) return graph_status(g);
    ps->declaring = true;
    if (adapter) adapter->ps->declaring = true;
    nn m = {g, ps, adapter};
    int side = 1 << (c->levels - 1);
    tensor *x = graph_input(g, "x", ps->type, SHAPE(1, side, side, c->in_channels));
    tensor *t = graph_input(g, "t", DT_F32, SHAPE(1)), *context = graph_input(g, "context", ps->type, SHAPE(1, 1, c->cross_attention_dim));
    unet_denoise(&m, c, x, t, context);
    status st = graph_status(g);
    ps->declaring = false;
    if (adapter) adapter->ps->declaring = false;
    graph_destroy(g);
    return st;
}
