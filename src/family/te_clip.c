/* te_clip.c: CLIP's text tower: token and position embeddings, causal transformer layers with the norm first.
 * Learned rows of textual inversion are not appended to the token table, which would copy all of it on every run: the
 * rows this call reads are looked up first (an id past the table reads its last row), the learned rows are put behind
 * them, and a second lookup picks.
 * source: Radford et al. 2021; transformers CLIPTextModel
 * SPDX-License-Identifier: MIT */
#include "family/text_encoder.h"

/* A parameter that is a table, not a layer. */
static tensor *table(nn *m, const char *name, int64_t rows, int64_t width) {
    shape s = SHAPE(rows, width);
    status st = m->ps->declaring ? params_declare(m->ps, name, s, false) : OK;
    if (st != OK) graph_fail(m->g, HERE, st, "%s", error_message());
    return params_tensor(m->ps, m->g, name, HERE);
}

static tensor *embed(nn *m, const text_config *c, tensor *ids, const text_extra *extra) {
    graph *g = m->g;
    int64_t n = ids->s.d[0], t = ids->s.d[1], d = c->hidden_size, most = c->max_position_embeddings;
    tensor *x = op_embedding(g, table(m, "text_model.embeddings.token_embedding.weight", c->vocab_size, d), ids);
    if (extra) x = op_embedding(g, op_concat(g, 0, op_reshape(g, x, n * t, d), extra->rows), extra->pick);
    if (t > most) graph_fail(g, HERE, E_SHAPE, "%lld tokens: this text encoder takes at most %lld", (long long)t, (long long)most);
    tensor *position = table(m, "text_model.embeddings.position_embedding.weight", most, d);
    if (t < most) position = op_slice(g, position, 0, 0, t);
    return op_add(g, x, op_reshape(g, position, 1, t, d));
}

static tensor *activate(nn *m, tensor *x, host_act act) {
    switch (act) {
    case ACT_SILU: return op_silu(m->g, x);
    case ACT_GELU_ERF: return op_gelu(m->g, x);
    case ACT_GELU_TANH: return op_gelu_tanh(m->g, x);
    case ACT_QUICK_GELU: return op_quick_gelu(m->g, x);
    case ACT_RELU: return op_relu(m->g, x);
    case ACT_NONE:
    case ACT_COUNT: break;
    }
    return x;
}

static tensor *layer(nn *m, const text_config *c, const char *name, tensor *x) {
    static const char *const names[] = {"q_proj", "k_proj", "v_proj", "out_proj"};
    tensor *h = nn_layer_norm(m, nn_path(m, "%s.layer_norm1", name), x, c->layer_norm_eps);
    x = nn_attention(m, nn_path(m, "%s.self_attn", name), h, .layers = names, .heads = c->num_attention_heads, .bias = true, .causal = true, .residual = x);
    h = nn_layer_norm(m, nn_path(m, "%s.layer_norm2", name), x, c->layer_norm_eps);
    h = activate(m, nn_linear(m, nn_path(m, "%s.mlp.fc1", name), h, c->intermediate_size, true), c->hidden_act);
    return nn_linear_add(m, nn_path(m, "%s.mlp.fc2", name), h, c->hidden_size, true, x);
}

tensor *text_encode(nn *m, const text_config *c, tensor *ids, const text_extra *extra, int skip) {
    if (skip < 0 || skip >= c->num_hidden_layers)
        graph_fail(m->g, HERE, E_USAGE, "cannot skip %d of the text encoder's %d layers", skip, c->num_hidden_layers);
    tensor *x = embed(m, c, ids, extra);
    for (int i = 0; i < c->num_hidden_layers - skip; i++) {
        const char *name = nn_path(m, "text_model.encoder.layers.%d", i);
        graph_segment(m->g, name);
        x = layer(m, c, name, x);
    }
    graph_segment(m->g, NULL);
    return nn_layer_norm(m, "text_model.final_layer_norm", x, c->layer_norm_eps);
}

void text_extra_pick(const text_config *c, const uint32_t *ids, int64_t count, uint32_t *pick) {
    uint32_t vocab = (uint32_t)c->vocab_size;
    for (int64_t i = 0; i < count; i++) pick[i] = (uint32_t)(ids[i] < vocab ? i : count + (ids[i] - vocab));
}

status text_declare(params *ps, const text_config *c, const adapter_set *adapter) {
    graph *g = graph_create(ps->dev);
    if (!g) return graph_status(g);
    ps->declaring = true;
    for (const adapter_set *a = adapter; a; a = a->next) a->ps->declaring = true;
    nn m = {g, ps, adapter};
    text_encode(&m, c, graph_input(g, "ids", DT_U32, SHAPE(1, 1)), NULL, 0);
    status st = graph_status(g);
    ps->declaring = false;
    for (const adapter_set *a = adapter; a; a = a->next) a->ps->declaring = false;
    graph_destroy(g);
    return st;
}
