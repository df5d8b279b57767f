/* rows.glsl: a workgroup of 256 as 256/LX rows of LX lanes, and reductions along a row. Every invocation must
 * call; the tree's order is fixed. Include after the local size and the constants LX and VEC are declared.
 * SPDX-License-Identifier: MIT */
shared float row_part[256];

#define ROW_TREE(combine)                                                                          \
    uint lane = gl_LocalInvocationID.x;                                                            \
    barrier();                                                                                     \
    row_part[lane] = v;                                                                            \
    for (uint h = LX / 2u; h > 0u; h /= 2u) {                                                      \
        barrier();                                                                                 \
        if (lane % LX < h) row_part[lane] = combine(row_part[lane], row_part[lane + h]);           \
    }                                                                                              \
    barrier();                                                                                     \
    return row_part[lane - lane % LX];
float row_plus(float a, float b) { return a + b; }
float row_sum(float v) { ROW_TREE(row_plus) }
float row_max(float v) { ROW_TREE(max) }

float sum4(vec4 v) { return (v.x + v.y) + (v.z + v.w); }
uint row_index() { return (gl_WorkGroupID.y * 65535u + gl_WorkGroupID.x) * (256u / LX) + gl_LocalInvocationID.x / LX; }
