/* attention: y_n = sum_s w[n,s] softmax(scale Q_n [K…]ᵀ + offset + bias + regions) [V…], scores never stored.
 *   q [Nq, Tq, heads·K] T; banks of k, v [Nb, Tb, heads·K] T, which earlier plans may have filled
 *   sets     per query entry S lists of (bank, entry): the keys of a list stand in a row, under one softmax; an empty
 *            list adds nothing and costs nothing: entries may have fewer than S
 *   weights  [Nq, S] f32, absent = 1          offset  [Nq, S, P] f32 added per part: -inf hides it, ln(a) boosts it
 *   bias     f32, broadcasts to [Nq, heads, Tq, Tk]      causal  hides key j from query i < j, j counted over the list
 *   regions  ids u32 [Nq, Tq] and [Nq, Tk], table f32 [R, R]: adds table[id_q, id_k]; ids >= R read row R-1
 *   returns  y [Nq, Tq, heads·K] T, and tensor_out(y, 1): lse [Nq, S, heads, Tq] f32, natural log. A query that
 *            sees no key gives 0 and lse -inf.
 *   gradients  q, every k and v, weights; through y and through lse. Not to offset, bias and regions: a bias
 *            gradient is as large as the scores, which are never there (E_UNSUPPORTED names the input).
 *   source   Vaswani et al. 2017; blockwise softmax: Dao et al. 2022
 * SPDX-License-Identifier: MIT */
#include "op/attention_internal.h"
#include <math.h>

static const attention_set *copy_sets(graph *g, const attention_params *p, int64_t nq, int sets) {
    attention_set *s = graph_alloc(g, sizeof *s * (size_t)(nq * sets));
    for (int64_t i = 0; s && i < nq * sets; i++) {
        if (p->sets) s[i] = p->sets[i];
        else s[i] = (attention_set){.n = 1, .part = {{0, (uint16_t)i}}};
    }
    return s;
}

tensor *op_attention_(graph *g, const attention_params *p, const char *here) {
    tensor *in[AT_INPUTS] = {[AT_Q] = p->q, [AT_WEIGHTS] = p->weights, [AT_OFFSET] = p->offset, [AT_BIAS] = p->bias,
        [AT_REGIONS_Q] = p->regions_q, [AT_REGIONS_K] = p->regions_k, [AT_TABLE] = p->region_table};
    int64_t nq = p->q->s.d[0];
    int sets = MAX(p->n_sets, 1);
    if (p->n_banks < 1 || p->n_banks > ATTENTION_MAX_BANKS || sets > ATTENTION_MAX_SETS || (sets > 1 && !p->sets) || nq > 65535)
        graph_fail(g, here, E_SHAPE, "attention: %d banks (1 to %d), %d sets (1 to %d, listed if more than 1), %lld query entries (to 65535)",
                   p->n_banks, ATTENTION_MAX_BANKS, p->n_sets, ATTENTION_MAX_SETS, (long long)nq);
    int banks = MAX(MIN(p->n_banks, ATTENTION_MAX_BANKS), 0);
    for (int b = 0; b < banks; b++) in[AT_K + b] = p->k[b], in[AT_V + b] = p->v[b];
    attention_attrs at = {.heads = (uint32_t)p->heads, .banks = (uint32_t)banks, .sets = (uint32_t)sets,
                          .causal = p->causal, .plain = !p->sets, .scale = p->scale};
    at.set = graph_status(g) == OK ? copy_sets(g, p, nq, sets) : NULL;
    for (int64_t i = 0; at.set && i < nq * sets; i++) at.parts = MAX(at.parts, at.set[i].n);
    return op_record(g, &op_attention_info, here, &at, AT_INPUTS, in);
}

int64_t attention_set_keys(const attention_geom *a, const attention_set *s) {
    int64_t n = 0;
    for (int p = 0; p < s->n; p++) n += a->tb[s->part[p].bank];
    return n;
}

attention_geom attention_geometry(const node *n) {
    const attention_attrs *at = ATTRS(n, attention_attrs);
    const shape *q = &n->in[AT_Q]->s;
    attention_geom a = {.nq = q->d[0], .tq = q->d[1], .d = q->d[2], .heads = at->heads, .k = q->d[2] / at->heads,
        .banks = (int)at->banks, .sets = (int)at->sets, .parts = (int)at->parts, .causal = at->causal, .set = at->set};
    a.scale = at->scale != 0 ? at->scale : (float)(1 / sqrt((double)a.k));
    for (int b = 0; b < a.banks; b++) a.nb[b] = n->in[AT_K + b]->s.d[0], a.tb[b] = n->in[AT_K + b]->s.d[1];
    a.tk = attention_set_keys(&a, &a.set[0]);
    if (n->in[AT_BIAS]) {
        const shape *s = &n->in[AT_BIAS]->s;
        int64_t *stride[4] = {&a.bias_k, &a.bias_q, &a.bias_h, &a.bias_n}, step = 1;
        for (int i = 0; i < s->n; i++) {
            int64_t d = s->d[s->n - 1 - i];
            *stride[i] = d > 1 ? step : 0;
            step *= d;
        }
    }
    if (n->in[AT_TABLE]) a.regions = n->in[AT_TABLE]->s.d[0];
    a.recompute = n->n_in > AT_Y && !n->in[AT_Y];
    return a;
}

/* ---- shapes ---- */
static status check_banks(const node *n) {
    const attention_attrs *at = ATTRS(n, attention_attrs);
    const tensor *q = n->in[AT_Q];
    char tq[96], tk[96], tv[96];
    if (q->s.n != 3 || q->dtype == DT_U32 || (int)at->heads < 1 || q->s.d[2] % at->heads)
        return fail(E_SHAPE, "attention: q %s %s with %d heads: expected [Nq, Tq, heads * K] of a float type",
                    dtype_name(q->dtype), shape_text(&q->s, tq), (int)at->heads);
    for (int b = 0; b < (int)at->banks; b++) {
        const tensor *k = n->in[AT_K + b], *v = n->in[AT_V + b];
        if (!k || !v) return fail(E_SHAPE, "attention: bank %d has no k or no v", b);
        if (k->s.n != 3 || k->s.d[2] != q->s.d[2] || !shape_equal(&k->s, &v->s) || k->dtype != q->dtype || v->dtype != q->dtype)
            return fail(E_SHAPE, "attention: bank %d has k %s %s and v %s %s: expected both [entries, tokens, %lld] %s like q",
                        b, dtype_name(k->dtype), shape_text(&k->s, tk), dtype_name(v->dtype), shape_text(&v->s, tv),
                        (long long)q->s.d[2], dtype_name(q->dtype));
    }
    return OK;
}

/* same_keys: bias or regions are given, so that every set must have as many keys as the first. */
static status check_sets(const node *n, bool same_keys) {
    const attention_attrs *at = ATTRS(n, attention_attrs);
    attention_geom a = {0};
    int64_t count = n->in[AT_Q]->s.d[0] * at->sets;
    for (int b = 0; b < (int)at->banks; b++) a.tb[b] = n->in[AT_K + b]->s.d[1];
    for (int64_t i = 0; i < count; i++) {
        const attention_set *s = &at->set[i];
        if (s->n > ATTENTION_MAX_PARTS)
            return fail(E_SHAPE, "attention: set %lld of query entry %lld has %d parts, at most %d are possible",
                        (long long)(i % at->sets), (long long)(i / at->sets), s->n, ATTENTION_MAX_PARTS);
        for (int p = 0; p < s->n; p++) {
            int bank = s->part[p].bank;
            if (bank >= (int)at->banks || s->part[p].entry >= n->in[AT_K + bank]->s.d[0])
                return fail(E_SHAPE, "attention: query entry %lld of %lld names entry %d of bank %d: there are %d banks%s",
                            (long long)(i / at->sets), (long long)(count / at->sets), s->part[p].entry, bank, (int)at->banks,
                            bank < (int)at->banks ? ", and that one has fewer entries" : "");
        }
        if (same_keys && attention_set_keys(&a, s) != attention_set_keys(&a, &at->set[0]))
            return fail(E_SHAPE, "attention: with a bias or regions all sets need as many keys; set %lld has %lld, set 0 has %lld",
                        (long long)i, (long long)attention_set_keys(&a, s), (long long)attention_set_keys(&a, &at->set[0]));
    }
    return OK;
}

static bool shaped(const tensor *t, dtype type, shape s) { return !t || (t->dtype == type && shape_equal(&t->s, &s)); }

static status check_extras(const node *n) {
    const attention_attrs *at = ATTRS(n, attention_attrs);
    attention_geom a = attention_geometry(n);
    const tensor *rq = n->in[AT_REGIONS_Q], *rk = n->in[AT_REGIONS_K], *table = n->in[AT_TABLE], *bias = n->in[AT_BIAS];
    dtype f = dtype_acc(n->in[AT_Q]->dtype);
    char text[96];
    if (!shaped(n->in[AT_WEIGHTS], f, SHAPE(a.nq, a.sets)))
        return fail(E_SHAPE, "attention: weights must be f32 [%lld, %d]", (long long)a.nq, a.sets);
    if (!shaped(n->in[AT_OFFSET], f, SHAPE(a.nq, a.sets, at->parts)))
        return fail(E_SHAPE, "attention: offset must be f32 [%lld, %d, %d]", (long long)a.nq, a.sets, a.parts);
    if (!rq != !rk || !rq != !table) return fail(E_SHAPE, "attention: regions_q, regions_k and region_table come together");
    if (!shaped(rq, DT_U32, SHAPE(a.nq, a.tq)) || !shaped(rk, DT_U32, SHAPE(a.nq, a.tk)) ||
        (table && !shaped(table, f, SHAPE(a.regions, a.regions))))
        return fail(E_SHAPE, "attention: regions must be u32 [%lld, %lld] and [%lld, %lld], the table square f32",
                    (long long)a.nq, (long long)a.tq, (long long)a.nq, (long long)a.tk);
    const int64_t want[4] = {a.tk, a.tq, a.heads, a.nq};
    for (int i = 0; bias && i < bias->s.n; i++) {
        int64_t d = bias->s.d[bias->s.n - 1 - i];
        if (bias->s.n > 4 || bias->dtype != f || (d != 1 && d != want[i]))
            return fail(E_SHAPE, "attention: bias %s %s does not broadcast to f32 [%lld, %lld, %lld, %lld]", dtype_name(bias->dtype),
                        shape_text(&bias->s, text), (long long)a.nq, (long long)a.heads, (long long)a.tq, (long long)a.tk);
    }
    return OK;
}

status attention_check(const node *n) {
    status st = OK;
    const tensor *bias = n->in[AT_BIAS];
    TRY(check_banks(n));
    TRY(check_sets(n, n->in[AT_TABLE] || (bias && bias->s.d[bias->s.n - 1] > 1)));
    TRY(check_extras(n));
out:
    return st;
}

static status infer(graph *g, node *n) {
    status st = OK;
    (void)g;
    TRY(attention_check(n));
    attention_geom a = attention_geometry(n);
    out_like(n, 0, n->in[AT_Q]);
    out_set(n, 1, dtype_acc(n->in[AT_Q]->dtype), SHAPE(a.nq, a.sets, a.heads, a.tq));
out:
    return st;
}

static double scores_of(const node *n) {
    attention_geom a = attention_geometry(n);
    double keys = 0;
    for (int64_t i = 0; i < a.nq * a.sets; i++) keys += (double)attention_set_keys(&a, &a.set[i]);
    return keys * (double)(a.tq * a.d);
}
double attention_work(const node *n) { return 4 * scores_of(n); }
double attention_bwd_work(const node *n) {
    uint32_t wants = ATTRS(n, attention_attrs)->wants;
    double per = (wants & 1u << WANT_Q ? 6 : 0) + (wants >> WANT_K ? 8 : 0) + (n->in[AT_Y] ? 0 : 4);
    return per * scores_of(n);
}

static status prepare(prep *p, node *n) { return p->gpu ? attention_gpu_prepare(p, n) : attention_host_prepare(p, n); }

/* ---- gradient ---- */
static void weights_gradient(graph *g, const node *n, tensor *d, tensor *dx[]) {
    shape s = n->in[AT_WEIGHTS]->s;                        /* dw[n, s] = sum over heads and queries of D */
    dx[AT_WEIGHTS] = op_reshape_(g, op_reduce_(g, d, R_SUM, 1u << 2 | 1u << 3, n->at), s, n->at);
}

static void backward(graph *g, const node *n, tensor *const dy[], tensor *dx[]) {
    static const char *const names[] = {"offset", "bias", "regions_q", "regions_k", "region_table"};
    attention_attrs at = *ATTRS(n, attention_attrs);
    tensor *in[AT_BWD_INPUTS];
    for (int i = AT_OFFSET; i <= AT_TABLE; i++)
        if (node_wants(n, i)) {
            graph_fail(g, n->at, E_UNSUPPORTED, "attention has no gradient to its %s", names[i - AT_OFFSET]);
            return;
        }
    at.wants = node_wants(n, AT_Q) ? 1u << WANT_Q : 0;
    for (int b = 0; b < (int)at.banks; b++) {
        if (node_wants(n, AT_K + b)) at.wants |= 1u << (WANT_K + 2 * b);
        if (node_wants(n, AT_V + b)) at.wants |= 1u << (WANT_V + 2 * b);
    }
    bool recompute = at.sets > 1 || node_wants(n, AT_WEIGHTS);
    memcpy(in, n->in, sizeof *in * AT_INPUTS);
    in[AT_DY] = dy[0] ? dy[0] : op_zeros_(g, n->out[0]->dtype, n->out[0]->s, 0.0f, n->at);
    in[AT_Y] = recompute ? NULL : n->out[0];
    in[AT_LSE] = n->out[1];
    in[AT_DLSE] = dy[1];
    tensor *d = op_record(g, &op_attention_bwd_info, n->at, &at, AT_BWD_INPUTS, in);
    if (d->poison) return;
    for (int want = 0; want < WANT_COUNT; want++) {
        int k = attention_bwd_out(d->by, want);
        int slot = want == WANT_Q ? AT_Q : want % 2 ? AT_K + want / 2 : AT_V + want / 2 - 1;
        if (k >= 0) dx[slot] = d->by->out[k];
    }
    if (node_wants(n, AT_WEIGHTS)) weights_gradient(g, n, d, dx);
}

/* ---- cases ----
 * in: q, k0, v0, k1, v1, weights, offset, bias, regions_q, regions_k, table
 * a: heads, causal, pattern, scale, 1 = the loss goes through lse too */
enum pattern { PLAIN, ENDS, FUSED, SHARED, TWICE, RAGGED, HIDDEN, SOME };

/* The key sets of morphing: ENDS = every frame reads the first and the last (modes E and B), FUSED = its own keys
 * beside each of them, the ends kept in bank 1 (mode F). SHARED: all read entry 0. TWICE: one entry named twice in a
 * set. RAGGED: sets of different lengths over both banks. SOME: odd entries have one set, even ones two, entry 4 none. */
static attention_set case_set(int pattern, int64_t n, int s, int64_t last, int64_t last1) {
    uint16_t own = (uint16_t)n, end = (uint16_t)(s ? last : 0), end1 = (uint16_t)(s ? last1 : 0);
    switch (pattern) {
    case ENDS: return (attention_set){1, {{0, end}}};
    case FUSED: return (attention_set){2, {{0, own}, {1, end1}}};
    case TWICE: return (attention_set){3, {{0, own}, {0, (uint16_t)last}, {0, own}}};
    case RAGGED: return n % 2 ? (attention_set){2, {{1, end1}, {0, own}}} : (attention_set){1, {{(uint8_t)(s % 2), 0}}};
    case SHARED: return (attention_set){1, {{0, 0}}};
    case SOME: return n == 4 || (s && n % 2) ? (attention_set){0} : (attention_set){1, {{0, s ? end : own}}};
    default: return (attention_set){1, {{0, own}}};
    }
}

static tensor *build(graph *g, tensor **in, const op_case *c) {
    attention_set set[128];
    int pattern = (int)c->a[2], sets = pattern == ENDS || pattern == FUSED || pattern == RAGGED || pattern == SOME ? 2 : 1;
    int64_t nq = in[0]->s.d[0], last = in[1]->s.d[0] - 1, last1 = in[3] ? in[3]->s.d[0] - 1 : 0;
    for (int64_t i = 0; i < nq * sets; i++) set[i] = case_set(pattern, i / sets, (int)(i % sets), last, last1);
    attention_params p = {.heads = (int)c->a[0], .causal = c->a[1] != 0, .scale = (float)c->a[3], .q = in[0], .n_banks = in[3] ? 2 : 1,
        .k = {in[1], in[3]}, .v = {in[2], in[4]}, .n_sets = sets, .sets = pattern == PLAIN ? NULL : set, .weights = in[5],
        .offset = in[6], .bias = in[7], .regions_q = in[8], .regions_k = in[9], .region_table = in[10]};
    if (pattern == HIDDEN) p.offset = op_fill(g, dtype_acc(in[0]->dtype), SHAPE(nq, 1, 1), -INFINITY);
    tensor *y = op_attention_(g, &p, HERE);
    if (c->a[4] == 0) return y;
    tensor *lse = op_cast_(g, op_reduce_(g, tensor_out(y, 1), R_SUM, DIMS_ALL, HERE), in[0]->dtype, HERE);
    return op_add(g, y, op_reshape(g, lse, 1));
}

#define NONE8 " - - - - - - - -"
static const op_case cases[] = {
    CASE("[1,1,1] [1,1,1] [1,1,1]" NONE8, .a = {1}),
    CASE("[2,5,6] [2,7,6] [2,7,6]" NONE8, .a = {2}),
    CASE("[1,13,40] [1,13,40] [1,13,40]" NONE8, .a = {8, 1}),
    CASE("[2,33,24] [2,77,24] [2,77,24]" NONE8, .a = {3}),
    CASE("[1,70,40] [1,77,40] [1,77,40]" NONE8, .a = {1, 1}),
    CASE("[3,9,21] [1,11,21] [1,11,21]" NONE8, .a = {3, 0, SHARED}),
    CASE("[2,6,10] [2,5,10] [2,5,10]" NONE8, .a = {2, 0, PLAIN, 0.7, 1}),
    CASE("[3,8,16] [3,8,16] [3,8,16] - - f32[3,2] - - - - -", .a = {2, 0, ENDS}),
    CASE("[3,7,16] [3,7,16] [3,7,16] [2,6,16] [2,6,16] f32[3,2] f32[3,2,2]! - - - -", .a = {2, 0, FUSED}),
    CASE("[4,5,12] [4,9,12] [4,9,12] [3,6,12] [3,6,12] f32[4,2]=0:1 f32[4,2,2]=-3:3! - - - -", .a = {3, 0, RAGGED}),
    CASE("[2,6,8] [2,5,8] [2,5,8] - - - f32[2,1,3]! - - - -", .a = {1, 1, TWICE}),
    CASE("[2,6,8] [2,5,8] [2,5,8]" NONE8, .a = {2, 0, HIDDEN}),
    CASE("[5,6,8] [5,7,8] [5,7,8] - - f32[5,2] - - - - -", .a = {2, 0, SOME}),
    CASE("[2,6,12] [2,9,12] [2,9,12] - - f32[2,1] - f32[2,3,6,9]! - - -", .a = {3}),
    CASE("[2,6,12] [2,9,12] [2,9,12] - - - - f32[3,1,9]! - - -", .a = {3, 1}),
    CASE("[2,6,12] [2,9,12] [2,9,12] - - - - f32[2,1,6,1]! - - -", .a = {3}),
    CASE("[2,6,12] [2,9,12] [2,9,12] [2,4,12] [2,4,12] f32[2,2] - f32[6,13]! u32[2,6]<5 u32[2,13]<5 f32[4,4]!", .a = {1, 0, FUSED}),
    CASE("[2,12,14] [2,19,14] [2,19,14] - - - f32[2,1,1]! - u32[2,12]<3 u32[2,19]<3 f32[3,3]=-2:2!", .a = {2}),
    CASE("[1,40,64] [1,40,64] [1,40,64]" NONE8, .a = {1}),
    CASE("[2,35,160] [2,45,160] [2,45,160]" NONE8, .a = {2}),
    CASE("[1,20,320] [1,77,320] [1,77,320]" NONE8, .a = {2, 0, PLAIN, 0, 1}),
    CASE("[1,18,512] [1,21,512] [1,21,512] - - f32[1,1] - - - - -", .a = {1}),
    CASE("[1,130,40] [1,150,40] [1,150,40]" NONE8, .a = {1, 1}, .no_grad = true),
    CASE("[70,3,4] [70,2,4] [70,2,4]" NONE8, .a = {1}, .no_grad = true),
    CASE("[1,4096,320] [1,4096,320] [1,4096,320]" NONE8, .a = {8}, .big = true),
    CASE("[2,4096,320] [2,77,320] [2,77,320]" NONE8, .a = {8}, .big = true),
    CASE("[2,1024,640] [2,1024,640] [2,1024,640]" NONE8, .a = {8}, .big = true),
    CASE("[2,256,1280] [2,256,1280] [2,256,1280]" NONE8, .a = {8}, .big = true),
    CASE("[1,1024,512] [1,1024,512] [1,1024,512]" NONE8, .a = {1}, .big = true),
};

const op_info op_attention_info = {
    .name = "attention", .n_in = AT_INPUTS, .n_out = 2, .attrs_size = sizeof(attention_attrs), .types = TYPES_FLOAT,
    .infer = infer, .prepare = prepare, .encode = attention_gpu_encode, .host = attention_host_run,
    .backward = backward, .ref = attention_ref, .work = attention_work, .build = build, CASES(cases)};
