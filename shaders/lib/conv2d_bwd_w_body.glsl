/* conv2d_bwd_w_body.glsl: weight gradient dw[o, i, tap] = sum over output pixels of dy[p, o] x[source(p, tap), i].
 * One matmul per tap: rows o, columns i, and k along the output pixels. STAGE 1 takes all pixels of a split in
 * one segment and finds the pixel of x that belongs to each k, so that small images waste no part of a panel.
 * STAGE 0, where a division costs more than it saves, takes one image row of dy at a time, where both addresses
 * are linear in k; k outside [seg_k0, seg_k1) would read padding.
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
uint b_at(uint offset, uint k) {
    if (STAGE == 0u) return offset + k * b_stride();
    uint row = k / OW, image = row / OH, d = stride;
    int sy = int((row - image * OH) * d + tap / KW) - pad_t, sx = int((k - row * OW) * d + tap % KW) - pad_l;
    bool seen = sy >= 0 && sx >= 0 && sy < int(H) && sx < int(W);
    return seen ? ((image * H + uint(sy)) * W + uint(sx)) * I + offset : NONE;
}
bool segment(uint s) {
    if (STAGE == 1u) {
        uint pixels = N * OH * OW, part = ((pixels + splits - 1u) / splits + BK - 1u) / BK * BK;
        dy_row = 0u;
        x_row = 0u;
        seg_k0 = min(s * part, pixels);
        seg_k1 = min(seg_k0 + part, pixels);
        return seg_k0 < seg_k1;
    }
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
    uint units = STAGE == 1u ? splits : N * OH;
    tile_run((r / tiles_n) * BM, (r % tiles_n) * BN, split * units / splits, (split + 1u) * units / splits);
}
