/* dtype.h: element types, shared by files, devices and the graph.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "base/base.h"

typedef enum dtype {
    DT_F32, DT_F16, DT_BF16, DT_U32,
    DT_F64,                    /* `ref` and tests only: no device stores it */
    DT_COUNT
} dtype;
size_t      dtype_bytes(dtype t);
const char *dtype_name(dtype t);            /* "f32" */
double      dtype_epsilon(dtype t);         /* unit rounding: 2^-24, 2^-11, 2^-8 */
static inline bool dtype_is_half(dtype t) { return t == DT_F16 || t == DT_BF16; }
/* The type sums, statistics, losses and weight gradients are kept in. */
static inline dtype dtype_acc(dtype t) { return t == DT_F64 ? DT_F64 : DT_F32; }
double dtype_load(const void *base, dtype t, int64_t i);
void   dtype_store(void *base, dtype t, int64_t i, double v);
