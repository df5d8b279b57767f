/* lanes.h: blocks of elements for loops inside HOST_KERNEL. Kernels that take any float type convert
 * LANES elements to float on the stack, compute, convert back.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "base/dtype.h"
#include "base/lane.h"

#define LANES 512 /* floats: 2 KB, a few such blocks stay in the first-level cache */

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
