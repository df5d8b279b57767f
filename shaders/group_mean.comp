// types: f32 h16
// group_mean: y[k] = mean of x[q] over q with group[q] = group[k]; entries of `entry` elements (fours where VEC).
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
layout(local_size_x = 256) in;
layout(constant_id = 1) const bool VEC = false;
BUF_IN(0, T, x)
BUF_IN(0, T4, x4)
BUF_IN(1, uint, group)
BUF_OUT(2, T, y)
BUF_OUT(2, T4, y4)
layout(push_constant) uniform push { uint n, entries, entry; };

void main() {
    uint i = index_1d();
    if (i >= n) return;
    uint own = group[i / entry], at = i % entry;
    vec4 sum = vec4(0.0);
    float members = 0.0;
    for (uint k = 0u; k < entries; k++)
        if (group[k] == own) {
            if (VEC) sum += from_T4(x4[k * entry + at]);
            else sum.x += from_T(x[k * entry + at]);
            members += 1.0;
        }
    if (VEC) y4[i] = to_T4(sum / members);
    else y[i] = to_T(sum.x / members);
}
