// types: f32 h16
/* split_reduce.comp: adds the partial sums of a split matmul, in order, then the epilogue.
 *   part [splits, taps, count] f32 -> y [count, taps]: taps > 1 only for weight gradients of convolutions
 * SPDX-License-Identifier: MIT */
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "io.glsl"
layout(local_size_x = 256) in;
BUF_IN(0, float, part)
BUF_IN(1, float, bias)
BUF_IN(1, vec4, bias4)
BUF_IN(2, T, residual)
BUF_IN(2, T4, residual4)
BUF_IN(2, float, residual_f)
BUF_IN(2, vec4, residual4_f)
BUF_OUT(3, T, y)
BUF_OUT(3, T4, y4)
BUF_OUT(3, float, y_f)
BUF_OUT(3, vec4, y4_f)
layout(push_constant) uniform push_block { uint count, taps, splits, N; };
#include "epilogue.glsl"

void main() {
    uint i = index_1d();
    if (i >= count * taps) return;
    float sum = 0.0;
    for (uint s = 0u; s < splits; s++) sum += part[s * count * taps + i];
    uint at = (i % count) * taps + i / count;
    epilogue(vec4(sum), at % N, at, 1u);
}
