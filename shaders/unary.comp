// types: f32 h16
// unary: y = f(x). KIND as unary_kind of op/op.h, then 12 = scale: a x + b, 13 = clamp to [a, b] (NaN stays).
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
BUF_OUT(1, T, y)
BUF_OUT(1, T4, y4)
layout(push_constant) uniform push { uint n; float a, b; };

float f(float v) {
    switch (KIND) {
    case 0u: return v * sigmoid_(v);
    case 1u: return v * normal_cdf(v);
    case 2u: return v * sigmoid_(1.5957691216057308 * v * (1.0 + 0.044715 * v * v));
    case 3u: return v * sigmoid_(1.702 * v);
    case 4u: return v < 0.0 ? 0.0 : v;
    case 5u: return sigmoid_(v);
    case 6u: return tanh_(v);
    case 7u: return exp(v);
    case 8u: return sqrt(v);
    case 9u: return v * v;
    case 10u: return abs(v);
    case 11u: return -v;
    case 12u: return a * v + b;
    case 13u: return v < a ? a : v > b ? b : v;
    }
    return v;
}

void main() {
    uint i = index_1d();
    if (i >= n) return;
    if (VEC) {
        vec4 v = from_T4(x4[i]);
        y4[i] = to_T4(vec4(f(v.x), f(v.y), f(v.z), f(v.w)));
    } else {
        y[i] = to_T(f(from_T(x[i])));
    }
}
