/* vmath.h: exp, erf, tanh, sigmoid for loops inside HOST_KERNEL: branch-free plain C that the compiler
 * vectorises at every instruction-set level (libm calls would not be). All coefficients are minimax fits
 * of our own (reweighted least squares at Chebyshev nodes); errors measured over f32 of all exponents, with and without FMA.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "op/lanes.h"

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

LANE_INLINE float vsigmoid(float x) { return 1.0f / (1.0f + vexp(-x)); }

/* Relative error below 1.8e-7. Below 1: x P(x^2); above: 1 - exp(-Q(x)), Q = -log erfc. */
LANE_INLINE float verf(float x) {
    float a = lane_bits(lane_word(x) & 0x7fffffffu), z = x * x;
    float p = 7.88911930e-05f;
    p = p * z - 0.000802084105f;
    p = p * z + 0.00518953521f;
    p = p * z - 0.0268544443f;
    p = p * z + 0.112836003f;
    p = p * z - 0.376126260f;
    p = p * z + 1.12837911f;
    float b = a > 4.0f ? 4.0f : a;
    float q = -0.000185574900f;
    q = q * b + 0.00293961587f;
    q = q * b - 0.0218053516f;
    q = q * b + 0.103037439f;
    q = q * b + 0.638225615f;
    q = q * b + 1.12704003f;
    q = q * b + 0.000353708921f;
    float large = lane_bits(lane_word(1.0f - vexp(-q)) | (lane_word(x) & 0x80000000u));
    return a < 1.0f ? p * x : a >= 1.0f ? large : x;
}

/* Relative error below 1.4e-7. Below 0.625: x + x^3 P(x^2); above: 1 - 2 / (exp(2x) + 1). */
LANE_INLINE float vtanh(float x) {
    float a = lane_bits(lane_word(x) & 0x7fffffffu), z = x * x;
    float p = -0.00571703631f;
    p = p * z + 0.0206505787f;
    p = p * z - 0.0537434965f;
    p = p * z + 0.133314908f;
    p = p * z - 0.333332837f;
    float large = 1.0f - 2.0f / (vexp(2.0f * a) + 1.0f);
    large = lane_bits(lane_word(large) | (lane_word(x) & 0x80000000u));
    return a < 0.625f ? p * z * x + x : large;
}

/* The normal distribution: P(X < x) and its density. */
LANE_INLINE float vnormal_cdf(float x) { return 0.5f + 0.5f * verf(x * 0.707106781f); }
LANE_INLINE float vnormal_pdf(float x) { return 0.398942280f * vexp(-0.5f * x * x); }
