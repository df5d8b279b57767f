/* conv2d_body.glsl: a convolution over NHWC as an implicit matmul, and its input gradient, which is one too.
 *   row m of A   pixel (n, y, x) of a grid [n, RH, RW] of destination pixels
 *   segment      tap (i, j): its k are the SC channels of source pixel (y*step + off_y(i), x*step + off_x(j))
 *   B            weights [kh, kw, SC, DC] (B_T: [kh, kw, DC, SC]; checkpoint order serves where kh = kw = 1)
 * forward: step = stride, off(i) = i - pad, every destination pixel in one grid.
 * input gradient: one dispatch per class (cy, cx) of destination pixels modulo the stride, since they see
 * the same taps: off(i) = (c + pad - i) / stride, and taps where that is no integer are skipped whole.
 * SPDX-License-Identifier: MIT */
int off_y, off_x;
uint split, tap;

uint rows() { return M; }
uint cols() { return DC; }
ivec3 a_row(uint m) {
    uint p = m / RW;
    int step = back == 1u ? 1 : int(stride);
    return m < M ? ivec3(p / RH, int(p % RH) * step, int(m % RW) * step) : ivec3(0, -0x1000000, 0);
}
uint a_offset(ivec3 r) {
    int sy = r.y + off_y, sx = r.z + off_x;
    bool seen = sy >= 0 && sx >= 0 && sy < int(SH) && sx < int(SW);
    return seen ? ((uint(r.x) * SH + uint(sy)) * SW + uint(sx)) * SC : NONE;
}
uint b_offset(uint n) { return tap * SC * DC + (B_T == 1u ? n * SC : n); }
uint a_stride() { return 1u; }
uint b_stride() { return B_T == 1u ? 1u : DC; }
bool segment(uint s) {
    tap = s;
    seg_k0 = 0u;
    seg_k1 = SC;
    int i = int(s / KW), j = int(s % KW), d = int(stride);
    if (back == 0u) {
        off_y = i - pad_t;
        off_x = j - pad_l;
        return true;
    }
    int ty = cy + pad_t - i + d * int(KH), tx = cx + pad_l - j + d * int(KW); /* not negative: % is defined */
    off_y = ty / d - int(KH);
    off_x = tx / d - int(KW);
    return ty % d == 0 && tx % d == 0;
}
void put(uint m, uint n, vec4 v) {
    if (m < M && n < DC) {
        uint at = m;
        if (back == 1u) {
            uint p = m / RW;
            at = ((p / RH) * DH + (p % RH) * stride + uint(cy)) * DW + (m % RW) * stride + uint(cx);
        }
        epilogue(v, n, (split * M + at) * DC + n, DC - n);
    }
}

void main() {
    uint t = gl_WorkGroupID.y * 65535u + gl_WorkGroupID.x, mn = tiles_m * tiles_n, r = t % mn, taps = KH * KW;
    split = t / mn;
    if (split >= splits) return;
    tile_run((r / tiles_n) * BM, (r % tiles_n) * BN, split * taps / splits, (split + 1u) * taps / splits);
}
