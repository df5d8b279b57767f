/* reduce.glsl: sums and maxima over a workgroup. Every invocation must call (no divergence), every
 * invocation gets the result. Any local size up to 1,024 and any subgroup size from 4 up.
 * Inside a subgroup the driver's own tree, then the subgroups in order: the same numbers on every run.
 * Needs no knowledge of the subgroup size: drivers may run smaller subgroups than they report.
 * Include after io.glsl:   float s = reduce_sum(v);   vec2 m = reduce_sum2(vec2(a, b));
 * SPDX-License-Identifier: MIT */
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require

const uint REDUCE_PARTS = 256u; /* 1,024 invocations in subgroups of 4 */
shared float reduce_part[REDUCE_PARTS];
shared vec2  reduce_part2[REDUCE_PARTS];
shared vec4  reduce_part4[REDUCE_PARTS];

/* Mesa 22.3's software driver rounds gl_NumSubgroups down where the last subgroup is partial. */
uint reduce_subgroups() {
    uint all = gl_WorkGroupSize.x * gl_WorkGroupSize.y * gl_WorkGroupSize.z;
    return max(gl_NumSubgroups, (all + gl_SubgroupSize - 1u) / gl_SubgroupSize);
}

/* The first barrier keeps a fast subgroup from overwriting parts of the previous call still being read. */
#define REDUCE_DEFINE(name, type, part, in_subgroup, combine)                                      \
    type name(type v) {                                                                            \
        v = in_subgroup(v);                                                                        \
        uint n = reduce_subgroups();                                                               \
        if (n == 1u) return v;                                                                     \
        barrier();                                                                                 \
        if (subgroupElect()) part[gl_SubgroupID] = v;                                              \
        barrier();                                                                                 \
        type r = part[0];                                                                          \
        for (uint i = 1u; i < n; i++) r = combine(r, part[i]);                                     \
        return r;                                                                                  \
    }
#define REDUCE_ADD(a, b) ((a) + (b))
REDUCE_DEFINE(reduce_sum, float, reduce_part, subgroupAdd, REDUCE_ADD)
REDUCE_DEFINE(reduce_max, float, reduce_part, subgroupMax, max)
REDUCE_DEFINE(reduce_min, float, reduce_part, subgroupMin, min)
REDUCE_DEFINE(reduce_sum2, vec2, reduce_part2, subgroupAdd, REDUCE_ADD)
REDUCE_DEFINE(reduce_sum4, vec4, reduce_part4, subgroupAdd, REDUCE_ADD)
