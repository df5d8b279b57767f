// types: f32 h16
// embedding: y[i] = table[min(id[i], v - 1)]
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
#include "word.glsl"
layout(local_size_x = 256) in;
layout(constant_id = 1) const bool VEC = false; // four elements an invocation: d counts fours
BUF_IN(0, W, table)
BUF_IN(0, W4, table4)
BUF_IN(1, uint, id)
BUF_OUT(2, W, y)
BUF_OUT(2, W4, y4)
layout(push_constant) uniform push { uint n, v, d; };

void main() {
    uint i = index_1d();
    if (i >= n) return;
    uint at = i / d, from = min(id[at], v - 1u) * d + (i - at * d);
    if (VEC) y4[i] = table4[from];
    else y[i] = table[from];
}
