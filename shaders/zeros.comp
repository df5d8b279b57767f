// types: none
// zeros: every word of y becomes `word`; four an invocation, a workgroup apart: writes coalesce.
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
layout(local_size_x = 256) in;
BUF_OUT(0, uint, y)
layout(push_constant) uniform push { uint n; uint word; };

void main() {
    uint group = gl_WorkGroupID.y * 65535u + gl_WorkGroupID.x;
    uint base = group * 1024u + gl_LocalInvocationID.x;
    for (uint k = 0u; k < 4u; k++)
        if (base + k * 256u < n) y[base + k * 256u] = word;
}
