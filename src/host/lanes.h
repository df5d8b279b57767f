/* lanes.h: blocks of elements for loops inside HOST_KERNEL. Kernels that take any float type
 * convert blocks of LANES elements to float on the stack, compute, convert back. Reading is
 * branch-free and inlined, so that the compiler vectorises it at every instruction-set level; saving
 * is a call, which takes the CPU's own instruction where there is one.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "base/lane.h"
#include "host/host.h"

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
LANE_INLINE void lanes_save(host_isa isa, void *dst, dtype t, int64_t at, int64_t n,
                            const float *restrict src) {
    if (t == DT_F32)
        memcpy((float *)dst + at, src, (size_t)n * 4);
    else
        host_convert_serial(isa, (uint16_t *)dst + at, t, src, DT_F32, n);
}
