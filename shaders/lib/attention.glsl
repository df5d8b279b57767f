/* attention.glsl: the block steps of flash attention that its three shaders are made of. A workgroup owns
 * ROWS rows (queries, or keys in bwd_kv) and walks over tiles of COLS columns:
 *   multiply     s = A B^T, the scores of a tile (depth: the head width)
 *   accumulate   acc += s W, where W has a row of channels per column of s (depth: the columns)
 *   reduce_rows  a value per row over all columns of the tile
 * The including shader defines vec4 load4(uint source, uint element, int left).
 *
 * STAGE 1 (GPUs): LX x LY threads; a thread's scores are TM rows x TN columns (LX apart), its sums TM rows x
 * TD groups of 4 channels (LX apart). Operands go through shared memory as f32.
 * STAGE 0 (software drivers): a workgroup is one subgroup, a lane owns whole rows (LX apart), columns are loaded
 * one per lane and spread by subgroupShuffle with constant lanes; no shared memory, no barriers. See tile.glsl.
 * Wide heads: a workgroup sums TD groups of channels, a "chunk"; chunks repeat the scores.
 * SPDX-License-Identifier: MIT */
const uint K4 = (K + 3u) / 4u;
const uint ROWS = STAGE == 1u ? LY * TM : LX * TM, COLS = STAGE == 1u ? LX * TN : LX;
const uint WD = STAGE == 1u ? TD * LX : TD;               /* groups of a chunk */
const uint PD = DC | 1u;                                  /* odd pitch of a panel row: no bank conflicts */
const uint PANEL = STAGE == 1u ? (ROWS + COLS) * PD : 1u;
const uint VB = STAGE == 1u ? (PANEL / WD < COLS ? PANEL / WD : COLS) : 1u; /* rows of W in a panel */
const uint PP = ROWS / 4u + 1u;
shared vec4 panel[PANEL];
shared vec4 weights_of[STAGE == 1u ? COLS * PP : 1u];     /* s transposed: [column][row] */
shared float red[STAGE == 1u ? ROWS * LX : 1u];

const float NEG = -1e38;                                  /* a hidden score; below HIDDEN nothing is a score */
const float HIDDEN = -1e37;
const float LOG2E = 1.4426950408889634, LN2 = 0.6931471805599453;

float s[TM * TN];
#if !defined(ACCS)
#define ACCS 1u
#endif
vec4 acc[ACCS * TM * TD];
uint entry, head, m0, d0;                                 /* entry of the rows, their first, first channel group */

vec4 load4(uint source, uint at, int left);

uint lane_x() { return STAGE == 1u ? gl_LocalInvocationID.x : 0u; }
uint row_of(uint r) { return STAGE == 1u ? gl_LocalInvocationID.y * TM + r : gl_SubgroupInvocationID + r * LX; }
uint col_of(uint j) { return STAGE == 1u ? gl_LocalInvocationID.x + j * LX : j; }
uint group_of(uint g) { return STAGE == 1u ? d0 + gl_LocalInvocationID.x + g * LX : d0 + g; }

/* Group c of row `row` of a matrix whose row 0 starts at element `base`; zero past n rows or the head's width. */
vec4 row4(uint source, uint base, uint row, uint n, uint c) {
    int left = row < n && c < K4 ? int(K - 4u * c) : 0;
    return load4(source, base + row * d + 4u * c, left);
}

/* Workgroup -> entry, head, m0, d0; false past the last. */
bool place() {
    uint t = gl_WorkGroupID.y * 65535u + gl_WorkGroupID.x;
    if (t >= tiles) return false;
    m0 = t % blocks * ROWS;
    t /= blocks;
    d0 = t % chunks * WD;
    t /= chunks;
    head = t % heads;
    entry = t / heads;
    return true;
}

void multiply(uint a, uint a_base, uint a_n, uint b, uint b_base, uint b_n) {
    [[unroll]] for (uint i = 0u; i < TM * TN; i++) s[i] = 0.0;
    if (STAGE == 1u) {
        for (uint c0 = 0u; c0 < K4; c0 += DC) {
            barrier();
            for (uint i = gl_LocalInvocationIndex; i < ROWS * DC; i += LX * LY)
                panel[i / DC * PD + i % DC] = row4(a, a_base, i / DC, a_n, c0 + i % DC);
            for (uint i = gl_LocalInvocationIndex; i < COLS * DC; i += LX * LY)
                panel[(ROWS + i / DC) * PD + i % DC] = row4(b, b_base, i / DC, b_n, c0 + i % DC);
            barrier();
            [[unroll]] for (uint c = 0u; c < DC; c++) {
                vec4 u[TM];
                [[unroll]] for (uint r = 0u; r < TM; r++) u[r] = panel[row_of(r) * PD + c];
                [[unroll]] for (uint j = 0u; j < TN; j++) {
                    vec4 v = panel[(ROWS + col_of(j)) * PD + c];
                    [[unroll]] for (uint r = 0u; r < TM; r++) s[r * TN + j] += dot(u[r], v);
                }
            }
        }
    } else {
        for (uint c = 0u; c < K4; c++) {
            vec4 u[TM], w = row4(b, b_base, gl_SubgroupInvocationID, b_n, c);
            [[unroll]] for (uint r = 0u; r < TM; r++) u[r] = row4(a, a_base, row_of(r), a_n, c);
            [[unroll]] for (uint j = 0u; j < TN; j++) {
                vec4 v = vec4(subgroupShuffle(w.x, j), subgroupShuffle(w.y, j), subgroupShuffle(w.z, j), subgroupShuffle(w.w, j));
                [[unroll]] for (uint r = 0u; r < TM; r++) s[r * TN + j] += dot(u[r], v);
            }
        }
    }
}

/* Adds to acc[first ...]; w_n rows of W exist. */
void accumulate(uint first, uint w, uint w_base, uint w_n) {
    if (STAGE == 1u) {
        barrier();
        [[unroll]] for (uint j = 0u; j < TN; j++)
            [[unroll]] for (uint r = 0u; r < TM; r += 4u)
                weights_of[col_of(j) * PP + row_of(r) / 4u] =
                    vec4(s[r * TN + j], s[(r + 1u) * TN + j], s[(r + 2u) * TN + j], s[(r + 3u) * TN + j]);
        uint n = min(COLS, w_n);
        for (uint v0 = 0u; v0 < n; v0 += VB) {
            if (v0 > 0u) barrier();
            for (uint i = gl_LocalInvocationIndex; i < VB * WD; i += LX * LY)
                panel[i] = row4(w, w_base, v0 + i / WD, n, d0 + i % WD);
            barrier();
            uint m = min(VB, n - v0);
            for (uint k = 0u; k < m; k++) {
                vec4 p[(TM + 3u) / 4u]; /* not empty where STAGE 0 has TM < 4 */
                [[unroll]] for (uint r = 0u; r < TM / 4u; r++) p[r] = weights_of[(v0 + k) * PP + row_of(4u * r) / 4u];
                [[unroll]] for (uint g = 0u; g < TD; g++) {
                    vec4 v = panel[k * WD + gl_LocalInvocationID.x + g * LX];
                    [[unroll]] for (uint r = 0u; r < TM; r++) acc[first + r * TD + g] += p[r / 4u][r % 4u] * v;
                }
            }
        }
    } else {
        [[unroll]] for (uint g = 0u; g < TD; g++) {
            vec4 x = row4(w, w_base, gl_SubgroupInvocationID, w_n, d0 + g);
            [[unroll]] for (uint j = 0u; j < TN; j++) {
                vec4 v = vec4(subgroupShuffle(x.x, j), subgroupShuffle(x.y, j), subgroupShuffle(x.z, j), subgroupShuffle(x.w, j));
                [[unroll]] for (uint r = 0u; r < TM; r++) acc[first + r * TD + g] += s[r * TN + j] * v;
            }
        }
    }
}

/* Each thread's value per row, over the threads that share the row. Maxima only between two accumulates or multiplies:
 * they rely on those barriers. */
#define REDUCE_ROWS(name, begin, combine)                                                          \
    void name(inout float v[TM]) {                                                                 \
        if (STAGE == 0u) return;                                                                   \
        begin;                                                                                     \
        [[unroll]] for (uint r = 0u; r < TM; r++) red[row_of(r) * LX + gl_LocalInvocationID.x] = v[r]; \
        barrier();                                                                                 \
        [[unroll]] for (uint r = 0u; r < TM; r++) {                                                \
            float t = red[row_of(r) * LX];                                                         \
            for (uint i = 1u; i < LX; i++) t = combine(t, red[row_of(r) * LX + i]);                \
            v[r] = t;                                                                              \
        }                                                                                          \
    }
#define ADD(a, b) ((a) + (b))
REDUCE_ROWS(rows_max, , max)
REDUCE_ROWS(rows_sum, barrier(), ADD)

/* ---- key sets ---- */
uint set_parts(uint n, uint set) { return TABLE ? sets[(n * SETS + set) * (parts + 1u)] : 1u; }
/* bank, entry */
uvec2 set_part(uint n, uint set, uint p) {
    if (!TABLE) return uvec2(0u, n);
    uint v = sets[(n * SETS + set) * (parts + 1u) + 1u + p];
    return uvec2(v >> 16, v & 0xffffu);
}
float set_weight(uint n, uint set) { return WEIGHTS ? weights[n * SETS + set] : 1.0; }
/* In base 2; at most HIDDEN if the part is. */
float part_offset(uint n, uint set, uint p) {
    if (!OFFSET) return 0.0;
    float v = offset[(n * SETS + set) * parts + p];
    return v > HIDDEN ? v * LOG2E : NEG;
}
uint lse_at(uint n, uint set, uint i) { return ((n * SETS + set) * heads + head) * tq + i; }

/* q.k -> score in base 2: query i of entry n, key `key` of a part of `tokens` keys that begins with the set's key `begin`. */
float score(float v, uint n, uint i, uint key, uint tokens, uint begin, float off) {
    if (i >= tq || key >= tokens || (CAUSAL && begin + key > i)) return NEG;
    v = v * (scale * LOG2E) + off;
    if (BIAS) {
        float b = bias[n * bias_n + head * bias_h + i * bias_q + (begin + key) * bias_k];
        if (b < HIDDEN) return NEG;
        v += b * LOG2E;
    }
    if (REGIONS) {
        uint rq = min(regions_q[n * tq + i], regions - 1u), rk = min(regions_k[n * tk + begin + key], regions - 1u);
        float b = table[rq * regions + rk];
        if (b < HIDDEN) return NEG;
        v += b * LOG2E;
    }
    return v;
}
