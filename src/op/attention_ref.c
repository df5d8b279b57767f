/* attention_ref.c: the meaning of attention and of its gradient, in double, straight from the formulas:
 *   x_j = scale q.k_j + offset[part] + bias + table[region of i, region of j],  -inf where causal hides j
 *   lse = ln sum_j exp(x_j),  p_j = exp(x_j - lse),  out_s = sum_j p_j v_j,  y = sum_s w_s out_s
 *   D = dy . out_s,  e_j = p_j (w dy.v_j - w D + dlse),  dq = scale sum e_j k_j,  dk_j = scale sum_i e_j q_i,
 *   dv_j = sum_i w p_j dy_i
 * Scores are computed again for each block of channels: nothing is stored, so nothing can be short of memory.
 * SPDX-License-Identifier: MIT */
#include "op/attention_internal.h"
#include <math.h>

enum { BLOCK = 64 };                       /* channels summed at once */

/* One row of scores: query i of entry q, head h, under set s. */
typedef struct row { const node *n; const attention_geom *a; const attention_set *set; int64_t q, s, h, i; double lse; } row;
/* One key of it. j counts over the whole set. */
typedef struct key { int part, bank; int64_t entry, t, j; } key;

static double dot(const tensor *x, int64_t at, const tensor *y, int64_t bt, int64_t n) {
    double s = 0;
    if (x->dtype == DT_F64) {
        const double *u = (const double *)x->data + at, *v = (const double *)y->data + bt;
        for (int64_t c = 0; c < n; c++) s += u[c] * v[c];
        return s;
    }
    for (int64_t c = 0; c < n; c++) s += dtype_load(x->data, x->dtype, at + c) * dtype_load(y->data, y->dtype, bt + c);
    return s;
}

static int64_t at_query(const attention_geom *a, int64_t q, int64_t i, int64_t h) { return (q * a->tq + i) * a->d + h * a->k; }
static int64_t at_key(const attention_geom *a, const key *k, int64_t h) { return (k->entry * a->tb[k->bank] + k->t) * a->d + h * a->k; }

static bool key_next(const row *r, key *k) { /* start from part -1 */
    const attention_geom *a = r->a;
    if (k->part >= 0 && k->t + 1 < a->tb[k->bank]) {
        k->t++, k->j++;
        return true;
    }
    if (k->part + 1 == r->set->n) return false;
    k->j = k->part < 0 ? 0 : k->j + 1;
    k->part++;
    k->bank = r->set->part[k->part].bank;
    k->entry = r->set->part[k->part].entry;
    k->t = 0;
    return true;
}

static double score(const row *r, const key *k) {
    const attention_geom *a = r->a;
    const node *n = r->n;
    if (a->causal && k->j > r->i) return -INFINITY;
    double x = (double)a->scale * dot(n->in[AT_Q], at_query(a, r->q, r->i, r->h), n->in[AT_K + k->bank], at_key(a, k, r->h), a->k);
    if (n->in[AT_OFFSET]) x += IN(AT_OFFSET, (r->q * a->sets + r->s) * a->parts + k->part);
    if (n->in[AT_BIAS]) x += IN(AT_BIAS, r->q * a->bias_n + r->h * a->bias_h + r->i * a->bias_q + k->j * a->bias_k);
    if (n->in[AT_TABLE]) {
        int64_t rq = (int64_t)IN(AT_REGIONS_Q, r->q * a->tq + r->i), rk = (int64_t)IN(AT_REGIONS_K, r->q * a->tk + k->j);
        x += IN(AT_TABLE, MIN(rq, a->regions - 1) * a->regions + MIN(rk, a->regions - 1));
    }
    return x;
}

static double log_sum_exp(const row *r) {
    double top = -INFINITY, sum = 0;
    for (key k = {.part = -1}; key_next(r, &k);) {
        double x = score(r, &k);
        if (x > top) {
            sum = sum * (top == -INFINITY ? 0 : exp(top - x)) + 1;
            top = x;
        } else if (x > -INFINITY) {
            sum += exp(x - top);
        }
    }
    return sum > 0 ? top + log(sum) : -INFINITY;
}

static double chance(const row *r, const key *k) { return r->lse == -INFINITY ? 0 : exp(score(r, k) - r->lse); }

static double weight_of(const node *n, const attention_geom *a, int64_t q, int64_t s) {
    return n->in[AT_WEIGHTS] ? IN(AT_WEIGHTS, q * a->sets + s) : 1;
}

static int64_t at_lse(const attention_geom *a, int64_t q, int64_t s, int64_t h, int64_t i) {
    return ((q * a->sets + s) * a->heads + h) * a->tq + i;
}

/* Is one of elements [at, at + n) wanted by ref_step? */
static bool sampled(const tensor *t, int64_t at, int64_t n) {
    return t->ref_step <= 1 || (at + n - 1) / t->ref_step * t->ref_step >= at;
}

static void forward_row(const node *n, const attention_geom *a, int64_t q, int64_t h, int64_t i) {
    row r = {n, a, NULL, q, 0, h, i, 0};
    int64_t at = at_query(a, q, i, h);
    if (!sampled(n->out[0], at, a->k)) return;
    for (int64_t s = 0; s < a->sets; s++) {
        r.s = s;
        r.set = &a->set[q * a->sets + s];
        SET(1, at_lse(a, q, s, h, i), log_sum_exp(&r));
    }
    for (int64_t c0 = 0; c0 < a->k; c0 += BLOCK) {
        double y[BLOCK] = {0};
        int64_t nc = MIN(a->k - c0, BLOCK);
        if (!sampled(n->out[0], at + c0, nc)) continue;
        for (int64_t s = 0; s < a->sets; s++) {
            r.s = s;
            r.set = &a->set[q * a->sets + s];
            r.lse = OUT(1, at_lse(a, q, s, h, i));
            double w = weight_of(n, a, q, s);
            for (key k = {.part = -1}; key_next(&r, &k);) {
                double p = w * chance(&r, &k);
                for (int64_t c = 0; c < nc; c++) y[c] += p * IN(AT_V + k.bank, at_key(a, &k, h) + c0 + c);
            }
        }
        for (int64_t c = 0; c < nc; c++) SET(0, at + c0 + c, y[c]);
    }
}

void attention_ref(const node *n) {
    attention_geom a = attention_geometry(n);
    for (int64_t q = 0; q < a.nq; q++)
        for (int64_t h = 0; h < a.heads; h++)
            for (int64_t i = 0; i < a.tq; i++) forward_row(n, &a, q, h, i);
}

/* ---- gradient ---- */
static double dy_dot_v(const row *r, const key *k) {
    return dot(r->n->in[AT_DY], at_query(r->a, r->q, r->i, r->h), r->n->in[AT_V + k->bank], at_key(r->a, k, r->h), r->a->k);
}

static void ref_d(const row *r) {
    const node *n = r->n;
    int64_t at = at_query(r->a, r->q, r->i, r->h);
    double d = 0;
    if (!r->a->recompute) d = dot(n->in[AT_DY], at, n->in[AT_Y], at, r->a->k);
    for (key k = {.part = -1}; r->a->recompute && key_next(r, &k);) d += chance(r, &k) * dy_dot_v(r, &k);
    SET(0, at_lse(r->a, r->q, r->s, r->h, r->i), d);
}

/* e_j of the head comment. */
static double score_gradient(const row *r, const key *k, double p) {
    const node *n = r->n;
    int64_t at = at_lse(r->a, r->q, r->s, r->h, r->i);
    double w = weight_of(n, r->a, r->q, r->s), delta = attention_d_weight(r->a, w) * OUT(0, at);
    if (n->in[AT_DLSE]) delta -= IN(AT_DLSE, at);
    return p * (w * dy_dot_v(r, k) - delta);
}

static void ref_dq(const node *n, const attention_geom *a, int out, int64_t q, int64_t h, int64_t i) {
    int64_t at = at_query(a, q, i, h);
    for (int64_t c0 = 0; c0 < a->k; c0 += BLOCK) {
        double dq[BLOCK] = {0};
        int64_t nc = MIN(a->k - c0, BLOCK);
        for (int64_t s = 0; s < a->sets; s++) {
            row r = {n, a, &a->set[q * a->sets + s], q, s, h, i, IN(AT_LSE, at_lse(a, q, s, h, i))};
            for (key k = {.part = -1}; key_next(&r, &k);) {
                double e = (double)a->scale * score_gradient(&r, &k, chance(&r, &k));
                for (int64_t c = 0; c < nc; c++) dq[c] += e * IN(AT_K + k.bank, at_key(a, &k, h) + c0 + c);
            }
        }
        for (int64_t c = 0; c < nc; c++) SET(out, at + c0 + c, dq[c]);
    }
}

/* Adds what key t of one user of its entry gets: part p of set s of query entry q, whose first key is number j. */
static void add_user(const node *n, const attention_geom *a, row r, key k, int64_t c0, int64_t nc, double *dk, double *dv) {
    for (r.i = 0; r.i < a->tq; r.i++) {
        r.lse = IN(AT_LSE, at_lse(a, r.q, r.s, r.h, r.i));
        double p = chance(&r, &k), e = (double)a->scale * score_gradient(&r, &k, p), w = weight_of(n, a, r.q, r.s);
        int64_t at = at_query(a, r.q, r.i, r.h) + c0;
        for (int64_t c = 0; c < nc; c++) {
            dk[c] += e * IN(AT_Q, at + c);
            dv[c] += w * p * IN(AT_DY, at + c);
        }
    }
}

static void ref_dkv(const node *n, const attention_geom *a, int bank, int64_t entry, int64_t h, int64_t t) {
    int out_k = attention_bwd_out(n, WANT_K + 2 * bank), out_v = attention_bwd_out(n, WANT_V + 2 * bank);
    for (int64_t c0 = 0; c0 < a->k; c0 += BLOCK) {
        double dk[BLOCK] = {0}, dv[BLOCK] = {0};
        int64_t nc = MIN(a->k - c0, BLOCK), at = (entry * a->tb[bank] + t) * a->d + h * a->k + c0;
        for (int64_t us = 0; us < a->nq * a->sets; us++) {
            row r = {n, a, &a->set[us], us / a->sets, us % a->sets, h, 0, 0};
            for (key k = {.part = -1}; key_next(&r, &k);)
                if (k.bank == bank && k.entry == entry && k.t == t) add_user(n, a, r, k, c0, nc, dk, dv);
        }
        for (int64_t c = 0; c < nc; c++) {
            if (out_k >= 0) SET(out_k, at + c, dk[c]);
            if (out_v >= 0) SET(out_v, at + c, dv[c]);
        }
    }
}

void attention_bwd_ref(const node *n) {
    attention_geom a = attention_geometry(n);
    int out_q = attention_bwd_out(n, WANT_Q);
    for (int64_t q = 0; q < a.nq; q++)
        for (int64_t h = 0; h < a.heads; h++)
            for (int64_t i = 0; i < a.tq; i++) {
                for (int64_t s = 0; s < a.sets; s++)
                    ref_d(&(row){n, &a, &a.set[q * a.sets + s], q, s, h, i, IN(AT_LSE, at_lse(&a, q, s, h, i))});
                if (out_q >= 0) ref_dq(n, &a, out_q, q, h, i);
            }
    for (int b = 0; b < a.banks; b++)
        for (int64_t e = 0; e < a.nb[b]; e++)
            for (int64_t h = 0; h < a.heads; h++)
                for (int64_t t = 0; t < a.tb[b]; t++) ref_dkv(n, &a, b, e, h, t);
}
