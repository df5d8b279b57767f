// types: f32 h16
// upsample: nearest neighbour; output (i, j) reads (floor(i h / oh), floor(j w / ow)).
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
#include "word.glsl"
layout(local_size_x = 256) in;
layout(constant_id = 1) const bool VEC = false; // four channels an invocation: c counts fours
BUF_IN(0, W, x)
BUF_IN(0, W4, x4)
BUF_OUT(1, W, y)
BUF_OUT(1, W4, y4)
layout(push_constant) uniform push { uint n, h, w, oh, ow, c; };

void main() {
    uint i = index_1d();
    if (i >= n) return;
    uint pixel = i / c, row = pixel / ow, col = pixel - row * ow, image = row / oh;
    uint sy = (row - image * oh) * h / oh, sx = col * w / ow;
    uint from = ((image * h + sy) * w + sx) * c + (i - pixel * c);
    if (VEC) y4[i] = x4[from];
    else y[i] = x[from];
}
