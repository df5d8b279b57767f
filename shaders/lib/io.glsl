/* io.glsl: the element type T of a variant, and conversions. Included first by every shader:
 *     // types: f32 h16            (first line: the variants built)
 *     #version 460
 *     #extension GL_GOOGLE_include_directive : require
 *     #include "io.glsl"
 *     layout(local_size_x = 256) in;
 *     BUF_IN(0, T, x)  BUF_OUT(1, T, y)      // readonly / writeonly decorations drive the barriers
 * f16 and bf16 share the h16 module: T is uint16_t, constant 0 says which. Always compute in float.
 * SPDX-License-Identifier: MIT */
#extension GL_EXT_shader_16bit_storage : require
#if defined(T_H16)
layout(constant_id = 0) const uint TYPE = 1u; /* 1 = f16, 2 = bf16 */
#define T  uint16_t
#define T2 u16vec2
#define T4 u16vec4
float from_bits(uint u) { return TYPE == 2u ? uintBitsToFloat(u << 16) : unpackHalf2x16(u).x; }
uint to_bits(float f) {
    if (TYPE == 2u) {
        uint u = floatBitsToUint(f);
        if ((u & 0x7fffffffu) > 0x7f800000u) return (u >> 16) | 0x40u;
        return (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    }
    return packHalf2x16(vec2(f, 0.0)) & 0xffffu;
}
vec4 from_bits4(uvec4 u) { return vec4(from_bits(u.x), from_bits(u.y), from_bits(u.z), from_bits(u.w)); }
uvec4 to_bits4(vec4 f) { return uvec4(to_bits(f.x), to_bits(f.y), to_bits(f.z), to_bits(f.w)); }
/* Macros, so that no 16-bit value lives outside a buffer: that would need shaderInt16. */
#define from_T(v)  from_bits(uint(v))
#define to_T(f)    uint16_t(to_bits(f))
#define from_T4(v) from_bits4(uvec4(v))
#define to_T4(f)   u16vec4(to_bits4(f))
#else
#define T  float
#define T2 vec2
#define T4 vec4
float from_T(float v) { return v; }
float to_T(float f) { return f; }
vec4 from_T4(vec4 v) { return v; }
vec4 to_T4(vec4 f) { return f; }
#endif

#define BUF_IN(b, type, name)    layout(set = 0, binding = b, std430) readonly buffer buf_##name { type name[]; };
#define BUF_OUT(b, type, name)   layout(set = 0, binding = b, std430) writeonly buffer buf_##name { type name[]; };
#define BUF_INOUT(b, type, name) layout(set = 0, binding = b, std430) buffer buf_##name { type name[]; };

/* Index of this invocation where the host called gpu_groups_1d(n, local): y carries on past 65,535 groups.
 * A macro: the including shader declares its local size after this file, and before that it counts as 1. */
#define index_1d() (gl_WorkGroupID.y * 65535u * gl_WorkGroupSize.x + gl_GlobalInvocationID.x)
