// types: f32 h16
// max_pool_bwd: each input pixel gathers dy from the windows that chose it.
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
#include "pool.glsl"
layout(local_size_x = 256) in;
BUF_IN(0, T, dy)
BUF_IN(0, T4, dy4)
BUF_IN(1, uint, at)
BUF_IN(1, uvec4, at4)
BUF_OUT(2, T, dx)
BUF_OUT(2, T4, dx4)

void main() {
    uint i = index_1d();
    if (i >= n) return;
    uint pixel = i / c, ch = i - pixel * c, row = pixel / w, image = row / h;
    uint sy = row - image * h, sx = pixel - row * w, here = sy * w + sx;
    uvec2 v = pool_holders(sy, oh), u = pool_holders(sx, ow);
    vec4 sum = vec4(0.0);
    for (uint a = v.x; a < v.y; a++)
        for (uint b = u.x; b < u.y; b++) {
            uint from = ((image * oh + a) * ow + b) * c + ch;
            if (VEC) sum += mix(vec4(0.0), from_T4(dy4[from]), equal(at4[from], uvec4(here)));
            else sum.x += at[from] == here ? from_T(dy[from]) : 0.0;
        }
    if (VEC) dx4[i] = to_T4(sum);
    else dx[i] = to_T(sum.x);
}
