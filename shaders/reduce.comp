// types: f32 h16
/* reduce: sums over up to three dims, beside up to three kept ones; see op/sum.h. Sizes and strides are
 * innermost first. COLUMNS: lanes LX along the kept innermost dim, the rest over the summed elements; else
 * lanes LX along the summed elements, the rest over outputs. A tree adds the lanes: a fixed order.
 * Workgroups are (split, block of outputs); y is [splits, outs].
 * SPDX-License-Identifier: MIT */
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
layout(local_size_x = 256) in;
layout(constant_id = 1) const bool COLUMNS = false;
layout(constant_id = 2) const bool VEC = false; // the innermost dim is read four elements at a time
layout(constant_id = 3) const uint TERM = 0u;   // sum_term of op/sum.h
layout(constant_id = 4) const bool ROOT = false;
layout(constant_id = 5) const uint LX = 256u;
BUF_IN(0, T, x)
BUF_IN(0, T4, x4)
BUF_IN(1, float, mean)
BUF_OUT(2, float, y)
layout(push_constant) uniform push { uint k[3], ks[3], r[3], rs[3], outs, count, chunk, groups; float factor; };

shared vec4 part[256];

uint kept_at(uint o) { return o % k[0] * ks[0] + o / k[0] % k[1] * ks[1] + o / k[0] / k[1] * ks[2]; }
uint summed_at(uint i) { return i % r[0] * rs[0] + i / r[0] % r[1] * rs[1] + i / r[0] / r[1] * rs[2]; }
vec4 load(uint at) { return VEC ? from_T4(x4[at / 4u]) : vec4(from_T(x[at]), 0.0, 0.0, 0.0); }
vec4 term(vec4 v, vec4 m) {
    if (TERM == 1u) return v * v;
    if (TERM == 2u) return VEC ? (v - m) * (v - m) : vec4((v.x - m.x) * (v.x - m.x), 0.0, 0.0, 0.0);
    return v;
}
float finish(float v) { return ROOT ? sqrt(v * factor) : v * factor; }

void main() {
    const uint UNIT = VEC ? 4u : 1u, LY = 256u / LX;
    uint wg = gl_WorkGroupID.y * 65535u + gl_WorkGroupID.x, lane = gl_LocalInvocationID.x;
    if (wg >= groups) return;
    vec4 sum = vec4(0.0), m = vec4(0.0);
    if (COLUMNS) {
        uint blocks = ((k[0] + UNIT - 1u) / UNIT + LX - 1u) / LX, outer = outs / k[0];
        uint col = (wg % blocks * LX + lane % LX) * UNIT, o = wg / blocks % outer * k[0] + col, split = wg / blocks / outer;
        if (col < k[0]) {
            uint base = kept_at(o), last = min(count, (split + 1u) * chunk);
            if (TERM == 2u) m = VEC ? vec4(mean[o], mean[o + 1u], mean[o + 2u], mean[o + 3u]) : vec4(mean[o]);
            for (uint i = split * chunk + lane / LX; i < last; i += LY) sum += term(load(base + summed_at(i)), m);
        }
        part[lane] = sum;
        for (uint h = LY / 2u; h > 0u; h /= 2u) {
            barrier();
            if (lane < h * LX) part[lane] += part[lane + h * LX];
        }
        if (lane < LX && col < k[0])
            for (uint c = 0u; c < UNIT; c++) y[split * outs + o + c] = finish(part[lane][c]);
    } else {
        uint blocks = (outs + LY - 1u) / LY, o = wg % blocks * LY + lane / LX, split = wg / blocks;
        if (o < outs) {
            uint base = kept_at(o), last = min(count, (split + 1u) * chunk);
            if (TERM == 2u) m = vec4(mean[o]);
            for (uint i = split * chunk + lane % LX * UNIT; i < last; i += LX * UNIT) sum += term(load(base + summed_at(i)), m);
        }
        part[lane] = sum;
        for (uint h = LX / 2u; h > 0u; h /= 2u) {
            barrier();
            if (lane % LX < h) part[lane] += part[lane + h];
        }
        if (lane % LX == 0u && o < outs) {
            vec4 s = part[lane];
            y[split * outs + o] = finish((s.x + s.y) + (s.z + s.w));
        }
    }
}
