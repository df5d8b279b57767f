// types: f32 h16
// reduce_bwd: dx = factor dy[o] (/ y[o]) (* (x - mean[o])), o: dy's element under this one. d and s are
// innermost first; ROW: dy runs along the innermost dim; VEC: that dim is done four elements at a time.
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "io.glsl"
layout(local_size_x = 256) in;
layout(constant_id = 1) const bool VEC = false;
layout(constant_id = 2) const bool ROW = false;
layout(constant_id = 3) const uint DIMS = 6u;
layout(constant_id = 4) const bool HAS_X = false;    // and y
layout(constant_id = 5) const bool HAS_MEAN = false;
BUF_IN(0, float, dy)
BUF_IN(1, T, x)
BUF_IN(1, T4, x4)
BUF_IN(2, float, y)
BUF_IN(3, float, mean)
BUF_OUT(4, T, dx)
BUF_OUT(4, T4, dx4)
layout(push_constant) uniform push { uint n, d[6], s[6]; float factor; };

float slope(uint o, float v) {
    float g = factor * dy[o];
    if (HAS_X) g = y[o] == 0.0 ? 0.0 : g / y[o] * (HAS_MEAN ? v - mean[o] : v);
    return g;
}

void main() {
    uint i = index_1d();
    if (i >= n) return;
    uint rest = i / d[0], along = i % d[0], o = 0u;
    [[unroll]] for (uint k = 1u; k < 6u; k++) {
        if (k >= DIMS) break;
        uint q = k + 1u == DIMS ? rest : rest % d[k];
        o += q * s[k];
        if (k + 1u < DIMS) rest /= d[k];
    }
    if (VEC) {
        vec4 v = HAS_X ? from_T4(x4[i]) : vec4(0.0);
        uint q = ROW ? o + along * 4u : o, step = ROW ? 1u : 0u;
        dx4[i] = to_T4(vec4(slope(q, v.x), slope(q + step, v.y), slope(q + 2u * step, v.z), slope(q + 3u * step, v.w)));
    } else {
        dx[i] = to_T(slope(ROW ? o + along : o, HAS_X ? from_T(x[i]) : 0.0));
    }
}
