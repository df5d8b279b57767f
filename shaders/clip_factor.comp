// types: none
// clip_factor: one invocation adds the few parts in order; see op/clip_factor.c.
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
layout(local_size_x = 1) in;
BUF_IN(0, float, parts)
BUF_IN(1, float, limits)
BUF_INOUT(2, uint, found_inf)
BUF_OUT(3, float, y)
layout(push_constant) uniform push { uint n; };

void main() {
    float sum = 0.0, scale = limits[1];
    for (uint i = 0u; i < n; i++) sum += parts[i];
    // by bits: a compiler may assume that floats are finite
    bool finite = (floatBitsToUint(sum) & 0x7f800000u) != 0x7f800000u;
    float norm = sqrt(sum) / scale;
    float clip = limits[0] > 0.0 ? min(1.0, limits[0] / (norm + 1e-6)) : 1.0;
    if (!finite) found_inf[0] = 1u;
    y[0] = finite ? clip / scale : 0.0;
    y[1] = norm;
}
