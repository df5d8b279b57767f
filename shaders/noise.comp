// types: f32 h16
// noise: one draw an element, keyed by seed, stream, sample and element; see base/base.h.
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
#include "rng.glsl"
layout(local_size_x = 256) in;
layout(constant_id = 1) const bool NORMAL = true;
BUF_IN(0, uint, seed)
BUF_IN(1, uint, index)
BUF_OUT(2, T, y)
layout(push_constant) uniform push { uint n, per, stream; };

void main() {
    uint i = index_1d();
    if (i >= n) return;
    uint at = i / per;
    uvec2 key = uvec2(seed[0], seed[1]), which = uvec2(index[at], 0u), e = uvec2(i - at * per, 0u);
    y[i] = to_T(NORMAL ? rng_normal(key, stream, which, e) : rng_uniform(key, stream, which, e));
}
