/* dtype.c: sizes, names and single-element access of the element types.
 * SPDX-License-Identifier: MIT */
#include "base/dtype.h"

size_t dtype_bytes(dtype t) {
    switch (t) {
    case DT_F32:
    case DT_U32:
        return 4;
    case DT_F16:
    case DT_BF16:
        return 2;
    case DT_F64:
        return 8;
    case DT_COUNT:
        break;
    }
    return 0;
}

const char *dtype_name(dtype t) {
    switch (t) {
    case DT_F32:
        return "f32";
    case DT_F16:
        return "f16";
    case DT_BF16:
        return "bf16";
    case DT_U32:
        return "u32";
    case DT_F64:
        return "f64";
    case DT_COUNT:
        break;
    }
    return "?";
}

double dtype_epsilon(dtype t) {
    switch (t) {
    case DT_F32:
        return 0x1p-24;
    case DT_F16:
        return 0x1p-11;
    case DT_BF16:
        return 0x1p-8;
    case DT_F64:
        return 0x1p-53;
    case DT_U32:
    case DT_COUNT:
        break;
    }
    return 0;
}

double dtype_load(const void *base, dtype t, int64_t i) {
    switch (t) {
    case DT_F32:
        return ((const float *)base)[i];
    case DT_F16:
        return f16_to_f32(((const uint16_t *)base)[i]);
    case DT_BF16:
        return bf16_to_f32(((const uint16_t *)base)[i]);
    case DT_U32:
        return ((const uint32_t *)base)[i];
    case DT_F64:
        return ((const double *)base)[i];
    case DT_COUNT:
        break;
    }
    return 0;
}

void dtype_store(void *base, dtype t, int64_t i, double v) {
    switch (t) {
    case DT_F32:
        ((float *)base)[i] = (float)v;
        break;
    case DT_F16:
        ((uint16_t *)base)[i] = f32_to_f16((float)v);
        break;
    case DT_BF16:
        ((uint16_t *)base)[i] = f32_to_bf16((float)v);
        break;
    case DT_U32: /* out of range is undefined in C: saturate, NaN is 0 */
        ((uint32_t *)base)[i] = v >= 4294967295.0 ? UINT32_MAX : v > 0 ? (uint32_t)v : 0;
        break;
    case DT_F64:
        ((double *)base)[i] = v;
        break;
    case DT_COUNT:
        break;
    }
}
