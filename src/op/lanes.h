/* lanes.h: element conversions for loops inside HOST_KERNEL: branch-free, so that the compiler
 * vectorises them at every instruction-set level, and with the bits of base/half.c. Kernels that
 * take any float type convert blocks of LANES elements to float on the stack, compute, convert
 * back. SPDX-License-Identifier: MIT */
#pragma once
#include "base/dtype.h"

#define LANES       512 /* floats: 2 KB, a few such blocks stay in the first-level cache */
#define LANE_INLINE static inline __attribute__((always_inline))

LANE_INLINE float lane_bits(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}

LANE_INLINE uint32_t lane_word(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

LANE_INLINE float lane_from_bf16(uint16_t h) { return lane_bits((uint32_t)h << 16); }

LANE_INLINE uint16_t lane_to_bf16(float x) {
    uint32_t u = lane_word(x), r = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16, q = (u >> 16) | 0x40u;
    return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? q : r);
}

/* Exponent and fraction shifted into place, times 2^112: that also normalises subnormals. */
LANE_INLINE float lane_from_f16(uint16_t h) {
    uint32_t m = (uint32_t)(h & 0x7fffu) << 13, sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t u = lane_word(lane_bits(m) * 0x1p112f);
    u = m >= 0x0f800000u ? m | 0x7f800000u : u;
    return lane_bits(u | sign);
}

/* Adding 0.5 lets the adder round a value below 2^-14 to units of 2^-24, to nearest even. */
LANE_INLINE uint16_t lane_to_f16(float x) {
    uint32_t u = lane_word(x), sign = (u >> 16) & 0x8000u, m = u & 0x7fffffffu;
    uint32_t small = lane_word(lane_bits(m) + 0.5f) - 0x3f000000u;
    uint32_t normal = (m - 0x38000000u + 0xfffu + ((m >> 13) & 1u)) >> 13;
    uint32_t nan = 0x7e00u | ((m >> 13) & 0x3ffu);
    uint32_t r = m < 0x38800000u ? small : normal;
    r = m >= 0x477ff000u ? 0x7c00u : r;
    r = m > 0x7f800000u ? nan : r;
    return (uint16_t)(r | sign);
}

/* dst[0..n) = src[at..at+n) as float. */
LANE_INLINE void lanes_load(const void *src, dtype t, int64_t at, int64_t n, float *restrict dst) {
    const uint16_t *h = (const uint16_t *)src + at;
    if (t == DT_F32)
        memcpy(dst, (const float *)src + at, (size_t)n * 4);
    else if (t == DT_BF16)
        for (int64_t i = 0; i < n; i++) dst[i] = lane_from_bf16(h[i]);
    else
        for (int64_t i = 0; i < n; i++) dst[i] = lane_from_f16(h[i]);
}

/* dst[at..at+n) = src[0..n), rounded to t. */
LANE_INLINE void lanes_save(void *dst, dtype t, int64_t at, int64_t n, const float *restrict src) {
    uint16_t *h = (uint16_t *)dst + at;
    if (t == DT_F32)
        memcpy((float *)dst + at, src, (size_t)n * 4);
    else if (t == DT_BF16)
        for (int64_t i = 0; i < n; i++) h[i] = lane_to_bf16(src[i]);
    else
        for (int64_t i = 0; i < n; i++) h[i] = lane_to_f16(src[i]);
}
