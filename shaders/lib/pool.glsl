/* pool.glsl: sizes of a pooling and the windows of op/pool.h. After io.glsl.
 * SPDX-License-Identifier: MIT */
layout(constant_id = 1) const bool VEC = false; // four channels an invocation: c counts fours
layout(push_constant) uniform push { uint n, h, w, c, oh, ow, k, s, p; };

/* [x, y) of the window inside the input, z: its length with padding counted */
ivec3 pool_window(uint i, uint size) {
    int begin = int(i * s) - int(p), end = min(begin + int(k), int(size + p));
    return ivec3(max(begin, 0), min(end, int(size)), end - begin);
}

/* windows [x, y) that hold input index v */
uvec2 pool_holders(uint v, uint outs) {
    return uvec2(v + p < k ? 0u : (v + p - k) / s + 1u, min(outs, (v + p) / s + 1u));
}
