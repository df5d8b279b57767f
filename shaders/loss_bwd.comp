// types: f32 h16
// loss_bwd: dpred = dy factor weight mask l'(pred - target); see op/loss.c.
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
#include "loss.glsl"
BUF_IN(4, float, dy)
BUF_OUT(5, T, dpred)

void main() {
    uint i = index_1d();
    if (i >= n) return;
    float v = from_T(pred[i]) - from_T(target[i]);
    if (KIND == 0u) v *= 2.0;
    else if (KIND == 1u) v = sign(v);
    else v = clamp(v, -delta, delta);
    dpred[i] = to_T(dy[0] * factor * weight_of(i) * v);
}
