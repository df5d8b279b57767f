/* grid_net.c: the network on the cells of grids. As a batch, an attention rule says whose keys an entry sees; as a canvas,
 * a table over cells says the same of every token. What else the network is told goes in beside it (unet_more): nothing of
 * the model itself is changed, so without a grid it makes what it made.
 * SPDX-License-Identifier: MIT */
#include "engine/grid.h"
#include <math.h>
#include <stdio.h>

const char *const grid_sight_names[GRID_SIGHT_COUNT] = {"given", "all", "own", "none"};

bool grid_may_see(grid_sight sight, bool from_made, bool to_made, bool same) {
    if (same) return true;
    switch (sight) {
    case GRID_SEES_GIVEN: return from_made || !to_made;
    case GRID_SEES_ALL: return true;
    case GRID_SEES_OWN: return from_made;
    case GRID_SEES_NONE:
    case GRID_SIGHT_COUNT: break;
    }
    return false;
}

void grid_traits(const grid_options *o, grid_role role, int slot, float out[GRID_TRAITS]) {
    memset(out, 0, sizeof *out * GRID_TRAITS);
    out[role] = 1;
    if (o->slots) out[GRID_ROLE_COUNT + slot] = 1;
}

int grid_seen(const grid_role role[GRID_MAX_CELLS], const bool made[GRID_MAX_CELLS], int cells, int cell) {
    if (!made[cell]) return cell;
    if (role[cell] != GRID_OUT && role[cell] != GRID_EX_OUT) return -1;
    grid_role from = role[cell] == GRID_OUT ? GRID_QUERY : GRID_EX_IN;
    for (int i = 0; i < cells; i++)
        if (role[i] == from && !made[i]) return i;
    return -1;
}

int grid_bank_of(int slot, bool made) { return made ? 2 : slot % 2; }

/* ---- as a batch ---- */
static int most_parts(const grid_rows *r) {
    int most = 1;
    for (int i = 0; i < r->n; i++) {
        int n = 0;
        for (int c = 0; c < r->columns; c++) n += r->sees[i * r->columns + c];
        most = MAX(most, n);
    }
    return most;
}

typedef struct keeping { grid_model *m; const grid_rows *r; int site; } keeping;

static array *keep_array(keeping *p, graph *g, tensor *like, array **a) {
    status st = *a ? OK : array_create(p->m->im->dev, REGION_STATE, like->dtype, like->s, "kept keys", a);
    shape s = *a ? array_shape(*a) : like->s;
    if (st != OK) graph_fail(g, HERE, st, "%s", error_message());
    else if (p->r->keep && !shape_equal(&s, &like->s)) graph_fail(g, HERE, E_SHAPE, "kept keys are of another grid");
    return *a;
}

/* Stores this layer's keys, or gives back what was stored. */
static void bank(void *ctx, graph *g, tensor *k, tensor *v, tensor **other_k, tensor **other_v) {
    keeping *p = ctx;
    grid_kept *kept = &p->m->kept;
    int i = p->site++;
    if (graph_status(g) != OK || i >= UNET_MAX_ATTENTIONS) return;
    if (p->r->keep) {
        if (!keep_array(p, g, k, &kept->k[i]) || !keep_array(p, g, v, &kept->v[i])) return;
        kept->n = MAX(kept->n, i + 1);
        op_store(g, graph_array(g, kept->k[i]), k);
        op_store(g, graph_array(g, kept->v[i]), v);
    } else if (p->r->columns > p->r->n) {
        if (i >= kept->n) graph_fail(g, HERE, E_SHAPE, "no keys were kept for attention layer %d", i);
        else *other_k = graph_array(g, kept->k[i]), *other_v = graph_array(g, kept->v[i]);
    }
}

static attention_rule *make_rule(grid_model *m, graph *g, const grid_rows *r) {
    attention_rule *rule = graph_alloc(g, sizeof *rule);
    attention_set *sets = graph_alloc(g, sizeof *sets * (size_t)r->n);
    keeping *ctx = graph_alloc(g, sizeof *ctx);
    if (!rule || !sets || !ctx) return NULL;
    for (int i = 0; i < r->n; i++)
        for (int c = 0; c < r->columns; c++) {
            if (!r->sees[i * r->columns + c]) continue;
            if (sets[i].n == ATTENTION_MAX_PARTS) {
                graph_fail(g, HERE, E_UNSUPPORTED, "a cell sees more than %d cells", ATTENTION_MAX_PARTS);
                return NULL;
            }
            bool kept = c >= r->n;
            sets[i].part[sets[i].n].bank = kept;
            sets[i].part[sets[i].n++].entry = (uint16_t)(kept ? c - r->n : c);
        }
    *ctx = (keeping){m, r, 0};
    *rule = (attention_rule){.n_sets = 1, .sets = sets, .bank = bank, .ctx = ctx};
    if (r->masked) rule->offset = graph_input(g, "sight", DT_F32, SHAPE(r->n, 1, most_parts(r)));
    return rule;
}

/* ---- as a canvas ---- */
#define MAX_IDS (UNET_MAX_LEVELS + 1)
typedef struct tiling { int n; struct { int64_t tokens; bool text; tensor *ids; } of[MAX_IDS]; } tiling;

static void ids_name(int64_t tokens, bool text, char out[32]) { snprintf(out, 32, "%s %lld", text ? "words" : "cells", (long long)tokens); }

static tensor *ids(void *ctx, graph *g, int64_t n, int64_t tokens, bool text) {
    tiling *t = ctx;
    char name[32];
    for (int i = 0; i < t->n; i++)
        if (t->of[i].tokens == tokens && t->of[i].text == text) return t->of[i].ids;
    ids_name(tokens, text, name);
    tensor *x = graph_input(g, name, DT_U32, SHAPE(n, tokens));
    if (t->n == MAX_IDS) graph_fail(g, HERE, E_SHAPE, "attention at more than %d sizes", MAX_IDS);
    else t->of[t->n].tokens = tokens, t->of[t->n].text = text, t->of[t->n++].ids = x;
    return x;
}

static nn_canvas *make_canvas(graph *g, const grid_rows *r) {
    nn_canvas *c = graph_alloc(g, sizeof *c);
    tiling *t = graph_alloc(g, sizeof *t);
    if (!c || !t) return NULL;
    *c = (nn_canvas){.rows = r->rows, .cols = r->cols, .ids = ids, .ctx = t};
    c->table = graph_input(g, "sight", DT_F32, SHAPE(r->n, r->n));
    c->text_table = graph_input(g, "own text", DT_F32, SHAPE(r->n, r->n));
    return c;
}

/* ---- the network ---- */
static tensor *scaled(const grid_model *m, graph *g, tensor *x) { return m->strength == 1 ? x : op_scale(g, x, (float)m->strength); }

/* The adapters as this graph sees them; NULL when memory is short. */
static const adapter_set *chain(grid_model *m, graph *g, const grid_rows *r) {
    adapter_set *s = graph_alloc(g, sizeof *s * (1 + GRID_BANKS));
    tensor *all = m->strength == 1 ? NULL : op_fill(g, DT_F32, SHAPE(1), (float)m->strength);
    if (!s) return NULL;
    s[0] = m->set;
    s[0].strength = all;
    for (int b = 0; m->o.banks && b < GRID_BANKS; b++) {
        char name[16];
        snprintf(name, sizeof name, "bank%d", b);
        s[b].next = &s[b + 1];
        s[b + 1] = m->bank[b];
        s[b + 1].strength = scaled(m, g, graph_input(g, name, DT_F32, SHAPE(r->n)));
    }
    return s;
}

tensor *grid_network(grid_model *m, graph *g, const grid_rows *r, tensor *x) {
    imago *im = m->im;
    const unet_config *c = &im->ck->unet;
    int64_t ch = x->s.d[3];
    nn own = {g, &m->ps, NULL}; /* its layers see single cells */
    nn net = {g, &im->part[PART_UNET], chain(m, g, r)};
    if (r->geometry == GRID_CANVAS && m->o.banks) {
        graph_fail(g, HERE, E_UNSUPPORTED, "query banks need the batch geometry: a canvas has one query projection for all its cells");
        return x;
    }
    if (r->geometry == GRID_CANVAS) net.canvas = make_canvas(g, r);
    else net.rule = make_rule(m, g, r);
    if (!net.adapter || (!net.canvas && !net.rule)) return x;
    tensor *t = graph_input(g, "t", DT_F32, SHAPE(r->n)), *traits = graph_input(g, "traits", DT_F32, SHAPE(r->n, GRID_TRAITS));
    tensor *seen = op_cast(g, graph_input(g, "seen", DT_F32, SHAPE(r->n, r->h, r->w, ch + 1)), im->type);
    tensor *context = graph_input(g, "context", DT_F32, SHAPE(r->n, r->tokens, c->cross_attention_dim));
    tensor *w_in = op_cast(g, params_tensor(own.ps, g, "grid.conv_in.weight", HERE), im->type);
    tensor *w_role = params_tensor(own.ps, g, "grid.role.weight", HERE);
    tensor *input = op_conv2d_(g, seen, w_in, NULL, NULL, (conv2d_attrs){1, 1, 1, 1, 1, ACT_NONE}, HERE);
    tensor *time = op_cast(g, op_linear(g, traits, w_role, NULL), im->type);
    unet_more more = {.input = nn_tiled(&net, scaled(m, g, input)), .time = scaled(m, g, time)};
    tensor *y = unet_denoise_more(&net, c, nn_tiled(&net, x), t, &(unet_text){.context = op_cast(g, context, im->type)}, NULL, &more);
    return op_cast(g, nn_cells(&net, y), DT_F32);
}

/* ---- what is written ---- */
static status write_offsets(plan *p, const grid_rows *r, const bool *now) {
    int parts = most_parts(r);
    float *offset = mem_zalloc(sizeof *offset * (size_t)(r->n * parts));
    if (!offset) return fail(E_HOST_MEMORY, "no host memory for %d cells", r->n);
    for (int i = 0; i < r->n; i++)
        for (int c = 0, k = 0; c < r->columns; c++)
            if (r->sees[i * r->columns + c]) offset[i * parts + k++] = now[i * r->columns + c] ? 0 : -INFINITY;
    status st = plan_write(p, "sight", offset);
    mem_free(offset);
    return st;
}

static status write_table(plan *p, const char *name, int n, const bool *sees) {
    float *table = mem_alloc(sizeof *table * (size_t)(n * n));
    if (!table) return fail(E_HOST_MEMORY, "no host memory for %d cells", n);
    for (int i = 0; i < n * n; i++) table[i] = (sees ? sees[i] : i / n == i % n) ? 0 : -INFINITY;
    status st = plan_write(p, name, table);
    mem_free(table);
    return st;
}

static status write_ids(plan *p, const grid_rows *r, int h, int w, bool text) {
    int cells = r->rows * r->cols, grids = r->n / cells, tokens = text ? cells * r->tokens : cells * h * w;
    char name[32];
    uint32_t *id = mem_alloc(sizeof *id * (size_t)(grids * tokens));
    if (!id) return fail(E_HOST_MEMORY, "no host memory for %d cells", r->n);
    for (int i = 0; i < grids * tokens; i++) {
        int k = i % tokens, y = k / (w * r->cols) / h, x = k % (w * r->cols) / w;
        id[i] = (uint32_t)(i / tokens * cells + (text ? k / r->tokens : y * r->cols + x));
    }
    ids_name(tokens, text, name);
    status st = plan_write(p, name, id);
    mem_free(id);
    return st;
}

status grid_write_sight(const grid_model *m, plan *p, const grid_rows *r, const bool *now) {
    status st = OK;
    const unet_config *c = &m->im->ck->unet;
    if (r->geometry == GRID_BATCH) return r->masked ? write_offsets(p, r, now ? now : r->sees) : OK;
    TRY(write_table(p, "sight", r->n, now ? now : r->sees));
    TRY(write_table(p, "own text", r->n, NULL));
    TRY(write_ids(p, r, 1, 1, true));
    for (int l = 0; l < c->levels; l++)
        if (c->attention[l] || l == c->levels - 1) TRY(write_ids(p, r, r->h >> l, r->w >> l, false));
out:
    return st;
}
