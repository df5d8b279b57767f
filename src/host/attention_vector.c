/* attention_vector.c: the float paths of attention, one per instruction set: the same template with
 * other vector widths and register tiles. Explicit vector types rather than HOST_KERNEL: the width
 * and the tile of the matmul follow the number of registers, not the vectoriser's opinion.
 * SPDX-License-Identifier: MIT */
#include "host/attention_internal.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* Multiples of every ROWS below and of 16. */
enum { QUERY_BLOCK = 48, KEY_BLOCK = 96 };

static void attention_vector_sizes(attention_job *j) {
    size_t kw = (size_t)j->a->kw, kv = align_up(kw, 16);
    j->query_block = QUERY_BLOCK;
    j->key_block = KEY_BLOCK;
    j->kd = j->kv = (int64_t)kv;
    size_t slot =
        j->is_backward ? 2 * kw * KEY_BLOCK + KEY_BLOCK * kv : kw * KEY_BLOCK + KEY_BLOCK * kv;
    j->key_bytes = slot * sizeof(float);
    j->query_bytes = 2 * QUERY_BLOCK * kv * sizeof(float);
    size_t forward = 2 * QUERY_BLOCK * kv + QUERY_BLOCK * KEY_BLOCK + 2 * QUERY_BLOCK;
    size_t backward = 2 * QUERY_BLOCK * KEY_BLOCK + 2 * KEY_BLOCK * kv;
    j->lane_bytes = align_up((j->is_backward ? backward : forward) * sizeof(float), 64);
}

/* 16 registers of 4 floats: 12 sums, 2 of the right operand, the broadcast, the product. */
#define AT(name) attention_base_##name
#define TARGET
#define WIDTH 4
#define ROWS  6
#if defined(__x86_64__)
#define MAXIMUM(x, y) ((VEC)_mm_max_ps((__m128)(x), (__m128)(y)))
#else
#define MAXIMUM(x, y) ((VEC)((((x) > (y)) & (IVEC)(x)) | (~((x) > (y)) & (IVEC)(y))))
#endif
#include "host/attention_vector.h"

#if defined(__x86_64__)
#define AT(name)      attention_avx2_##name
#define TARGET        HOST_TARGET_AVX2
#define WIDTH         8
#define ROWS          6
#define MAXIMUM(x, y) ((VEC)_mm256_max_ps((__m256)(x), (__m256)(y)))
#include "host/attention_vector.h"

/* 24 sums of 32 registers; the broadcast is part of the fused multiply-add. */
#define AT(name)      attention_avx512_##name
#define TARGET        HOST_TARGET_AVX512
#define WIDTH         16
#define ROWS          12
#define MAXIMUM(x, y) ((VEC)_mm512_max_ps((__m512)(x), (__m512)(y)))
#include "host/attention_vector.h"
#endif
