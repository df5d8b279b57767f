// types: f32 h16
// max_pool: the largest element of a window and where it was; the first of equals, NaN wins.
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
BUF_OUT(2, uint, at)
BUF_OUT(2, uvec4, at4)

// by bits: a compiler may assume that floats are no NaN
bvec4 is_nan(vec4 v) { return greaterThan(floatBitsToUint(v) & 0x7fffffffu, uvec4(0x7f800000u)); }

void main() {
    uint i = index_1d();
    if (i >= n) return;
    uint pixel = i / c, ch = i - pixel * c, row = pixel / ow, image = row / oh;
    ivec3 v = pool_window(row - image * oh, h), u = pool_window(pixel - row * ow, w);
    vec4 best = vec4(uintBitsToFloat(0xff800000u));
    uvec4 where = uvec4(uint(v.x) * w + uint(u.x));
    for (int a = v.x; a < v.y; a++)
        for (int b = u.x; b < u.y; b++) {
            uint from = ((image * h + uint(a)) * w + uint(b)) * c + ch;
            vec4 e = VEC ? from_T4(x4[from]) : vec4(from_T(x[from]));
            bvec4 up = greaterThan(e, best), nan = is_nan(e);
            bvec4 take = bvec4(up.x || nan.x, up.y || nan.y, up.z || nan.z, up.w || nan.w);
            best = mix(best, e, take);
            where = mix(where, uvec4(uint(a) * w + uint(b)), take);
        }
    if (VEC) {
        y4[i] = to_T4(best);
        at4[i] = where;
    } else {
        y[i] = to_T(best.x);
        at[i] = where.x;
    }
}
