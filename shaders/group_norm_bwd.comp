// types: f32 h16
// group_norm_bwd: dx = rstd (dz scale - a - xhat b); a, b, mean, rstd [n, g]; see op/group_norm_bwd.c.
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
layout(local_size_x = 256) in;
layout(constant_id = 1) const bool VEC = false; // four channels an invocation
layout(constant_id = 2) const bool SILU = false;
layout(constant_id = 3) const bool SCALE = false;
layout(constant_id = 4) const bool SHIFT = false;
BUF_IN(0, T, x)
BUF_IN(0, T4, x4)
BUF_IN(1, float, scale)
BUF_IN(2, float, shift)
BUF_IN(3, float, mean)
BUF_IN(4, float, rstd)
BUF_IN(5, T, dy)
BUF_IN(5, T4, dy4)
BUF_IN(6, float, a)
BUF_IN(7, float, b)
BUF_OUT(8, T, dx)
BUF_OUT(8, T4, dx4)
layout(push_constant) uniform push { uint n, p, c, g; };

float grad(float v, float d, uint image, uint col) {
    uint q = image * g + col / (c / g);
    float w = SCALE ? scale[col] : 1.0, xhat = (v - mean[q]) * rstd[q];
    if (SILU) {
        float z = SHIFT ? xhat * w + shift[col] : xhat * w, s = 1.0 / (1.0 + exp(-z));
        d *= s + z * s * (1.0 - s);
    }
    return rstd[q] * (d * w - a[q] - xhat * b[q]);
}

void main() {
    uint i = index_1d();
    if (i >= n) return;
    uint at = VEC ? i * 4u : i, col = at % c, image = at / c / p;
    if (VEC) {
        vec4 v = from_T4(x4[i]), d = from_T4(dy4[i]);
        dx4[i] = to_T4(vec4(grad(v.x, d.x, image, col), grad(v.y, d.y, image, col + 1u),
                            grad(v.z, d.z, image, col + 2u), grad(v.w, d.w, image, col + 3u)));
    } else {
        dx[i] = to_T(grad(from_T(x[i]), from_T(dy[i]), image, col));
    }
}
