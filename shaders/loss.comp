// types: f32 h16
// loss: partial sums of weight mask l(pred - target) over a chunk of elements a workgroup; see op/loss.c.
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
#include "loss.glsl"
#include "reduce.glsl"
BUF_OUT(4, float, part)

float l(float v) {
    if (KIND == 0u) return v * v;
    if (KIND == 1u) return abs(v);
    float c = clamp(v, -delta, delta);
    return c * (v - 0.5 * c);
}

void main() {
    uint wg = gl_WorkGroupID.y * 65535u + gl_WorkGroupID.x;
    if (wg >= groups) return;
    float s = 0.0;
    for (uint i = wg * chunk + gl_LocalInvocationID.x; i < min(n, (wg + 1u) * chunk); i += 256u)
        s += weight_of(i) * l(from_T(pred[i]) - from_T(target[i]));
    s = reduce_sum(s);
    if (gl_LocalInvocationID.x == 0u) part[wg] = s;
}
