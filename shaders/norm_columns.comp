// types: f32 h16
/* norm_columns: per channel, over a chunk of the rows of image n of x [n, p, c] (see op/norm.h):
 *   MODE 0: a = mean, b = sum of squared deviations, both from the deviations from the chunk's first row
 *   MODE 1: a = sum dz, b = sum dz xhat, statistics per (n, group); dz = dy silu'(z) where SILU, else dy
 *   MODE 2: the same, statistics per row; without a mean x stands for x - mean
 * Lanes LX along the channels, the rest over rows, added by a tree. Parts are [n, chunk, c].
 * SPDX-License-Identifier: MIT */
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
layout(local_size_x = 256) in;
layout(constant_id = 1) const uint MODE = 0u;
layout(constant_id = 2) const bool VEC = false;
layout(constant_id = 3) const uint LX = 64u;
layout(constant_id = 4) const bool SILU = false;
layout(constant_id = 5) const bool SCALE = false;
layout(constant_id = 6) const bool SHIFT = false;
layout(constant_id = 7) const bool MEAN = false;
BUF_IN(0, T, x)
BUF_IN(0, T4, x4)
BUF_IN(1, T, dy)
BUF_IN(1, T4, dy4)
BUF_IN(2, float, scale)
BUF_IN(3, float, shift)
BUF_IN(4, float, mean)
BUF_IN(5, float, rstd)
BUF_OUT(6, float, part_a)
BUF_OUT(7, float, part_b)
layout(push_constant) uniform push { uint p, c, g, chunk, chunks, blocks, groups; };

shared vec4 sum_a[256];
shared vec4 sum_b[256];

vec4 load_x(uint at) { return VEC ? from_T4(x4[at / 4u]) : vec4(from_T(x[at])); }
vec4 load_dy(uint at) { return VEC ? from_T4(dy4[at / 4u]) : vec4(from_T(dy[at])); }
vec4 silu_slope(vec4 z) {
    vec4 s = 1.0 / (1.0 + exp(-z));
    return s + z * s * (1.0 - s);
}

void main() {
    const uint UNIT = VEC ? 4u : 1u, LY = 256u / LX;
    uint wg = gl_WorkGroupID.y * 65535u + gl_WorkGroupID.x, lane = gl_LocalInvocationID.x;
    if (wg >= groups) return;
    uint col = (wg % blocks * LX + lane % LX) * UNIT, part = wg / blocks, n = part / chunks;
    uint first = part % chunks * chunk, last = min(p, first + chunk);
    vec4 a = vec4(0.0), b = vec4(0.0), origin = vec4(0.0);
    if (col < c) {
        uint base = n * p * c + col;
        vec4 m = vec4(0.0), r = vec4(1.0), w = vec4(1.0), h = vec4(0.0);
        if (MODE == 0u) origin = load_x(base + first * c);
        if (MODE == 1u)
            for (uint k = 0u; k < UNIT; k++) {
                uint q = n * g + (col + k) / (c / g);
                m[k] = mean[q];
                r[k] = rstd[q];
                if (SCALE) w[k] = scale[col + k];
                if (SHIFT) h[k] = shift[col + k];
            }
        for (uint i = first + lane / LX; i < last; i += LY) {
            vec4 v = load_x(base + i * c);
            if (MODE == 0u) {
                v -= origin;
                a += v;
                b += v * v;
            } else {
                if (MODE == 2u) {
                    r = vec4(rstd[i]);
                    if (MEAN) m = vec4(mean[i]);
                }
                vec4 dz = load_dy(base + i * c), xhat = (v - m) * r;
                if (SILU) dz *= silu_slope(xhat * w + h);
                a += dz;
                b += dz * xhat;
            }
        }
    }
    sum_a[lane] = a;
    sum_b[lane] = b;
    for (uint s = LY / 2u; s > 0u; s /= 2u) {
        barrier();
        if (lane < s * LX) {
            sum_a[lane] += sum_a[lane + s * LX];
            sum_b[lane] += sum_b[lane + s * LX];
        }
    }
    if (lane < LX && col < c) {
        a = sum_a[lane];
        b = sum_b[lane];
        if (MODE == 0u) {
            float rows = float(last - first);
            b = max(b - a * a / rows, 0.0);
            a = origin + a / rows;
        }
        for (uint k = 0u; k < UNIT; k++) {
            part_a[part * c + col + k] = a[k];
            part_b[part * c + col + k] = b[k];
        }
    }
}
