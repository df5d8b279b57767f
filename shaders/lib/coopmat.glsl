/* coopmat.glsl: tile.glsl's core on cooperative matrices, for f16 operands whose vectors of four are all
 * aligned and wholly inside or outside (A_VEC and B_VEC hold). The including shader provides the same
 * functions; see tile.glsl.
 *
 * A workgroup of LX threads is SM x SN subgroups; each owns PM x PN fragments of FM x FN sums. Panels BK deep
 * are staged in shared memory as f16, two buffers, rows padded by 8 halves against bank conflicts. Sums leave
 * through shared memory, fragment by fragment, so that the epilogue sees rows and columns.
 * SPDX-License-Identifier: MIT */
layout(constant_id = 1) const uint LX = 128u;
layout(constant_id = 2) const uint SM = 2u;
layout(constant_id = 3) const uint SN = 2u;
layout(constant_id = 4) const uint PM = 4u;
layout(constant_id = 5) const uint PN = 4u;
layout(constant_id = 6) const uint BK = 16u;
layout(constant_id = 7) const uint A_T = 0u;
layout(constant_id = 8) const uint B_T = 0u;
layout(constant_id = 9) const uint FM = 16u;
layout(constant_id = 10) const uint FN = 16u;
layout(constant_id = 16) const uint FK = 16u;
layout(local_size_x_id = 1) in;
layout(set = 0, binding = 0, std430) readonly buffer buf_ah { f16vec4 a_half[]; };
layout(set = 0, binding = 1, std430) readonly buffer buf_bh { f16vec4 b_half[]; };

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
#else
uint b_at(uint offset, uint k) { return offset + k * b_stride(); }
#endif
uint seg, seg_k0, seg_k1;

const uint NONE = 0xffffffffu, STAGE = 1u; /* as in tile.glsl */
const uint BM = SM * PM * FM, BN = SN * PN * FN;
/* Panels in units of 4 halves: A is [BM][BK] (A_T: [BK][BM]), B is [BK][BN] (B_T: [BN][BK]). */
const uint WA = (A_T == 1u ? BM : BK) / 4u, HA = A_T == 1u ? BK : BM, PITCH_A = WA + 2u;
const uint WB = (B_T == 1u ? BK : BN) / 4u, HB = B_T == 1u ? BN : BK, PITCH_B = WB + 2u;
const uint NA = WA * HA / LX, NB = WB * HB / LX;           /* vectors a thread loads in a step */
shared f16vec4 tile_a[2u * HA * PITCH_A];
shared f16vec4 tile_b[2u * HB * PITCH_B];
shared vec4 tile_y[SM * SN * FM * FN / 4u];

coopmat<float, gl_ScopeSubgroup, FM, FN, gl_MatrixUseAccumulator> acc[PM * PN];
ROW arow[NA];
uint aoff[NA], boff[NB];
f16vec4 va[NA], vb[NB];

/* Vector i of this thread: x = place along the vector direction (in elements), y = line of the panel. */
uvec2 slot_a(uint i) {
    uint id = gl_LocalInvocationIndex + i * LX;
    return uvec2(id % WA * 4u, id / WA);
}
uvec2 slot_b(uint i) {
    uint id = gl_LocalInvocationIndex + i * LX;
    return uvec2(id % WB * 4u, id / WB);
}
uint a_m(uint i) { return A_T == 1u ? slot_a(i).x : slot_a(i).y; }
uint a_k(uint i) { return A_T == 1u ? slot_a(i).y : slot_a(i).x; }
uint b_n(uint i) { return B_T == 1u ? slot_b(i).y : slot_b(i).x; }
uint b_k(uint i) { return B_T == 1u ? slot_b(i).x : slot_b(i).y; }

void load_panels(uint k) {
    [[unroll]] for (uint i = 0u; i < NA; i++) {
        bool in_k = k + a_k(i) < seg_k1 && aoff[i] != NONE;
        va[i] = in_k ? a_half[(aoff[i] + (k + a_k(i)) * a_stride()) >> 2] : f16vec4(0.0);
    }
    [[unroll]] for (uint i = 0u; i < NB; i++) {
        bool in_k = k + b_k(i) < seg_k1 && boff[i] != NONE;
        uint at = in_k ? b_at(boff[i], k + b_k(i)) : NONE;
        vb[i] = at != NONE ? b_half[at >> 2] : f16vec4(0.0);
    }
}

void store_panels(uint buf) {
    [[unroll]] for (uint i = 0u; i < NA; i++)
        tile_a[buf * HA * PITCH_A + slot_a(i).y * PITCH_A + slot_a(i).x / 4u] = va[i];
    [[unroll]] for (uint i = 0u; i < NB; i++)
        tile_b[buf * HB * PITCH_B + slot_b(i).y * PITCH_B + slot_b(i).x / 4u] = vb[i];
}

void multiply(uint buf) {
    uint m0 = gl_SubgroupID % SM * PM * FM, n0 = gl_SubgroupID / SM * PN * FN;
    uint a0 = buf * HA * PITCH_A, b0 = buf * HB * PITCH_B;
    [[unroll]] for (uint k = 0u; k < BK; k += FK) {
        coopmat<float16_t, gl_ScopeSubgroup, FM, FK, gl_MatrixUseA> fa[PM];
        [[unroll]] for (uint i = 0u; i < PM; i++) {
            uint m = m0 + i * FM;
            if (A_T == 1u) coopMatLoad(fa[i], tile_a, a0 + k * PITCH_A + m / 4u, PITCH_A, gl_CooperativeMatrixLayoutColumnMajor);
            else coopMatLoad(fa[i], tile_a, a0 + m * PITCH_A + k / 4u, PITCH_A, gl_CooperativeMatrixLayoutRowMajor);
        }
        [[unroll]] for (uint j = 0u; j < PN; j++) {
            coopmat<float16_t, gl_ScopeSubgroup, FK, FN, gl_MatrixUseB> fb;
            uint n = n0 + j * FN;
            if (B_T == 1u) coopMatLoad(fb, tile_b, b0 + n * PITCH_B + k / 4u, PITCH_B, gl_CooperativeMatrixLayoutColumnMajor);
            else coopMatLoad(fb, tile_b, b0 + k * PITCH_B + n / 4u, PITCH_B, gl_CooperativeMatrixLayoutRowMajor);
            [[unroll]] for (uint i = 0u; i < PM; i++) acc[i * PN + j] = coopMatMulAdd(fa[i], fb, acc[i * PN + j]);
        }
    }
}

bool enter_segment(uint s, uint n0, uint s1) {
    while (s < s1 && !segment(s)) s++;
    seg = s;
    if (s >= s1) return false;
    [[unroll]] for (uint i = 0u; i < NA; i++) aoff[i] = a_offset(arow[i]);
    [[unroll]] for (uint i = 0u; i < NB; i++) boff[i] = n0 + b_n(i) < cols() ? b_offset(n0 + b_n(i)) : NONE;
    return true;
}

void tile_run(uint m0, uint n0, uint s0, uint s1) {
    [[unroll]] for (uint i = 0u; i < PM * PN; i++)
        acc[i] = coopmat<float, gl_ScopeSubgroup, FM, FN, gl_MatrixUseAccumulator>(0.0);
    [[unroll]] for (uint i = 0u; i < NA; i++) arow[i] = a_row(m0 + a_m(i));
    bool more = enter_segment(s0, n0, s1);
    uint buf = 0u, k = seg_k0;
    if (more) {
        load_panels(k);
        store_panels(buf);
    }
    while (more) {
        barrier();
        k += BK;
        if (k >= seg_k1) {
            more = enter_segment(seg + 1u, n0, s1);
            k = seg_k0;
        }
        if (more) load_panels(k);
        multiply(buf);
        buf ^= 1u;
        if (more) store_panels(buf);
    }
    uint place = gl_SubgroupID * FM * FN / 4u, quads = FM * FN / 4u;
    [[unroll]] for (uint f = 0u; f < PM * PN; f++) {
        coopMatStore(acc[f], tile_y, place, FN / 4u, gl_CooperativeMatrixLayoutRowMajor);
        barrier();
        uint m = m0 + (gl_SubgroupID % SM * PM + f / PN) * FM, n = n0 + (gl_SubgroupID / SM * PN + f % PN) * FN;
        for (uint q = gl_SubgroupInvocationID; q < quads; q += gl_SubgroupSize)
            put(m + q / (FN / 4u), n + q % (FN / 4u) * 4u, tile_y[place + q]);
        barrier();
    }
}
