// types: f32 h16
// upsample_bwd: each source pixel adds the gradients of the outputs that read it, in order, in f32.
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
layout(local_size_x = 256) in;
layout(constant_id = 1) const bool VEC = false; // four channels an invocation: c counts fours
BUF_IN(0, T, dy)
BUF_IN(0, T4, dy4)
BUF_OUT(1, T, dx)
BUF_OUT(1, T4, dx4)
layout(push_constant) uniform push { uint n, h, w, oh, ow, c; };

uint first_reader(uint s, uint size, uint outs) { return (s * outs + size - 1u) / size; }

void main() {
    uint i = index_1d();
    if (i >= n) return;
    uint pixel = i / c, ch = i - pixel * c, row = pixel / w, col = pixel - row * w, image = row / h;
    uint sy = row - image * h;
    uint y1 = first_reader(sy + 1u, h, oh), x1 = first_reader(col + 1u, w, ow);
    vec4 sum = vec4(0.0);
    for (uint y = first_reader(sy, h, oh); y < y1; y++)
        for (uint x = first_reader(col, w, ow); x < x1; x++) {
            uint at = ((image * oh + y) * ow + x) * c + ch;
            if (VEC) sum += from_T4(dy4[at]);
            else sum.x += from_T(dy[at]);
        }
    if (VEC) dx4[i] = to_T4(sum);
    else dx[i] = to_T(sum.x);
}
