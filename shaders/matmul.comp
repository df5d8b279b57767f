// types: f32 h16
/* matmul.comp: y[z] = act(A[z] B[z] + bias) + residual, or one split of K as f32 partial sums.
 * SPDX-License-Identifier: MIT */
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "io.glsl"

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

#define ROW uint
#include "tile.glsl"
#include "epilogue.glsl"

uint entry, split;

uint rows() { return M; }
uint cols() { return N; }
uint a_row(uint m) { return m; }
uint a_offset(uint m) { return m < M ? entry * a_batch + (A_T == 1u ? m : m * lda) : NONE; }
uint b_offset(uint n) { return entry * b_batch + (B_T == 1u ? n * ldb : n); }
uint a_stride() { return A_T == 1u ? lda : 1u; }
uint b_stride() { return B_T == 1u ? 1u : ldb; }
bool segment(uint s) {
    seg_k0 = s * k_split;
    seg_k1 = min(K, seg_k0 + k_split);
    return true;
}
void put(uint m, uint n, vec4 v) {
    if (m < M && n < N) epilogue(v, n, ((split * batch + entry) * M + m) * N + n, N - n);
}

/* Tiles are counted over columns, rows, batch, splits: neighbours share rows of A. */
void main() {
    uint t = gl_WorkGroupID.y * 65535u + gl_WorkGroupID.x;
    uint mn = tiles_m * tiles_n, z = t / mn, r = t % mn;
    split = z / batch;
    entry = z % batch;
    if (split >= splits) return;
    tile_run((r / tiles_n) * BM, (r % tiles_n) * BN, split, split + 1u);
}
