/* matmul_body.glsl: y[z] = act(A[z] B[z] + bias) + residual, or one split of K as f32 partial sums.
 * SPDX-License-Identifier: MIT */
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
