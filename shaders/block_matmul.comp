// types: f32 h16
// block_matmul: one column of four rows an invocation; neighbours share the block of r and x.
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
layout(local_size_x = 256) in;
layout(constant_id = 1) const bool TRANS = false;
BUF_IN(0, T, x)
BUF_IN(1, T, r)
BUF_OUT(2, T, y)
layout(push_constant) uniform push { uint n, rows, b, d; };

void main() {
    uint at = index_1d();
    if (at >= n) return;
    uint row = at / d * 4u, col = at % d, block = col / b, k = col - block * b;
    uint from = TRANS ? (block * b + k) * b : block * b * b + k, step = TRANS ? 1u : b;
    uvec4 src = min(uvec4(row, row + 1u, row + 2u, row + 3u), uvec4(rows - 1u)) * d + block * b;
    vec4 sum = vec4(0.0);
    for (uint j = 0u; j < b; j++)
        sum += from_T(r[from + j * step]) * vec4(from_T(x[src.x + j]), from_T(x[src.y + j]),
                                                 from_T(x[src.z + j]), from_T(x[src.w + j]));
    for (uint q = 0u; q < 4u; q++)
        if (row + q < rows) y[(row + q) * d + col] = to_T(sum[q]);
}
