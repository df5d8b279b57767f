// types: none
// ema: avg = d avg + (1 - d) p
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
layout(local_size_x = 256) in;
BUF_INOUT(0, float, avg)
BUF_IN(1, float, p)
BUF_IN(2, float, decay)
layout(push_constant) uniform push { uint n; };

void main() {
    uint i = index_1d();
    if (i < n) avg[i] = decay[0] * avg[i] + (1.0 - decay[0]) * p[i];
}
