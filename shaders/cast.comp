// types: f32 h16
// cast: y = x in another float type, or (ACCUMULATE, for store) y += x.
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
layout(local_size_x = 256) in;
layout(constant_id = 1) const bool VEC = false;        // four elements an invocation
layout(constant_id = 2) const uint DST = 0u;           // 0 = f32, 1 = f16, 2 = bf16
layout(constant_id = 3) const bool ACCUMULATE = false;
BUF_IN(0, T, x)
BUF_IN(0, T4, x4)
BUF_INOUT(1, float, yf)
BUF_INOUT(1, vec4, yf4)
BUF_INOUT(1, uint16_t, yh)
BUF_INOUT(1, u16vec4, yh4)
layout(push_constant) uniform push { uint n; };

float from_half(uint u) { return DST == 2u ? uintBitsToFloat(u << 16) : unpackHalf2x16(u).x; }
uint to_half(float f) {
    if (DST == 2u) {
        uint u = floatBitsToUint(f);
        if ((u & 0x7fffffffu) > 0x7f800000u) return (u >> 16) | 0x40u;
        return (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    }
    return packHalf2x16(vec2(f, 0.0)) & 0xffffu;
}

void main() {
    uint i = index_1d();
    if (i >= n) return;
    if (VEC) {
        vec4 v = from_T4(x4[i]);
        if (DST == 0u) {
            yf4[i] = ACCUMULATE ? yf4[i] + v : v;
        } else {
            if (ACCUMULATE) {
                uvec4 u = uvec4(yh4[i]);
                v += vec4(from_half(u.x), from_half(u.y), from_half(u.z), from_half(u.w));
            }
            yh4[i] = u16vec4(uvec4(to_half(v.x), to_half(v.y), to_half(v.z), to_half(v.w)));
        }
    } else {
        float v = from_T(x[i]);
        if (DST == 0u) yf[i] = ACCUMULATE ? yf[i] + v : v;
        else yh[i] = uint16_t(to_half(ACCUMULATE ? from_half(uint(yh[i])) + v : v));
    }
}
