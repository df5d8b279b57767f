/* attention_tiles.c: the two matmuls over bf16 tiles, by AMX and by dot products of pairs
 * (AVX512-BF16), and the packing of their right operands.
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

TARGET_AMX static inline __attribute__((always_inline)) void tiles_2x2(int depth, const uint16_t *a, int64_t lda, const uint16_t *b,
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
TARGET_AMX static inline __attribute__((always_inline)) void tiles_2x1(int depth, const uint16_t *a, int64_t lda, const uint16_t *b,
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
TARGET_AMX static inline __attribute__((always_inline)) void tiles_1x2(int depth, const uint16_t *a, int64_t lda, const uint16_t *b,
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

/* 16 sums in registers, R rows of one or two tiles of C: a row of a B tile is 16 columns' pairs, so
 * it meets one pair of A broadcast. */
BF16_INLINE void dots(int rows, int cols, int depth, const uint16_t *a, int64_t lda,
                      const uint16_t *b, int64_t b_n, int64_t b_k, float *c, int64_t ldc,
                      bool add) {
    __m512 s[16][2];
#pragma GCC unroll 16
    for (int m = 0; m < rows; m++)
        for (int n = 0; n < cols; n++)
            s[m][n] = add ? _mm512_loadu_ps(c + m * ldc + 16 * n) : _mm512_setzero_ps();
    for (int k = 0; k < depth; k++, a += 32, b += b_k)
        for (int r = 0; r < 32; r += 2) {
            __m512bh b0 = (__m512bh)_mm512_load_si512(b + r * 16);
            __m512bh b1 = cols > 1 ? (__m512bh)_mm512_load_si512(b + b_n + r * 16) : b0;
#pragma GCC unroll 16
            for (int m = 0; m < rows; m++) {
                int32_t pair;
                memcpy(&pair, a + m * lda + r, 4);
                __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
                s[m][0] = _mm512_dpbf16_ps(s[m][0], x, b0);
                if (cols > 1) s[m][1] = _mm512_dpbf16_ps(s[m][1], x, b1);
            }
        }
#pragma GCC unroll 16
    for (int m = 0; m < rows; m++)
        for (int n = 0; n < cols; n++) _mm512_storeu_ps(c + m * ldc + 16 * n, s[m][n]);
}

HOST_TARGET_BF16 void attention_dot_matmul(int mt, int nt, int depth, const uint16_t *a,
                                           int64_t lda, const uint16_t *b, int64_t b_n,
                                           int64_t b_k, float *c, int64_t ldc, bool add) {
    int n = 0;
    for (; n + 2 <= nt; n += 2)
        for (int m = 0; m < 16 * mt; m += 8)
            dots(8, 2, depth, a + m * lda, lda, b + n * b_n, b_n, b_k, c + m * ldc + 16 * n, ldc,
                 add);
    for (int m = 0; n < nt && m < 16 * mt; m += 16)
        dots(16, 1, depth, a + m * lda, lda, b + n * b_n, b_n, b_k, c + m * ldc + 16 * n, ldc, add);
}

HOST_TARGET_BF16 void attention_tile_pack_columns(const uint16_t *src, int64_t ld, int n, int64_t kw,
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

HOST_TARGET_BF16 void attention_tile_pack_rows(const uint16_t *src, int64_t ld, int n, int64_t kw,
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
#endif
