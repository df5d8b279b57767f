// types: f32 h16
// embedding_bwd: a workgroup per position and 256 columns. The first position of an id sums all its
// positions in order and writes the row; the others leave. The rest of y was zeroed before.
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
layout(local_size_x = 256) in;
BUF_IN(0, uint, id)
BUF_IN(1, T, dy)
BUF_OUT(2, float, y)
layout(push_constant) uniform push { uint n, v, d, slices; };

void main() {
    uint group = gl_WorkGroupID.y * 65535u + gl_WorkGroupID.x, at = group / slices;
    uint c = (group - at * slices) * 256u + gl_LocalInvocationID.x;
    if (at >= n || c >= d) return;
    uint row = min(id[at], v - 1u);
    for (uint k = 0u; k < at; k++)
        if (min(id[k], v - 1u) == row) return;
    float sum = from_T(dy[at * d + c]);
    for (uint k = at + 1u; k < n; k++)
        if (min(id[k], v - 1u) == row) sum += from_T(dy[k * d + c]);
    y[row * d + c] = sum;
}
