/* epilogue.glsl: what follows a matrix product: act(v + bias[n]) + residual[i], stored as T or f32.
 * The including shader has bound bias (f32), residual (T and f32 views), y (T and f32 views).
 * SPDX-License-Identifier: MIT */
layout(constant_id = 11) const uint Y_VEC = 1u;    /* N % 4 == 0: four columns are one aligned vector */
layout(constant_id = 12) const uint BIAS = 0u;
layout(constant_id = 13) const uint RESIDUAL = 0u;
layout(constant_id = 14) const uint ACT = 0u;      /* host_act */
layout(constant_id = 15) const uint Y_F32 = 0u;    /* y and residual are f32 whatever T is */

/* |error| < 1.5e-7 (Abramowitz & Stegun 7.1.26). */
float erf_(float x) {
    float t = 1.0 / (1.0 + 0.3275911 * abs(x));
    float p = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    return sign(x) * (1.0 - p * exp(-x * x));
}
float act1(float x) {
    if (ACT == 1u) return x / (1.0 + exp(-x));
    if (ACT == 2u) return 0.5 * x * (1.0 + erf_(x * 0.70710678118654752));
    if (ACT == 3u) return x / (1.0 + exp(-1.5957691216057308 * (x + 0.044715 * x * x * x)));
    if (ACT == 4u) return x / (1.0 + exp(-1.702 * x));
    if (ACT == 5u) return max(x, 0.0);
    return x;
}
vec4 act4(vec4 v) {
    if (ACT == 0u) return v;
    return vec4(act1(v.x), act1(v.y), act1(v.z), act1(v.w));
}

/* Columns n..n+3 of a row, whose first element is element i of y; `left` columns exist (Y_VEC: all or none). */
void epilogue(vec4 v, uint n, uint i, uint left) {
    if (Y_VEC == 1u) {
        if (BIAS == 1u) v += bias4[n >> 2];
        v = act4(v);
        if (RESIDUAL == 1u) v += Y_F32 == 1u ? residual4_f[i >> 2] : from_T4(residual4[i >> 2]);
        if (Y_F32 == 1u) y4_f[i >> 2] = v;
        else y4[i >> 2] = to_T4(v);
        return;
    }
    [[unroll]] for (uint c = 0u; c < 4u; c++)
        if (c < left) {
            float f = v[c];
            if (BIAS == 1u) f += bias[n + c];
            f = act1(f);
            if (RESIDUAL == 1u) f += Y_F32 == 1u ? residual_f[i + c] : from_T(residual[i + c]);
            if (Y_F32 == 1u) y_f[i + c] = f;
            else y[i + c] = to_T(f);
        }
}
