/* attention_io.glsl: constants, sizes and buffers common to the attention shaders; see attention.glsl.
 * The order of push_block and of the constants is that of op/attention_gpu.c.
 * SPDX-License-Identifier: MIT */
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#extension GL_EXT_control_flow_attributes : require
layout(constant_id = 1) const uint LX = 8u;     /* threads along columns; STAGE 0: lanes of a subgroup, along rows */
layout(constant_id = 2) const uint LY = 1u;     /* threads along rows */
layout(constant_id = 3) const uint STAGE = 0u;
layout(constant_id = 4) const uint TM = 4u;     /* rows of a thread; STAGE 1: a multiple of 4 */
layout(constant_id = 5) const uint TN = 8u;     /* columns of a thread; STAGE 0: LX */
layout(constant_id = 6) const uint TD = 10u;    /* 4-channel groups of a thread in a sum over columns */
layout(constant_id = 7) const uint DC = 8u;     /* 4-channel groups staged at once for scores */
layout(constant_id = 8) const uint K = 40u;     /* head width */
layout(constant_id = 9) const uint VEC = 1u;    /* K % 4 == 0 */
layout(constant_id = 10) const uint FLAGS = 0u; /* bits, see below */
layout(constant_id = 11) const uint BANKS = 1u;
layout(constant_id = 12) const uint SETS = 1u;
layout(local_size_x_id = 1, local_size_y_id = 2) in;
const bool CAUSAL = (FLAGS & 1u) != 0u, WEIGHTS = (FLAGS & 2u) != 0u, OFFSET = (FLAGS & 4u) != 0u, BIAS = (FLAGS & 8u) != 0u;
const bool REGIONS = (FLAGS & 16u) != 0u, TABLE = (FLAGS & 32u) != 0u, DLSE = (FLAGS & 64u) != 0u;
const bool RECOMPUTE = (FLAGS & 128u) != 0u, WANT_A = (FLAGS & 256u) != 0u, WANT_B = (FLAGS & 512u) != 0u;

layout(push_constant) uniform push_block {
    uint nq, tq, heads, d, parts, tk, regions;  /* d = heads * K; tk: keys of a set, for regions */
    uint blocks, chunks, tiles;                 /* row blocks, channel chunks, workgroups */
    uint tb[4];                                 /* tokens of each bank */
    uint bias_n, bias_h, bias_q, bias_k;        /* element strides */
    float scale;
    uint users_at;                              /* bwd_kv: words before its bank's list in `sets` */
};

BUF_IN(0, float, weights)
BUF_IN(1, float, offset)
BUF_IN(2, float, bias)
BUF_IN(3, uint, regions_q)
BUF_IN(4, uint, regions_k)
BUF_IN(5, float, table)
BUF_IN(6, uint, sets)

/* A tensor of T that is read in fours: get_name(element, how many exist). */
#define SOURCE(b, name)                                                                            \
    BUF_IN(b, T, name)                                                                             \
    BUF_IN(b, T4, name##_4)                                                                        \
    vec4 get_##name(uint at, int left) {                                                           \
        if (VEC == 1u) return left > 0 ? from_T4(name##_4[at >> 2]) : vec4(0.0);                   \
        vec4 four = vec4(0.0); /* no name of a tensor: it would hide the buffer */                 \
        [[unroll]] for (int c = 0; c < 4; c++)                                                     \
            if (c < left) four[c] = from_T(name[at + uint(c)]);                                    \
        return four;                                                                                  \
    }
#define SINK(b, name)                                                                              \
    BUF_OUT(b, T, name)                                                                            \
    BUF_OUT(b, T4, name##_4)                                                                       \
    void put_##name(uint at, vec4 four, int left) {                                                \
        if (VEC == 1u) {                                                                           \
            if (left > 0) name##_4[at >> 2] = to_T4(four);                                         \
            return;                                                                                \
        }                                                                                          \
        [[unroll]] for (int c = 0; c < 4; c++)                                                     \
            if (c < left) name[at + uint(c)] = to_T(four[c]);                                      \
    }
