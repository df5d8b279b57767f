/* safetensors.c: the element types of the format, element access, and lookup by name.
 * The reader is safetensors_read.c, the writer safetensors_write.c.
 * SPDX-License-Identifier: MIT */
#include "file/safetensors.h"

#include <stdio.h>

static const element_type types[] = {
    {"F32", 4, DT_F32},    {"F16", 2, DT_F16},   {"BF16", 2, DT_BF16}, {"U32", 4, DT_U32},
    {"F64", 8, DT_F64},    {"I64", 8, DT_COUNT}, {"I32", 4, DT_COUNT}, {"I16", 2, DT_COUNT},
    {"I8", 1, DT_COUNT},   {"U64", 8, DT_COUNT}, {"U16", 2, DT_COUNT}, {"U8", 1, DT_COUNT},
    {"BOOL", 1, DT_COUNT},
};

const element_type *element_type_find(const char *name) {
    for (size_t i = 0; i < ARRAY_LEN(types); i++)
        if (!strcmp(types[i].name, name)) return &types[i];
    return NULL;
}

const element_type *element_type_of(dtype t) {
    for (size_t i = 0; i < ARRAY_LEN(types); i++)
        if (types[i].dtype == t && t != DT_COUNT) return &types[i];
    return NULL;
}

static const element_type *type_of(const safetensor *t) {
    return t->type ? element_type_find(t->type) : element_type_of(t->dtype);
}

bool safetensor_size(const int64_t *dim, int n_dims, size_t element_bytes, uint64_t *bytes) {
    uint64_t n = element_bytes;
    for (int i = 0; i < n_dims; i++)
        if (dim[i] < 0 || __builtin_mul_overflow(n, (uint64_t)dim[i], &n)) return false;
    *bytes = n;
    return n <= INT64_MAX;
}

int64_t safetensor_count(const safetensor *t) {
    int64_t n = 1;
    for (int i = 0; i < t->n_dims; i++) n *= t->dim[i];
    return n;
}

size_t safetensor_bytes(const safetensor *t) {
    const element_type *e = type_of(t);
    return e ? (size_t)safetensor_count(t) * e->bytes : 0;
}

double safetensor_load(const safetensor *t, int64_t i) {
    if (t->dtype != DT_COUNT) return dtype_load(t->data, t->dtype, i);
    const element_type *e = type_of(t);
    if (!e) return 0;
    const uint8_t *p = (const uint8_t *)t->data + (size_t)i * e->bytes;
    uint64_t u = 0;
    memcpy(&u, p, e->bytes); /* little-endian hosts only, as everywhere in this program */
    if (e->name[0] != 'I') return (double)u;
    int shift = 64 - 8 * (int)e->bytes;
    return (double)((int64_t)(u << shift) >> shift);
}

void safetensor_read_f32(const safetensor *t, float *out) {
    int64_t n = safetensor_count(t);
    const uint16_t *h = t->data;
    if (t->dtype == DT_F32) {
        if (n) memcpy(out, t->data, (size_t)n * 4);
    } else if (t->dtype == DT_F16)
        for (int64_t i = 0; i < n; i++) out[i] = f16_to_f32(h[i]);
    else if (t->dtype == DT_BF16)
        for (int64_t i = 0; i < n; i++) out[i] = bf16_to_f32(h[i]);
    else
        for (int64_t i = 0; i < n; i++) out[i] = (float)safetensor_load(t, i);
}

const char *safetensor_describe(const safetensor *t, char *out, size_t bytes) {
    const element_type *e = type_of(t);
    size_t used = 0;
    for (int i = -1; i <= t->n_dims && used < bytes; i++) {
        int n = i < 0            ? snprintf(out + used, bytes - used, "%s[", e ? e->name : "?")
                : i == t->n_dims ? snprintf(out + used, bytes - used, "]")
                                 : snprintf(out + used, bytes - used, "%s%lld", i ? ", " : "",
                                            (long long)t->dim[i]);
        used += n > 0 ? (size_t)n : 0;
    }
    return out;
}

const safetensor *safetensors_find(const safetensors *f, const char *name) {
    int64_t lo = 0, hi = f->n;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        int c = strcmp(name, f->tensor[mid].name);
        if (c == 0) return &f->tensor[mid];
        if (c < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

const char *safetensors_find_note(const safetensors *f, const char *key) {
    for (int64_t i = 0; i < f->n_notes; i++)
        if (!strcmp(f->note[i].key, key)) return f->note[i].value;
    return NULL;
}
