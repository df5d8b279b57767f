/* attention_bf16_bwd.c: backward attention in bf16, sums in f32, on the tiles of attention_tiles.h.
 *
 * Task: a run of key blocks of one head; per 128 keys all queries pass by, 64 at a time: q k^T and
 * dy v^T by tiles, p = 2^(x - lse) and dS = p (dp - delta) in one pass, then dq += dS k, and
 *   dv^T += dy^T p,   dk^T += q^T dS
 * transposed, because p and dS as right operands need two neighbouring rows interleaved, which one
 * permute does, while p^T as a left operand would need every block of scores transposed.
 *   key slot:   k, v as columns (kd deep), k as rows
 *   query slot: q, dy [64][kd], q^T, dy^T [kv][64]
 * SPDX-License-Identifier: MIT */
#include "host/attention_tiles.h"

#if defined(__x86_64__)
enum {
    QUERY_BLOCK = 64,
    KEY_BLOCK = 128,
    QUERY_STEPS = QUERY_BLOCK / 32,
    SCORE_LD = KEY_BLOCK + 16, /* floats; off a power of two, as in the forward pass */
    LEFT_LD = KEY_BLOCK + 32,  /* bf16 */
};

void attention_bf16_sizes_bwd(attention_job *j) {
    size_t kd = (size_t)j->kd, kv = (size_t)j->kv;
    j->query_block = QUERY_BLOCK;
    j->key_block = KEY_BLOCK;
    j->key_bytes = KEY_BLOCK * (2 * kd + kv) * sizeof(uint16_t);
    j->query_bytes = QUERY_BLOCK * 2 * (kd + kv) * sizeof(uint16_t);
    j->lane_bytes = (2 * QUERY_BLOCK * SCORE_LD + 2 * KEY_BLOCK * kv) * sizeof(float) +
                    QUERY_BLOCK * (2 * KEY_BLOCK + LEFT_LD) * sizeof(uint16_t);
}

void attention_bf16_pack_keys_bwd(const attention_job *j, int head, int64_t block) {
    const host_attention_args *a = j->a;
    const attention_block *b = &j->block[block];
    uint16_t *kc = (uint16_t *)(void *)attention_key_slot(j, head, block),
             *vc = kc + KEY_BLOCK * j->kd;
    int64_t at = b->first * a->ld_q + head * a->kw;
    int tokens = (int)align_up((size_t)b->n, 32);
    const uint16_t *k = (const uint16_t *)b->part->k + at, *v = (const uint16_t *)b->part->v + at;
    attention_tile_pack_columns(k, a->ld_q, b->n, a->kw, tokens, j->kd, kc);
    attention_tile_pack_columns(v, a->ld_q, b->n, a->kw, tokens, j->kd, vc);
    attention_tile_pack_rows(k, a->ld_q, b->n, a->kw, tokens, j->kv, vc + KEY_BLOCK * j->kd);
}

/* rows [64][kd] -> out [kv][64] */
HOST_TARGET_BF16 static void transpose(const uint16_t *rows, int64_t kd, int64_t kv, uint16_t *out) {
    __m512i step =
        _mm512_mullo_epi32(_mm512_set1_epi32((int)kd * 2),
                           _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    for (int i = 0; i < QUERY_BLOCK; i += 16)
        for (int64_t k = 0; k < kv; k += 2) {
            __m512i pair = _mm512_i32gather_epi32(step, rows + i * kd + k, 1);
            uint16_t *o = out + k * QUERY_BLOCK + i;
            _mm256_storeu_si256((__m256i *)(void *)o, _mm512_cvtepi32_epi16(pair));
            _mm256_storeu_si256((__m256i *)(void *)(o + QUERY_BLOCK),
                                _mm512_cvtepi32_epi16(_mm512_srli_epi32(pair, 16)));
        }
}

HOST_TARGET_BF16 void attention_bf16_pack_queries(const attention_job *j, int head, int64_t query_block) {
    const host_attention_args *a = j->a;
    int64_t kd = j->kd, d = a->heads * a->kw;
    uint16_t *q = (uint16_t *)(void *)attention_query_slot(j, head, query_block),
             *dy = q + QUERY_BLOCK * kd;
    memset(q, 0, (size_t)(2 * QUERY_BLOCK * kd) * sizeof *q);
    for (int i = 0; i < attention_query_rows(j, query_block); i++) {
        int64_t t = query_block * QUERY_BLOCK + i;
        const float *g = a->dy + t * d + head * a->kw;
        memcpy(q + i * kd, (const uint16_t *)a->q + t * a->ld_q + head * a->kw, (size_t)a->kw * 2);
        for (int64_t k = 0; k < a->kw; k++) dy[i * kd + k] = f32_to_bf16(g[k]);
    }
    transpose(q, kd, j->kv, dy + QUERY_BLOCK * kd);
    transpose(dy, kd, j->kv, dy + QUERY_BLOCK * (kd + j->kv));
}

/* What one pass over a block of scores reads and writes. */
typedef struct gradient_block {
    const float *s, *dp; /* [64][SCORE_LD] */
    uint16_t *p, *ds;    /* right operands: tile (key tile, 32 queries) */
    uint16_t *left;      /* dS as left operand [64][LEFT_LD] */
    float c, shift[QUERY_BLOCK], delta[QUERY_BLOCK]; /* p = 2^(c s - shift) */
} gradient_block;

/* Rows i and i + 1 over n keys, a multiple of 32. */
BF16_INLINE void gradient_rows(const gradient_block *g, int i, int n) {
    static const _Alignas(64)
        uint16_t pairs[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                              8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i interleave = _mm512_load_si512(pairs);
    const __m512 c = _mm512_set1_ps(g->c), m0 = _mm512_set1_ps(g->shift[i]),
                 m1 = _mm512_set1_ps(g->shift[i + 1]);
    const __m512 d0 = _mm512_set1_ps(g->delta[i]), d1 = _mm512_set1_ps(g->delta[i + 1]);
    const float *s = g->s + i * SCORE_LD, *dp = g->dp + i * SCORE_LD;
    uint16_t *left = g->left + i * LEFT_LD;
    int64_t row = i / 32 * TILE_ELEMS + i % 32 / 2 * 32;
    for (int k = 0; k < n; k += 32) {
        __m512 ds[2][2];
        for (int v = 0; v < 2; v++) {
            int at = k + 16 * v;
            int64_t out = (int64_t)(at / 16) * QUERY_STEPS * TILE_ELEMS + row;
            __m512 p0 = attention_tile_exp2(_mm512_fmsub_ps(_mm512_loadu_ps(s + at), c, m0));
            __m512 p1 =
                attention_tile_exp2(_mm512_fmsub_ps(_mm512_loadu_ps(s + SCORE_LD + at), c, m1));
            ds[0][v] = _mm512_mul_ps(p0, _mm512_sub_ps(_mm512_loadu_ps(dp + at), d0));
            ds[1][v] = _mm512_mul_ps(p1, _mm512_sub_ps(_mm512_loadu_ps(dp + SCORE_LD + at), d1));
            _mm512_storeu_si512(g->p + out, _mm512_permutexvar_epi16(
                                                interleave, (__m512i)_mm512_cvtne2ps_pbh(p1, p0)));
            _mm512_storeu_si512(g->ds + out,
                                _mm512_permutexvar_epi16(
                                    interleave, (__m512i)_mm512_cvtne2ps_pbh(ds[1][v], ds[0][v])));
        }
        _mm512_storeu_si512(left + k, (__m512i)_mm512_cvtne2ps_pbh(ds[0][1], ds[0][0]));
        _mm512_storeu_si512(left + LEFT_LD + k, (__m512i)_mm512_cvtne2ps_pbh(ds[1][1], ds[1][0]));
    }
}

/* Rows beyond the last query, up to a multiple of 32, are written as zeros: they are depth of dk
 * and dv. */
BF16_INLINE void gradient_pass(const attention_job *j, const attention_block *b, int head,
                               int64_t q0, int rows, int n, float *s, gradient_block *g) {
    float offset = b->part->offset * ATTENTION_LOG2E;
    bool plain = !b->part->bias && j->c > 0;
    g->c = plain ? j->c : 1;
    for (int i = 0; i < rows; i++) {
        int64_t at = head * j->a->tq + q0 + i;
        int seen = MIN(attention_visible(j, b, q0 + i), n);
        float lse = j->a->lse[at], *si = s + i * SCORE_LD;
        g->shift[i] = lse == -INFINITY ? INFINITY : lse * ATTENTION_LOG2E - (plain ? offset : 0);
        g->delta[i] = j->a->delta[at];
        if (!plain)
            attention_tile_scores(si, seen, n, j->c, offset, attention_bias(b, head, q0 + i),
                                  b->part->bias_k);
        else
            for (int k = seen; k < n; k++) si[k] = -INFINITY;
    }
    for (int i = rows; i < (rows + 31) / 32 * 32; i++) g->shift[i] = INFINITY, g->delta[i] = 0;
    for (int i = 0; i < rows; i += 2) gradient_rows(g, i, n);
    for (int i = (rows + 1) / 2 * 2; i < (rows + 31) / 32 * 32; i += 2) gradient_rows(g, i, n);
}

/* x [kv][128] -> out rows of this block's keys, += scale x^T */
HOST_TARGET_BF16 static void add_out(const attention_job *j, int head, const attention_block *b,
                               float scale, const float *x, float *out) {
    const host_attention_args *a = j->a;
    __m512i step =
        _mm512_mullo_epi32(_mm512_set1_epi32(KEY_BLOCK * 4),
                           _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    for (int i = 0; out && i < b->n; i++)
        for (int64_t k = 0; k < a->kw; k += 16) {
            __mmask16 mask = attention_tile_mask(a->kw - k);
            float *y = out + ((b->first + i) * a->heads + head) * a->kw + k;
            __m512 v = _mm512_i32gather_ps(step, x + k * KEY_BLOCK + i, 1);
            v = _mm512_fmadd_ps(v, _mm512_set1_ps(scale), _mm512_maskz_loadu_ps(mask, y));
            _mm512_mask_storeu_ps(y, mask, v);
        }
}

HOST_TARGET_BF16 void attention_bf16_backward(const attention_job *j, char *lane, int head, int64_t block0,
                                       int64_t block1, int chunk) {
    int64_t kd = j->kd, kv = j->kv;
    int tiles = (int)kv / 16, deep = (int)kd / 32;
    float *s = (float *)lane, *dp = s + QUERY_BLOCK * SCORE_LD, *dk = dp + QUERY_BLOCK * SCORE_LD;
    float *dv = dk + KEY_BLOCK * kv;
    uint16_t *p = (uint16_t *)(dv + KEY_BLOCK * kv), *ds = p + QUERY_BLOCK * KEY_BLOCK;
    gradient_block g = {.s = s, .dp = dp, .p = p, .ds = ds, .left = ds + QUERY_BLOCK * KEY_BLOCK};
    for (int64_t t = block0; t < block1; t++) {
        const attention_block *b = &j->block[t];
        const uint16_t *kc = (const uint16_t *)(void *)attention_key_slot(j, head, t);
        const uint16_t *vc = kc + KEY_BLOCK * kd, *kr = vc + KEY_BLOCK * kd;
        memset(dk, 0, (size_t)(2 * KEY_BLOCK * kv) * sizeof(float));
        for (int64_t qb = 0; qb < j->n_queries; qb++) {
            int rows = attention_query_rows(j, qb), steps = (rows + 31) / 32;
            int64_t q0 = qb * QUERY_BLOCK;
            int most = attention_visible(j, b, q0 + rows - 1), n = (most + 31) / 32 * 32;
            if (most == 0) continue;
            const uint16_t *q = (const uint16_t *)(void *)attention_query_slot(j, head, qb);
            const uint16_t *dy = q + QUERY_BLOCK * kd, *qt = dy + QUERY_BLOCK * kd,
                           *dyt = qt + QUERY_BLOCK * kv;
            j->path->matmul(2 * steps, n / 16, deep, q, kd, kc, deep * TILE_ELEMS, TILE_ELEMS,
                                  s, SCORE_LD, false);
            j->path->matmul(2 * steps, n / 16, deep, dy, kd, vc, deep * TILE_ELEMS,
                                  TILE_ELEMS, dp, SCORE_LD, false);
            gradient_pass(j, b, head, q0, rows, n, s, &g);
            j->path->matmul(tiles, n / 16, steps, dyt, QUERY_BLOCK, p,
                                  QUERY_STEPS * TILE_ELEMS, TILE_ELEMS, dv, KEY_BLOCK, true);
            j->path->matmul(tiles, n / 16, steps, qt, QUERY_BLOCK, ds,
                                  QUERY_STEPS * TILE_ELEMS, TILE_ELEMS, dk, KEY_BLOCK, true);
            j->path->matmul(2 * steps, tiles, n / 32, g.left, LEFT_LD, kr, TILE_ELEMS,
                                  tiles * TILE_ELEMS, attention_dq(j, head, chunk, qb), kv, true);
        }
        add_out(j, head, b, j->a->scale, dk, b->part->dk);
        add_out(j, head, b, 1, dv, b->part->dv);
    }
}
#endif
