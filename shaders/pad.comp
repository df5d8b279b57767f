// types: f32 h16
// pad and slice: y[c] = x[c - before] where that lies inside x, else the constant whose bits are
// given.
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
#include "word.glsl"
layout(local_size_x = 256) in;
layout(constant_id = 1) const bool VEC = false; // four elements an invocation; last dim in fours
BUF_IN(0, W, x)
BUF_IN(0, W4, x4)
BUF_OUT(1, W, y)
BUF_OUT(1, W4, y4)
layout(push_constant) uniform push { uint n, dims, bits, size_y[6], size_x[6]; int before[6]; };

void main() {
    uint i = index_1d();
    if (i >= n) return;
    uint rest = i, from = 0u, stride = 1u;
    bool inside = true;
    for (int k = int(dims) - 1; k >= 0; k--) {
        uint c = rest % size_y[k] - uint(before[k]); // wraps to a large number when negative
        rest /= size_y[k];
        inside = inside && c < size_x[k];
        from += c * stride;
        stride *= size_x[k];
    }
    if (VEC) y4[i] = W4(inside ? uvec4(x4[from]) : uvec4(bits));
    else y[i] = W(inside ? uint(x[from]) : bits);
}
