/* attention_bf16.c: forward attention in bf16, sums in f32, on the tiles of attention_tiles.h.
 *
 * Task: 64 or 128 queries of one head. Per 256 keys: q k^T by tiles into a buffer that stays in the
 * L2 cache, one pass per row for the maximum, one for 2^x and the sum (p as bf16 over its own
 * scores), p v by tiles. At width 40 the passes cost more than the matmuls. A row's reference m
 * follows the maximum only when that grew by more than 2^8: p stays below 256, so float sums lose
 * nothing, and the output is hardly ever rescaled.
 * Key slot: k as columns (kd deep), v as rows (kv wide).
 * SPDX-License-Identifier: MIT */
#include "host/attention_tiles.h"

#if defined(__x86_64__)
/* Measured on 4096 tokens (Sapphire Rapids, 2 MiB of L2): 256 keys beat 128 and 512 at width 40; at
 * width 512 keys come from beyond the L2 cache, and 128 queries a pass are 1.2 times the speed
 * of 64. */
enum {
    QUERY_BLOCK = 128,
    QUERY_BLOCK_NARROW = 64,
    WIDE = 128,
    KEY_BLOCK = 256,
    SCORE_LD = KEY_BLOCK + 16, /* not a power of two: 16 rows of a tile would share cache sets */
};

static void pack_keys_fwd(const attention_job *j, int head, int64_t block) {
    const host_attention_args *a = j->a;
    const attention_block *b = &j->block[block];
    uint16_t *slot = (uint16_t *)(void *)attention_key_slot(j, head, block);
    int64_t at = b->first * a->ld_q + head * a->kw;
    int tokens = (int)align_up((size_t)b->n, 32);
    attention_tile_pack_columns((const uint16_t *)b->part->k + at, a->ld_q, b->n, a->kw, tokens,
                                j->kd, slot);
    attention_tile_pack_rows((const uint16_t *)b->part->v + at, a->ld_q, b->n, a->kw, tokens, j->kv,
                             slot + KEY_BLOCK * j->kd);
}

typedef struct row_state {
    float m, pad[15], l[16];
} row_state; /* l: 16 partial sums */

/* One row of one block: scores s [n], n a multiple of 32, become p as bf16 in the same place.
 * x = c s + offset; c is positive. */
BF16_INLINE void softmax_row(float *s, int n, float c, float offset, row_state *r, float *o,
                             int64_t kv) {
    __m512 t0 = _mm512_loadu_ps(s), t1 = _mm512_loadu_ps(s + 16);
    for (int k = 32; k < n; k += 32) {
        t0 = _mm512_max_ps(t0, _mm512_loadu_ps(s + k));
        t1 = _mm512_max_ps(t1, _mm512_loadu_ps(s + k + 16));
    }
    float top = _mm512_reduce_max_ps(_mm512_max_ps(t0, t1)) * c + offset;
    __m512 l = _mm512_loadu_ps(r->l);
    if (top > r->m + 8) {
        if (r->m != -INFINITY) {
            __m512 shrink = _mm512_set1_ps(exp2f(r->m - top));
            l = _mm512_mul_ps(l, shrink);
            for (int64_t k = 0; k < kv; k += 16)
                _mm512_storeu_ps(o + k, _mm512_mul_ps(_mm512_loadu_ps(o + k), shrink));
        }
        r->m = top;
    }
    /* Nothing seen yet: any finite reference gives p = 2^-inf = 0. */
    __m512 cc = _mm512_set1_ps(c), shift = _mm512_set1_ps((r->m == -INFINITY ? 0 : r->m) - offset);
    __m512 l1 = _mm512_setzero_ps();
    for (int k = 0; k < n; k += 32) {
        __m512 p0 = attention_tile_exp2(_mm512_fmsub_ps(_mm512_loadu_ps(s + k), cc, shift));
        __m512 p1 = attention_tile_exp2(_mm512_fmsub_ps(_mm512_loadu_ps(s + k + 16), cc, shift));
        l = _mm512_add_ps(l, p0);
        l1 = _mm512_add_ps(l1, p1);
        _mm512_storeu_si512((uint16_t *)(void *)s + k, (__m512i)_mm512_cvtne2ps_pbh(p1, p0));
    }
    _mm512_storeu_ps(r->l, _mm512_add_ps(l, l1));
}

BF16_INLINE void softmax_block(const attention_job *j, const attention_block *b, int head,
                               int64_t q0, int rows, int n, float *s, row_state *r, float *o) {
    float offset = b->part->offset * ATTENTION_LOG2E;
    bool plain = !b->part->bias && j->c > 0;
    for (int i = 0; i < rows; i++) {
        float *si = s + i * SCORE_LD;
        int seen = MIN(attention_visible(j, b, q0 + i), n);
        if (plain) {
            for (int k = seen; k < n; k++) si[k] = -INFINITY;
            softmax_row(si, n, j->c, offset, &r[i], o + i * j->kv, j->kv);
        } else {
            attention_tile_scores(si, seen, n, j->c, offset, attention_bias(b, head, q0 + i),
                                  b->part->bias_k);
            softmax_row(si, n, 1, 0, &r[i], o + i * j->kv, j->kv);
        }
    }
}

HOST_TARGET_BF16 static void forward(const attention_job *j, char *lane, int head, int64_t query_block) {
    const host_attention_args *a = j->a;
    int rows = attention_query_rows(j, query_block), mt = (rows + 31) / 32 * 2;
    int64_t kd = j->kd, kv = j->kv, q0 = query_block * j->query_block, d = a->heads * a->kw;
    row_state *r = (row_state *)lane;
    float *o = (float *)(r + QUERY_BLOCK), *s = o + QUERY_BLOCK * kv;
    uint16_t *q = (uint16_t *)(s + QUERY_BLOCK * SCORE_LD);
    memset(q, 0, (size_t)(j->query_block * kd) * sizeof *q);
    memset(r, 0, (size_t)j->query_block * sizeof *r);
    memset(o, 0, (size_t)(j->query_block * kv) * sizeof *o);
    for (int i = 0; i < rows; i++) {
        memcpy(q + i * kd, (const uint16_t *)a->q + (q0 + i) * a->ld_q + head * a->kw,
               (size_t)a->kw * 2);
        r[i].m = -INFINITY;
    }
    for (int64_t t = 0; t < j->n_blocks; t++) {
        const attention_block *b = &j->block[t];
        int most = attention_visible(j, b, q0 + rows - 1), n = (most + 31) / 32 * 32;
        if (most == 0) continue;
        const uint16_t *k = (const uint16_t *)(void *)attention_key_slot(j, head, t),
                       *v = k + KEY_BLOCK * kd;
        j->path->matmul(mt, n / 16, (int)kd / 32, q, kd, k, kd / 32 * TILE_ELEMS, TILE_ELEMS, s,
                        SCORE_LD, false);
        softmax_block(j, b, head, q0, rows, n, s, r, o);
        j->path->matmul(mt, (int)kv / 16, n / 32, (const uint16_t *)(void *)s, 2 * SCORE_LD, v,
                        TILE_ELEMS, kv / 16 * TILE_ELEMS, o, kv, true);
    }
    for (int i = 0; i < rows; i++) {
        float l = _mm512_reduce_add_ps(_mm512_loadu_ps(r[i].l)), w = l == 0 ? 0 : a->weight / l;
        float *y = a->y + (q0 + i) * d + head * a->kw;
        for (int64_t k = 0; k < a->kw; k++) y[k] = (a->accumulate ? y[k] : 0) + w * o[i * kv + k];
        a->lse[head * a->tq + q0 + i] =
            r[i].m == -INFINITY ? -INFINITY : ATTENTION_LN2 * r[i].m + logf(l);
    }
}

static void sizes_fwd(attention_job *j) {
    size_t kd = (size_t)j->kd, kv = (size_t)j->kv;
    j->query_block = kd > WIDE ? QUERY_BLOCK : QUERY_BLOCK_NARROW;
    j->key_block = KEY_BLOCK;
    j->key_bytes = KEY_BLOCK * (kd + kv) * sizeof(uint16_t);
    j->lane_bytes =
        QUERY_BLOCK * (sizeof(row_state) + (kv + SCORE_LD) * sizeof(float) + kd * sizeof(uint16_t));
}

static void sizes(attention_job *j) {
    j->kd = (int64_t)align_up((size_t)j->a->kw, 32);
    j->kv = (int64_t)align_up((size_t)j->a->kw, 16);
    if (j->is_backward)
        attention_bf16_sizes_bwd(j);
    else
        sizes_fwd(j);
}
static void pack_keys(const attention_job *j, int head, int64_t block) {
    if (j->is_backward)
        attention_bf16_pack_keys_bwd(j, head, block);
    else
        pack_keys_fwd(j, head, block);
}

const attention_path attention_bf16_path = {.sizes = sizes,
                                            .pack_keys = pack_keys,
                                            .pack_queries = attention_bf16_pack_queries,
                                            .forward = forward,
                                            .backward = attention_bf16_backward,
                                            .matmul = attention_dot_matmul};
const attention_path attention_amx_path = {.sizes = sizes,
                                           .pack_keys = pack_keys,
                                           .pack_queries = attention_bf16_pack_queries,
                                           .forward = forward,
                                           .backward = attention_bf16_backward,
                                           .matmul = attention_tile_matmul,
                                           .begin = attention_tile_begin,
                                           .end = attention_tile_end};
#endif
