/* attention_tiles.h: matmul of bf16 tiles and their packing, shared by attention_bf16.c (forward)
 * and attention_bf16_bwd.c. A tile is 16 rows of 64 bytes, what AMX multiplies; CPUs with only
 * AVX512-BF16 take the same layouts row by row (both take subnormals for zeros).
 *
 * A right operand is stored as 1 KiB tiles of 32 deep x 16 columns, pairs of the depth interleaved
 * (VNNI); a left operand by rows. gcc's tile loads are volatile asm that do not claim to read
 * memory, so ordinary stores could sink below them: TILE_FENCE stands wherever a buffer changes
 * hands.
 * source  Intel 64 and IA-32 manual, volume 1, chapter 18 (AMX)
 * SPDX-License-Identifier: MIT */
#pragma once
#include "host/attention_internal.h"
#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET_AMX   __attribute__((target("amx-tile,amx-bf16"))) HOST_TARGET_BF16
#define BF16_INLINE  HOST_TARGET_BF16 static inline __attribute__((always_inline))
#define TILE_FENCE() __asm__ volatile("" ::: "memory")
enum { TILE_ELEMS = 512 };

/* C [16 mt, 16 nt] (+)= A [16 mt, 32 depth] B. Strides: lda in bf16, ldc in floats; tile (n, k) of
 * b at b + n * b_n + k * b_k. One of mt and nt must be even.
 * The first by AMX, between begin and end; the second by AVX512-BF16. */
void attention_tile_matmul(int mt, int nt, int depth, const uint16_t *a, int64_t lda,
                           const uint16_t *b, int64_t b_n, int64_t b_k, float *c, int64_t ldc,
                           bool add);
void attention_dot_matmul(int mt, int nt, int depth, const uint16_t *a, int64_t lda,
                          const uint16_t *b, int64_t b_n, int64_t b_k, float *c, int64_t ldc,
                          bool add);
void attention_tile_begin(void);
void attention_tile_end(void);

/* Right operand with the token as column: src [n][kw] bf16, ld apart -> tiles (n, k) at
 * (n * kd/32 + k) * TILE_ELEMS, zeros outside; `tokens` columns are written. */
void attention_tile_pack_columns(const uint16_t *src, int64_t ld, int n, int64_t kw, int tokens,
                                 int64_t kd, uint16_t *out);
/* Right operand with the token as depth: tiles (n, k) at (k * kv/16 + n) * TILE_ELEMS. */
void attention_tile_pack_rows(const uint16_t *src, int64_t ld, int n, int64_t kw, int tokens,
                              int64_t kv, uint16_t *out);

/* attention_bf16_bwd.c's half of the path */
void attention_bf16_sizes_bwd(attention_job *j);
void attention_bf16_pack_keys_bwd(const attention_job *j, int head, int64_t block);
void attention_bf16_pack_queries(const attention_job *j, int head, int64_t query_block);
void attention_bf16_backward(const attention_job *j, char *lane, int head, int64_t block0,
                            int64_t block1, int chunk);

/* The first n of 16 lanes; n may be anything. */
static inline __mmask16 attention_tile_mask(int64_t n) {
    return (__mmask16)(n >= 16 ? 0xffff : n <= 0 ? 0 : (1 << n) - 1);
}

/* 2^x for x <= 8, relative error 2.6e-6, far below bf16's 2^-9: scalef multiplies by 2^floor(x), a
 * minimax polynomial on [0, 1) by the rest. 2^-inf = 0, NaN stays. */
BF16_INLINE __m512 attention_tile_exp2(__m512 x) {
    __m512 f = _mm512_reduce_ps(x, 0x09); /* x - floor(x) */
    __m512 p = _mm512_fmadd_ps(f, _mm512_set1_ps(0.013534167911696475f),
                               _mm512_set1_ps(0.052011460619051625f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.24144275688619224f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.6930038344710636f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0000025933706653f));
    return _mm512_scalef_ps(p, x);
}

/* The general case of a row: scale, offset and bias in place; -inf beyond what is seen. */
BF16_INLINE void attention_tile_scores(float *s, int seen, int n, float c, float offset,
                                       const float *bias, int64_t bias_k) {
    attention_scores(s, seen, c, offset, bias, bias_k);
    for (int k = seen; k < n; k++) s[k] = -INFINITY;
}
#endif
