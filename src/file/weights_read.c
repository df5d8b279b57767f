/* weights_read.c: the element types of checkpoints and their way into memory. A block of elements
 * becomes float on the stack, then the type that is asked for: loops plain enough for the compiler
 * to vectorise, since models of gigabytes pass through them. Files may be misaligned, so elements
 * are fetched by memcpy. source  ggml's block formats (ggml-common.h, ggml-quants.c)
 * SPDX-License-Identifier: MIT */
#include "file/weights_internal.h"
#include "base/lane.h"

#include <assert.h>

enum {
    BLOCK = 512,
    QUANTS = 32
}; /* floats: 2 KB, stays in the first-level cache; a multiple of QUANTS */

static inline uint16_t get16(const uint8_t *p) {
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* ---- plain types ---- */
static void load_f32(const uint8_t *p, int64_t n, float *restrict out) {
    memcpy(out, p, (size_t)n * sizeof *out);
}

static void load_f16(const uint8_t *p, int64_t n, float *restrict out) {
    for (int64_t i = 0; i < n; i++) out[i] = lane_from_f16(get16(p + 2 * i));
}

static void load_bf16(const uint8_t *p, int64_t n, float *restrict out) {
    for (int64_t i = 0; i < n; i++) out[i] = lane_from_bf16(get16(p + 2 * i));
}

#define LOAD_AS(name, type)                                                                        \
    static void load_##name(const uint8_t *p, int64_t n, float *restrict out) {                    \
        for (int64_t i = 0; i < n; i++) {                                                          \
            type v;                                                                                \
            memcpy(&v, p + i * (int64_t)sizeof v, sizeof v);                                       \
            out[i] = (float)v;                                                                     \
        }                                                                                          \
    }
LOAD_AS(f64, double)
LOAD_AS(i64, int64_t)
LOAD_AS(i32, int32_t)
LOAD_AS(i16, int16_t)
LOAD_AS(i8, int8_t)
LOAD_AS(u64, uint64_t)
LOAD_AS(u32, uint32_t)
LOAD_AS(u16, uint16_t)
LOAD_AS(u8, uint8_t)

/* ---- blocks of 32 with a scale d, some with a minimum m, both f16: d q or d q + m. Four-bit
 * halves: the low ones are elements 0..15, the high ones 16..31; fifth bits lie in a word of their
 * own. ---- */
static void load_q8_0(const uint8_t *p, int64_t n, float *restrict out) {
    for (; n > 0; n -= QUANTS, p += 34, out += QUANTS) {
        float d = lane_from_f16(get16(p));
        for (int i = 0; i < QUANTS; i++) out[i] = d * (float)(int8_t)p[2 + i];
    }
}

static void load_q4_0(const uint8_t *p, int64_t n, float *restrict out) {
    for (; n > 0; n -= QUANTS, p += 18, out += QUANTS) {
        float d = lane_from_f16(get16(p));
        for (int i = 0; i < 16; i++) {
            out[i] = d * (float)((p[2 + i] & 15) - 8);
            out[i + 16] = d * (float)((p[2 + i] >> 4) - 8);
        }
    }
}

static void load_q4_1(const uint8_t *p, int64_t n, float *restrict out) {
    for (; n > 0; n -= QUANTS, p += 20, out += QUANTS) {
        float d = lane_from_f16(get16(p)), m = lane_from_f16(get16(p + 2));
        for (int i = 0; i < 16; i++) {
            out[i] = d * (float)(p[4 + i] & 15) + m;
            out[i + 16] = d * (float)(p[4 + i] >> 4) + m;
        }
    }
}

/* The 32 five-bit numbers of a block. */
static void unpack_5(const uint8_t *fifth, const uint8_t *low, int *restrict q) {
    uint32_t bits;
    memcpy(&bits, fifth, sizeof bits);
    for (int i = 0; i < 16; i++) {
        q[i] = (int)((low[i] & 15u) | (bits >> i & 1u) << 4);
        q[i + 16] = (int)((low[i] >> 4) | (bits >> (i + 16) & 1u) << 4);
    }
}

static void load_q5_0(const uint8_t *p, int64_t n, float *restrict out) {
    for (; n > 0; n -= QUANTS, p += 22, out += QUANTS) {
        int q[QUANTS];
        float d = lane_from_f16(get16(p));
        unpack_5(p + 2, p + 6, q);
        for (int i = 0; i < QUANTS; i++) out[i] = d * (float)(q[i] - 16);
    }
}

static void load_q5_1(const uint8_t *p, int64_t n, float *restrict out) {
    for (; n > 0; n -= QUANTS, p += 24, out += QUANTS) {
        int q[QUANTS];
        float d = lane_from_f16(get16(p)), m = lane_from_f16(get16(p + 2));
        unpack_5(p + 4, p + 8, q);
        for (int i = 0; i < QUANTS; i++) out[i] = d * (float)q[i] + m;
    }
}

static const weight_type types[] = {
    {"F32", 0, 1, 4, DT_F32, load_f32},           {"F16", 1, 1, 2, DT_F16, load_f16},
    {"BF16", 30, 1, 2, DT_BF16, load_bf16},       {"F64", 28, 1, 8, DT_F64, load_f64},
    {"U32", -1, 1, 4, DT_U32, load_u32},          {"I64", 27, 1, 8, DT_COUNT, load_i64},
    {"I32", 26, 1, 4, DT_COUNT, load_i32},        {"I16", 25, 1, 2, DT_COUNT, load_i16},
    {"I8", 24, 1, 1, DT_COUNT, load_i8},          {"U64", -1, 1, 8, DT_COUNT, load_u64},
    {"U16", -1, 1, 2, DT_COUNT, load_u16},        {"U8", -1, 1, 1, DT_COUNT, load_u8},
    {"BOOL", -1, 1, 1, DT_COUNT, load_u8},        {"Q4_0", 2, QUANTS, 18, DT_COUNT, load_q4_0},
    {"Q4_1", 3, QUANTS, 20, DT_COUNT, load_q4_1}, {"Q5_0", 6, QUANTS, 22, DT_COUNT, load_q5_0},
    {"Q5_1", 7, QUANTS, 24, DT_COUNT, load_q5_1}, {"Q8_0", 8, QUANTS, 34, DT_COUNT, load_q8_0},
};

const weight_type *weight_type_find(const char *name) {
    for (size_t i = 0; i < ARRAY_LEN(types); i++)
        if (!strcmp(types[i].name, name)) return &types[i];
    return NULL;
}

const weight_type *weight_type_of_gguf(uint32_t type) {
    for (size_t i = 0; i < ARRAY_LEN(types); i++)
        if (types[i].gguf >= 0 && (uint32_t)types[i].gguf == type) return &types[i];
    return NULL;
}

/* ---- out ---- */
static void store_f16(const float *restrict x, int64_t n, uint16_t *restrict out) {
    for (int64_t i = 0; i < n; i++) out[i] = lane_to_f16(x[i]);
}

static void store_bf16(const float *restrict x, int64_t n, uint16_t *restrict out) {
    for (int64_t i = 0; i < n; i++) out[i] = lane_to_bf16(x[i]);
}

/* Not finite = all exponent bits set = at least this word, without the sign. */
static bool all_finite_16(const uint16_t *x, int64_t n, uint16_t infinity) {
    uint16_t bad = 0;
    for (int64_t i = 0; i < n; i++) bad |= (uint16_t)((x[i] & 0x7fff) >= infinity);
    return !bad;
}

static bool all_finite_32(const float *x, int64_t n) {
    uint32_t bad = 0;
    for (int64_t i = 0; i < n; i++) bad |= (lane_word(x[i]) & 0x7fffffffu) >= 0x7f800000u;
    return !bad;
}

static bool all_finite(const void *x, dtype t, int64_t n) {
    return t == DT_F32 ? all_finite_32(x, n) : all_finite_16(x, n, t == DT_F16 ? 0x7c00 : 0x7f80);
}

status weight_read(const weight *t, int64_t begin, int64_t n, dtype to, void *out, bool *finite) {
    const weight_type *type = weight_type_find(t->type);
    assert(type && to <= DT_BF16 && begin >= 0 && n >= 0 && n <= t->count - begin);
    assert(begin % type->per_block == 0 && n % type->per_block == 0); /* counts are whole blocks */
    const uint8_t *p = (const uint8_t *)t->data + begin / type->per_block * type->block_bytes;
    size_t size = dtype_bytes(to);
    bool good = true;
    for (int64_t m; n > 0; n -= m) {
        float x[BLOCK];
        m = MIN(n, (int64_t)BLOCK);
        if (type->dtype == to)
            memcpy(out, p, (size_t)m * size);
        else if (to == DT_F32)
            type->load(p, m, out);
        else {
            type->load(p, m, x);
            if (to == DT_F16)
                store_f16(x, m, out);
            else
                store_bf16(x, m, out);
        }
        good &= all_finite(out, to, m);
        p += m / type->per_block * type->block_bytes;
        out = (uint8_t *)out + (size_t)m * size;
    }
    if (finite && !good) *finite = false;
    return OK;
}

void weight_release(const weight *t) { os_pages_release(t->data, t->bytes); }
