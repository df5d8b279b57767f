/* attention_host.c: attention and its gradient on the CPU: one call of host_attention_* per query entry and set.
 * What those kernels leave to the caller: sums over sets in f32, the type conversions, D = dy . out_s, and the
 * region table, which is spread out into a bias [1 or heads, Tq, Tk] of one query entry at a time.
 * Gradients of banks in half types are summed in f32 scratch: of the whole bank, or, where every entry has one
 * reader, of one entry. Many small entries that share nothing go to the threads whole, each thread with scratch of
 * its own: within one, waiting for each other would take longer than the work.
 * SPDX-License-Identifier: MIT */
#include "op/attention_internal.h"
#include "host/lanes.h"
#include <math.h>

/* One (query entry, set) at a time, and the scratch of the node cut into pieces (NULL where not needed). */
typedef struct frame {
    const node *n; attention_geom a; dtype type; bool backward;
    bool each;             /* every entry of the only bank has one reader */
    int lanes;             /* entries at once, each with its own frame */
    host_attention_part part[ATTENTION_MAX_PARTS];
    host_attention_args args;
    float *y;              /* [Tq, D] sum over sets; backward: out_s, recomputed */
    float *bias;           /* [1 or heads, Tq, Tk] */
    float *dy, *dq;        /* [Tq, D] w dy; dq's sum */
    float *delta, *lse;    /* [heads, Tq] w D - dlse; what recomputing out_s writes and nobody reads */
    float *dkv[2 * ATTENTION_MAX_BANKS]; /* sums of dk0, dv0, dk1, … */
    void *kernel;
} frame;

#define SMALL_ENTRY ((int64_t)1 << 24) /* multiplications: 256 tokens of 256 */

static int entries_at_once(const frame *f, int threads) {
    const attention_geom *a = &f->a;
    bool apart = f->each || !f->backward, small = a->tq * a->tk * a->d <= SMALL_ENTRY;
    return apart && small && a->nq >= threads ? threads : 1;
}

static void frame_init(frame *f, host *h, const node *n, bool backward) {
    *f = (frame){.n = n, .a = attention_geometry(n), .type = n->in[AT_Q]->dtype, .backward = backward};
    f->each = ATTRS(n, attention_attrs)->plain && f->a.banks == 1 && f->a.nb[0] == f->a.nq;
    f->args = (host_attention_args){.type = f->type, .heads = (int)f->a.heads, .tq = f->a.tq, .kw = f->a.k, .scale = f->a.scale,
                                    .causal = f->a.causal, .ld_q = f->a.d};
    f->lanes = entries_at_once(f, host_threads(h));
}

static const char *entry_of(const tensor *t, int64_t e) {
    return (const char *)t->data + (size_t)(e * t->s.d[1] * t->s.d[2]) * dtype_bytes(t->dtype);
}
static float *f32_of(const node *n, int slot) { return n->in[slot] ? n->in[slot]->data : NULL; }
static int64_t bias_heads(const attention_geom *a) { return a->bias_h ? a->heads : 1; }
static int64_t row_at(const attention_geom *a, int64_t q, int64_t s) { return (q * a->sets + s) * a->heads * a->tq; }
static float weight_at(const frame *f, int64_t q, int64_t s) {
    const float *w = f32_of(f->n, AT_WEIGHTS);
    return w ? w[q * f->a.sets + s] : 1.0f;
}

/* Fills part[] and args for (q, s). */
static void frame_set(frame *f, int64_t q, int64_t s) {
    const node *n = f->n;
    const attention_geom *a = &f->a;
    const attention_set *set = &a->set[q * a->sets + s];
    const float *offset = f32_of(n, AT_OFFSET), *bias = f32_of(n, AT_BIAS);
    int64_t j = 0;
    for (int p = 0; p < set->n; p++) {
        int bank = set->part[p].bank;
        int64_t entry = set->part[p].entry, stride = a->tb[bank] * a->d;
        host_attention_part *part = &f->part[p];
        *part = (host_attention_part){.t = a->tb[bank]};
        part->k = entry_of(n->in[AT_K + bank], entry);
        part->v = entry_of(n->in[AT_V + bank], entry);
        if (offset) part->offset = offset[(q * a->sets + s) * a->parts + p];
        if (f->bias) part->bias = f->bias + j, part->bias_h = a->bias_h ? a->tq * a->tk : 0, part->bias_q = a->tk, part->bias_k = 1;
        else if (bias) part->bias = bias + q * a->bias_n + j * a->bias_k, part->bias_h = a->bias_h, part->bias_q = a->bias_q, part->bias_k = a->bias_k;
        if (f->dkv[2 * bank]) part->dk = f->dkv[2 * bank] + (f->each && f->type != DT_F32 ? 0 : entry * stride);
        if (f->dkv[2 * bank + 1]) part->dv = f->dkv[2 * bank + 1] + (f->each && f->type != DT_F32 ? 0 : entry * stride);
        j += a->tb[bank];
    }
    f->args.part = f->part;
    f->args.n_parts = set->n;
    f->args.q = entry_of(n->in[AT_Q], q);
}

/* Bytes of the kernel's scratch: by sizes alone, whatever offsets will hide. */
static size_t kernel_bytes(host *h, frame *f) {
    size_t most = 0;
    for (int64_t i = 0; i < f->a.nq * f->a.sets; i++) {
        const attention_set *set = &f->a.set[i];
        for (int p = 0; p < set->n; p++) f->part[p] = (host_attention_part){.t = f->a.tb[set->part[p].bank]};
        f->args.part = f->part;
        f->args.n_parts = set->n;
        most = MAX(most, host_attention_scratch(h, &f->args, f->backward));
        if (f->backward && f->a.recompute) most = MAX(most, host_attention_scratch(h, &f->args, false));
        if (ATTRS(f->n, attention_attrs)->plain) break;    /* all alike */
    }
    return most;
}

/* Cuts scratch at `base`, returns its bytes. base NULL: counts only. */
static size_t frame_cut(frame *f, char *base) {
    const attention_geom *a = &f->a;
    const node *n = f->n;
    size_t at = 0;
    bool half = f->type != DT_F32, grad = f->backward;
#define CUT(member, wanted, elems)                                                                 \
    if (wanted) {                                                                                  \
        f->member = base ? (float *)(void *)(base + at) : NULL;                                    \
        at += align_up((size_t)(elems) * sizeof(float), 64);                                       \
    }
    CUT(y, grad ? a->recompute : half, a->tq * a->d)
    CUT(bias, n->in[AT_TABLE] != NULL, bias_heads(a) * a->tq * a->tk)
    CUT(dy, grad, a->tq * a->d)
    CUT(dq, grad && (half || attention_bwd_out(n, WANT_Q) < 0), a->tq * a->d)
    CUT(delta, grad, a->heads * a->tq)
    CUT(lse, grad && a->recompute, a->heads * a->tq)
    for (int i = 0; grad && half && i < 2 * a->banks; i++)
        CUT(dkv[i], attention_bwd_out(n, WANT_K + i) >= 0, (f->each ? 1 : a->nb[i / 2]) * a->tb[i / 2] * a->d)
#undef CUT
    f->kernel = base + at;
    return at;
}

static status prepare(prep *p, node *n, bool backward) {
    frame f;
    frame_init(&f, p->host, n, backward);
    size_t bytes = frame_cut(&f, NULL);
    prep_scratch(n, align_up(bytes + kernel_bytes(p->host, &f), 64) * (size_t)f.lanes);
    return OK;
}
status attention_host_prepare(prep *p, node *n) { return prepare(p, n, false); }
status attention_host_bwd_prepare(prep *p, node *n) { return prepare(p, n, true); }

/* ---- regions as a bias ---- */
typedef struct region_job { const frame *f; int64_t q; } region_job;

static void region_rows(void *ctx, int64_t begin, int64_t end) {
    const region_job *j = ctx;
    const attention_geom *a = &j->f->a;
    const node *n = j->f->n;
    const uint32_t *rq = (const uint32_t *)n->in[AT_REGIONS_Q]->data + j->q * a->tq;
    const uint32_t *rk = (const uint32_t *)n->in[AT_REGIONS_K]->data + j->q * a->tk;
    const float *bias = f32_of(n, AT_BIAS);
    uint32_t last = (uint32_t)a->regions - 1;
    for (int64_t r = begin; r < end; r++) {
        int64_t h = r / a->tq, i = r % a->tq;
        const float *table = f32_of(n, AT_TABLE) + (int64_t)MIN(rq[i], last) * a->regions;
        const float *b = bias ? bias + j->q * a->bias_n + h * a->bias_h + i * a->bias_q : NULL;
        float *out = j->f->bias + r * a->tk;
        for (int64_t k = 0; k < a->tk; k++) out[k] = table[MIN(rk[k], last)] + (b ? b[k * a->bias_k] : 0.0f);
    }
}

static void spread_regions(host *h, const frame *f, int64_t q) {
    if (!f->bias) return;
    region_job j = {f, q};
    host_parallel(h, bias_heads(&f->a) * f->a.tq, MAX(1, 16384 / f->a.tk), region_rows, &j);
}

/* ---- entries ---- */
typedef struct entries { host *h; const frame *f; void (*run)(host *h, frame *f, int64_t q); } entries;

static void lanes_body(void *ctx, int64_t begin, int64_t end) {
    const entries *e = ctx;
    size_t lane_bytes = e->f->n->scratch_bytes / (size_t)e->f->lanes / 64 * 64;
    for (int64_t l = begin; l < end; l++) {
        frame f = *e->f;
        frame_cut(&f, (char *)f.n->scratch->data + (size_t)l * lane_bytes);
        for (int64_t q = l; q < f.a.nq; q += f.lanes) e->run(e->h, &f, q);
    }
}

static void each_entry(host *h, const frame *f, void (*run)(host *h, frame *f, int64_t q)) {
    entries e = {h, f, run};
    host_parallel(h, f->lanes, 1, lanes_body, &e);
}

/* ---- forward ---- */
static void forward_entry(host *h, frame *f, int64_t q) {
    const node *n = f->n;
    const attention_geom *a = &f->a;
    int64_t rows = a->tq * a->d;
    char *y = (char *)n->out[0]->data + (size_t)(q * rows) * dtype_bytes(f->type);
    spread_regions(h, f, q);
    for (int64_t s = 0; s < a->sets; s++) {
        frame_set(f, q, s);
        f->args.weight = weight_at(f, q, s);
        f->args.accumulate = s > 0;
        f->args.y = f->y ? f->y : (float *)(void *)y;
        f->args.lse = (float *)n->out[1]->data + row_at(a, q, s);
        host_attention_fwd(h, &f->args, f->kernel);
    }
    if (f->y) host_convert(h, y, f->type, f->y, DT_F32, rows);
}

void attention_host_run(host *h, const node *n) {
    frame f;
    frame_init(&f, h, n, false);
    each_entry(h, &f, forward_entry);
}

/* ---- backward: D, w dy ---- */
typedef struct row_job {
    const frame *f; host_isa isa; const void *dy, *y; dtype y_type; const float *dlse; float *d, w; bool once;
} row_job;

/* out = w dy over one head's n <= LANES elements; returns dy . y. Sixteen sums, so that it vectorises. */
HOST_KERNEL(head_dot, (const void *dy, dtype t, const void *y, dtype yt, int64_t at, int64_t y_at, int64_t n, float w, float *out, float *sum),
            (dy, t, y, yt, at, y_at, n, w, out, sum)) {
    float u[LANES], v[LANES], part[16] = {0};
    lanes_load(dy, t, at, n, u);
    lanes_load(y, yt, y_at, n, v);
    for (int64_t c = 0; c < n; c++) out[c] = w * u[c];
    int64_t even = n / 16 * 16;
    for (int64_t c = 0; c < even; c += 16)
        for (int l = 0; l < 16; l++) part[l] += u[c + l] * v[c + l];
    for (int64_t c = even; c < n; c++) part[c - even] += u[c] * v[c];
    for (int l = 0; l < 16; l++) *sum += part[l];
}

static void dot_rows(void *ctx, int64_t begin, int64_t end) {
    const row_job *j = ctx;
    const attention_geom *a = &j->f->a;
    for (int64_t i = begin; i < end; i++)
        for (int64_t h = 0; h < a->heads; h++) {
            float sum = 0;
            for (int64_t c = 0; c < a->k; c += LANES) {
                int64_t at = i * a->d + h * a->k + c;
                head_dot(j->isa, j->dy, j->f->type, j->y, j->y_type, at, at, MIN(a->k - c, LANES), j->w, j->f->dy + at, &sum);
            }
            int64_t r = h * a->tq + i;
            j->d[r] = sum;
            j->f->delta[r] = (float)attention_d_weight(a, (double)j->w) * sum - (j->dlse ? j->dlse[r] : 0.0f);
        }
}

static void rows_of_set(host *h, frame *f, int64_t q, int64_t s) {
    const node *n = f->n;
    const attention_geom *a = &f->a;
    float *dlse = f32_of(n, AT_DLSE);
    row_job j = {.f = f, .isa = host_get_isa(h), .dy = entry_of(n->in[AT_DY], q), .w = weight_at(f, q, s),
                 .d = (float *)n->out[0]->data + row_at(a, q, s), .dlse = dlse ? dlse + row_at(a, q, s) : NULL};
    if (a->recompute) {
        f->args.weight = 1;
        f->args.y = f->y;
        f->args.lse = f->lse;
        host_attention_fwd(h, &f->args, f->kernel);
        j.y = f->y;
        j.y_type = DT_F32;
    } else {
        j.y = entry_of(n->in[AT_Y], q);
        j.y_type = f->type;
    }
    host_parallel(h, a->tq, MAX(1, 8192 / a->d), dot_rows, &j);
}

/* ---- backward ---- */
static void clear(void *ctx, int64_t begin, int64_t end) { memset((float *)ctx + begin, 0, (size_t)(end - begin) * sizeof(float)); }
static void zero(host *h, float *x, int64_t n) { host_parallel(h, n, 65536, clear, x); }

/* Gradients of banks, before (convert false) and after the query entries [q, q + 1) or all of them (q < 0). */
static void banks_pass(host *h, frame *f, int64_t q, bool convert) {
    const attention_geom *a = &f->a;
    for (int i = 0; i < 2 * a->banks; i++) {
        int k = attention_bwd_out(f->n, WANT_K + i);
        int64_t entry = a->tb[i / 2] * a->d, count = q < 0 ? a->nb[i / 2] * entry : entry;
        if (k < 0) continue;
        if (f->type == DT_F32) f->dkv[i] = f->n->out[k]->data;
        if (!convert) zero(h, f->dkv[i] + (q > 0 && f->type == DT_F32 ? q * entry : 0), count);
        else if (f->type != DT_F32)
            host_convert(h, (char *)f->n->out[k]->data + (size_t)(q < 0 ? 0 : q * entry) * dtype_bytes(f->type), f->type, f->dkv[i], DT_F32, count);
    }
}

static void backward_entry(host *h, frame *f, int64_t q) {
    const node *n = f->n;
    const attention_geom *a = &f->a;
    int64_t rows = a->tq * a->d;
    int out_q = attention_bwd_out(n, WANT_Q);
    char *dq = out_q < 0 ? NULL : (char *)n->out[out_q]->data + (size_t)(q * rows) * dtype_bytes(f->type);
    f->args.dq = f->dq ? f->dq : (float *)(void *)dq;
    zero(h, f->args.dq, rows);
    if (f->each) banks_pass(h, f, q, false);
    spread_regions(h, f, q);
    for (int64_t s = 0; s < a->sets; s++) {
        frame_set(f, q, s);
        rows_of_set(h, f, q, s);
        f->args.lse = f32_of(n, AT_LSE) + row_at(a, q, s);
        f->args.dy = f->dy;
        f->args.delta = f->delta;
        if (ATTRS(n, attention_attrs)->wants) host_attention_bwd(h, &f->args, f->kernel);
    }
    if (dq && f->dq) host_convert(h, dq, f->type, f->dq, DT_F32, rows);
    if (f->each) banks_pass(h, f, q, true);
}

void attention_host_bwd_run(host *h, const node *n) {
    frame f;
    frame_init(&f, h, n, true);
    if (f.each) {
        each_entry(h, &f, backward_entry);
        return;
    }
    frame_cut(&f, n->scratch->data);
    banks_pass(h, &f, -1, false);
    for (int64_t q = 0; q < f.a.nq; q++) backward_entry(h, &f, q);
    banks_pass(h, &f, -1, true);
}
