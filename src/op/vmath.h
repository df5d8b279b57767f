/* vmath.h: exp, sigmoid, tanh, the normal distribution for loops inside HOST_KERNEL: branch-free
 * plain C that the compiler vectorises at every instruction-set level (libm calls would not be).
 * All coefficients are minimax fits of our own (reweighted least squares at Chebyshev nodes);
 * errors measured over all exponents, with and without FMA.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "host/lanes.h"

/* Relative error below 9e-8; 0 below -104, infinity above 88.73, NaN stays NaN.
 * x = k ln 2 + r, |r| <= ln 2 / 2; 2^k in two factors, so that results below 2^-126 round once. */
LANE_INLINE float vexp(float x) {
    x = x < -104.0f ? -104.0f : x;
    x = x > 89.0f ? 89.0f : x;
    float t = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: the sum has no bits below 1 */
    int32_t k = (int32_t)(lane_word(t) - 0x4b400000u);
    t -= 12582912.0f;
    float r = x - t * 0.693359375f + t * 2.12194440e-4f;
    float p = 0.00139504857f;
    p = p * r + 0.00836888794f;
    p = p * r + 0.0416662060f;
    p = p * r + 0.166665182f;
    p = p * r + 0.5f;
    p = p * (r * r) + r + 1.0f;
    int32_t h = k >> 1;
    return p * lane_bits((uint32_t)(h + 127) << 23) * lane_bits((uint32_t)(k - h + 127) << 23);
}

/* exp for |x| <= 87: half the work. Relative error below 5e-7 (4e-6 without FMA). */
LANE_INLINE float vexp_normal(float x) {
    float t = x * 1.44269504f + 12582912.0f;
    uint32_t k = lane_word(t) << 23; /* only the low bits of t count: they are the integer */
    t -= 12582912.0f;
    float r = x - t * 0.693147182f;
    float p = 0.00837938115f;
    p = p * r + 0.0418994464f;
    p = p * r + 0.166663587f;
    p = p * r + 0.499991357f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return lane_bits(lane_word(p) + k);
}

/* exp for x <= 0; 0 below -87. */
LANE_INLINE float vexp_negative(float x) {
    float e = vexp_normal(x);
    return x < -87.0f ? 0.0f : e;
}

/* x limited to [-87, 87], and NaN to 87 or -87. On the bits: of comparisons of floats with
 * constants the compiler makes several paths, which it then blends after every later step. */
LANE_INLINE float vlimit(float x) {
    uint32_t u = lane_word(x), a = u & 0x7fffffffu;
    a = a < 0x42ae0000u ? a : 0x42ae0000u; /* 87 */
    return lane_bits(a | (u & 0x80000000u));
}

/* Relative error as of vexp_normal, down to exp(-87), where it stays; NaN gives 0 or 1 (x s(x) is
 * NaN all the same). Tried: the reciprocal by Newton steps; slower (Xeon 6), the divider works
 * beside the other units. */
LANE_INLINE float vsigmoid(float x) { return 1.0f / (1.0f + vexp_normal(vlimit(-x))); }

/* Relative error below 2.1e-7. Below 0.625: x + x^3 P(x^2); above: 1 - 2 / (exp(2x) + 1). */
LANE_INLINE float vtanh(float x) {
    float a = lane_bits(lane_word(x) & 0x7fffffffu), z = x * x;
    float p = -0.00571703631f;
    p = p * z + 0.0206505787f;
    p = p * z - 0.0537434965f;
    p = p * z + 0.133314908f;
    p = p * z - 0.333332837f;
    float large = 1.0f - 2.0f / (vexp_normal(vlimit(2.0f * a)) + 1.0f);
    large = lane_bits(lane_word(large) | (lane_word(x) & 0x80000000u));
    return a < 0.625f ? p * z * x + x : a >= 0.625f ? large : x;
}

/* The normal distribution: P(X < x) and its density. Absolute error below 1.5e-7, of x P(X < x)
 * below 1.6e-7. P(X < -a) = exp(-Q(a)) / 2, taken as 0 past a = 5.5 (1.9e-8). */
LANE_INLINE float vnormal_cdf(float x) {
    float a = lane_bits(lane_word(x) & 0x7fffffffu);
    float q = -6.14009286e-06f;
    q = q * a + 3.99917189e-05f;
    q = q * a + 0.000282100053f;
    q = q * a - 0.00510373432f;
    q = q * a + 0.0365057141f;
    q = q * a + 0.318268448f;
    q = q * a + 0.797887862f;
    float tail = 0.5f * vexp_negative(-q * a);
    tail = a > 5.5f ? 0.0f : tail;
    return x < 0.0f ? tail : 1.0f - tail;
}
LANE_INLINE float vnormal_pdf(float x) { return 0.398942280f * vexp_negative(-0.5f * x * x); }
