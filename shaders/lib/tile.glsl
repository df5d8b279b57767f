/* tile.glsl: the matrix-multiply core of matmul, conv2d, conv2d_bwd_x and conv2d_bwd_w: one tile of
 * C[m, n] = sum over segments, over k of A[m, k] B[k, n], summed in f32.
 *
 * A segment is a run of k for which the address of a row is linear in k: the whole K of a matmul, one
 * tap of a convolution, one image row of a weight gradient. The including shader defines:
 *   buffers     a (T), a4 (T4), b, b4;   put(m, n, vec4): stores columns n..n+3 of row m (bounds are its work)
 *   ROW         what is known of a row m for the whole run; ROW a_row(uint m)
 *   uint a_offset(ROW r), b_offset(uint n): element offset at k = 0 in this segment, or NONE (reads as 0)
 *   bool segment(uint s): enters segment s, sets seg_k0 and seg_k1; false skips it
 *   uint a_stride(), b_stride(): elements from k to k + 1
 *   uint rows(), cols(): M and N
 *   with B_GATHER: uint b_at(offset, k), the element of B at k, or NONE; B's address need not be linear then
 * (ROW and the buffers before this file, the functions after it.)
 *
 * STAGE 1 (GPUs): LX x LY threads stage BK-deep panels of A and B in shared memory, two buffers, and each
 * thread computes TM rows (chunks of 4, LY apart) by TN4 four-column groups (LX apart).
 * STAGE 0 (software drivers): a workgroup is one subgroup of LX lanes, BK is 4. Every lane loads a piece of
 * the A panel that no other lane loads, and rows are spread by subgroupShuffle with constant lanes. On
 * lavapipe a load costs a loop over the lanes, shared memory costs the same plus coroutines, and a constant
 * shuffle is one instruction: 50-60 GFLOP/s on 2 cores, where shared memory gave 6 and plain loads 30.
 * SPDX-License-Identifier: MIT */
layout(constant_id = 1) const uint LX = 8u;
layout(constant_id = 2) const uint LY = 1u;
layout(constant_id = 3) const uint STAGE = 0u;
layout(constant_id = 4) const uint TM = 32u;   /* a multiple of 4; STAGE 0: and of LX */
layout(constant_id = 5) const uint TN4 = 1u;
layout(constant_id = 6) const uint BK = 4u;
layout(constant_id = 7) const uint A_T = 0u;   /* 1: vectors of A run along m, 0: along k */
layout(constant_id = 8) const uint B_T = 0u;   /* 1: vectors of B run along k, 0: along n */
layout(constant_id = 9) const uint A_VEC = 1u; /* every vector of A is aligned and wholly inside or outside */
layout(constant_id = 10) const uint B_VEC = 1u;
layout(local_size_x_id = 1, local_size_y_id = 2) in;

ROW  a_row(uint m);
uint a_offset(ROW r);
uint b_offset(uint n);
uint a_stride();
uint b_stride();
bool segment(uint s);
uint rows();
uint cols();
void put(uint m, uint n, vec4 v);
#ifdef B_GATHER
uint b_at(uint offset, uint k);
#endif
uint seg, seg_k0, seg_k1;   /* the segment and its range of k */

const uint NONE = 0x80000000u; /* no offset: buffers hold fewer elements, and what wraps below 0 (conv2d_bwd_w) stays near 0 */
const uint BM = TM * LY, BN = 4u * TN4 * LX;
const uint PA = STAGE == 1u ? BM / 4u + 1u : 1u, PB = STAGE == 1u ? BN / 4u : 1u;   /* vec4 pitch; + 1 spreads banks */
shared vec4 tile_a[STAGE == 1u ? 2u * BK * PA : 1u];
shared vec4 tile_b[STAGE == 1u ? 2u * BK * PB : 1u];
const uint NA = STAGE == 1u ? BM * BK / (4u * LX * LY) : TM / LX;         /* vectors a thread loads in a step */
const uint NB = STAGE == 1u ? BN * BK / (4u * LX * LY) : 4u * TN4;

vec4 acc[TM * TN4];
ROW arow[NA];
uint aoff[NA], boff[NB];
vec4 va[NA], vb[NB];

/* The piece of the panel that vector i of this thread is: x = its row or column, y = its k. */
uvec2 slot_a(uint i) {
    if (STAGE == 0u) {
        uint id = i * LX + gl_SubgroupInvocationID;
        return A_T == 1u ? uvec2(id % (TM / 4u) * 4u, id / (TM / 4u)) : uvec2(id, 0u);
    }
    uint id = gl_LocalInvocationIndex + i * LX * LY;
    return A_T == 1u ? uvec2((id % (BM / 4u)) * 4u, id / (BM / 4u)) : uvec2(id / (BK / 4u), (id % (BK / 4u)) * 4u);
}
uvec2 slot_b(uint i) {
    if (STAGE == 0u) {
        uint n = 4u * ((i / 4u) * LX + gl_SubgroupInvocationID);
        return B_T == 1u ? uvec2(n + i % 4u, 0u) : uvec2(n, i % 4u);
    }
    uint id = gl_LocalInvocationIndex + i * LX * LY;
    return B_T == 1u ? uvec2(id / (BK / 4u), (id % (BK / 4u)) * 4u) : uvec2((id % (BN / 4u)) * 4u, id / (BN / 4u));
}

/* Four elements from `at`, of which the first `left` exist. */
vec4 get_a(uint at, int left) {
    if (A_VEC == 1u) {
        vec4 v = from_T4(a4[left > 0 ? at >> 2 : 0u]);
        return left > 0 ? v : vec4(0.0);
    }
    vec4 v;
    [[unroll]] for (int c = 0; c < 4; c++) {
        float f = from_T(a[c < left ? at + uint(c) : 0u]);
        v[c] = c < left ? f : 0.0;
    }
    return v;
}
vec4 get_b(uint at, int left) {
    if (B_VEC == 1u) {
        vec4 v = from_T4(b4[left > 0 ? at >> 2 : 0u]);
        return left > 0 ? v : vec4(0.0);
    }
    vec4 v;
    [[unroll]] for (int c = 0; c < 4; c++) {
        float f = from_T(b[c < left ? at + uint(c) : 0u]);
        v[c] = c < left ? f : 0.0;
    }
    return v;
}

#ifndef B_GATHER
uint b_at(uint offset, uint k) { return offset + k * b_stride(); }
#endif

void load_panels(uint m0, uint n0, uint k) {
    [[unroll]] for (uint i = 0u; i < NA; i++) {
        uvec2 s = slot_a(i);
        int left = A_T == 1u ? (k + s.y < seg_k1 ? int(rows()) - int(m0 + s.x) : 0) : int(seg_k1) - int(k + s.y);
        va[i] = get_a(aoff[i] + (k + s.y) * a_stride(), aoff[i] == NONE ? 0 : left);
    }
    [[unroll]] for (uint i = 0u; i < NB; i++) {
        uvec2 s = slot_b(i);
        int left = B_T == 1u ? int(seg_k1) - int(k + s.y) : (k + s.y < seg_k1 ? int(cols()) - int(n0 + s.x) : 0);
        uint at = boff[i] == NONE || left <= 0 ? NONE : b_at(boff[i], k + s.y);
        vb[i] = get_b(at, at == NONE ? 0 : left);
    }
}

void store_panels(uint buf) {
    [[unroll]] for (uint i = 0u; i < NA; i++) {
        uvec2 s = slot_a(i);
        uint at = buf * BK * PA + s.y * PA + s.x / 4u;
        if (A_T == 1u) tile_a[at] = va[i];
        else [[unroll]] for (uint c = 0u; c < 4u; c++) tile_a[at + c * PA][s.x % 4u] = va[i][c];
    }
    [[unroll]] for (uint i = 0u; i < NB; i++) {
        uvec2 s = slot_b(i);
        uint at = buf * BK * PB + s.y * PB + s.x / 4u;
        if (B_T == 0u) tile_b[at] = vb[i];
        else [[unroll]] for (uint c = 0u; c < 4u; c++) tile_b[at + c * PB][s.x % 4u] = vb[i][c];
    }
}

void multiply_lanes() {
    [[unroll]] for (uint r = 0u; r < TM; r++)
        [[unroll]] for (uint kk = 0u; kk < 4u; kk++) {
            uint id = A_T == 1u ? kk * (TM / 4u) + r / 4u : r;  /* see slot_a */
            float x = subgroupShuffle(va[id / LX][A_T == 1u ? r % 4u : kk], id % LX);
            [[unroll]] for (uint j = 0u; j < TN4; j++) {
                vec4 y = B_T == 1u ? vec4(vb[j * 4u][kk], vb[j * 4u + 1u][kk], vb[j * 4u + 2u][kk], vb[j * 4u + 3u][kk])
                                   : vb[j * 4u + kk];
                acc[r * TN4 + j] += x * y;
            }
        }
}

void multiply_staged(uint buf) {
    [[unroll]] for (uint kk = 0u; kk < BK; kk++) {
        vec4 y[TN4];
        [[unroll]] for (uint j = 0u; j < TN4; j++)
            y[j] = tile_b[buf * BK * PB + kk * PB + gl_LocalInvocationID.x + j * LX];
        [[unroll]] for (uint r = 0u; r < TM / 4u; r++) {
            vec4 x = tile_a[buf * BK * PA + kk * PA + gl_LocalInvocationID.y + r * LY];
            [[unroll]] for (uint c = 0u; c < 4u; c++)
                [[unroll]] for (uint j = 0u; j < TN4; j++) acc[(r * 4u + c) * TN4 + j] += x[c] * y[j];
        }
    }
}

/* From segment s on, finds the next that is not skipped: false at the end. */
bool enter_segment(uint s, uint n0, uint s1) {
    while (s < s1 && !segment(s)) s++;
    seg = s;
    if (s >= s1) return false;
    [[unroll]] for (uint i = 0u; i < NA; i++) aoff[i] = a_offset(arow[i]);
    [[unroll]] for (uint i = 0u; i < NB; i++) {
        uint n = n0 + slot_b(i).x;
        boff[i] = n < cols() ? b_offset(n) : NONE;
    }
    return true;
}

/* The tile whose first row and column are m0 and n0, over segments [s0, s1). */
void tile_run(uint m0, uint n0, uint s0, uint s1) {
    [[unroll]] for (uint i = 0u; i < TM * TN4; i++) acc[i] = vec4(0.0);
    [[unroll]] for (uint i = 0u; i < NA; i++) arow[i] = a_row(m0 + slot_a(i).x);
    if (STAGE == 0u) {
        for (uint s = s0; enter_segment(s, n0, s1); s = seg + 1u)
            for (uint k = seg_k0; k < seg_k1; k += 4u) {
                load_panels(m0, n0, k);
                multiply_lanes();
            }
    } else {
        bool more = enter_segment(s0, n0, s1);
        uint buf = 0u, k = seg_k0;
        if (more) {
            load_panels(m0, n0, k);
            store_panels(buf);
        }
        while (more) {
            barrier();
            k += BK;
            if (k >= seg_k1) {
                more = enter_segment(seg + 1u, n0, s1);
                k = seg_k0;
            }
            if (more) load_panels(m0, n0, k);
            multiply_staged(buf);
            buf ^= 1u;
            if (more) store_panels(buf);
        }
    }
    [[unroll]] for (uint r = 0u; r < TM; r++) {
        uint m = STAGE == 1u ? m0 + (gl_LocalInvocationID.y + (r / 4u) * LY) * 4u + r % 4u : m0 + r;
        [[unroll]] for (uint j = 0u; j < TN4; j++) {
            uint lane = STAGE == 1u ? gl_LocalInvocationID.x : gl_SubgroupInvocationID;
            put(m, n0 + 4u * (lane + j * LX), acc[r * TN4 + j]);
        }
    }
}
