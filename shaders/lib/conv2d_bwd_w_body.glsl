/* conv2d_bwd_w_body.glsl: weight gradient dw[o, i, tap] = sum over output pixels of dy[p, o] x[source(p, tap), i].
 * One matmul per tap: rows o, columns i, and k along one image row of dy at a time (a segment), where both
 * addresses are linear in k; k outside [seg_k0, seg_k1) would read padding.
 * SPDX-License-Identifier: MIT */
uint tap, split, dy_row;
uint x_row;

uint rows() { return O; }
uint cols() { return I; }
uint a_row(uint m) { return m; }
uint a_offset(uint m) { return m < O ? dy_row * OW * O + m : NONE; }
uint b_offset(uint n) { return x_row + n; }
uint a_stride() { return O; }
uint b_stride() { return stride * I; }
bool segment(uint s) {
    int d = int(stride), sy = int(s % OH) * d + int(tap / KW) - pad_t, left = int(tap % KW) - pad_l;
    int k0 = left < 0 ? (d - 1 - left) / d : 0, k1 = min(int(OW), (int(W) - left + d - 1) / d);
    dy_row = s;
    x_row = uint(((int(s / OH) * int(H) + sy) * int(W) + left) * int(I)); /* wraps below 0; back in range at k0 */
    seg_k0 = uint(k0);
    seg_k1 = uint(max(k1, k0));
    return sy >= 0 && sy < int(H) && k0 < k1;
}
void put(uint m, uint n, vec4 v) {
    if (m >= O || n >= I) return;
    uint taps = KH * KW;
    if (splits > 1u || taps == 1u) {
        uint i = ((split * taps + tap) * O + m) * I + n;
        if (Y_VEC == 1u) y4[i >> 2] = v;
        else [[unroll]] for (uint c = 0u; c < 4u; c++)
            if (n + c < I) y[i + c] = v[c];
    } else {
        [[unroll]] for (uint c = 0u; c < 4u; c++)
            if (n + c < I) y[(m * I + n + c) * taps + tap] = v[c];
    }
}

void main() {
    uint t = gl_WorkGroupID.y * 65535u + gl_WorkGroupID.x, mn = tiles_m * tiles_n, r = t % mn, z = t / mn;
    tap = z % (KH * KW);
    split = z / (KH * KW);
    if (split >= splits) return;
    tile_run((r / tiles_n) * BM, (r % tiles_n) * BN, split * (N * OH) / splits, (split + 1u) * (N * OH) / splits);
}
