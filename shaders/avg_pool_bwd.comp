// types: f32 h16
// avg_pool_bwd: each input pixel gathers dy / count from the windows that hold it.
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
#include "pool.glsl"
layout(local_size_x = 256) in;
BUF_IN(0, T, dy)
BUF_IN(0, T4, dy4)
BUF_OUT(1, T, dx)
BUF_OUT(1, T4, dx4)

void main() {
    uint i = index_1d();
    if (i >= n) return;
    uint pixel = i / c, ch = i - pixel * c, row = pixel / w, image = row / h;
    uvec2 v = pool_holders(row - image * h, oh), u = pool_holders(pixel - row * w, ow);
    vec4 sum = vec4(0.0);
    for (uint a = v.x; a < v.y; a++)
        for (uint b = u.x; b < u.y; b++) {
            uint at = ((image * oh + a) * ow + b) * c + ch;
            float scale = 1.0 / float(pool_window(a, h).z * pool_window(b, w).z);
            if (VEC) sum += scale * from_T4(dy4[at]);
            else sum.x += scale * from_T(dy[at]);
        }
    if (VEC) dx4[i] = to_T4(sum);
    else dx[i] = to_T(sum.x);
}
