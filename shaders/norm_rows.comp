// types: f32 h16
// norm_rows: layer_norm, and rms_norm where RMS: LX lanes a row; see op/norm_rows.c.
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
layout(local_size_x = 256) in;
layout(constant_id = 1) const bool VEC = false; // c % 4 == 0
layout(constant_id = 2) const uint LX = 256u;
layout(constant_id = 3) const bool RMS = false;
layout(constant_id = 4) const bool SCALE = false;
layout(constant_id = 5) const bool SHIFT = false;
#include "rows.glsl"
BUF_IN(0, T, x)
BUF_IN(0, T4, x4)
BUF_IN(1, float, scale)
BUF_IN(1, vec4, scale4)
BUF_IN(2, float, shift)
BUF_IN(2, vec4, shift4)
BUF_OUT(3, T, y)
BUF_OUT(3, T4, y4)
BUF_OUT(4, float, mean)
BUF_OUT(5, float, rstd)
layout(push_constant) uniform push { uint rows, c; float eps; };

/* Channel col of the row at base; lanes past the end of a vector hold `fill`. */
vec4 load(uint base, uint col, float fill) {
    if (VEC) return from_T4(x4[(base + col) / 4u]);
    return vec4(from_T(x[base + col]), vec3(fill));
}

void main() {
    const uint UNIT = VEC ? 4u : 1u;
    uint row = row_index(), lane = gl_LocalInvocationID.x % LX, base = row * c;
    bool live = row < rows;
    vec4 s = vec4(0.0);
    float m = 0.0;
    if (!RMS) {
        for (uint i = lane * UNIT; live && i < c; i += LX * UNIT) s += load(base, i, 0.0);
        m = row_sum(sum4(s)) / float(c);
    }
    s = vec4(0.0);
    for (uint i = lane * UNIT; live && i < c; i += LX * UNIT) {
        vec4 v = load(base, i, m) - m;
        s += v * v;
    }
    float r = 1.0 / sqrt(row_sum(sum4(s)) / float(c) + eps);
    if (!live) return;
    for (uint i = lane * UNIT; i < c; i += LX * UNIT) {
        vec4 v = (load(base, i, m) - m) * r;
        if (VEC) {
            if (SCALE) v *= scale4[i / 4u];
            if (SHIFT) v += shift4[i / 4u];
            y4[(base + i) / 4u] = to_T4(v);
        } else {
            if (SCALE) v.x *= scale[i];
            if (SHIFT) v.x += shift[i];
            y[base + i] = to_T(v.x);
        }
    }
    if (lane == 0u) {
        if (!RMS) mean[row] = m;
        rstd[row] = r;
    }
}
