/* conv2d_bwd_w_io.glsl: buffers and sizes of conv2d_bwd_w.comp and conv2d_bwd_w_coopmat.comp.
 * SPDX-License-Identifier: MIT */
BUF_IN(0, T, a)
BUF_IN(0, T4, a4)
BUF_IN(1, T, b)
BUF_IN(1, T4, b4)
BUF_OUT(2, float, y)
BUF_OUT(2, vec4, y4)
layout(push_constant) uniform push_block {
    uint N, H, W, I, OH, OW, O, KH, KW, stride;
    int pad_t, pad_l;
    uint tiles_m, tiles_n, splits; /* of the N * OH image rows, staged of the N * OH * OW pixels; splits > 1: f32 partial sums [splits, taps, O, I] */
};
layout(constant_id = 11) const uint Y_VEC = 1u; /* I % 4 == 0 */
#define ROW uint /* what a tile keeps of a row of A */
#define B_GATHER
