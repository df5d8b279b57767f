// types: f32 h16
/* conv2d_pack.comp: weights from checkpoint order [O, I, taps] to [taps, I, O], so that vectors run along O.
 * SPDX-License-Identifier: MIT */
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
layout(local_size_x = 256) in;
BUF_IN(0, T, w)
BUF_OUT(1, T, packed)
layout(push_constant) uniform push_block { uint O, I, taps; };

void main() {
    uint i = index_1d();
    if (i >= O * I * taps) return;
    uint o = i % O, r = i / O;
    packed[i] = w[(o * I + r % I) * taps + r / I];
}
