// types: f32 h16
// concat: element i of the output comes from the input whose part of the row holds it.
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
#include "word.glsl"
layout(local_size_x = 256) in;
layout(constant_id = 1) const bool VEC = false; // four elements an invocation: n and at count fours
#define SOURCE(k) BUF_IN(k, W, a##k) BUF_IN(k, W4, b##k)
SOURCE(0) SOURCE(1) SOURCE(2) SOURCE(3) SOURCE(4) SOURCE(5) SOURCE(6) SOURCE(7)
BUF_OUT(8, W, y)
BUF_OUT(8, W4, y4)
layout(push_constant) uniform push { uint n; uint at[9]; };

#define MOVE(k) case k: if (VEC) y4[i] = b##k[from]; else y[i] = a##k[from]; break;

void main() {
    uint i = index_1d();
    if (i >= n) return;
    uint row = i / at[8], col = i - row * at[8], k = 0u;
    while (col >= at[k + 1u]) k++;
    uint from = row * (at[k + 1u] - at[k]) + col - at[k];
    switch (k) { MOVE(0) MOVE(1) MOVE(2) MOVE(3) MOVE(4) MOVE(5) MOVE(6) MOVE(7) }
}
