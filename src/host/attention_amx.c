/* attention_amx.c: forward attention in bf16 on AMX tiles, sums in f32.
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
#include <assert.h>

bool attention_amx_ready(void) { return os_request_tile_state(); }

TARGET_AMX void attention_tile_begin(void) {
    /* Palette 1; bytes per row from byte 16 (8 x u16), rows from byte 48 (8 x u8). Static: gcc's
     * _tile_loadconfig claims to read 8 bytes of it only. */
    /* clang-format off */
    static const _Alignas(64) uint8_t config[64] = {
        [0] = 1, [16] = 64, [18] = 64, [20] = 64, [22] = 64, [24] = 64, [26] = 64, [28] = 64,
        [30] = 64, [48] = 16, 16, 16, 16, 16, 16, 16, 16};
    /* clang-format on */
    _tile_loadconfig(config);
}
TARGET_AMX void attention_tile_end(void) { _tile_release(); }

/* Up to 2 x 2 tiles of C in tmm0..3; A in tmm4, 5; B in tmm6, 7. Tile numbers are part of the
 * opcode. */
#define C_TILE(t, p)                                                                               \
    if (add)                                                                                       \
        _tile_loadd(t, p, ldc * 4);                                                                \
    else                                                                                           \
        _tile_zero(t)

TILE_INLINE void tiles_2x2(int depth, const uint16_t *a, int64_t lda, const uint16_t *b,
                           int64_t b_n, int64_t b_k, float *c, int64_t ldc, bool add) {
    C_TILE(0, c);
    C_TILE(1, c + 16);
    C_TILE(2, c + 16 * ldc);
    C_TILE(3, c + 16 * ldc + 16);
    for (int k = 0; k < depth; k++, a += 32, b += b_k) {
        _tile_loadd(4, a, lda * 2);
        _tile_loadd(6, b, 64);
        _tile_loadd(7, b + b_n, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + 16 * lda, lda * 2);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, ldc * 4);
    _tile_stored(1, c + 16, ldc * 4);
    _tile_stored(2, c + 16 * ldc, ldc * 4);
    _tile_stored(3, c + 16 * ldc + 16, ldc * 4);
}
TILE_INLINE void tiles_2x1(int depth, const uint16_t *a, int64_t lda, const uint16_t *b,
                           int64_t b_k, float *c, int64_t ldc, bool add) {
    C_TILE(0, c);
    C_TILE(2, c + 16 * ldc);
    for (int k = 0; k < depth; k++, a += 32, b += b_k) {
        _tile_loadd(4, a, lda * 2);
        _tile_loadd(5, a + 16 * lda, lda * 2);
        _tile_loadd(6, b, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(2, 5, 6);
    }
    _tile_stored(0, c, ldc * 4);
    _tile_stored(2, c + 16 * ldc, ldc * 4);
}
TILE_INLINE void tiles_1x2(int depth, const uint16_t *a, int64_t lda, const uint16_t *b,
                           int64_t b_n, int64_t b_k, float *c, int64_t ldc, bool add) {
    C_TILE(0, c);
    C_TILE(1, c + 16);
    for (int k = 0; k < depth; k++, a += 32, b += b_k) {
        _tile_loadd(4, a, lda * 2);
        _tile_loadd(6, b, 64);
        _tile_loadd(7, b + b_n, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
    }
    _tile_stored(0, c, ldc * 4);
    _tile_stored(1, c + 16, ldc * 4);
}

TARGET_AMX void attention_tile_matmul(int mt, int nt, int depth, const uint16_t *a, int64_t lda,
                                      const uint16_t *b, int64_t b_n, int64_t b_k, float *c,
                                      int64_t ldc, bool add) {
    assert((mt & 1) == 0 || (nt & 1) == 0);
    TILE_FENCE();
    int n = 0;
    for (; n + 2 <= nt; n += 2) {
        int m = 0;
        for (; m + 2 <= mt; m += 2)
            tiles_2x2(depth, a + 16 * m * lda, lda, b + n * b_n, b_n, b_k, c + 16 * (m * ldc + n),
                      ldc, add);
        if (m < mt)
            tiles_1x2(depth, a + 16 * m * lda, lda, b + n * b_n, b_n, b_k, c + 16 * (m * ldc + n),
                      ldc, add);
    }
    for (int m = 0; n < nt && m < mt; m += 2)
        tiles_2x1(depth, a + 16 * m * lda, lda, b + n * b_n, b_k, c + 16 * (m * ldc + n), ldc, add);
    TILE_FENCE();
}

TARGET_AMX void attention_tile_pack_columns(const uint16_t *src, int64_t ld, int n, int64_t kw,
                                            int tokens, int64_t kd, uint16_t *out) {
    assert(ld < INT32_MAX / 32);
    __m512i step =
        _mm512_mullo_epi32(_mm512_set1_epi32((int)ld * 2),
                           _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    uint32_t *o = (uint32_t *)(void *)out; /* a pair of the depth; row of 16 tokens */
    for (int t = 0; t < tokens; t += 16) {
        __mmask16 mask = attention_tile_mask(n - t);
        for (int64_t k = 0; k < kd; k += 2, o += 16) {
            __m512i x = _mm512_setzero_si512();
            if (k + 1 < kw) {
                x = _mm512_mask_i32gather_epi32(x, mask, step, src + t * ld + k, 1);
            } else if (k < kw) { /* odd width: the next element may lie beyond the tensor */
                _Alignas(64) uint32_t lone[16] = {0};
                for (int i = 0; i < 16 && t + i < n; i++) lone[i] = src[(t + i) * ld + k];
                x = _mm512_load_si512(lone);
            }
            _mm512_store_si512(o, x);
        }
    }
}

TARGET_AMX void attention_tile_pack_rows(const uint16_t *src, int64_t ld, int n, int64_t kw,
                                         int tokens, int64_t kv, uint16_t *out) {
    uint32_t *o = (uint32_t *)(void *)out;
    for (int t = 0; t < tokens; t += 32)
        for (int64_t k = 0; k < kv; k += 16) {
            __mmask16 mask = attention_tile_mask(kw - k);
            for (int r = t; r < t + 32; r += 2, o += 16) {
                __m256i lo = _mm256_maskz_loadu_epi16(r < n ? mask : 0, src + r * ld + k);
                __m256i hi = _mm256_maskz_loadu_epi16(r + 1 < n ? mask : 0, src + (r + 1) * ld + k);
                __m512i pair = _mm512_slli_epi32(_mm512_cvtepu16_epi32(hi), 16);
                _mm512_store_si512(o, _mm512_or_si512(pair, _mm512_cvtepu16_epi32(lo)));
            }
        }
}

/* ---- forward ---- */
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
TILE_INLINE void softmax_row(float *s, int n, float c, float offset, row_state *r, float *o,
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

TILE_INLINE void softmax_block(const attention_job *j, const attention_block *b, int head,
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

TARGET_AMX static void forward(const attention_job *j, char *lane, int head, int64_t query_block) {
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
        attention_tile_matmul(mt, n / 16, (int)kd / 32, q, kd, k, kd / 32 * TILE_ELEMS, TILE_ELEMS,
                              s, SCORE_LD, false);
        softmax_block(j, b, head, q0, rows, n, s, r, o);
        attention_tile_matmul(mt, (int)kv / 16, n / 32, (const uint16_t *)(void *)s, 2 * SCORE_LD,
                              v, TILE_ELEMS, kv / 16 * TILE_ELEMS, o, kv, true);
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
        attention_amx_sizes_bwd(j);
    else
        sizes_fwd(j);
}
static void pack_keys(const attention_job *j, int head, int64_t block) {
    if (j->is_backward)
        attention_amx_pack_keys_bwd(j, head, block);
    else
        pack_keys_fwd(j, head, block);
}

const attention_path attention_amx_path = {.sizes = sizes,
                                           .pack_keys = pack_keys,
                                           .pack_queries = attention_amx_pack_queries,
                                           .forward = forward,
                                           .backward = attention_amx_backward,
                                           .begin = attention_tile_begin,
                                           .end = attention_tile_end};
#endif
