/* move.h: what the ops that move elements share: dispatches over elements, the window copy.
 * Their shaders move bits (uint or uint16_t), four elements at a time where all is a multiple of 4.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "op/op.h"

/* Smallest piece of copying worth a thread, in elements. */
#define MOVE_GRAIN 16384

/* The shader variant by element size: bits are moved, so u32 goes with f32. */
static inline dtype move_type(dtype t) { return dtype_is_half(t) ? t : DT_F32; }

/* One invocation per item, 256 to a workgroup. */
static inline status move_dispatch(gpu_cmd *c, gpu_dispatch_params p, uint64_t items) {
    gpu_groups_1d(items, 256, p.groups);
    if (p.work <= 0) p.work = (double)items * 8;
    return gpu_dispatch_(c, &p);
}

/* f32, f16, bf16, or f64 in tests. */
static inline bool move_is_float(dtype t) { return t != DT_U32 && t != DT_COUNT; }

/* The pattern that `value` has as an element of t, in the low bits. */
static inline uint32_t move_bits(dtype t, float value) {
    uint64_t cell = 0;
    dtype_store(&cell, t, 0, (double)value);
    return (uint32_t)cell;
}

/* y[at..at+n) = v, inside a host_parallel body. */
static inline void move_save(host_isa isa, const tensor *y, int64_t at, int64_t n, const float *v) {
    host_convert_serial(isa, (char *)y->data + (size_t)at * dtype_bytes(y->dtype), y->dtype, v,
                        DT_F32, n);
}

/* Element count before and after dim. */
static inline void move_split(const shape *s, int dim, int64_t *outer, int64_t *inner) {
    *outer = *inner = 1;
    for (int i = 0; i < dim; i++) *outer *= s->d[i];
    for (int i = dim + 1; i < s->n; i++) *inner *= s->d[i];
}

/* The window copy (pad.c) of pad and slice: y[c] = x[c - before] where that lies inside x, else
 * `value`; before < 0 cuts. */
typedef struct move_window {
    int n;
    int64_t out[MAX_DIMS], in[MAX_DIMS], before[MAX_DIMS];
    float value;
} move_window;
/* Merges dims that keep their size. */
move_window move_window_of(const shape *x, const shape *y, const int64_t before[MAX_DIMS],
                           float value);
status move_window_encode(gpu_cmd *c, const node *n, const move_window *w);
void move_window_host(host *h, const node *n, const move_window *w);
void move_window_ref(const node *n, const move_window *w);
