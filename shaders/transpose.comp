// types: f32 h16
// transpose: MODE 0 one element an invocation, 1 four elements of a row (the innermost dim stays),
// 2 a 4 x 4 block: four vectors along the source's innermost dim in, four along the output's out.
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
#include "word.glsl"
layout(local_size_x = 256) in;
layout(constant_id = 1) const uint MODE = 0u;
BUF_IN(0, W, x)
BUF_IN(0, W4, x4)
BUF_OUT(1, W, y)
BUF_OUT(1, W4, y4)
// n items; d: items per output dim; src, dst: elements between items; src_last, dst_q: between the
// vectors of a block
layout(push_constant) uniform push { uint n, dims, src_last, dst_q, d[6], src[6], dst[6]; };

void main() {
    uint i = index_1d();
    if (i >= n) return;
    uint rest = i, from = 0u, to = 0u;
    for (int k = int(dims) - 1; k >= 0; k--) {
        uint c = rest % d[k];
        rest /= d[k];
        from += c * src[k];
        to += c * dst[k];
    }
    if (MODE == 0u) {
        y[i] = x[from];
    } else if (MODE == 1u) {
        y4[i] = x4[from / 4u];
    } else {
        uvec4 a = uvec4(x4[from / 4u]);
        uvec4 b = uvec4(x4[(from + src_last) / 4u]);
        uvec4 c = uvec4(x4[(from + 2u * src_last) / 4u]);
        uvec4 e = uvec4(x4[(from + 3u * src_last) / 4u]);
        y4[to / 4u] = W4(uvec4(a.x, b.x, c.x, e.x));
        y4[(to + dst_q) / 4u] = W4(uvec4(a.y, b.y, c.y, e.y));
        y4[(to + 2u * dst_q) / 4u] = W4(uvec4(a.z, b.z, c.z, e.z));
        y4[(to + 3u * dst_q) / 4u] = W4(uvec4(a.w, b.w, c.w, e.w));
    }
}
