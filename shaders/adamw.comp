// types: f32 h16
// adamw: one step, see op/adamw.c. T is the type of the compute copy.
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
#include "adam.glsl"
layout(local_size_x = 256) in;
layout(constant_id = 1) const bool FACTOR = false;
layout(constant_id = 2) const bool FOUND_INF = false;
layout(constant_id = 3) const bool COPY = false;
BUF_INOUT(0, float, p)
BUF_IN(1, float, grad)
BUF_INOUT(2, float, m)
BUF_INOUT(3, float, v)
BUF_IN(4, float, hyper) // lr, beta1, beta2, eps, weight_decay, step
BUF_IN(5, float, factor)
BUF_IN(6, uint, found_inf)
BUF_OUT(7, T, copy)
layout(push_constant) uniform push { uint n; };

void main() {
    uint i = index_1d();
    if (i >= n) return;
    if (FOUND_INF && found_inf[0] != 0u) return;
    float a = m[i], b = v[i];
    float w = adam_update(p[i], grad[i] * (FACTOR ? factor[0] : 1.0), a, b, vec4(hyper[0], hyper[1], hyper[2], hyper[3]), hyper[4], hyper[5]);
    m[i] = a;
    v[i] = b;
    p[i] = w;
    if (COPY) copy[i] = to_T(w);
}
