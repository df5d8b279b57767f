/* factor.c: the nearest matrix of a given rank, by subspace iteration in double: only products with
 * d, and small eigenproblems. SPDX-License-Identifier: MIT */
#include "adapter/adapter_write.h"
#include <math.h>

enum {
    SPARE = 8,
    ROUNDS = 12,
    SWEEPS = 30
}; /* spare directions, and rounds, make the last kept one converge */

/* Columns of q [n, k] orthonormal (modified Gram-Schmidt, twice: once is not enough in
 * near-dependence). */
static void orthonormal(int64_t n, int64_t k, double *q) {
    for (int64_t j = 0; j < k; j++)
        for (int again = 0; again < 2; again++) {
            for (int64_t i = 0; i < j; i++) {
                double dot = 0;
                for (int64_t e = 0; e < n; e++) dot += q[e * k + i] * q[e * k + j];
                for (int64_t e = 0; e < n; e++) q[e * k + j] -= dot * q[e * k + i];
            }
            double norm = 0;
            for (int64_t e = 0; e < n; e++) norm += q[e * k + j] * q[e * k + j];
            for (int64_t e = 0; e < n; e++) q[e * k + j] = norm > 0 ? q[e * k + j] / sqrt(norm) : 0;
        }
}

/* y [o, k] = d q, q [c, k] */
static void times(int64_t o, int64_t c, int64_t k, const float *d, const double *q, double *y) {
    for (int64_t i = 0; i < o; i++) {
        for (int64_t j = 0; j < k; j++) y[i * k + j] = 0;
        for (int64_t e = 0; e < c; e++)
            for (int64_t j = 0; j < k; j++) y[i * k + j] += (double)d[i * c + e] * q[e * k + j];
    }
}

/* q [c, k] = d^T y */
static void times_transposed(int64_t o, int64_t c, int64_t k, const float *d, const double *y,
                             double *q) {
    for (int64_t i = 0; i < c * k; i++) q[i] = 0;
    for (int64_t i = 0; i < o; i++)
        for (int64_t e = 0; e < c; e++)
            for (int64_t j = 0; j < k; j++) q[e * k + j] += (double)d[i * c + e] * y[i * k + j];
}

/* Jacobi: eigenvectors of the symmetric s [k, k] into the columns of v; s becomes diagonal. */
static void eigen(int64_t k, double *s, double *v) {
    for (int64_t i = 0; i < k * k; i++) v[i] = i / k == i % k;
    for (int sweep = 0; sweep < SWEEPS; sweep++)
        for (int64_t p = 0; p < k; p++)
            for (int64_t q = p + 1; q < k; q++) {
                if (fabs(s[p * k + q]) <= 1e-300) continue;
                double tau = (s[q * k + q] - s[p * k + p]) / (2 * s[p * k + q]);
                double t = (tau < 0 ? -1 : 1) / (fabs(tau) + sqrt(1 + tau * tau)),
                       c = 1 / sqrt(1 + t * t), z = t * c;
                for (int64_t e = 0; e < k; e++) {
                    double a = s[e * k + p], b = s[e * k + q];
                    s[e * k + p] = c * a - z * b, s[e * k + q] = z * a + c * b;
                }
                for (int64_t e = 0; e < k; e++) {
                    double a = s[p * k + e], b = s[q * k + e], g = v[e * k + p], h = v[e * k + q];
                    s[p * k + e] = c * a - z * b, s[q * k + e] = z * a + c * b;
                    v[e * k + p] = c * g - z * h, v[e * k + q] = z * g + c * h;
                }
            }
}

/* The r largest of k eigenvalues, by index. */
static void largest(int64_t k, int64_t r, const double *s, int64_t *order) {
    for (int64_t i = 0; i < k; i++) order[i] = i;
    for (int64_t i = 0; i < r; i++)
        for (int64_t j = i + 1; j < k; j++)
            if (s[order[j] * (k + 1)] > s[order[i] * (k + 1)]) {
                int64_t swap = order[i];
                order[i] = order[j], order[j] = swap;
            }
}

status adapter_factor(int64_t o, int64_t c, int64_t r, const float *d, float *up, float *down,
                      double *kept) {
    int64_t k = MIN(r + SPARE, MIN(o, c)), n = MIN(r, k);
    double *q = mem_alloc((size_t)((o + c) * k + 2 * k * k) * sizeof *q), total = 0, held = 0;
    int64_t *order = mem_alloc((size_t)k * sizeof *order);
    if (!q || !order) {
        mem_free(q);
        mem_free(order);
        return fail(E_HOST_MEMORY, "no host memory to factor a %lld x %lld matrix", (long long)o,
                    (long long)c);
    }
    double *y = q + c * k, *s = y + o * k, *v = s + k * k;
    rng_key key = {{1, 0}, rng_stream("factor")};
    for (int64_t i = 0; i < c * k; i++) q[i] = rng_normal(key, 0, (uint64_t)i);
    orthonormal(c, k, q);
    for (int round = 0; round < ROUNDS; round++) {
        times(o, c, k, d, q, y);
        orthonormal(o, k, y);
        times_transposed(o, c, k, d, y, q);
        orthonormal(c, k, q);
    }
    times(o, c, k, d, q, y);
    for (int64_t i = 0; i < k * k; i++) {
        s[i] = 0;
        for (int64_t e = 0; e < o; e++) s[i] += y[e * k + i / k] * y[e * k + i % k];
    }
    eigen(k, s, v);
    largest(k, n, s, order);
    memset(up, 0, (size_t)(o * r) * sizeof *up);
    memset(down, 0, (size_t)(r * c) * sizeof *down);
    for (int64_t j = 0; j < n; j++) {
        double root = sqrt(sqrt(fmax(s[order[j] * (k + 1)], 0))),
               one = root > 0 ? 1 / root : 0; /* both factors alike in size */
        held += fmax(s[order[j] * (k + 1)], 0);
        for (int64_t e = 0; e < o; e++)
            for (int64_t i = 0; i < k; i++)
                up[e * r + j] += (float)(one * y[e * k + i] * v[i * k + order[j]]);
        for (int64_t e = 0; e < c; e++)
            for (int64_t i = 0; i < k; i++)
                down[j * c + e] += (float)(root * q[e * k + i] * v[i * k + order[j]]);
    }
    for (int64_t i = 0; i < o * c; i++) total += (double)d[i] * (double)d[i];
    *kept = total > 0 ? MIN(held / total, 1) : 1;
    mem_free(q);
    mem_free(order);
    return OK;
}
