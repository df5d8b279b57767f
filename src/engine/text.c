/* text.c: prompts -> what the cross-attention layers look at. Chunks of one encoder length are encoded as a batch and laid
 * end to end; emphasis scales the features and restores their mean, as A1111 does; keys and values are made once per prompt.
 * SPDX-License-Identifier: MIT */
#include "engine/engine.h"
#include "op/op.h"
#include <stdio.h>

typedef struct encode_shape { int rows, length, skip; bool extra; } encode_shape;

static status record_encode(imago *im, graph *g, const void *ctx) {
    const encode_shape *s = ctx;
    nn m = {g, &im->part[PART_TEXT], NULL};
    tensor *ids = graph_input(g, "ids", DT_U32, SHAPE(s->rows, s->length));
    text_extra extra = {0};
    if (s->extra) extra = (text_extra){graph_array(g, im->extra), graph_input(g, "pick", DT_U32, SHAPE(s->rows, s->length))};
    graph_output(g, op_cast(g, text_encode(&m, &im->ck->text, ids, s->extra ? &extra : NULL, s->skip), DT_F32), "y");
    return OK;
}

/* A1111: features times weight, then scaled back to the mean they had. One mean over a chunk. */
static void apply_emphasis(float *y, const float *emphasis, int tokens, int hidden) {
    double before = 0, after = 0;
    bool any = false;
    for (int t = 0; t < tokens; t++) any |= emphasis[t] != 1.0f;
    if (!any) return;
    for (int t = 0; t < tokens; t++)
        for (int i = 0; i < hidden; i++) {
            float *v = &y[(size_t)t * (size_t)hidden + (size_t)i];
            before += (double)*v;
            *v *= emphasis[t];
            after += (double)*v;
        }
    float back = after != 0 ? (float)(before / after) : 1.0f;
    for (size_t i = 0; i < (size_t)tokens * (size_t)hidden; i++) y[i] *= back;
}

static status write_ids(imago *im, plan *p, const prompt_tokens *t) {
    status st = OK;
    int count = t->n_chunks * t->length;
    uint32_t *pick = im->n_extra ? mem_alloc(sizeof *pick * (size_t)count) : NULL;
    TRY(plan_write(p, "ids", t->ids));
    if (!im->n_extra) return OK;
    if (!pick) return fail(E_HOST_MEMORY, "no host memory for token ids");
    text_extra_pick(&im->ck->text, t->ids, count, pick);
    TRY(plan_write(p, "pick", pick));
out:
    mem_free(pick);
    return st;
}

static status encode_rows(imago *im, const prompt_tokens *t, int skip, float *out) {
    status st = OK;
    plan *p = NULL;
    char key[64];
    encode_shape s = {t->n_chunks, t->length, skip, im->n_extra > 0};
    snprintf(key, sizeof key, "text %dx%d skip %d extra %d", s.rows, s.length, skip, im->n_extra);
    TRY(engine_plan(im, key, record_encode, &s, &p));
    TRY(write_ids(im, p, t));
    TRY(engine_run(im, p));
    TRY(plan_read(p, "y", out));
    int hidden = im->ck->text.hidden_size;
    for (int c = 0; c < t->n_chunks; c++)
        apply_emphasis(out + (size_t)c * (size_t)t->length * (size_t)hidden, t->weight + (size_t)c * (size_t)t->length, t->length, hidden);
out:
    return st;
}

status text_features(imago *im, const text_params *p, float **out, int *entries, int *tokens) {
    status st = OK;
    arena mem = {0};
    prompt_tokens t[2];
    prompt_options o = {.plain = p->plain, .truncate = p->plain};
    const char *text[2] = {p->want_negative ? (p->negative ? p->negative : "") : p->prompt, p->prompt};
    int n = p->want_negative ? 2 : 1, hidden = im->ck->text.hidden_size, skip = p->clip_skip > 1 ? p->clip_skip - 1 : 0;
    *out = NULL;
    if (skip >= im->ck->text.num_hidden_layers)
        return fail(E_USAGE, "clip skip %d: the text encoder has %d layers", p->clip_skip, im->ck->text.num_hidden_layers);
    for (int pass = 0; pass < 2; pass++) /* the second gives the shorter one as many chunks as the longer */
        for (int i = 0; i < n; i++) {
            TRY(prompt_tokenize(im->tok, text[i] ? text[i] : "", &o, &mem, &t[i]));
            o.min_chunks = MAX(o.min_chunks, t[i].n_chunks);
        }
    *entries = n;
    *tokens = t[0].n_chunks * t[0].length;
    size_t row = (size_t)*tokens * (size_t)hidden;
    if (!(*out = mem_alloc(sizeof **out * row * (size_t)n))) TRY(fail(E_HOST_MEMORY, "no host memory for text features"));
    for (int i = 0; i < n; i++) TRY(encode_rows(im, &t[i], skip, *out + row * (size_t)i));
out:
    if (st != OK) mem_free(*out), *out = NULL;
    arena_fini(&mem);
    return st;
}

/* ---- keys and values ---- */
static status record_keys(imago *im, graph *g, const void *ctx) {
    (void)ctx;
    latents *l = &im->lat;
    tensor *k[UNET_MAX_ATTENTIONS], *v[UNET_MAX_ATTENTIONS];
    nn m = {g, &im->part[PART_UNET], NULL};
    tensor *context = graph_input(g, "context", DT_F32, SHAPE(l->entries, l->tokens, im->ck->unet.cross_attention_dim));
    int n = unet_context(&m, &im->ck->unet, op_cast(g, context, im->type), k, v);
    for (int i = 0; i < n && graph_status(g) == OK; i++) {
        op_store(g, graph_array(g, l->k[i]), k[i]);
        op_store(g, graph_array(g, l->v[i]), v[i]);
    }
    return OK;
}

/* How wide each layer's keys are: recorded on a graph that is thrown away. */
static status key_widths(imago *im, int64_t *width, int *n) {
    tensor *k[UNET_MAX_ATTENTIONS], *v[UNET_MAX_ATTENTIONS];
    graph *g = graph_create(im->dev);
    if (!g) return graph_status(g);
    nn m = {g, &im->part[PART_UNET], NULL};
    *n = unet_context(&m, &im->ck->unet, graph_input(g, "context", im->type, SHAPE(1, 1, im->ck->unet.cross_attention_dim)), k, v);
    status st = graph_status(g);
    for (int i = 0; st == OK && i < *n; i++) width[i] = k[i]->s.d[2];
    graph_destroy(g);
    return st;
}

static status key_arrays(imago *im, int entries, int tokens) {
    status st = OK;
    latents *l = &im->lat;
    int64_t width[UNET_MAX_ATTENTIONS];
    int n = 0;
    if (l->n_kv && l->entries == entries && l->tokens == tokens) return OK;
    TRY(engine_forget_plans(im)); /* they point to the arrays that go */
    for (int i = 0; i < l->n_kv; i++) array_destroy(l->k[i]), array_destroy(l->v[i]), l->k[i] = l->v[i] = NULL;
    l->n_kv = 0;
    TRY(key_widths(im, width, &n));
    for (int i = 0; i < n; i++) {
        TRY(array_create(im->dev, REGION_STATE, im->type, SHAPE(entries, tokens, width[i]), "text keys", &l->k[i]));
        l->n_kv = i + 1;
        TRY(array_create(im->dev, REGION_STATE, im->type, SHAPE(entries, tokens, width[i]), "text values", &l->v[i]));
    }
    l->entries = entries;
    l->tokens = tokens;
out:
    return st;
}

status text_keys(imago *im, const float *context, int entries, int tokens, int batch) {
    status st = OK;
    plan *p = NULL;
    char key[64];
    size_t row = (size_t)tokens * (size_t)im->ck->text.hidden_size;
    float *all = mem_alloc(sizeof *all * row * (size_t)(entries * batch));
    if (!all) return fail(E_HOST_MEMORY, "no host memory for text features");
    if (im->ck->text.hidden_size != im->ck->unet.cross_attention_dim)
        TRY(fail(E_FORMAT, "%s: the text encoder is %d wide, the UNet expects %d", im->ck->path, im->ck->text.hidden_size, im->ck->unet.cross_attention_dim));
    for (int e = 0; e < entries; e++)
        for (int b = 0; b < batch; b++) memcpy(all + row * (size_t)(e * batch + b), context + row * (size_t)e, row * sizeof *all);
    TRY(key_arrays(im, entries * batch, tokens));
    snprintf(key, sizeof key, "keys %dx%d", entries * batch, tokens);
    TRY(engine_plan(im, key, record_keys, NULL, &p));
    TRY(plan_write(p, "context", all));
    TRY(engine_run(im, p));
out:
    mem_free(all);
    return st;
}

/* ---- textual inversion ---- */

/* The vectors of an embedding file: A1111's "emb_params", or the file's only tensor (diffusers: named as the token). */
static const weight *embedding_vectors(const weights *w, int hidden) {
    const weight *t = weights_find(w, "emb_params");
    if (!t && weights_count(w) == 1) t = weights_at(w, 0);
    return t && t->n_dims >= 1 && t->n_dims <= 2 && t->dim[t->n_dims - 1] == hidden ? t : NULL;
}

static status append_rows(imago *im, const weight *t, int n) {
    status st = OK;
    int hidden = im->ck->text.hidden_size, total = im->n_extra + n;
    array *bigger = NULL;
    bool finite = true;
    float *rows = mem_alloc(sizeof *rows * (size_t)total * (size_t)hidden);
    if (!rows) return fail(E_HOST_MEMORY, "no host memory for embeddings");
    if (im->extra) TRY(array_read_f32(im->extra, rows));
    TRY(weight_read(t, 0, t->count, DT_F32, rows + (size_t)im->n_extra * (size_t)hidden, &finite));
    if (!finite) TRY(fail(E_FORMAT, "%s: %s holds NaN or infinity", t->path, t->name));
    TRY(array_create(im->dev, REGION_WEIGHTS, im->type, SHAPE(total, hidden), "embeddings", &bigger));
    TRY(array_write_f32(bigger, rows));
    TRY(engine_forget_plans(im));
    array_destroy(im->extra);
    im->extra = bigger;
    bigger = NULL;
    im->n_extra = total;
out:
    array_destroy(bigger);
    mem_free(rows);
    return st;
}

status text_load_embedding(imago *im, const char *spec) {
    status st = OK;
    char name[128];
    const char *eq = strchr(spec, '='), *path = eq ? eq + 1 : spec;
    weights *w = NULL;
    uint32_t first = 0;
    int hidden = im->ck->text.hidden_size;
    TRY(weights_open(&path, 1, &w));
    const weight *t = embedding_vectors(w, hidden);
    if (!t) TRY(fail(E_FORMAT, "%s: no embedding of width %d (one tensor, or emb_params): not one, or made for another model", path, hidden));
    const char *base = strrchr(path, '/'), *dot = strrchr(path, '.');
    base = base ? base + 1 : path;
    if (eq) snprintf(name, sizeof name, "%.*s", (int)MIN(eq - spec, 127), spec);
    else if (strcmp(t->name, "emb_params") != 0) snprintf(name, sizeof name, "%s", t->name); /* diffusers: named as the token */
    else snprintf(name, sizeof name, "%.*s", (int)MIN((dot && dot > base ? dot : base + strlen(base)) - base, 127), base);
    int n = t->n_dims == 2 ? (int)t->dim[0] : 1;
    if (n < 1 || n > 75) TRY(fail(E_FORMAT, "%s: an embedding of %lld vectors: expected 1 to 75", path, (long long)t->dim[0]));
    TRY(tokenizer_add(im->tok, name, n, &first));
    TRY(append_rows(im, t, n));
    log_info("embedding %s: %d vectors, write %s in the prompt", path, n, name);
out:
    weights_close(w);
    return st;
}
