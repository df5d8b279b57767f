// types: f32 h16
// geglu: y = a gelu(b), x = [rows, {a, b}], each c wide (in fours where VEC).
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
#include "math.glsl"
layout(local_size_x = 256) in;
layout(constant_id = 1) const bool VEC = false;
BUF_IN(0, T, x)
BUF_IN(0, T4, x4)
BUF_OUT(1, T, y)
BUF_OUT(1, T4, y4)
layout(push_constant) uniform push { uint n, c; };

float gelu(float v) { return v * normal_cdf(v); }

void main() {
    uint i = index_1d();
    if (i >= n) return;
    uint at = i + i / c * c;
    if (VEC) {
        vec4 b = from_T4(x4[at + c]);
        y4[i] = to_T4(from_T4(x4[at]) * vec4(gelu(b.x), gelu(b.y), gelu(b.z), gelu(b.w)));
    } else {
        y[i] = to_T(from_T(x[at]) * gelu(from_T(x[at + c])));
    }
}
