/* convert.c: element types into each other, at memory speed. Rounding is to nearest even; NaN stays
 * NaN. Half floats are converted by integer arithmetic, so every machine gives the same bits.
 * SPDX-License-Identifier: MIT */
#include "host/lanes.h"

#include <assert.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

HOST_KERNEL(f16_f32, (const uint16_t *x, float *y, int64_t n), (x, y, n)) {
    for (int64_t i = 0; i < n; i++) y[i] = lane_from_f16(x[i]);
}

HOST_KERNEL(f32_f16, (const float *x, uint16_t *y, int64_t n), (x, y, n)) {
    for (int64_t i = 0; i < n; i++) {
        uint32_t u = lane_word(x[i]), mag = u & 0x7fffffffu;
        /* At least 2^-14: bias 127 -> 15, 13 bits rounded off; a carry moves into the exponent. */
        uint32_t normal = (mag - (112u << 23) + 0xfffu + (mag >> 13 & 1u)) >> 13;
        /* Below: the unit in the last place of 0.5 is 2^-24, the f16 subnormal unit. */
        uint32_t small = lane_word(lane_bits(mag) + 0.5f) - 0x3f000000u;
        uint32_t r = mag < 0x38800000u ? small : normal;
        r = mag >= 0x477ff000u ? 0x7c00u : r;
        r = mag > 0x7f800000u ? 0x7e00u | (mag >> 13 & 0x3ffu) : r;
        y[i] = (uint16_t)(r | (u >> 16 & 0x8000u));
    }
}

HOST_KERNEL(bf16_f32, (const uint16_t *x, float *y, int64_t n), (x, y, n)) {
    for (int64_t i = 0; i < n; i++) y[i] = lane_from_bf16(x[i]);
}

HOST_KERNEL(f32_bf16, (const float *x, uint16_t *y, int64_t n), (x, y, n)) {
    for (int64_t i = 0; i < n; i++) {
        uint32_t u = lane_word(x[i]);
        uint32_t r = (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
        r = (u & 0x7fffffffu) > 0x7f800000u ? u >> 16 | 0x40u : r;
        y[i] = (uint16_t)r;
    }
}

#if defined(__x86_64__)
/* The instruction rounds like the loop above but takes subnormals for zeros: the rare vectors that
 * hold one go through the loop, so that every level gives the same bits. */
HOST_TARGET_BF16 static void f32_bf16_native(const float *x, uint16_t *y, int64_t n) {
    const int subnormal = 0x20;
    for (int64_t i = 0; i < n; i += 32) {
        uint32_t mask = n - i >= 32 ? ~0u : (1u << (n - i)) - 1;
        __m512 a = _mm512_maskz_loadu_ps((__mmask16)mask, x + i),
               b = _mm512_maskz_loadu_ps((__mmask16)(mask >> 16), x + i + 16);
        if (_mm512_fpclass_ps_mask(a, subnormal) | _mm512_fpclass_ps_mask(b, subnormal))
            f32_bf16(ISA_AVX512, x + i, y + i, MIN(n - i, 32));
        else
            _mm512_mask_storeu_epi16(y + i, mask, (__m512i)_mm512_cvtne2ps_pbh(b, a));
    }
}
#endif

static void to_f32(host_isa isa, float *y, const void *x, dtype t, int64_t n) {
    if (t == DT_F16)
        f16_f32(isa, x, y, n);
    else if (t == DT_BF16)
        bf16_f32(isa, x, y, n);
    else
        memcpy(y, x, (size_t)n * 4);
}

static void from_f32(host_isa isa, void *y, dtype t, const float *x, int64_t n) {
    if (t == DT_F16)
        f32_f16(isa, x, y, n);
#if defined(__x86_64__)
    else if (t == DT_BF16 && isa >= ISA_AVX512_BF16)
        f32_bf16_native(x, y, n);
#endif
    else if (t == DT_BF16)
        f32_bf16(isa, x, y, n);
    else
        memcpy(y, x, (size_t)n * 4);
}

void host_convert_serial(host_isa isa, void *dst, dtype dst_type, const void *src, dtype src_type,
                         int64_t n) {
    enum { BLOCK = 512 };
    if (dst_type == src_type) {
        memcpy(dst, src, (size_t)n * dtype_bytes(dst_type));
    } else if (dst_type == DT_F32) {
        to_f32(isa, dst, src, src_type, n);
    } else if (src_type == DT_F32) {
        from_f32(isa, dst, dst_type, src, n);
    } else {
        float block[BLOCK];
        for (int64_t i = 0; i < n; i += BLOCK) {
            int64_t m = MIN(n - i, (int64_t)BLOCK);
            to_f32(isa, block, (const char *)src + (size_t)i * dtype_bytes(src_type), src_type, m);
            from_f32(isa, (char *)dst + (size_t)i * dtype_bytes(dst_type), dst_type, block, m);
        }
    }
}

typedef struct convert_job {
    host_isa isa;
    char *dst;
    const char *src;
    dtype dst_type, src_type;
} convert_job;

static void convert_piece(void *ctx, int64_t begin, int64_t end) {
    const convert_job *j = ctx;
    host_convert_serial(j->isa, j->dst + (size_t)begin * dtype_bytes(j->dst_type), j->dst_type,
                        j->src + (size_t)begin * dtype_bytes(j->src_type), j->src_type,
                        end - begin);
}

void host_convert(host *h, void *dst, dtype dst_type, const void *src, dtype src_type, int64_t n) {
    assert(dst_type <= DT_BF16 && src_type <= DT_BF16);
    convert_job j = {host_get_isa(h), dst, src, dst_type, src_type};
    host_parallel(h, n, 16384, convert_piece, &j);
}
