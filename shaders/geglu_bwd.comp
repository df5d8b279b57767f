// types: f32 h16
// geglu_bwd: da = dy gelu(b), db = dy a gelu'(b); layout as in geglu.comp.
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
#include "math.glsl"
layout(local_size_x = 256) in;
layout(constant_id = 1) const bool VEC = false;
BUF_IN(0, T, x)
BUF_IN(0, T4, x4)
BUF_IN(1, T, dy)
BUF_IN(1, T4, dy4)
BUF_OUT(2, T, dx)
BUF_OUT(2, T4, dx4)
layout(push_constant) uniform push { uint n, c; };

/* gelu and its slope */
vec2 gelu2(float v) {
    float p = normal_cdf(v);
    return vec2(v * p, p + v * normal_pdf(v));
}

void main() {
    uint i = index_1d();
    if (i >= n) return;
    uint at = i + i / c * c;
    if (VEC) {
        vec4 b = from_T4(x4[at + c]), d = from_T4(dy4[i]);
        vec2 p = gelu2(b.x), q = gelu2(b.y), r = gelu2(b.z), s = gelu2(b.w);
        dx4[at + c] = to_T4(d * from_T4(x4[at]) * vec4(p.y, q.y, r.y, s.y));
        dx4[at] = to_T4(d * vec4(p.x, q.x, r.x, s.x));
    } else {
        float d = from_T(dy[i]);
        vec2 p = gelu2(from_T(x[at + c]));
        dx[at + c] = to_T(d * from_T(x[at]) * p.y);
        dx[at] = to_T(d * p.x);
    }
}
