/* blocks.c: attention layer, transformer block and residual block, in diffusers' names and order.
 * Source: diffusers Attention, BasicTransformerBlock, ResnetBlock2D; Rombach et al. 2022.
 * SPDX-License-Identifier: MIT */
#include "nn/nn.h"

/* The rows of x that a rule makes keys of. */
static tensor *key_rows(nn *m, const attention_rule *r, tensor *x) {
    tensor *run[ATTENTION_RULE_RUNS];
    if (!r->n_keys) return x;
    for (int i = 0; i < r->n_keys; i++) run[i] = op_slice(m->g, x, 0, r->keys[i].begin, r->keys[i].end);
    return r->n_keys == 1 ? run[0] : op_concat_(m->g, run, r->n_keys, 0, HERE);
}

/* One output for the whole batch needs one projection. */
static tensor *project_mean(nn *m, const char *name, tensor *y, tensor *residual) {
    dtype t = y->dtype;
    y = nn_linear(m, name, op_cast(m->g, op_mean(m->g, y, 1u << 0), t), y->s.d[2], true);
    return residual ? op_add(m->g, residual, y) : y;
}

/* Every token of a tiled picture, among the keys that its cell may see. */
static tensor *attend_tiled(nn *m, const nn_attention_params *p, tensor *q, tensor *k, tensor *v, bool self) {
    const nn_canvas *c = m->canvas;
    int64_t n = q->s.d[0], cells = c->rows * c->cols, ch = q->s.d[2];
    if (!self) { /* from one text a cell to one row of texts a picture */
        k = op_reshape(m->g, k, n, cells * k->s.d[1], ch);
        v = op_reshape(m->g, v, n, cells * v->s.d[1], ch);
    }
    tensor *ids_q = c->ids(c->ctx, m->g, n, q->s.d[1], false), *ids_k = self ? ids_q : c->ids(c->ctx, m->g, n, k->s.d[1], true);
    return op_attention(m->g, .heads = p->heads, .q = q, .n_banks = 1, .k = {k}, .v = {v}, .regions_q = ids_q, .regions_k = ids_k,
                        .region_table = self ? c->table : c->text_table);
}

static tensor *attend(nn *m, const nn_attention_params *p, tensor *q, tensor *k, tensor *v, bool self) {
    const attention_rule *rule = m->rule;
    tensor *other_k = NULL, *other_v = NULL;
    if (m->canvas) return attend_tiled(m, p, q, k, v, self);
    if (rule && rule->bank && self) rule->bank(rule->ctx, m->g, k, v, &other_k, &other_v);
    return op_attention(m->g, .heads = p->heads, .causal = p->causal, .q = q, .n_banks = other_k ? 2 : 1, .k = {k, other_k}, .v = {v, other_v},
                        .n_sets = rule ? rule->n_sets : 1, .sets = rule ? (self ? rule->sets : rule->text_sets) : NULL,
                        .weights = rule ? rule->weights : NULL, .offset = rule && self ? rule->offset : NULL);
}

tensor *nn_attention_(nn *m, const char *name, tensor *x, const nn_attention_params *p) {
    static const char *const diffusers[] = {"to_q", "to_k", "to_v", "to_out.0"};
    const char *const *layer = p->layers ? p->layers : diffusers;
    int64_t c = x->s.d[2];
    const attention_rule *rule = m->rule;
    bool self = !p->context && !p->k;
    tensor *from = p->context ? p->context : x, *k = p->k, *v = p->v;
    if (rule && self) from = key_rows(m, rule, x);
    tensor *q = nn_linear(m, nn_path(m, "%s.%s", name, layer[0]), x, c, p->bias);
    if (!k) k = nn_linear(m, nn_path(m, "%s.%s", name, layer[1]), from, c, p->bias);
    if (!v) v = nn_linear(m, nn_path(m, "%s.%s", name, layer[2]), from, c, p->bias);
    tensor *y = attend(m, p, q, k, v, self);
    if (rule && rule->mean) return project_mean(m, nn_path(m, "%s.%s", name, layer[3]), y, p->residual);
    return nn_linear_add(m, nn_path(m, "%s.%s", name, layer[3]), y, c, true, p->residual);
}

tensor *nn_transformer_block(nn *m, const char *name, tensor *x, tensor *context, tensor *k, tensor *v, int heads) {
    int64_t c = x->s.d[2];
    tensor *h = nn_layer_norm(m, nn_path(m, "%s.norm1", name), x, 1e-5f);
    x = nn_attention(m, nn_path(m, "%s.attn1", name), h, .heads = heads, .residual = x);
    h = nn_layer_norm(m, nn_path(m, "%s.norm2", name), x, 1e-5f);
    x = nn_attention(m, nn_path(m, "%s.attn2", name), h, .heads = heads, .context = context, .k = k, .v = v, .residual = x);
    h = nn_layer_norm(m, nn_path(m, "%s.norm3", name), x, 1e-5f);
    h = op_geglu(m->g, nn_linear(m, nn_path(m, "%s.ff.net.0.proj", name), h, 8 * c, true));
    return nn_linear_add(m, nn_path(m, "%s.ff.net.2", name), h, c, true, x);
}

tensor *nn_resblock(nn *m, const char *name, tensor *x, tensor *emb, int64_t out, int groups, float eps) {
    int64_t in = x->s.d[3];
    tensor *h = nn_group_norm(m, nn_path(m, "%s.norm1", name), x, groups, eps, true);
    h = nn_conv2d(m, nn_path(m, "%s.conv1", name), h, out, 3, 1, 1);
    if (emb) {
        tensor *e = nn_linear(m, nn_path(m, "%s.time_emb_proj", name), emb, out, true);
        h = nn_tiled(m, op_add(m->g, nn_cells(m, h), op_reshape(m->g, e, e->s.d[0], 1, 1, out)));
    }
    h = nn_group_norm(m, nn_path(m, "%s.norm2", name), h, groups, eps, true);
    if (in != out) x = nn_conv2d(m, nn_path(m, "%s.conv_shortcut", name), x, out, 1, 1, 0);
    return nn_conv2d_add(m, nn_path(m, "%s.conv2", name), h, out, 3, 1, 1, x);
}
