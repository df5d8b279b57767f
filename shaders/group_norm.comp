// types: f32 h16
// group_norm: y = (x - mean) rstd scale + shift (through silu), x [n, p, c]; statistics [n, g].
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
layout(local_size_x = 256) in;
layout(constant_id = 1) const bool VEC = false; // four channels an invocation
layout(constant_id = 2) const bool SILU = false;
layout(constant_id = 3) const bool SCALE = false;
layout(constant_id = 4) const bool SHIFT = false;
BUF_IN(0, T, x)
BUF_IN(0, T4, x4)
BUF_IN(1, float, scale)
BUF_IN(2, float, shift)
BUF_IN(3, float, mean)
BUF_IN(4, float, rstd)
BUF_OUT(5, T, y)
BUF_OUT(5, T4, y4)
layout(push_constant) uniform push { uint n, p, c, g; };

float norm(float v, uint image, uint col) {
    uint q = image * g + col / (c / g);
    float z = (v - mean[q]) * (SCALE ? rstd[q] * scale[col] : rstd[q]);
    if (SHIFT) z += shift[col];
    return SILU ? z / (1.0 + exp(-z)) : z;
}

void main() {
    uint i = index_1d();
    if (i >= n) return;
    uint at = VEC ? i * 4u : i, col = at % c, image = at / c / p;
    if (VEC) {
        vec4 v = from_T4(x4[i]);
        y4[i] = to_T4(vec4(norm(v.x, image, col), norm(v.y, image, col + 1u), norm(v.z, image, col + 2u), norm(v.w, image, col + 3u)));
    } else {
        y[i] = to_T(norm(from_T(x[i]), image, col));
    }
}
