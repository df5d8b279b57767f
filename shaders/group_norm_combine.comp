// types: f32
/* group_norm_combine: joins the parts [n, chunk, c] of norm_columns, a workgroup per (n, group):
 *   forward   a = mean, b = 1 / sqrt(variance + eps), from means and squared deviations of unequal chunks
 *   GRADIENT  a = sum(part_a scale) / count, b = sum(part_b scale) / count
 * SPDX-License-Identifier: MIT */
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
layout(local_size_x = 256) in;
#include "reduce.glsl"
layout(constant_id = 1) const bool GRADIENT = false;
layout(constant_id = 2) const bool SCALE = false;
BUF_IN(0, float, part_a)
BUF_IN(1, float, part_b)
BUF_IN(2, float, scale)
BUF_OUT(3, float, a)
BUF_OUT(4, float, b)
layout(push_constant) uniform push { uint groups, p, c, g, chunk, chunks; float eps; };

void main() {
    uint wg = gl_WorkGroupID.y * 65535u + gl_WorkGroupID.x, lane = gl_LocalInvocationID.x;
    if (wg >= groups) return;
    uint width = c / g, base = wg / g * chunks * c + wg % g * width, items = chunks * width;
    float inv = 1.0 / (float(p) * float(width));
    vec2 sum = vec2(0.0);
    for (uint i = lane; i < items; i += 256u) {
        uint q = i / width, at = base + q * c + i % width;
        if (GRADIENT) sum += vec2(part_a[at], part_b[at]) * (SCALE ? scale[wg % g * width + i % width] : 1.0);
        else sum.x += part_a[at] * float(min(chunk, p - q * chunk));
    }
    sum = reduce_sum2(sum) * inv;
    if (!GRADIENT) {
        float dev = 0.0;
        for (uint i = lane; i < items; i += 256u) {
            uint q = i / width, at = base + q * c + i % width;
            float d = part_a[at] - sum.x;
            dev += part_b[at] + d * d * float(min(chunk, p - q * chunk));
        }
        sum.y = 1.0 / sqrt(reduce_sum(dev) * inv + eps);
    }
    if (lane == 0u) {
        a[wg] = sum.x;
        b[wg] = sum.y;
    }
}
