// types: f32 h16
// adamw8: one step on moments of 8 bits, see op/adamw8.c. A workgroup is a block of 256 elements.
// T is the type of the compute copy. SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
#include "reduce.glsl"
#include "adam.glsl"
layout(local_size_x = 256) in;
layout(constant_id = 1) const bool FACTOR = false;
layout(constant_id = 2) const bool FOUND_INF = false;
layout(constant_id = 3) const bool COPY = false;
BUF_INOUT(0, float, p)
BUF_IN(1, float, grad)
BUF_INOUT(2, uint, codes)
BUF_INOUT(3, float, scale)
BUF_IN(4, float, hyper) // lr, beta1, beta2, eps, weight_decay, step
BUF_IN(5, float, factor)
BUF_IN(6, uint, found_inf)
BUF_OUT(7, T, copy)
layout(push_constant) uniform push { uint n, blocks; };

shared float level[512]; // of the codes of m, then of v
shared uint code[512];

const float ten[7] = float[7](1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0);

float magnitude(uint u, int first) {
    int e = findMSB(u);
    float power = float(1u << e);
    return ten[e - first] * (0.1 + 0.9 * (float(u) + 0.5 - power) / power);
}

float level_m(uint c) {
    if (c == 127u) return 0.0;
    if (c == 255u) return 1.0;
    uint u = c < 127u ? 127u - c : c - 127u;
    float v = magnitude(u, 0);
    return c < 127u ? -v : v;
}

float level_v(uint c) {
    if (c == 0u) return 0.0;
    if (c == 255u) return 1.0;
    return magnitude(c + 1u, 1);
}

uint nearest(uint first, float x) {
    uint lo = 0u, hi = 255u;
    while (hi - lo > 1u) {
        uint mid = (lo + hi) / 2u;
        if (level[first + mid] <= x) lo = mid;
        else hi = mid;
    }
    return x - level[first + lo] <= level[first + hi] - x ? lo : hi;
}

void main() {
    uint block = gl_WorkGroupID.y * 65535u + gl_WorkGroupID.x, k = gl_LocalInvocationID.x;
    if (block >= blocks) return;
    if (FOUND_INF && found_inf[0] != 0u) return;
    level[k] = level_m(k);
    level[256u + k] = level_v(k);
    barrier();
    uint i = block * 256u + k, at = block * 128u + k / 4u, shift = 8u * (k & 3u);
    float m = level[(codes[at] >> shift) & 255u] * scale[2u * block],
          v = level[256u + ((codes[at + 64u] >> shift) & 255u)] * scale[2u * block + 1u];
    if (i < n) {
        float g = grad[i] * (FACTOR ? factor[0] : 1.0);
        float w = adam_update(p[i], g, m, v, vec4(hyper[0], hyper[1], hyper[2], hyper[3]), hyper[4], hyper[5]);
        p[i] = w;
        if (COPY) copy[i] = to_T(w);
    } else {
        m = v = 0.0;
    }
    float most_m = reduce_max(abs(m)), most_v = reduce_max(v);
    uint c = most_m > 0.0 ? nearest(0u, m / most_m) : 127u;
    code[k] = m < 0.0 && c == 127u ? 126u : c;
    code[256u + k] = most_v > 0.0 ? nearest(256u, v / most_v) : 0u;
    barrier(); // also: everyone has read the old codes and scales
    if (k < 128u)
        codes[block * 128u + k] = code[4u * k] | code[4u * k + 1u] << 8 | code[4u * k + 2u] << 16 |
                                  code[4u * k + 3u] << 24;
    if (k == 0u) {
        scale[2u * block] = most_m;
        scale[2u * block + 1u] = most_v;
    }
}
