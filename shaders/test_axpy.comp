// types: f32 h16
/* test_axpy.comp: y = a x + y, n elements: the shader of tests/test_gpu.c. The local size is constant 1.
 * SPDX-License-Identifier: MIT */
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
layout(local_size_x_id = 1) in;
BUF_IN(0, T, x)
BUF_INOUT(1, T, y)
layout(push_constant) uniform push_block { uint n; float a; };

void main() {
    uint i = index_1d();
    if (i < n) y[i] = to_T(a * from_T(x[i]) + from_T(y[i]));
}
