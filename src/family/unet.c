/* unet.c: the conditional UNet, a straight line of named layers.
 * Facts that cause bugs:
 *   - the time embedding is [cos, sin] (flip_sin_to_cos) with shift 0; every ResBlock wants its silu, taken once;
 *   - the skip is concatenated after the upward stream, channels (h, skip);
 *   - transformers' proj_in/proj_out are 1x1 convolutions unless use_linear_projection; their norm has eps 1e-6;
 *   - downsampling is a stride-2 convolution with padding 1: 7 rows become 4; an upsampler therefore stretches to the
 *     size of the next skip, which is twice its own only where the sides were even;
 *   - the middle always has a transformer, whatever the lowest level has.
 * SPDX-License-Identifier: MIT */
#include "family/unet.h"

const unet_config unet_tiny = {
    .in_channels = 4, .out_channels = 4, .levels = 2, .layers_per_block = 1,
    .block_out_channels = {16, 32}, .attention = {true, true}, .heads = {2, 2},
    .cross_attention_dim = 24, .norm_num_groups = 4, .norm_eps = 1e-5f, .flip_sin_to_cos = true};

/* One pass through the network: what its blocks share. */
typedef struct pass {
    nn *m; const unet_config *c; const unet_text *text;
    tensor *emb;                           /* silu of the time embedding */
    int site;                              /* cross-attention layers so far */
} pass;

static int depth(const unet_config *c, int level) { return MAX(c->transformer_layers[level], 1); }

/* The arrays below, and unet_text's, hold what such a config needs. */
static bool fits(graph *g, const unet_config *c) {
    bool ok = c->levels >= 1 && c->levels <= UNET_MAX_LEVELS && c->layers_per_block >= 1 && c->layers_per_block < UNET_MAX_SKIPS &&
              (c->layers_per_block + 1) * c->levels <= UNET_MAX_SKIPS;
    int64_t sites = ok ? depth(c, c->levels - 1) : 0;
    for (int l = 0; ok && l < c->levels; l++)
        if (c->attention[l]) sites += (int64_t)depth(c, l) * (2 * c->layers_per_block + 1);
    if (ok && sites <= UNET_MAX_ATTENTIONS) return true;
    graph_fail(g, HERE, E_UNSUPPORTED, "a UNet of %d levels, %d layers a level and %lld transformer blocks: at most %d levels, %d layers in all and %d blocks",
               c->levels, c->layers_per_block, (long long)sites, UNET_MAX_LEVELS, UNET_MAX_SKIPS, UNET_MAX_ATTENTIONS);
    return false;
}

static tensor *transformer_blocks(pass *p, const char *name, tensor *y, int level) {
    const unet_text *t = p->text;
    for (int i = 0; i < depth(p->c, level); i++, p->site++) {
        if (!t->context && (!t->k[p->site] || !t->v[p->site]))
            graph_fail(p->m->g, HERE, E_SHAPE, "cross-attention layer %d has no text: neither context nor keys and values", p->site);
        tensor *k = t->context ? NULL : t->k[p->site], *v = t->context ? NULL : t->v[p->site];
        y = nn_transformer_block(p->m, nn_path(p->m, "%s.transformer_blocks.%d", name, i), y, t->context, k, v, p->c->heads[level]);
    }
    return y;
}

/* diffusers Transformer2DModel: x [N, H, W, C] */
static tensor *transformer(pass *p, const char *name, tensor *x, int level) {
    nn *m = p->m;
    bool linear = p->c->use_linear_projection;
    int64_t n = x->s.d[0], h = x->s.d[1], w = x->s.d[2], ch = x->s.d[3];
    tensor *y = nn_group_norm(m, nn_path(m, "%s.norm", name), x, p->c->norm_num_groups, 1e-6f, false);
    const char *in = nn_path(m, "%s.proj_in", name), *out = nn_path(m, "%s.proj_out", name);
    if (!linear) y = nn_conv2d(m, in, y, ch, 1, 1, 0);
    y = op_reshape(m->g, y, n, h * w, ch);
    if (linear) y = nn_linear(m, in, y, ch, true);
    y = transformer_blocks(p, name, y, level);
    if (!linear) return nn_conv2d_add(m, out, op_reshape(m->g, y, n, h, w, ch), ch, 1, 1, 0, x);
    y = nn_linear_add(m, out, y, ch, true, op_reshape(m->g, x, n, h * w, ch));
    return op_reshape(m->g, y, n, h, w, ch);
}

static tensor *resblock(pass *p, const char *name, tensor *x, int level) {
    return nn_resblock(p->m, name, x, p->emb, p->c->block_out_channels[level], p->c->norm_num_groups, p->c->norm_eps);
}

static tensor *time_embed(nn *m, const unet_config *c, tensor *t, tensor *guidance, tensor *more, dtype type) {
    int ch = c->block_out_channels[0];
    tensor *e = op_cast(m->g, op_time_embedding(m->g, t, ch, c->flip_sin_to_cos, c->freq_shift), type);
    if (guidance) e = nn_linear_add(m, "time_embedding.cond_proj", guidance, ch, false, e);
    e = op_silu(m->g, nn_linear(m, "time_embedding.linear_1", e, 4 * ch, true));
    return op_silu(m->g, nn_linear_add(m, "time_embedding.linear_2", e, 4 * ch, true, more));
}

tensor *unet_denoise(nn *m, const unet_config *c, tensor *x, tensor *t, const unet_text *text, tensor *guidance) {
    return unet_denoise_more(m, c, x, t, text, guidance, &(unet_more){0});
}

tensor *unet_denoise_more(nn *m, const unet_config *c, tensor *x, tensor *t, const unet_text *text, tensor *guidance, const unet_more *more) {
    graph *g = m->g;
    tensor *skip[UNET_MAX_SKIPS];
    int n_skip = 0, last = c->levels - 1;
    if (!fits(g, c)) return x;
    pass p = {m, c, text, time_embed(m, c, t, guidance, more->time, x->dtype), 0};
    tensor *h = skip[n_skip++] = nn_conv2d_add(m, "conv_in", x, c->block_out_channels[0], 3, 1, 1, more->input);
    for (int l = 0; l < c->levels; l++) {
        graph_segment(g, nn_path(m, "down.%d", l));
        for (int i = 0; i < c->layers_per_block; i++) {
            h = resblock(&p, nn_path(m, "down_blocks.%d.resnets.%d", l, i), h, l);
            if (c->attention[l]) h = transformer(&p, nn_path(m, "down_blocks.%d.attentions.%d", l, i), h, l);
            skip[n_skip++] = h;
        }
        if (l < last) h = skip[n_skip++] = nn_conv2d(m, nn_path(m, "down_blocks.%d.downsamplers.0.conv", l), h, c->block_out_channels[l], 3, 2, 1);
    }
    graph_segment(g, "mid");
    h = resblock(&p, "mid_block.resnets.0", h, last);
    h = transformer(&p, "mid_block.attentions.0", h, last);
    h = resblock(&p, "mid_block.resnets.1", h, last);
    for (int u = 0; u < c->levels; u++) {
        int l = last - u;
        graph_segment(g, nn_path(m, "up.%d", u));
        for (int i = 0; i <= c->layers_per_block; i++) {
            h = op_concat(g, 3, h, skip[--n_skip]);
            h = resblock(&p, nn_path(m, "up_blocks.%d.resnets.%d", u, i), h, l);
            if (c->attention[l]) h = transformer(&p, nn_path(m, "up_blocks.%d.attentions.%d", u, i), h, l);
        }
        if (l > 0) {
            const shape *next = &skip[n_skip - 1]->s;
            h = op_upsample(g, h, next->d[1], next->d[2]);
            h = nn_conv2d(m, nn_path(m, "up_blocks.%d.upsamplers.0.conv", u), h, c->block_out_channels[l], 3, 1, 1);
        }
    }
    graph_segment(g, NULL);
    h = nn_group_norm(m, "conv_norm_out", h, c->norm_num_groups, c->norm_eps, true);
    return nn_conv2d(m, "conv_out", h, c->out_channels, 3, 1, 1);
}

typedef struct projections { nn *m; const unet_config *c; tensor *context, **k, **v; int n; } projections;

/* The cross-attention layers of one transformer. */
static void project(projections *p, const char *name, int level) {
    int64_t ch = p->c->block_out_channels[level];
    for (int i = 0; i < depth(p->c, level); i++, p->n++) {
        const char *layer = nn_path(p->m, "%s.transformer_blocks.%d.attn2", name, i);
        p->k[p->n] = nn_linear(p->m, nn_path(p->m, "%s.to_k", layer), p->context, ch, false);
        p->v[p->n] = nn_linear(p->m, nn_path(p->m, "%s.to_v", layer), p->context, ch, false);
    }
}

int unet_context(nn *m, const unet_config *c, tensor *context, tensor **k, tensor **v) {
    projections p = {m, c, context, k, v, 0};
    int last = c->levels - 1;
    if (!fits(m->g, c)) return 0;
    for (int l = 0; l < c->levels; l++)
        for (int i = 0; c->attention[l] && i < c->layers_per_block; i++) project(&p, nn_path(m, "down_blocks.%d.attentions.%d", l, i), l);
    project(&p, "mid_block.attentions.0", last);
    for (int u = 0; u < c->levels; u++)
        for (int i = 0; c->attention[last - u] && i <= c->layers_per_block; i++)
            project(&p, nn_path(m, "up_blocks.%d.attentions.%d", u, i), last - u);
    return p.n;
}

status unet_declare(params *ps, const unet_config *c, const adapter_set *adapter) {
    graph *g = graph_create(ps->dev);
    if (!g) return graph_status(g);
    ps->declaring = true;
    for (const adapter_set *a = adapter; a; a = a->next) a->ps->declaring = true;
    nn m = {g, ps, adapter};
    tensor *x = graph_input(g, "x", ps->type, SHAPE(1, 1, 1, c->in_channels)), *t = graph_input(g, "t", DT_F32, SHAPE(1));
    tensor *guidance = c->time_cond_proj_dim ? graph_input(g, "guidance", ps->type, SHAPE(1, c->time_cond_proj_dim)) : NULL;
    unet_text text = {.context = graph_input(g, "context", ps->type, SHAPE(1, 1, c->cross_attention_dim))};
    unet_denoise(&m, c, x, t, &text, guidance);
    status st = graph_status(g);
    ps->declaring = false;
    for (const adapter_set *a = adapter; a; a = a->next) a->ps->declaring = false;
    graph_destroy(g);
    return st;
}
