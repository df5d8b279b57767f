// types: none
// mix: a weighted sum of up to 8 tensors with weights per sample, blended with `keep` by a mask.
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
layout(local_size_x = 256) in;
layout(constant_id = 1) const uint TERMS = 1u;
layout(constant_id = 2) const bool MASK = false;
BUF_IN(0, float, x0) BUF_IN(1, float, x1) BUF_IN(2, float, x2) BUF_IN(3, float, x3)
BUF_IN(4, float, x4) BUF_IN(5, float, x5) BUF_IN(6, float, x6) BUF_IN(7, float, x7)
BUF_IN(8, float, w)
BUF_IN(9, float, mask)
BUF_IN(10, float, keep)
BUF_OUT(11, float, y)
// per: elements of a sample; size: x's dims; stride: the mask's
layout(push_constant) uniform push { uint n, per, dims, size[6], stride[6]; };

#define TERM(k) if (TERMS > uint(k)) v += w[at + uint(k)] * x##k[i];

void main() {
    uint i = index_1d();
    if (i >= n) return;
    uint at = i / per * TERMS;
    float v = 0.0;
    TERM(0) TERM(1) TERM(2) TERM(3) TERM(4) TERM(5) TERM(6) TERM(7)
    if (MASK) {
        uint rest = i, m = 0u;
        for (int k = int(dims) - 1; k >= 0; k--) {
            m += rest % size[k] * stride[k];
            rest /= size[k];
        }
        v = mask[m] * v + (1.0 - mask[m]) * keep[i];
    }
    y[i] = v;
}
