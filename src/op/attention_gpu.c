/* attention_gpu.c: attention and its gradient on Vulkan: tile shapes per device and head width, tables of key
 * sets, dispatches. The gradient is attention_bwd_q (D, dq), then attention_bwd_kv once per bank (dk, dv).
 * SPDX-License-Identifier: MIT */
#include "op/attention_internal.h"

enum { FLAG_CAUSAL = 1, FLAG_WEIGHTS = 2, FLAG_OFFSET = 4, FLAG_BIAS = 8, FLAG_REGIONS = 16, FLAG_TABLE = 32,
       FLAG_DLSE = 64, FLAG_RECOMPUTE = 128, FLAG_WANT_A = 256, FLAG_WANT_B = 512 };
enum { COMMON = 7 };                       /* bindings that all three shaders have first */

/* Constants 1..7 of shaders/lib/attention_io.glsl, and the channel chunks a row block is repeated for. */
typedef struct tile { uint32_t lx, ly, stage, tm, tn, td, dc, chunks; } tile;
static uint32_t tile_rows(const tile *t) { return t->stage ? t->ly * t->tm : t->lx * t->tm; }
static uint32_t tile_cols(const tile *t) { return t->lx * (t->stage ? t->tn : 1); }

/* push_block of attention_io.glsl */
typedef struct push {
    uint32_t nq, tq, heads, d, parts, tk, regions, blocks, chunks, tiles, tb[ATTENTION_MAX_BANKS];
    uint32_t bias_n, bias_h, bias_q, bias_k; float scale; uint32_t users_at;
} push;

/* ---- tables of key sets ---- */
typedef struct tables { gpu *d; gpu_span span; uint32_t users_at[ATTENTION_MAX_BANKS]; } tables;

static void tables_free(void *p) {
    tables *t = p;
    gpu_free(t->d, t->span);
    mem_free(t);
}

static bool needs_table(const node *n) { return !ATTRS(n, attention_attrs)->plain || ATTRS(n, attention_attrs)->banks > 1; }

/* Per set [parts + 1]: how many, then bank << 16 | entry. */
static void write_sets(const attention_geom *a, uint32_t *out) {
    for (int64_t i = 0; i < a->nq * a->sets; i++) {
        uint32_t *w = out + i * (a->parts + 1);
        w[0] = a->set[i].n;
        for (int p = 0; p < a->set[i].n; p++) w[1 + p] = (uint32_t)a->set[i].part[p].bank << 16 | a->set[i].part[p].entry;
    }
}

/* Who reads each entry of a bank: starts [entries + 1] in words, then 4 words each. out NULL: counts only. */
static int64_t write_users(const attention_geom *a, int bank, uint32_t *out) {
    int64_t at = a->nb[bank] + 1;
    for (int64_t e = 0; e < a->nb[bank]; e++) {
        if (out) out[e] = (uint32_t)at;
        for (int64_t i = 0; i < a->nq * a->sets; i++) {
            uint32_t key = 0;
            for (int p = 0; p < a->set[i].n; p++) {
                int b = a->set[i].part[p].bank;
                if (b == bank && a->set[i].part[p].entry == e) {
                    const uint32_t user[4] = {(uint32_t)(i / a->sets), (uint32_t)(i % a->sets), (uint32_t)p, key};
                    if (out) memcpy(out + at, user, sizeof user);
                    at += 4;
                }
                key += (uint32_t)a->tb[b];
            }
        }
    }
    if (out) out[a->nb[bank]] = (uint32_t)at;
    return at;
}

status attention_gpu_prepare(prep *p, node *n) {
    status st = OK;
    attention_geom a = attention_geometry(n);
    uint32_t *words = NULL;
    int64_t count = a.nq * a.sets * (a.parts + 1), users = 0;
    bool back = n->op == &op_attention_bwd_info;
    if (!needs_table(n)) return OK;
    tables *t = mem_zalloc(sizeof *t);
    if (!t) return fail(E_HOST_MEMORY, "no host memory for the key sets of attention");
    t->d = p->gpu;
    n->prepared = t;
    n->unprepare = tables_free;
    for (int b = 0; back && b < a.banks; b++) {
        t->users_at[b] = (uint32_t)(count + users);
        users += write_users(&a, b, NULL);
    }
    words = mem_alloc((size_t)(count + users) * sizeof *words);
    if (!words) TRY(fail(E_HOST_MEMORY, "no host memory for the key sets of attention"));
    memset(words, 0, (size_t)count * sizeof *words);
    write_sets(&a, words);
    for (int b = 0; back && b < a.banks; b++) write_users(&a, b, words + t->users_at[b]);
    TRY(gpu_alloc(p->gpu, GPU_STATE, (uint64_t)(count + users) * sizeof *words, &t->span));
    TRY(gpu_upload(p->gpu, t->span, words, (uint64_t)(count + users) * sizeof *words));
out:
    mem_free(words);
    return st;
}

/* ---- tiles ---- */
static uint64_t shared_bytes(const tile *t) {
    uint64_t rows = tile_rows(t), cols = tile_cols(t);
    return 16 * (rows + cols) * (t->dc | 1) + 16 * cols * (rows / 4 + 1) + 4 * rows * t->lx;
}

/* Groups staged at once: a divisor of all, if there is one of some size. */
static uint32_t depth(uint32_t k4, uint32_t most) {
    for (uint32_t c = MIN(most, k4); c * 2 > most; c--)
        if (k4 % c == 0) return c;
    return MIN(most, k4);
}

/* A subgroup of software lanes, one row each and TM times over. 16 groups of channels keep the unrolled code, and
 * with it the driver's compilation, within a second; the gradients sum two things, with half the rows. */
static tile software_tile(uint32_t lanes, uint32_t k4, bool back) {
    uint32_t chunks = (uint32_t)div_up(k4, 16);
    return (tile){.lx = lanes, .ly = 1, .tm = back ? 2 : 4, .tn = lanes, .td = (uint32_t)div_up(k4, chunks), .dc = 1, .chunks = chunks};
}

/* Threads along channels so that few idle; 64 rows, fewer where shared memory is short or the work is small
 * (`groups`: workgroups per row block, `rows`: rows of an entry). most_td bounds the sums in registers: TM TD vec4. */
static tile gpu_tile(const gpu_caps *c, uint32_t k4, uint32_t most_td, int64_t rows, int64_t groups) {
    static const struct { uint32_t ly, dc; } sizes[] = {{16, 10}, {16, 5}, {8, 10}, {8, 5}, {4, 4}, {4, 2}};
    tile t = {.lx = 16, .stage = 1, .tm = 4, .tn = 4};
    for (uint32_t lx = 15; lx >= 8; lx--)
        if (div_up(k4, lx) * lx < div_up(k4, t.lx) * t.lx) t.lx = lx;
    uint32_t td = (uint32_t)div_up(k4, t.lx);
    t.chunks = (uint32_t)div_up(td, most_td);
    t.td = (uint32_t)div_up(td, t.chunks);
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        t.ly = sizes[i].ly;
        t.dc = depth(k4, sizes[i].dc);
        bool small = t.ly > 8 && (rows <= t.ly * t.tm / 2 || div_up(rows, t.ly * t.tm) * groups < 128);
        if (!small && t.lx * t.ly <= c->max_workgroup_invocations && shared_bytes(&t) <= c->max_shared_bytes) break;
    }
    return t;
}

static tile choose(const gpu_caps *c, const attention_geom *a, bool keys, bool back, int64_t rows, int64_t entries) {
    uint32_t k4 = (uint32_t)div_up(a->k, 4), lanes = c->subgroup_size;
    if (c->kind == GPU_SOFTWARE && lanes >= 4 && lanes <= 16) return software_tile(lanes, k4, back);
    return gpu_tile(c, k4, keys ? 4 : 8, rows, a->heads * entries);
}

/* ---- dispatches ---- */
static uint32_t flags_of(const node *n, const attention_geom *a) {
    return (a->causal ? FLAG_CAUSAL : 0u) | (n->in[AT_WEIGHTS] ? FLAG_WEIGHTS : 0u) | (n->in[AT_OFFSET] ? FLAG_OFFSET : 0u) |
           (n->in[AT_BIAS] ? FLAG_BIAS : 0u) | (n->in[AT_TABLE] ? FLAG_REGIONS : 0u) | (needs_table(n) ? FLAG_TABLE : 0u);
}

static gpu_span span_or(const tensor *t, gpu_span other) { return t ? t->span : other; }

/* Common constants, bindings and sizes for `rows` rows in each of `entries`. */
static void fill(gpu_dispatch_params *p, push *u, const node *n, const attention_geom *a, const tile *t, uint32_t flags,
                 int64_t rows, int64_t entries) {
    const tables *tab = n->prepared;
    gpu_span any = n->in[AT_Q]->span;
    const uint32_t spec[12] = {t->lx, t->ly, t->stage, t->tm, t->tn, t->td, t->dc, (uint32_t)a->k, a->k % 4 == 0,
                               flags_of(n, a) | flags, (uint32_t)a->banks, (uint32_t)a->sets};
    *u = (push){.nq = (uint32_t)a->nq, .tq = (uint32_t)a->tq, .heads = (uint32_t)a->heads, .d = (uint32_t)a->d,
        .parts = (uint32_t)a->parts, .tk = (uint32_t)a->tk, .regions = (uint32_t)a->regions,
        .blocks = (uint32_t)div_up(rows, tile_rows(t)), .chunks = t->chunks, .bias_n = (uint32_t)a->bias_n,
        .bias_h = (uint32_t)a->bias_h, .bias_q = (uint32_t)a->bias_q, .bias_k = (uint32_t)a->bias_k, .scale = a->scale};
    u->tiles = u->blocks * u->chunks * u->heads * (uint32_t)entries;
    for (int b = 0; b < a->banks; b++) u->tb[b] = (uint32_t)a->tb[b];
    memcpy(p->spec, spec, sizeof spec);
    p->n_spec = (int)ARRAY_LEN(spec);
    p->type = n->in[AT_Q]->dtype;
    for (int i = 0; i < 6; i++) p->bind[i] = span_or(n->in[AT_WEIGHTS + i], any);
    p->bind[6] = tab ? tab->span : any;
    p->push = u;
    p->push_bytes = sizeof *u;
    gpu_groups_1d(u->tiles, 1, p->groups);
}

/* q and all banks, from binding COMMON on; returns the next. */
static int bind_banks(gpu_dispatch_params *p, const node *n) {
    p->bind[COMMON] = n->in[AT_Q]->span;
    for (int i = 0; i < 2 * ATTENTION_MAX_BANKS; i++) p->bind[COMMON + 1 + i] = span_or(n->in[AT_K + i], n->in[AT_Q]->span);
    return COMMON + 1 + 2 * ATTENTION_MAX_BANKS;
}

status attention_gpu_encode(gpu_cmd *c, const node *n) {
    attention_geom a = attention_geometry(n);
    tile t = choose(gpu_get_caps(gpu_cmd_device(c)), &a, false, false, a.tq, a.nq);
    gpu_dispatch_params p = {.shader = "attention", .work = attention_work(n)};
    push u;
    fill(&p, &u, n, &a, &t, 0, a.tq, a.nq);
    int at = bind_banks(&p, n);
    p.bind[at++] = n->out[0]->span;
    p.bind[at++] = n->out[1]->span;
    p.n_bind = at;
    return gpu_dispatch_(c, &p);
}

static status encode_q(gpu_cmd *c, const node *n, const attention_geom *a, uint32_t flags) {
    tile t = choose(gpu_get_caps(gpu_cmd_device(c)), a, false, true, a->tq, a->nq);
    gpu_dispatch_params p = {.shader = "attention_bwd_q", .work = attention_bwd_work(n) / 2};
    int out = attention_bwd_out(n, WANT_Q);
    push u;
    fill(&p, &u, n, a, &t, flags | (out >= 0 ? FLAG_WANT_A : 0u), a->tq, a->nq);
    int at = bind_banks(&p, n);
    p.bind[at++] = n->in[AT_DY]->span;
    p.bind[at++] = span_or(n->in[AT_Y], n->in[AT_DY]->span);
    p.bind[at++] = n->in[AT_LSE]->span;
    p.bind[at++] = span_or(n->in[AT_DLSE], n->in[AT_LSE]->span);
    p.bind[at++] = n->out[0]->span;
    p.bind[at++] = n->out[MAX(out, 0)]->span;
    p.n_bind = at;
    return gpu_dispatch_(c, &p);
}

static status encode_kv(gpu_cmd *c, const node *n, const attention_geom *a, uint32_t flags, int bank) {
    int out_k = attention_bwd_out(n, WANT_K + 2 * bank), out_v = attention_bwd_out(n, WANT_V + 2 * bank);
    if (out_k < 0 && out_v < 0) return OK;
    tile t = choose(gpu_get_caps(gpu_cmd_device(c)), a, true, true, a->tb[bank], a->nb[bank]);
    gpu_dispatch_params p = {.shader = "attention_bwd_kv", .work = attention_bwd_work(n) / 2 / a->banks};
    const tables *tab = n->prepared;
    push u;
    fill(&p, &u, n, a, &t, flags | (out_k >= 0 ? FLAG_WANT_A : 0u) | (out_v >= 0 ? FLAG_WANT_B : 0u), a->tb[bank], a->nb[bank]);
    u.tb[0] = (uint32_t)a->tb[bank];
    if (tab) u.users_at = tab->users_at[bank];
    const gpu_span own[] = {n->in[AT_Q]->span, n->in[AT_K + bank]->span, n->in[AT_V + bank]->span, n->in[AT_DY]->span,
        n->in[AT_LSE]->span, span_or(n->in[AT_DLSE], n->in[AT_LSE]->span), n->out[0]->span,
        n->out[out_k >= 0 ? out_k : out_v]->span, n->out[out_v >= 0 ? out_v : out_k]->span};
    memcpy(p.bind + COMMON, own, sizeof own);
    p.n_bind = COMMON + (int)ARRAY_LEN(own);
    return gpu_dispatch_(c, &p);
}

status attention_gpu_bwd_encode(gpu_cmd *c, const node *n) {
    status st = OK;
    attention_geom a = attention_geometry(n);
    uint32_t flags = (n->in[AT_DLSE] ? FLAG_DLSE : 0u) | (a.recompute ? FLAG_RECOMPUTE : 0u);
    TRY(encode_q(c, n, &a, flags));
    for (int b = 0; b < a.banks; b++) TRY(encode_kv(c, n, &a, flags, b));
out:
    return st;
}
