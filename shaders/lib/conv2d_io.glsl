/* conv2d_io.glsl: buffers and sizes of conv2d.comp and conv2d_coopmat.comp.
 * SPDX-License-Identifier: MIT */
BUF_IN(0, T, a)
BUF_IN(0, T4, a4)
BUF_IN(1, T, b)
BUF_IN(1, T4, b4)
BUF_IN(2, float, bias)
BUF_IN(2, vec4, bias4)
BUF_IN(3, T, residual)
BUF_IN(3, T4, residual4)
BUF_IN(3, float, residual_f)
BUF_IN(3, vec4, residual4_f)
BUF_OUT(4, T, y)
BUF_OUT(4, T4, y4)
BUF_OUT(4, float, y_f)
BUF_OUT(4, vec4, y4_f)
layout(push_constant) uniform push_block {
    uint M, RH, RW;             /* destination pixels of this dispatch: M = N * RH * RW */
    uint SH, SW, SC;            /* source image */
    uint DH, DW, DC;            /* destination image */
    uint KH, KW, stride, back;  /* back: 1 = input gradient */
    int pad_t, pad_l, cy, cx;
    uint tiles_m, tiles_n, splits; /* split s takes the taps [s, s + 1) * KH * KW / splits and writes f32 partial sums */
};
#define ROW ivec3 /* what a tile keeps of a row of A */
