/* loss.glsl: what loss.comp and loss_bwd.comp share: inputs, and the weight over an element. d and the
 * strides are innermost first. After io.glsl.
 * SPDX-License-Identifier: MIT */
#extension GL_EXT_control_flow_attributes : require
layout(local_size_x = 256) in;
layout(constant_id = 1) const uint KIND = 0u; // loss_kind of op/op.h
layout(constant_id = 2) const bool WEIGHT = false;
layout(constant_id = 3) const bool MASK = false;
layout(constant_id = 4) const uint DIMS = 6u;
BUF_IN(0, T, pred)
BUF_IN(1, T, target)
BUF_IN(2, float, weight)
BUF_IN(3, float, mask)
layout(push_constant) uniform push { uint n, chunk, groups, d[6], sw[6], sm[6]; float delta, factor; };

float weight_of(uint i) {
    uint w = 0u, m = 0u;
    if (!WEIGHT && !MASK) return 1.0;
    [[unroll]] for (uint k = 0u; k < 6u; k++) {
        if (k >= DIMS) break;
        uint q = k + 1u == DIMS ? i : i % d[k];
        w += q * sw[k];
        m += q * sm[k];
        i /= d[k];
    }
    return (WEIGHT ? weight[w] : 1.0) * (MASK ? mask[m] : 1.0);
}
