// types: f32
// store with accumulate, f32 into f32: y += x. Not in cast.comp because it needs no 16-bit storage.
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
layout(local_size_x = 256) in;
layout(constant_id = 1) const bool VEC = false; // four elements an invocation
BUF_IN(0, float, x)
BUF_IN(0, vec4, x4)
BUF_INOUT(1, float, y)
BUF_INOUT(1, vec4, y4)
layout(push_constant) uniform push { uint n; };

void main() {
    uint i = index_1d();
    if (i >= n) return;
    if (VEC) y4[i] += x4[i];
    else y[i] += x[i];
}
