/* lane.h: conversion of one element, branch-free, so that the compiler vectorises loops over them at
 * every instruction-set level; the bits are those of half.c.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "base/base.h"

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
