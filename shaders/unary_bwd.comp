// types: f32 h16
// unary_bwd: dx = f'(x) dy. KIND as in unary.comp; 13 = clamp: 1 inside [a, b] and at its ends.
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
#include "math.glsl"
layout(local_size_x = 256) in;
layout(constant_id = 1) const uint KIND = 0u;
layout(constant_id = 2) const bool VEC = false; // four elements an invocation
BUF_IN(0, T, x)
BUF_IN(0, T4, x4)
BUF_IN(1, T, dy)
BUF_IN(1, T4, dy4)
BUF_OUT(2, T, dx)
BUF_OUT(2, T4, dx4)
layout(push_constant) uniform push { uint n; float a, b; };

float slope(float v) {
    float s;
    switch (KIND) {
    case 0u: s = sigmoid_(v); return s + v * s * (1.0 - s);
    case 1u: return normal_cdf(v) + v * normal_pdf(v);
    case 2u:
        s = sigmoid_(1.5957691216057308 * v * (1.0 + 0.044715 * v * v));
        return s + v * s * (1.0 - s) * 1.5957691216057308 * (1.0 + 0.134145 * v * v);
    case 3u: s = sigmoid_(1.702 * v); return s + 1.702 * v * s * (1.0 - s);
    case 4u: return v > 0.0 ? 1.0 : 0.0;
    case 5u: s = sigmoid_(v); return s * (1.0 - s);
    case 6u: s = tanh_(v); return 1.0 - s * s;
    case 7u: return exp(v);
    case 8u: return 0.5 / sqrt(v);
    case 9u: return 2.0 * v;
    case 10u: return sign(v);
    case 11u: return -1.0;
    case 13u: return v >= a && v <= b ? 1.0 : 0.0;
    }
    return 1.0;
}

void main() {
    uint i = index_1d();
    if (i >= n) return;
    if (VEC) {
        vec4 v = from_T4(x4[i]);
        dx4[i] = to_T4(from_T4(dy4[i]) * vec4(slope(v.x), slope(v.y), slope(v.z), slope(v.w)));
    } else {
        dx[i] = to_T(from_T(dy[i]) * slope(from_T(x[i])));
    }
}
