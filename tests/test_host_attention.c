/* test_host_attention.c: every path of host_attention_* (base, AVX2, AVX-512, AMX, as far as this
 * CPU goes) against a plain loop in double; the loop's gradient against central differences. An
 * error is measured against the sum of the magnitudes added up, not against the result, so that
 * cancellation neither hides nor invents one. Buffers carry guard zones.
 * SPDX-License-Identifier: MIT */
#include "host/attention_internal.h"
#include "test.h"

enum { MAX_PARTS = 4, GUARD = 64 };
typedef struct part_spec {
    int64_t t;
    double offset;
    int bias;
    int same_as;
} part_spec; /* same_as: 1 + index, 0 = own data */
/* bias: 0 none, 1 dense [heads, tq, t], 2 [tq, t] for all heads, 3 [t], 4 per (head, i), 5 dense
 * with -inf, 6 dense with keys outermost (bias_k is large) */
typedef struct spec {
    const char *name;
    int heads;
    int64_t tq, kw;
    int n_parts;
    part_spec part[MAX_PARTS];
    bool causal, accumulate;
    double weight, scale;
    int64_t extra_ld;
} spec;

/* clang-format off */
static const spec specs[] = {
    {"one token", 1, 1, 1, 1, {{1}}},
    {"one query", 2, 1, 40, 1, {{33}}},
    {"one key", 2, 19, 24, 1, {{1}}},
    {"odd", 3, 37, 13, 1, {{53}}},
    {"odd, apart", 3, 70, 33, 1, {{101}}, .extra_ld = 7},
    {"latents 16x16", 2, 256, 32, 1, {{256}}},
    {"text keys", 2, 130, 40, 1, {{77}}},
    {"one head", 1, 200, 16, 1, {{600}}},
    {"five heads", 5, 65, 64, 1, {{257}}},
    {"width 8", 1, 64, 8, 1, {{64}}},
    {"width 80", 2, 50, 80, 1, {{300}}},
    {"width 160", 1, 49, 160, 1, {{97}}},
    {"width 512", 1, 70, 512, 1, {{150}}},
    {"wide blocks", 1, 300, 144, 1, {{290}}},
    {"wide blocks, causal", 1, 290, 132, 2, {{130}, {160}}, .causal = true},
    {"causal", 2, 150, 20, 1, {{150}}, .causal = true},
    {"causal long", 1, 530, 16, 1, {{530}}, .causal = true},
    {"causal, few keys", 2, 90, 16, 1, {{30}}, .causal = true},
    {"causal, many keys", 2, 30, 16, 1, {{290}}, .causal = true},
    {"causal parts", 1, 120, 16, 3, {{31}, {40, -INFINITY}, {49}}, .causal = true},
    {"causal, first hidden", 1, 60, 16, 2, {{32, -INFINITY}, {49, 0, 1}}, .causal = true},
    {"parts", 2, 66, 40, 3, {{77}, {1}, {129}}},
    {"offsets", 2, 66, 40, 3, {{77, 0.7}, {20, -INFINITY}, {129, -1.2}}, .weight = 0.3},
    {"rising scores", 2, 66, 40, 3, {{77, -300}, {20, 0}, {129, 300}}},
    {"all hidden", 2, 20, 16, 2, {{7, -INFINITY}, {20, -INFINITY}}},
    {"all hidden, accumulate", 2, 20, 16, 1, {{7, -INFINITY}}, .accumulate = true},
    {"empty part", 1, 20, 16, 2, {{0}, {20}}},
    {"no parts", 1, 5, 4, 0},
    {"twice the same", 2, 40, 16, 2, {{150, 0}, {150, 0.5, 0, 1}}},
    {"bias dense", 2, 50, 24, 2, {{70, 0, 1}, {33, 0.5}}},
    {"bias per key", 2, 50, 24, 1, {{70, 0, 3}}},
    {"bias for all heads", 3, 50, 24, 1, {{270, 0.1, 2}}},
    {"bias per query", 3, 50, 24, 1, {{70, 0, 4}}},
    {"bias hides", 2, 50, 24, 2, {{70, 0, 5}, {40, 0, 5}}},
    {"bias hides all", 1, 9, 8, 1, {{3, 0, 5}}},
    {"bias by columns", 2, 50, 24, 1, {{70, 0, 6}}},
    {"causal bias", 2, 50, 24, 1, {{70, 0, 1}}, .causal = true},
    {"weights", 2, 66, 40, 1, {{77}}, .weight = 0.25, .accumulate = true},
    {"large scores", 2, 66, 40, 1, {{277}}, .scale = 6},
    {"negative scale", 1, 40, 16, 1, {{70}}, .scale = -0.5},
    {"zero scale", 1, 40, 16, 1, {{70}}, .scale = 0, .weight = 2},
};
/* clang-format on */

static rng_key key = {{7, 9}, 0};
static uint64_t drawn;
static double normal(void) { return rng_normal(key, 0, drawn++); }

/* ---- memory with guards ---- */
static void *guarded(size_t bytes) {
    uint8_t *p = mem_alloc(align_up(bytes, 64) + 2 * GUARD);
    REQUIRE(p);
    memset(p, 0xa5, align_up(bytes, 64) + 2 * GUARD);
    return p + GUARD;
}
static void check_guard(void *data, size_t bytes) {
    const uint8_t *p = data;
    for (int i = 1; i <= GUARD; i++) REQUIRE(p[-i] == 0xa5);
    for (size_t i = bytes; i < align_up(bytes, 64) + GUARD; i++) REQUIRE(p[i] == 0xa5);
}
static void release(void *data) {
    if (data) mem_free((uint8_t *)data - GUARD);
}
static void *random_typed(dtype t, size_t n) {
    void *p = guarded(n * dtype_bytes(t));
    for (size_t i = 0; i < n; i++) dtype_store(p, t, (int64_t)i, normal());
    return p;
}

/* ---- the meaning, in double ---- */
typedef struct answer {
    double *y, *y_size, *lse, *dq, *dq_size, *dk[MAX_PARTS], *dk_size[MAX_PARTS], *dv[MAX_PARTS],
        *dv_size[MAX_PARTS];
} answer;

static double score(const host_attention_args *a, int h, int64_t i, int p, int64_t k,
                    int64_t global) {
    const host_attention_part *part = &a->part[p];
    if (part->offset == -INFINITY || (a->causal && global + k > i)) return -INFINITY;
    double s = 0;
    for (int64_t c = 0; c < a->kw; c++)
        s += dtype_load(a->q, a->type, i * a->ld_q + h * a->kw + c) *
             dtype_load(part->k, a->type, k * a->ld_q + h * a->kw + c);
    s = s * (double)a->scale + (double)part->offset;
    if (part->bias) s += (double)part->bias[h * part->bias_h + i * part->bias_q + k * part->bias_k];
    return s;
}

/* Row i of head h: p over all keys concatenated. */
static double softmax_row(const host_attention_args *a, int h, int64_t i, double *p) {
    double top = -INFINITY, sum = 0;
    int64_t global = 0, n = 0;
    for (int s = 0; s < a->n_parts; global += a->part[s++].t)
        for (int64_t k = 0; k < a->part[s].t; k++, n++) {
            p[n] = score(a, h, i, s, k, global);
            top = fmax(top, p[n]);
        }
    for (int64_t k = 0; k < n; k++) sum += p[k] = top == -INFINITY ? 0 : exp(p[k] - top);
    for (int64_t k = 0; k < n; k++) p[k] /= sum > 0 ? sum : 1;
    return sum > 0 ? top + log(sum) : -INFINITY;
}

static void naive_fwd(const host_attention_args *a, answer *r, double *p) {
    int64_t d = a->heads * a->kw;
    for (int h = 0; h < a->heads; h++)
        for (int64_t i = 0; i < a->tq; i++) {
            r->lse[h * a->tq + i] = softmax_row(a, h, i, p);
            for (int64_t c = h * a->kw; c < (h + 1) * a->kw; c++) {
                double y = 0, size = 0;
                int64_t n = 0;
                for (int s = 0; s < a->n_parts; s++)
                    for (int64_t k = 0; k < a->part[s].t; k++, n++) {
                        double v = dtype_load(a->part[s].v, a->type, k * a->ld_q + c);
                        y += p[n] * v, size += p[n] * fabs(v);
                    }
                r->y[i * d + c] = y, r->y_size[i * d + c] = size;
            }
        }
}

static void naive_bwd(const host_attention_args *a, answer *r, double *p) {
    int64_t d = a->heads * a->kw, kw = a->kw;
    double scale = (double)a->scale;
    for (int h = 0; h < a->heads; h++)
        for (int64_t i = 0; i < a->tq; i++) {
            softmax_row(a, h, i, p);
            double delta = (double)a->delta[h * a->tq + i];
            int64_t n = 0;
            for (int s = 0; s < a->n_parts; s++)
                for (int64_t k = 0; k < a->part[s].t; k++, n++) {
                    double dp = 0, size = fabs(delta);
                    for (int64_t c = h * kw; c < (h + 1) * kw; c++) {
                        double dy = (double)a->dy[i * d + c],
                               v = dtype_load(a->part[s].v, a->type, k * a->ld_q + c);
                        dp += dy * v, size += fabs(dy * v);
                        r->dv[s][k * d + c] += p[n] * dy,
                            r->dv_size[s][k * d + c] += p[n] * fabs(dy);
                    }
                    double ds = p[n] * (dp - delta) * scale, ds_size = p[n] * size * fabs(scale);
                    for (int64_t c = h * kw; c < (h + 1) * kw; c++) {
                        double kk = dtype_load(a->part[s].k, a->type, k * a->ld_q + c),
                               q = dtype_load(a->q, a->type, i * a->ld_q + c);
                        r->dq[i * d + c] += ds * kk, r->dq_size[i * d + c] += ds_size * fabs(kk);
                        r->dk[s][k * d + c] += ds * q,
                            r->dk_size[s][k * d + c] += ds_size * fabs(q);
                    }
                }
        }
}

/* ---- one problem: inputs, answer ---- */
typedef struct problem {
    spec s;
    host_attention_args a;
    host_attention_part part[MAX_PARTS];
    answer r;
    arena mem;
    float *bias[MAX_PARTS];
    int64_t d, keys;
} problem;

static float *make_bias(const spec *s, host_attention_part *p, int kind) {
    int64_t n = s->heads * s->tq * MAX(p->t, 1);
    float *b = guarded((size_t)n * sizeof(float));
    for (int64_t i = 0; i < n; i++) {
        b[i] = (float)normal();
        if (kind == 5 && (i % 3 == 1 || i / p->t % 4 == 0)) b[i] = -INFINITY; /* some rows wholly */
    }
    p->bias = b;
    if (kind == 1 || kind == 5) p->bias_h = s->tq * p->t, p->bias_q = p->t, p->bias_k = 1;
    if (kind == 2) p->bias_q = p->t, p->bias_k = 1;
    if (kind == 3) p->bias_k = 1;
    if (kind == 4) p->bias_h = s->tq, p->bias_q = 1;
    if (kind == 6) p->bias_k = s->tq * s->heads, p->bias_q = s->heads, p->bias_h = 1;
    return b;
}

static void problem_open(problem *pr, const spec *s, dtype t) {
    *pr = (problem){.s = *s};
    host_attention_args *a = &pr->a;
    double weight = s->weight != 0 ? s->weight : 1;
    double scale =
        s->scale != 0 || !strcmp(s->name, "zero scale") ? s->scale : 1 / sqrt((double)s->kw);
    pr->d = s->heads * s->kw;
    *a = (host_attention_args){.type = t,
                               .heads = s->heads,
                               .tq = s->tq,
                               .kw = s->kw,
                               .scale = (float)scale,
                               .causal = s->causal,
                               .ld_q = pr->d + s->extra_ld,
                               .n_parts = s->n_parts,
                               .part = pr->part,
                               .weight = (float)weight,
                               .accumulate = s->accumulate};
    a->q =
        random_typed(t, (size_t)((s->tq - 1) * a->ld_q + pr->d)); /* ends with the last element */
    arena *m = &pr->mem;
    answer *r = &pr->r;
    int64_t nq = s->tq * pr->d;
    r->y = arena_new(m, double, nq), r->y_size = arena_new(m, double, nq),
    r->dq = arena_new(m, double, nq);
    r->dq_size = arena_new(m, double, nq), r->lse = arena_new(m, double, s->heads * s->tq);
    for (int p = 0; p < s->n_parts; p++) {
        host_attention_part *part = &pr->part[p];
        int from = s->part[p].same_as - 1;
        int64_t n = s->part[p].t ? (s->part[p].t - 1) * a->ld_q + pr->d : 0,
                nk = s->part[p].t * pr->d;
        *part = (host_attention_part){.t = s->part[p].t, .offset = (float)s->part[p].offset};
        part->k = from < 0 ? random_typed(t, (size_t)n) : pr->part[from].k;
        part->v = from < 0 ? random_typed(t, (size_t)n) : pr->part[from].v;
        r->dk[p] = from < 0 ? arena_new(m, double, nk) : r->dk[from];
        r->dv[p] = from < 0 ? arena_new(m, double, nk) : r->dv[from];
        r->dk_size[p] = from < 0 ? arena_new(m, double, nk) : r->dk_size[from];
        r->dv_size[p] = from < 0 ? arena_new(m, double, nk) : r->dv_size[from];
        if (s->part[p].bias) pr->bias[p] = make_bias(s, part, s->part[p].bias);
        pr->keys += part->t;
    }
    double *row = arena_new(m, double, pr->keys + 1);
    naive_fwd(a, r, row);
    float *dy = arena_new(m, float, nq), *delta = arena_new(m, float, s->heads * s->tq);
    for (int64_t i = 0; i < nq; i++) dy[i] = (float)(weight * normal());
    for (int h = 0; h < s->heads; h++)
        for (int64_t i = 0; i < s->tq; i++) {
            double sum = 0;
            for (int64_t c = h * s->kw; c < (h + 1) * s->kw; c++)
                sum += (double)dy[i * pr->d + c] * r->y[i * pr->d + c];
            delta[h * s->tq + i] = (float)sum;
        }
    a->dy = dy, a->delta = delta;
    naive_bwd(a, r, row);
}
static void problem_close(problem *pr) {
    release((void *)pr->a.q);
    for (int p = 0; p < pr->s.n_parts; p++) {
        if (!pr->s.part[p].same_as) release((void *)pr->part[p].k), release((void *)pr->part[p].v);
        release(pr->bias[p]);
    }
    arena_fini(&pr->mem);
}

static void compare(const problem *pr, host_isa isa, const char *what, const float *got,
                    double begin, double factor, const double *want, const double *size, int64_t n,
                    double tol) {
    for (int64_t i = 0; i < n; i++) {
        double w = begin + factor * want[i],
               limit = tol * (fabs(factor) * size[i] + fabs(begin)) + 1e-6;
        if (!(fabs((double)got[i] - w) <= limit)) {
            printf("FAIL %s %s isa %d %s[%lld]: %g, expected %g +- %g\n", pr->s.name,
                   dtype_name(pr->a.type), isa, what, (long long)i, (double)got[i], w, limit);
            exit(1);
        }
    }
}

/* A score of size x has a float's error of x 2^-24 a few times over, and p that as relative error.
 */
static double score_error(const problem *pr) {
    double most = 0;
    for (int64_t i = 0; i < pr->s.heads * pr->s.tq; i++)
        if (!isinf(pr->r.lse[i])) most = fmax(most, fabs(pr->r.lse[i]));
    return most * 0x1p-21;
}

static float *filled(int64_t n, float x) {
    float *p = guarded((size_t)n * sizeof(float));
    for (int64_t i = 0; i < n; i++) p[i] = x;
    return p;
}

static void run_forward(host *h, host_isa isa, problem *pr, float *y, float *lse) {
    size_t bytes = attention_scratch(isa, host_threads(h), &pr->a, false);
    void *scratch = guarded(bytes);
    pr->a.y = y, pr->a.lse = lse;
    attention_fwd(h, isa, &pr->a, scratch);
    check_guard(scratch, bytes);
    release(scratch);
}

static void check_forward(host *h, host *alone, host_isa isa, problem *pr, double tol) {
    int64_t n = pr->s.tq * pr->d, rows = pr->s.heads * pr->s.tq;
    double begin = pr->s.accumulate ? 0.5 : 0;
    float *y = filled(n, 0.5f), *lse = filled(rows, 1), *y1 = filled(n, 0.5f),
          *lse1 = filled(rows, 1);
    run_forward(h, isa, pr, y, lse);
    check_guard(y, (size_t)n * 4), check_guard(lse, (size_t)rows * 4);
    compare(pr, isa, "y", y, begin, (double)pr->a.weight, pr->r.y, pr->r.y_size, n, tol);
    for (int64_t i = 0; i < rows; i++) {
        double w = pr->r.lse[i];
        REQUIRE(isinf(w) ? (double)lse[i] == w : fabs((double)lse[i] - w) <= 2e-5 * (1 + fabs(w)));
    }
    run_forward(alone, isa, pr, y1, lse1); /* the number of threads changes nothing */
    REQUIRE(!memcmp(y, y1, (size_t)n * 4) && !memcmp(lse, lse1, (size_t)rows * 4));
    release(y), release(y1), release(lse), release(lse1);
}

static void check_backward(host *h, host_isa isa, problem *pr, double tol) {
    int64_t n = pr->s.tq * pr->d, rows = pr->s.heads * pr->s.tq;
    float *dq = filled(n, 0.25f), *lse = filled(rows, 0), *dk[MAX_PARTS] = {0},
          *dv[MAX_PARTS] = {0};
    for (int64_t i = 0; i < rows; i++) lse[i] = (float)pr->r.lse[i];
    for (int p = 0; p < pr->s.n_parts; p++) {
        int from = pr->s.part[p].same_as - 1;
        dk[p] = from < 0 ? filled(pr->part[p].t * pr->d, 0.25f) : dk[from];
        dv[p] = from < 0 ? filled(pr->part[p].t * pr->d, 0.25f) : dv[from];
        pr->part[p].dk = dk[p], pr->part[p].dv = dv[p];
    }
    size_t bytes = attention_scratch(isa, host_threads(h), &pr->a, true);
    void *scratch = guarded(bytes);
    pr->a.dq = dq, pr->a.lse = lse;
    attention_bwd(h, isa, &pr->a, scratch);
    check_guard(scratch, bytes), check_guard(dq, (size_t)n * 4);
    compare(pr, isa, "dq", dq, 0.25, 1, pr->r.dq, pr->r.dq_size, n, tol);
    for (int p = 0; p < pr->s.n_parts; p++) {
        int64_t nk = pr->part[p].t * pr->d;
        check_guard(dk[p], (size_t)nk * 4), check_guard(dv[p], (size_t)nk * 4);
        compare(pr, isa, "dk", dk[p], 0.25, 1, pr->r.dk[p], pr->r.dk_size[p], nk, tol);
        compare(pr, isa, "dv", dv[p], 0.25, 1, pr->r.dv[p], pr->r.dv_size[p], nk, tol);
    }
    for (int p = 0; p < pr->s.n_parts; p++)
        if (!pr->s.part[p].same_as) release(dk[p]), release(dv[p]);
    release(dq), release(lse), release(scratch);
}

/* The gradient in double against (loss(x + e) - loss(x - e)) / 2e, loss = sum(dy * y). */
static double loss(problem *pr, double *row) {
    double l = 0;
    naive_fwd(&pr->a, &pr->r, row);
    for (int64_t i = 0; i < pr->s.tq * pr->d; i++) l += (double)pr->a.dy[i] * pr->r.y[i];
    return l;
}
static void check_difference(problem *pr, double *row, float *x, double want) {
    float old = *x, e = 1.0f / 1024;
    *x = old + e;
    double up = loss(pr, row), xu = (double)*x;
    *x = old - e;
    double down = loss(pr, row), xd = (double)*x;
    *x = old;
    double got = (up - down) / (xu - xd);
    REQUIRE(fabs(got - want) < 1e-5 * (1 + fabs(want)));
}
static void test_differences(void) {
    const spec s = {"differences", 2, 5, 3, 2, {{4, 0.3, 1}, {3, -0.2}}, .causal = true,
                    .weight = 0.5};
    problem pr;
    problem_open(&pr, &s, DT_F32);
    double *row = arena_new(&pr.mem, double, pr.keys);
    for (int64_t i = 0; i < s.tq * pr.d; i++)
        check_difference(&pr, row, (float *)pr.a.q + i, pr.r.dq[i]);
    for (int p = 0; p < s.n_parts; p++)
        for (int64_t i = 0; i < s.part[p].t * pr.d; i++) {
            check_difference(&pr, row, (float *)pr.part[p].k + i, pr.r.dk[p][i]);
            check_difference(&pr, row, (float *)pr.part[p].v + i, pr.r.dv[p][i]);
        }
    problem_close(&pr);
}

/* A NaN in a query must come out of that query's row and no other. */
static void test_nan(host *h, host_isa isa, dtype t) {
    const spec s = {"nan", 1, 70, 16, 1, {{40}}};
    problem pr;
    problem_open(&pr, &s, t);
    dtype_store((void *)pr.a.q, t, 33 * pr.a.ld_q + 2, NAN);
    float *y = filled(70 * 16, 0), *lse = filled(70, 0);
    run_forward(h, isa, &pr, y, lse);
    for (int i = 0; i < 70 * 16; i++) REQUIRE(isnan(y[i]) == (i / 16 == 33));
    release(y), release(lse);
    problem_close(&pr);
}

static void test_f16(void) {
    for (uint32_t i = 0; i < 65536; i++) {
        float want = f16_to_f32((uint16_t)i), got = lane_from_f16((uint16_t)i);
        REQUIRE(isnan(want) ? isnan(got) : !memcmp(&want, &got, 4));
    }
}

static void test_public(host *h) {
    const spec s = {"public", 4, 33, 16, 1, {{44}}};
    problem pr;
    problem_open(&pr, &s, DT_F32);
    REQUIRE_EQ(host_attention_scratch(h, &pr.a, true),
               attention_scratch(host_get_isa(h), host_threads(h), &pr.a, true));
    float *y = filled(33 * 64, 0), *lse = filled(4 * 33, 0), *dq = filled(33 * 64, 0);
    void *scratch = guarded(host_attention_scratch(h, &pr.a, false)),
         *back = guarded(host_attention_scratch(h, &pr.a, true));
    pr.a.y = y, pr.a.lse = lse, pr.a.dq = dq;
    host_attention_fwd(h, &pr.a, scratch);
    compare(&pr, host_get_isa(h), "y", y, 0, 1, pr.r.y, pr.r.y_size, 33 * 64, 2e-5);
    host_attention_bwd(h, &pr.a, back); /* dk and dv NULL: not wanted */
    compare(&pr, host_get_isa(h), "dq", dq, 0, 1, pr.r.dq, pr.r.dq_size, 33 * 64, 2e-5);
    release(y), release(lse), release(dq), release(scratch), release(back);
    problem_close(&pr);
}

int main(void) {
    host *h = NULL, *alone = NULL;
    REQUIRE_OK(host_open(3, &h));
    REQUIRE_OK(host_open(1, &alone));
    host_isa most = host_get_isa(h);
    test_differences();
    test_f16();
    static const dtype types[] = {DT_F32, DT_F16, DT_BF16};
    for (size_t t = 0; t < ARRAY_LEN(types); t++) {
        for (size_t i = 0; i < ARRAY_LEN(specs); i++) {
            problem pr;
            problem_open(&pr, &specs[i], types[t]);
            for (int isa = ISA_BASE; isa <= (int)most; isa++) {
                /* The bf16 paths round p, dS and dy to bf16: each 2^-9, and the sum of two such errors. */
                double tol =
                    (isa >= ISA_AVX512_BF16 && types[t] == DT_BF16 ? 0x1p-7 : 2e-5) + score_error(&pr);
                check_forward(h, alone, (host_isa)isa, &pr, tol);
                check_backward(h, (host_isa)isa, &pr, tol);
            }
            problem_close(&pr);
        }
        for (int isa = ISA_BASE; isa <= (int)most; isa++) test_nan(h, (host_isa)isa, types[t]);
    }
    test_public(h);
    host_close(h), host_close(alone);
    REQUIRE_EQ(mem_live(), 0);
    printf("attention: %zu cases x 3 types, instruction sets 0..%d\n", ARRAY_LEN(specs), most);
    return 0;
}
