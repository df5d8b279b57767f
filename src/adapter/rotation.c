/* rotation.c: see rotation.h: hooks and merging of adapters that rotate.
 * SPDX-License-Identifier: MIT */
#include "adapter/rotation.h"
#include <math.h>
#include <stdio.h>

#define CERTAIN 0x1p30f /* makes a step of a ramp: random numbers are multiples of 2^-24 */

int64_t rotation_axis(const adapter_site *s) {
    int64_t all = shape_count(&s->w);
    return s->opts->output_side ? s->w.d[0] : all / s->w.d[0];
}

status rotation_tensors(const adapter_site *s, const rotation_dims *z, adapter_tensor t[], int *n) {
    t[0] = (adapter_tensor){ROTATION_KEY, SHAPE(z->factors, z->blocks, z->b, z->b), false, true};
    *n = 1;
    if (s->opts->row_scale)
        t[(*n)++] = (adapter_tensor){ROTATION_SCALE_KEY, SHAPE(s->w.d[0]), true, false};
    return OK;
}

void rotation_init(const adapter_site *s, float *const t[], const float *w, uint32_t seed) {
    (void)w;
    (void)seed;
    for (int64_t i = 0; s->opts->row_scale && i < s->w.d[0]; i++) t[1][i] = 1.0f;
}

bool rotation_by_weight(const adapter_site *s) {
    return !s->opts->output_side && s->w.n == 4 && s->w.d[2] * s->w.d[3] > 1;
}
bool rotation_scales_output(const adapter_site *s) {
    return s->opts->output_side || s->opts->row_scale;
}

/* ---- in the graph ---- */

static tensor *swapped(graph *g, tensor *x, int i, const char *at) {
    int perm[MAX_DIMS];
    for (int k = 0; k < MAX_DIMS; k++) perm[k] = k == i ? i + 1 : k == i + 1 ? i : k;
    return op_transpose_(g, x, perm, at);
}

tensor *rotation_skew(graph *g, const adapter_site *s) {
    tensor *a = adapter_param(g, s, ROTATION_KEY);
    tensor *q =
        op_scale_(g, op_binary_(g, a, swapped(g, a, 2, s->at), B_SUB, s->at), 0.5f, 0, s->at);
    return adapter_scaled(g, s, q);
}

/* [1, 1, b, b]: a column of ones padded to rows of b + 1, read as rows of b */
static tensor *identity(graph *g, int64_t b, const char *at) {
    int64_t none[MAX_DIMS] = {0}, after[MAX_DIMS] = {0, b};
    tensor *eye = op_pad_(g, op_zeros_(g, DT_F32, SHAPE(b, 1), 1.0f, at), none, after, 0.0f, at);
    eye = op_slice_(g, op_reshape_(g, eye, SHAPE(b * (b + 1)), at), 0, 0, b * b, at);
    return op_reshape_(g, eye, SHAPE(1, 1, b, b), at);
}

tensor *rotation_cayley(graph *g, tensor *q, const char *at) {
    int64_t b = q->s.d[3];
    if (b > ROTATION_MAX_CAYLEY) {
        graph_fail(g, at, E_UNSUPPORTED, "rotation blocks of %lld: at most %d; choose smaller ones",
                   (long long)b, ROTATION_MAX_CAYLEY);
        return q;
    }
    return op_solve_(g, op_binary_(g, q, identity(g, b, at), B_ADD, at), op_scale_(g, q, -2, 0, at),
                     at);
}

tensor *rotation_dropped(graph *g, const adapter_site *s, tensor *d) {
    float p = s->opts->dropout;
    if (p <= 0 || !s->seed || !s->step) return d;
    int64_t factors = d->s.d[0], blocks = d->s.d[1];
    char name[ADAPTER_KEY_BYTES];
    snprintf(name, sizeof name, "%s dropout", s->layer);
    tensor *u = op_noise_(g, s->seed, s->step, rng_stream(name), SHAPE(1, factors, blocks, 1, 1),
                          DT_F32, false, s->at);
    tensor *keep = op_clamp_(g, op_scale_(g, u, CERTAIN, -p * CERTAIN, s->at), 0, 1,
                             s->at); /* 1 where u > p */
    keep = op_reshape_(g, keep, SHAPE(factors, blocks, 1, 1), s->at);
    if (factors == 1) return op_binary_(g, d, keep, B_MUL, s->at);
    /* several factors: blocks of one of them, drawn anew each step */
    snprintf(name, sizeof name, "%s factor", s->layer);
    tensor *which =
        op_noise_(g, s->seed, s->step, rng_stream(name), SHAPE(1, 1), DT_F32, false, s->at);
    tensor *part[ADAPTER_MAX_FACTORS];
    for (int64_t i = 0; i < factors; i++) {
        float lo = (float)i / (float)factors, hi = (float)(i + 1) / (float)factors;
        tensor *above = op_clamp_(g, op_scale_(g, which, CERTAIN, -lo * CERTAIN + 1, s->at), 0, 1,
                                  s->at); /* u >= lo */
        tensor *beyond = op_clamp_(g, op_scale_(g, which, CERTAIN, -hi * CERTAIN + 1, s->at), 0, 1,
                                   s->at); /* u >= hi */
        tensor *other = op_scale_(g, op_binary_(g, above, beyond, B_SUB, s->at), -1, 1,
                                  s->at); /* 0 for the chosen */
        tensor *own = op_slice_(g, keep, 0, i, i + 1, s->at);
        tensor *lost = op_scale_(g, own, -1, 1, s->at);
        part[i] = op_binary_(
            g, own,
            op_binary_(g, lost, op_reshape_(g, other, SHAPE(1, 1, 1, 1), s->at), B_MUL, s->at),
            B_ADD, s->at);
    }
    return op_binary_(g, d, op_concat_(g, part, (int)factors, 0, s->at), B_MUL, s->at);
}

/* x [..., d] D_i of one factor, or x [..., d] D_i^T: what the factor adds to x. */
static tensor *factor_delta(graph *g, const adapter_site *s, tensor *x, tensor *d, int64_t i,
                            bool transposed) {
    const char *at = s->at;
    int64_t blocks = d->s.d[1], b = d->s.d[3], n = x->s.d[x->s.n - 1], rows = tensor_count(x) / n,
            j = (int64_t)1 << i, h = b / 2;
    tensor *own = op_cast_(
        g, op_reshape_(g, op_slice_(g, d, 0, i, i + 1, at), SHAPE(blocks, b, b), at), x->dtype, at);
    shape s_x = x->s;
    if (i == 0) {
        if (blocks * b != n)
            x = op_reshape_(g, x, SHAPE(rows * (n / b), b), at); /* one block for all */
        return op_reshape_(g, op_block_matmul_(g, x, own, transposed, at), s_x, at);
    }
    x = swapped(g, op_reshape_(g, x, SHAPE(rows, n / (j * b), 2, j, h), at), 2, at);
    x = op_block_matmul_(g, op_reshape_(g, x, SHAPE(rows, n), at), own, transposed, at);
    x = swapped(g, op_reshape_(g, x, SHAPE(rows, n / (j * b), j, 2, h), at), 2, at);
    return op_reshape_(g, x, s_x, at);
}

static tensor *rotated(graph *g, const adapter_site *s, tensor *x, tensor *d, bool transposed,
                       bool ascending) {
    int64_t m = d->s.d[0];
    for (int64_t k = 0; k < m; k++)
        x = op_binary_(g, x, factor_delta(g, s, x, d, ascending ? k : m - 1 - k, transposed), B_ADD,
                       s->at);
    return x;
}

/* y [..., O] or w [O, ...] (rows) times 1 + m (s - 1) */
static tensor *scaled_rows(graph *g, const adapter_site *s, tensor *x, bool rows) {
    if (!s->opts->row_scale) return x;
    tensor *k = op_reshape_(g, adapter_param(g, s, ROTATION_SCALE_KEY), SHAPE(1, s->w.d[0]), s->at);
    if (s->strength)
        k = op_scale_(g, adapter_scaled(g, s, op_scale_(g, k, 1, -1, s->at)), 1, 1, s->at);
    k = op_reshape_(g, k, rows ? SHAPE(s->w.d[0], 1) : SHAPE(s->w.d[0]), s->at);
    return op_binary_(g, x, op_cast_(g, k, x->dtype, s->at), B_MUL, s->at);
}

tensor *rotation_input(graph *g, const adapter_site *s, tensor *d, tensor *x) {
    return s->opts->output_side ? x : rotated(g, s, x, d, false, s->opts->ascending);
}

tensor *rotation_output(graph *g, const adapter_site *s, tensor *d, tensor *y) {
    if (s->opts->output_side) y = rotated(g, s, y, d, false, s->opts->ascending);
    return scaled_rows(g, s, y, false);
}

tensor *rotation_weight(graph *g, const adapter_site *s, tensor *d, tensor *w) {
    shape full = w->s;
    tensor *rows = op_reshape_(g, w, SHAPE(s->w.d[0], tensor_count(w) / s->w.d[0]), s->at);
    if (s->opts->output_side)
        rows = swapped(g, rotated(g, s, swapped(g, rows, 0, s->at), d, false, s->opts->ascending),
                       0, s->at);
    else
        rows = rotated(g, s, rows, d, true, !s->opts->ascending);
    return op_reshape_(g, scaled_rows(g, s, rows, true), full, s->at);
}

/* ---- on the host ---- */

/* x with a x = b0, both [n, n]; a is destroyed, b becomes x. Partial pivoting. */
static void solve_host(int64_t n, double *a, double *x) {
    for (int64_t k = 0; k < n; k++) {
        int64_t p = k;
        for (int64_t i = k + 1; i < n; i++)
            if (fabs(a[i * n + k]) > fabs(a[p * n + k])) p = i;
        for (int64_t c = 0; c < n && p != k; c++) {
            double ta = a[p * n + c], tx = x[p * n + c];
            a[p * n + c] = a[k * n + c], x[p * n + c] = x[k * n + c];
            a[k * n + c] = ta, x[k * n + c] = tx;
        }
        for (int64_t i = 0; i < n; i++) {
            double f = i == k ? 0 : a[i * n + k] / a[k * n + k];
            for (int64_t c = k; c < n && f != 0; c++) a[i * n + c] -= f * a[k * n + c];
            for (int64_t c = 0; c < n && f != 0; c++) x[i * n + c] -= f * x[k * n + c];
        }
    }
    for (int64_t i = 0; i < n; i++)
        for (int64_t c = 0; c < n; c++) x[i * n + c] /= a[i * n + i];
}

void rotation_cayley_host(const adapter_options *o, int64_t b, const double *q, double *d,
                          double *work) {
    (void)o;
    for (int64_t i = 0; i < b * b; i++) work[i] = q[i] + (i / b == i % b), d[i] = -2 * q[i];
    solve_host(b, work, d);
}

bool rotation_log(int64_t b, const float *r, float *a, double *work) {
    double *x = work + b * b, worst = 0;
    for (int64_t i = 0; i < b * b; i++) {
        double one = i / b == i % b;
        work[i] = one + (double)r[i];
        x[i] = one - (double)r[i];
    }
    solve_host(b, work, x);
    for (int64_t i = 0; i < b; i++)
        for (int64_t j = 0; j < b; j++) {
            a[i * b + j] = (float)(0.5 * (x[i * b + j] - x[j * b + i]));
            double symmetric = fabs(x[i * b + j] + x[j * b + i]);
            if (!(symmetric <= worst)) worst = symmetric;
        }
    return worst < 1e-2;
}

/* D of (I + D)^-1 */
static void inverted(int64_t b, double *d, double *work, double *out) {
    for (int64_t i = 0; i < b * b; i++) work[i] = d[i] + (i / b == i % b), out[i] = -d[i];
    solve_host(b, work, out);
    memcpy(d, out, (size_t)(b * b) * sizeof *d);
}

static int64_t coordinate(int64_t factor, int64_t b, int64_t k, int64_t e) {
    int64_t j = (int64_t)1 << factor, h = b / 2;
    return factor == 0 ? k * b + e : ((k / j * 2 + e / h) * j + k % j) * h + e % h;
}

/* Every vector along the axis, v += v D (or v D^T) in block k of a factor. */
static void turn(const adapter_site *s, int64_t factor, int64_t k, int64_t b, const double *d,
                 bool transposed, float *w, double *v) {
    int64_t axis = rotation_axis(s), other = shape_count(&s->w) / axis;
    int64_t along = s->opts->output_side ? other : 1, across = s->opts->output_side ? 1 : axis;
    for (int64_t o = 0; o < other; o++) {
        for (int64_t e = 0; e < b; e++)
            v[e] = (double)w[o * across + coordinate(factor, b, k, e) * along];
        for (int64_t e = 0; e < b; e++) {
            double sum = v[e];
            for (int64_t q = 0; q < b; q++)
                sum += v[q] * (transposed ? d[e * b + q] : d[q * b + e]);
            w[o * across + coordinate(factor, b, k, e) * along] = (float)sum;
        }
    }
}

static status scale_host(const adapter_site *s, const float *t, double m, bool inverse, float *w) {
    int64_t cols = shape_count(&s->w) / s->w.d[0];
    for (int64_t o = 0; o < s->w.d[0]; o++) {
        double k = 1 + m * ((double)t[o] - 1);
        if (inverse && k == 0)
            return fail(E_UNSUPPORTED, "%s: output %lld was scaled to 0, which has no inverse",
                        s->layer, (long long)o);
        for (int64_t c = 0; c < cols; c++)
            w[o * cols + c] = (float)((double)w[o * cols + c] * (inverse ? 1 / k : k));
    }
    return OK;
}

status rotation_merge(const adapter_site *s, const rotation_dims *z, rotation_delta delta,
                      const float *const t[], double m, bool inverse, float *w) {
    status st = OK;
    int64_t b = z->b, bb = b * b;
    bool transposed = !s->opts->output_side, ascending = s->opts->ascending != transposed;
    double *mem = mem_alloc((size_t)(4 * bb + b) * sizeof *mem), *q = mem, *d = mem + bb,
           *work = d + bb, *extra = work + bb;
    if (!mem) return fail(E_HOST_MEMORY, "no host memory to merge %s", s->layer);
    if (inverse && s->opts->row_scale) TRY(scale_host(s, t[1], m, true, w));
    for (int64_t f = 0; f < z->factors; f++) {
        int64_t i = ascending != inverse ? f : z->factors - 1 - f;
        for (int64_t k = 0; k < z->d / b; k++) {
            const float *a = t[0] + (i * z->blocks + k % z->blocks) * bb;
            if (k < z->blocks) {
                for (int64_t r = 0; r < b; r++)
                    for (int64_t c = 0; c < b; c++)
                        q[r * b + c] = m * 0.5 * ((double)a[r * b + c] - (double)a[c * b + r]);
                delta(s->opts, b, q, d, work);
                if (inverse) inverted(b, d, work, q);
            }
            turn(s, i, k, b, d, transposed, w, extra + bb);
        }
    }
    if (!inverse && s->opts->row_scale) TRY(scale_host(s, t[1], m, false, w));
out:
    mem_free(mem);
    return st;
}
