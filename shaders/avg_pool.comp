// types: f32 h16
// avg_pool: mean of a window; padding counts.
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
#include "pool.glsl"
layout(local_size_x = 256) in;
BUF_IN(0, T, x)
BUF_IN(0, T4, x4)
BUF_OUT(1, T, y)
BUF_OUT(1, T4, y4)

void main() {
    uint i = index_1d();
    if (i >= n) return;
    uint pixel = i / c, ch = i - pixel * c, row = pixel / ow, image = row / oh;
    ivec3 v = pool_window(row - image * oh, h), u = pool_window(pixel - row * ow, w);
    vec4 sum = vec4(0.0);
    for (int a = v.x; a < v.y; a++)
        for (int b = u.x; b < u.y; b++) {
            uint at = ((image * h + uint(a)) * w + uint(b)) * c + ch;
            if (VEC) sum += from_T4(x4[at]);
            else sum.x += from_T(x[at]);
        }
    sum /= float(v.z * u.z);
    if (VEC) y4[i] = to_T4(sum);
    else y[i] = to_T(sum.x);
}
