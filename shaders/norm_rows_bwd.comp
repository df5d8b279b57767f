// types: f32 h16
// norm_rows_bwd: dx of layer_norm, and of rms_norm where RMS: LX lanes a row; see op/norm_rows.c.
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
layout(local_size_x = 256) in;
layout(constant_id = 1) const bool VEC = false; // c % 4 == 0
layout(constant_id = 2) const uint LX = 256u;
layout(constant_id = 3) const bool RMS = false;
layout(constant_id = 4) const bool SCALE = false;
#include "rows.glsl"
BUF_IN(0, T, x)
BUF_IN(0, T4, x4)
BUF_IN(1, float, scale)
BUF_IN(1, vec4, scale4)
BUF_IN(2, T, dy)
BUF_IN(2, T4, dy4)
BUF_IN(3, float, mean)
BUF_IN(4, float, rstd)
BUF_OUT(5, T, dx)
BUF_OUT(5, T4, dx4)
layout(push_constant) uniform push { uint rows, c; float eps; };

vec4 load_x(uint base, uint i) { return VEC ? from_T4(x4[(base + i) / 4u]) : vec4(from_T(x[base + i]), vec3(0.0)); }
/* dy scale; 0 in lanes past the end of a vector */
vec4 load_g(uint base, uint i) {
    if (VEC) return SCALE ? from_T4(dy4[(base + i) / 4u]) * scale4[i / 4u] : from_T4(dy4[(base + i) / 4u]);
    return vec4(SCALE ? from_T(dy[base + i]) * scale[i] : from_T(dy[base + i]), vec3(0.0));
}

void main() {
    const uint UNIT = VEC ? 4u : 1u;
    uint row = row_index(), lane = gl_LocalInvocationID.x % LX, base = row * c;
    bool live = row < rows;
    float m = !RMS && live ? mean[row] : 0.0, r = live ? rstd[row] : 0.0, a = 0.0;
    vec4 s = vec4(0.0), q = vec4(0.0);
    for (uint i = lane * UNIT; live && i < c; i += LX * UNIT) {
        vec4 g = load_g(base, i);
        s += g;
        q += g * (load_x(base, i) - m);
    }
    if (!RMS) a = row_sum(sum4(s)) / float(c);
    float b = row_sum(sum4(q)) / float(c) * r * r;
    if (!live) return;
    for (uint i = lane * UNIT; i < c; i += LX * UNIT) {
        vec4 v = r * (load_g(base, i) - a - (load_x(base, i) - m) * b);
        if (VEC) dx4[(base + i) / 4u] = to_T4(v);
        else dx[base + i] = to_T(v.x);
    }
}
