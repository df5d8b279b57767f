/* block.h: elements of any float type as blocks of floats, for CPU kernels; and NumPy broadcasting.
 * A f32 tensor is used where it lies; half types pass through a buffer of LANES floats on the
 * stack.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "host/lanes.h"
#include "op/move.h"

/* Smallest piece of elementwise work worth a thread, in elements. */
#define BLOCK_GRAIN 16384

/* Half types are loaded, computed and stored in turns, so the memory would rest while the cores
 * compute: the lines of the next n elements are asked for now (a prefetch past the end is
 * harmless). */
LANE_INLINE void block_ahead(const uint16_t *x, int64_t n) {
    for (int64_t i = 0; i < n; i += 32) __builtin_prefetch(x + i);
}

/* n elements of x from `at` as floats: in place, or converted into buf. */
static inline const float *block_in(host_isa isa, const void *x, dtype t, int64_t at, int64_t n,
                                    float *buf) {
    if (t == DT_F32) return (const float *)x + at;
    block_ahead((const uint16_t *)x + at + n, n);
    host_convert_serial(isa, buf, DT_F32, (const uint16_t *)x + at, t, n);
    return buf;
}

/* Where to compute y[at..]; block_done stores it when that is buf. */
static inline float *block_out(void *y, dtype t, int64_t at, float *buf) {
    return t == DT_F32 ? (float *)y + at : buf;
}
static inline void block_done(host_isa isa, void *y, dtype t, int64_t at, int64_t n,
                              const float *buf) {
    if (t != DT_F32) host_convert_serial(isa, (uint16_t *)y + at, t, buf, DT_F32, n);
}

/* ---- broadcasting ----
 * The dims of an output with every operand's strides (0 where it is stretched), outermost first;
 * dims of size 1 dropped and neighbours merged where all operands allow. */
#define BCAST_MAX 3
typedef struct bcast {
    int n, n_ops;
    int64_t d[MAX_DIMS], stride[BCAST_MAX][MAX_DIMS];
} bcast;

/* The shape that a and b stretch to; false when they do not agree. */
bool bcast_shape(const shape *a, const shape *b, shape *out);
/* op[k]: a shape that broadcasts to out. */
bcast bcast_of(const shape *out, int n_ops, const shape *const *op);
/* Element of operand k under output element i. */
int64_t bcast_index(const bcast *b, int k, int64_t i);
/* Operand k under output elements [at, at + n), n <= LANES, as floats. */
const float *bcast_in(host_isa isa, const bcast *b, int k, const void *x, dtype t, int64_t at,
                      int64_t n, float *buf);
/* Push constants, innermost first, missing dims 1: sizes, the innermost one divided by `unit` (4:
 * vectors); strides in elements. */
void bcast_push(const bcast *b, int64_t unit, uint32_t d[MAX_DIMS], uint32_t *const stride[]);
