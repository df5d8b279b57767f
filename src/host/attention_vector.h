/* attention_vector.h: attention in floats; a template, included by attention_vector.c once per
 * instruction set, hence no #pragma once. The includer defines
 *   AT(name)       the instruction set's own name for a function    TARGET  its attribute
 *   WIDTH          floats in a vector register      ROWS  of the matmul's register tile
 *   MAXIMUM(x, y)  of two vectors; y if either is NaN
 *
 * One matmul serves all seven products: a tile of ROWS x 2 vectors of sums in registers, the left
 * operand broadcast from memory with any strides, the right one read in rows of whole vectors.
 * Hence widths are padded to 16 columns and row counts to ROWS, and blocks are such that scores and
 * operands stay in the first level cache (48 x 96 floats are 18 KiB).
 *   key slot:  forward k^T [kw][96], v [96][kv]; backward k^T, v^T [kw][96], k [96][kv]
 *   query slot (backward): q, dy [48][kv]
 * SPDX-License-Identifier: MIT */

typedef float AT(vec) __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef int32_t AT(ivec) __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
#define VEC         AT(vec)
#define IVEC        AT(ivec)
#define MATMUL      AT(matmul)
#define PACK        AT(pack)
#define LOAD(p)     (*(const VEC *)(p))
#define STORE(p, v) (*(VEC *)(p) = (v))

/* C [rows x 2 vectors or 1] (+)= A B; A's element (m, k) at a[m * am + k * ak]. */
TARGET ATTENTION_INLINE void AT(tile)(int vecs, int64_t depth, const float *a, int64_t am,
                                      int64_t ak, const float *b, int64_t ldb, float *c,
                                      int64_t ldc, bool add) {
    VEC s[ROWS][2];
#pragma GCC unroll 16
    for (int m = 0; m < ROWS; m++)
        for (int v = 0; v < vecs; v++) s[m][v] = add ? LOAD(c + m * ldc + v * WIDTH) : (VEC){0};
    for (int64_t k = 0; k < depth; k++, a += ak, b += ldb) {
        VEC b0 = LOAD(b), b1 = vecs > 1 ? LOAD(b + WIDTH) : b0;
#pragma GCC unroll 16
        for (int m = 0; m < ROWS; m++) {
            s[m][0] += a[m * am] * b0;
            if (vecs > 1) s[m][1] += a[m * am] * b1;
        }
    }
#pragma GCC unroll 16
    for (int m = 0; m < ROWS; m++)
        for (int v = 0; v < vecs; v++) STORE(c + m * ldc + v * WIDTH, s[m][v]);
}

/* m is rounded up to ROWS (all buffers have the rows), n is a multiple of WIDTH. */
TARGET static __attribute__((noinline)) void AT(matmul)(int64_t m, int64_t n, int64_t depth,
                                                        const float *a, int64_t am, int64_t ak,
                                                        const float *b, int64_t ldb, float *c,
                                                        int64_t ldc, bool add) {
    int64_t j = 0;
    for (; j + 2 * WIDTH <= n; j += 2 * WIDTH)
        for (int64_t i = 0; i < m; i += ROWS)
            AT(tile)(2, depth, a + i * am, am, ak, b + j, ldb, c + i * ldc + j, ldc, add);
    for (; j < n; j += WIDTH)
        for (int64_t i = 0; i < m; i += ROWS)
            AT(tile)(1, depth, a + i * am, am, ak, b + j, ldb, c + i * ldc + j, ldc, add);
}

/* 2^x, 0 below 2^-126; relative error 1.3e-7: minimax of degree 5 on [-1/2, 1/2] (7.5e-8) and
 * rounding. */
TARGET ATTENTION_INLINE VEC AT(exp2)(VEC x) {
    const float round = 0x1.8p23f;
    x = MAXIMUM((VEC){0} - 127.0f, x);
    VEC n = (x + round) - round, f = x - n;
    VEC p = f * 0.001327647197931638f + 0.009675541334206542f;
    p = p * f + 0.05550713273542824f;
    p = p * f + 0.24022119723848698f;
    p = p * f + 0.6931469670647334f;
    p = p * f + 1.0000000716546822f;
    IVEC e = (__builtin_convertvector(n, IVEC) + 127) << 23;
    return p * (VEC)e;
}

TARGET ATTENTION_INLINE float AT(sum)(VEC v) {
    float s = 0;
    for (int i = 0; i < WIDTH; i++) s += v[i];
    return s;
}

/* src: [n] tokens of kw, ld apart -> rows [n][kv] and, if wanted, transposed [kw][96]; zeros where
 * there is no source. */
TARGET static void AT(pack)(const attention_job *j, dtype t, const void *src, int64_t at,
                            int64_t ld, int n, float *rows, float *transposed) {
    int64_t kw = j->a->kw, kv = j->kv;
    for (int i = 0; i < n; i++) {
        lanes_load(src, t, at + i * ld, kw, rows + i * kv);
        for (int64_t k = kw; k < kv; k++) rows[i * kv + k] = 0;
    }
    if (!transposed) return;
    for (int64_t k0 = 0; k0 < kw; k0 += 16)
        for (int i = 0; i < KEY_BLOCK; i++)
            for (int64_t k = k0; k < MIN(k0 + 16, kw); k++)
                transposed[k * KEY_BLOCK + i] = i < n ? rows[i * kv + k] : 0;
}

TARGET static void AT(pack_keys)(const attention_job *j, int head, int64_t block) {
    const host_attention_args *a = j->a;
    const attention_block *b = &j->block[block];
    float *slot = (float *)attention_key_slot(j, head, block), *rows = slot + a->kw * KEY_BLOCK;
    int64_t ld = a->ld_q, at = b->first * ld + head * a->kw;
    if (j->is_backward) rows += a->kw * KEY_BLOCK;
    if (j->is_backward) PACK(j, a->type, b->part->v, at, ld, b->n, rows, slot + a->kw * KEY_BLOCK);
    PACK(j, a->type, b->part->k, at, ld, b->n, rows, slot);
    if (!j->is_backward) PACK(j, a->type, b->part->v, at, ld, b->n, rows, NULL);
}

TARGET static void AT(pack_queries)(const attention_job *j, int head, int64_t query_block) {
    const host_attention_args *a = j->a;
    float *slot = (float *)attention_query_slot(j, head, query_block);
    int rows = attention_query_rows(j, query_block);
    int64_t q0 = query_block * QUERY_BLOCK;
    memset(slot, 0, j->query_bytes);
    PACK(j, a->type, a->q, q0 * a->ld_q + head * a->kw, a->ld_q, rows, slot, NULL);
    PACK(j, DT_F32, a->dy, (q0 * a->heads + head) * a->kw, a->heads * a->kw, rows,
         slot + QUERY_BLOCK * j->kv, NULL);
}

/* Row i's q.k in s [n] -> x in base 2; -inf from `seen` on to the next whole vector pair. */
TARGET ATTENTION_INLINE int AT(row_scores)(const attention_job *j, const attention_block *b,
                                           int head, int64_t i, float *s) {
    int seen = attention_visible(j, b, i), n = (int)align_up((size_t)b->n, 16);
    attention_scores(s, seen, j->c, b->part->offset * ATTENTION_LOG2E, attention_bias(b, head, i),
                     b->part->bias_k);
    for (int k = seen; k < n; k++) s[k] = -INFINITY;
    return n;
}

/* One row of one block: s becomes p; the running maximum, sum and output follow. */
TARGET ATTENTION_INLINE void AT(softmax_row)(float *s, int n, float *m, float *l, float *o,
                                             int64_t kv) {
    VEC t = LOAD(s);
    for (int k = WIDTH; k < n; k += WIDTH) t = MAXIMUM(LOAD(s + k), t);
    float top = t[0];
    for (int k = 1; k < WIDTH; k++) top = t[k] > top ? t[k] : top;
    if (top > *m) {
        if (*m != -INFINITY) {
            float shrink = exp2f(*m - top);
            *l *= shrink;
            for (int64_t k = 0; k < kv; k += WIDTH) STORE(o + k, LOAD(o + k) * shrink);
        }
        *m = top;
    }
    float shift = *m == -INFINITY ? 0 : *m; /* nothing seen yet: p = 2^-inf = 0 */
    VEC sum = {0};
    for (int k = 0; k < n; k += WIDTH) {
        VEC p = AT(exp2)(LOAD(s + k) - shift);
        STORE(s + k, p);
        sum += p;
    }
    *l += AT(sum)(sum);
}

TARGET static void AT(forward)(const attention_job *j, char *lane, int head, int64_t query_block) {
    const host_attention_args *a = j->a;
    int rows = attention_query_rows(j, query_block);
    int64_t kv = j->kv, q0 = query_block * QUERY_BLOCK, d = a->heads * a->kw;
    float *q = (float *)lane, *o = q + QUERY_BLOCK * kv, *s = o + QUERY_BLOCK * kv;
    float *m = s + QUERY_BLOCK * KEY_BLOCK, *l = m + QUERY_BLOCK;
    memset(q, 0, (size_t)(2 * QUERY_BLOCK * kv) * sizeof(float));
    PACK(j, a->type, a->q, q0 * a->ld_q + head * a->kw, a->ld_q, rows, q, NULL);
    for (int i = 0; i < rows; i++) m[i] = -INFINITY, l[i] = 0;
    for (int64_t t = 0; t < j->n_blocks; t++) {
        const attention_block *b = &j->block[t];
        int most = attention_visible(j, b, q0 + rows - 1);
        if (most == 0) continue;
        const float *kt = (const float *)attention_key_slot(j, head, t);
        const float *v = kt + a->kw * KEY_BLOCK;
        MATMUL(rows, (int64_t)align_up((size_t)b->n, 16), a->kw, q, kv, 1, kt, KEY_BLOCK, s,
               KEY_BLOCK, false);
        for (int i = 0; i < rows; i++) {
            float *si = s + i * KEY_BLOCK;
            int n = AT(row_scores)(j, b, head, q0 + i, si);
            AT(softmax_row)(si, n, &m[i], &l[i], o + i * kv, kv);
        }
        MATMUL(rows, kv, most, s, KEY_BLOCK, 1, v, kv, o, kv, true);
    }
    for (int i = 0; i < rows; i++) {
        float *y = a->y + (q0 + i) * d + head * a->kw, w = l[i] == 0 ? 0 : a->weight / l[i];
        for (int64_t k = 0; k < a->kw; k++) y[k] = (a->accumulate ? y[k] : 0) + w * o[i * kv + k];
        a->lse[head * a->tq + q0 + i] =
            m[i] == -INFINITY ? -INFINITY : ATTENTION_LN2 * m[i] + logf(l[i]);
    }
}

/* Scores s and dp (rows x keys) become p and dS = p (dp - delta), zero where nothing is seen. */
TARGET static void AT(gradient_rows)(const attention_job *j, const attention_block *b, int head,
                                     int64_t q0, int rows, float *s, float *dp) {
    for (int i = 0; i < rows; i++) {
        int64_t at = head * j->a->tq + q0 + i;
        float *si = s + i * KEY_BLOCK, *di = dp + i * KEY_BLOCK;
        float delta = j->a->delta[at], lse = j->a->lse[at];
        lse = lse == -INFINITY ? INFINITY : lse * ATTENTION_LOG2E;
        int n = AT(row_scores)(j, b, head, q0 + i, si);
        for (int k = 0; k < n; k += WIDTH) {
            VEC p = AT(exp2)(LOAD(si + k) - lse);
            STORE(si + k, p);
            STORE(di + k, p * (LOAD(di + k) - delta));
        }
    }
}

TARGET static void AT(add_out)(const attention_job *j, int head, const attention_block *b,
                               float scale, const float *x, float *out) {
    const host_attention_args *a = j->a;
    for (int i = 0; out && i < b->n; i++) {
        float *y = out + ((b->first + i) * a->heads + head) * a->kw;
        for (int64_t k = 0; k < a->kw; k++) y[k] += scale * x[i * j->kv + k];
    }
}

TARGET static void AT(backward)(const attention_job *j, char *lane, int head, int64_t block0,
                                int64_t block1, int chunk) {
    const host_attention_args *a = j->a;
    int64_t kv = j->kv;
    float *s = (float *)lane, *dp = s + QUERY_BLOCK * KEY_BLOCK, *dk = dp + QUERY_BLOCK * KEY_BLOCK;
    float *dv = dk + KEY_BLOCK * kv;
    for (int64_t t = block0; t < block1; t++) {
        const attention_block *b = &j->block[t];
        const float *kt = (const float *)attention_key_slot(j, head, t);
        const float *vt = kt + a->kw * KEY_BLOCK, *k = vt + a->kw * KEY_BLOCK;
        int64_t n = (int64_t)align_up((size_t)b->n, 16);
        memset(dk, 0, (size_t)(2 * KEY_BLOCK * kv) * sizeof(float));
        for (int64_t qb = 0; qb < j->n_queries; qb++) {
            int rows = attention_query_rows(j, qb);
            int64_t q0 = qb * QUERY_BLOCK;
            if (attention_visible(j, b, q0 + rows - 1) == 0) continue;
            const float *q = (const float *)attention_query_slot(j, head, qb);
            const float *dy = q + QUERY_BLOCK * kv;
            MATMUL(rows, n, a->kw, q, kv, 1, kt, KEY_BLOCK, s, KEY_BLOCK, false);
            MATMUL(rows, n, a->kw, dy, kv, 1, vt, KEY_BLOCK, dp, KEY_BLOCK, false);
            AT(gradient_rows)(j, b, head, q0, rows, s, dp);
            MATMUL(b->n, kv, rows, s, 1, KEY_BLOCK, dy, kv, dv, kv, true);
            MATMUL(b->n, kv, rows, dp, 1, KEY_BLOCK, q, kv, dk, kv, true);
            MATMUL(rows, kv, b->n, dp, KEY_BLOCK, 1, k, kv, attention_dq(j, head, chunk, qb), kv,
                   true);
        }
        AT(add_out)(j, head, b, a->scale, dk, b->part->dk);
        AT(add_out)(j, head, b, 1, dv, b->part->dv);
    }
}

const attention_path AT(path) = {.sizes = attention_vector_sizes,
                                 .pack_keys = AT(pack_keys),
                                 .pack_queries = AT(pack_queries),
                                 .forward = AT(forward),
                                 .backward = AT(backward)};

#undef VEC
#undef IVEC
#undef MATMUL
#undef PACK
#undef LOAD
#undef STORE
#undef AT
#undef TARGET
#undef WIDTH
#undef ROWS
#undef MAXIMUM
