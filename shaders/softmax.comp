// types: f32 h16
// softmax over rows of c, LX lanes a row: y = exp(x - max) / sum. GRAD: x is y and out = y (dy - sum y dy).
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
layout(local_size_x = 256) in;
layout(constant_id = 1) const bool VEC = false; // c % 4 == 0
layout(constant_id = 2) const uint LX = 256u;
layout(constant_id = 3) const bool GRAD = false;
#include "rows.glsl"
BUF_IN(0, T, x)
BUF_IN(0, T4, x4)
BUF_IN(1, T, dy)
BUF_IN(1, T4, dy4)
BUF_OUT(2, T, y)
BUF_OUT(2, T4, y4)
layout(push_constant) uniform push { uint rows, c; };

void main() {
    const uint UNIT = VEC ? 4u : 1u;
    const float FAR = uintBitsToFloat(0xff800000u); /* -infinity */
    uint row = row_index(), lane = gl_LocalInvocationID.x % LX, base = row * c;
    bool live = row < rows;
    float m = FAR, s = 0.0;
    for (uint i = lane * UNIT; live && !GRAD && i < c; i += LX * UNIT) {
        if (VEC) {
            vec4 v = from_T4(x4[(base + i) / 4u]);
            m = max(m, max(max(v.x, v.y), max(v.z, v.w)));
        } else {
            m = max(m, from_T(x[base + i]));
        }
    }
    if (!GRAD) m = row_max(m);
    for (uint i = lane * UNIT; live && i < c; i += LX * UNIT) {
        if (VEC) {
            vec4 v = from_T4(x4[(base + i) / 4u]);
            s += GRAD ? dot(v, from_T4(dy4[(base + i) / 4u])) : sum4(exp(v - m));
        } else {
            float v = from_T(x[base + i]);
            s += GRAD ? v * from_T(dy[base + i]) : exp(v - m);
        }
    }
    s = row_sum(s);
    for (uint i = lane * UNIT; live && i < c; i += LX * UNIT) {
        if (VEC) {
            vec4 v = from_T4(x4[(base + i) / 4u]);
            y4[(base + i) / 4u] = to_T4(GRAD ? v * (from_T4(dy4[(base + i) / 4u]) - s) : exp(v - m) / s);
        } else {
            float v = from_T(x[base + i]);
            y[base + i] = to_T(GRAD ? v * (from_T(dy[base + i]) - s) : exp(v - m) / s);
        }
    }
}
