/* matmul_io.glsl: buffers and sizes of matmul.comp and matmul_coopmat.comp.
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
    uint M, N, K, lda, ldb, a_batch, b_batch; /* elements between rows as stored, and between batch entries */
    uint tiles_m, tiles_n, batch, splits, k_split; /* k_split: k of one split, a multiple of the step */
};
#define ROW uint /* what a tile keeps of a row of A */
