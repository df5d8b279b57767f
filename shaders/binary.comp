// types: f32 h16
// binary: y = a (op) b with broadcasting. d and the strides are innermost first; the innermost dim counts
// vectors of four where VEC, and there an operand is read along it (A_ROW, B_ROW) or is one element.
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "io.glsl"
layout(local_size_x = 256) in;
layout(constant_id = 1) const uint KIND = 0u; // binary_kind of op/op.h
layout(constant_id = 2) const bool VEC = false;
layout(constant_id = 3) const bool A_ROW = true;
layout(constant_id = 4) const bool B_ROW = true;
layout(constant_id = 5) const uint DIMS = 6u;
BUF_IN(0, T, a)
BUF_IN(0, T4, a4)
BUF_IN(1, T, b)
BUF_IN(1, T4, b4)
BUF_OUT(2, T, y)
BUF_OUT(2, T4, y4)
layout(push_constant) uniform push { uint n, d[6], sa[6], sb[6]; };

vec4 f(vec4 u, vec4 v) {
    switch (KIND) {
    case 0u: return u + v;
    case 1u: return u - v;
    case 2u: return u * v;
    }
    return u / v;
}

void main() {
    uint i = index_1d();
    if (i >= n) return;
    uint rest = i, at = 0u, bt = 0u, x = 0u;
    if (DIMS == 1u) {
        x = i;
    } else {
        x = i % d[0];
        rest = i / d[0];
        [[unroll]] for (uint k = 1u; k < 6u; k++) {
            if (k >= DIMS) break;
            uint q = k + 1u == DIMS ? rest : rest % d[k];
            at += q * sa[k];
            bt += q * sb[k];
            if (k + 1u < DIMS) rest /= d[k];
        }
    }
    if (VEC) {
        vec4 u = A_ROW ? from_T4(a4[at / 4u + x]) : vec4(from_T(a[at]));
        vec4 v = B_ROW ? from_T4(b4[bt / 4u + x]) : vec4(from_T(b[bt]));
        y4[i] = to_T4(f(u, v));
    } else {
        float u = from_T(a[A_ROW ? at + x : at]), v = from_T(b[B_ROW ? bt + x : bt]);
        y[i] = to_T(f(vec4(u), vec4(v)).x);
    }
}
