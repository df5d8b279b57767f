// types: f32 h16
// attention_bwd_q: D of a workgroup's queries, and their dq: the forward walk over keys again, p = 2^(score - lse).
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
#include "attention_io.glsl"
SOURCE(7, q)
SOURCE(8, k0) SOURCE(9, k1) SOURCE(10, k2) SOURCE(11, k3)
SOURCE(12, v0) SOURCE(13, v1) SOURCE(14, v2) SOURCE(15, v3)
SOURCE(16, dy)
SOURCE(17, y)
BUF_IN(18, float, lse)
BUF_IN(19, float, dlse)
BUF_OUT(20, float, rows_d)
SINK(21, dq)
#include "attention.glsl"

const uint Q = 0u, KEYS = 1u, VALUES = 2u, DY = 3u;
uint bank;
vec4 load4(uint source, uint at, int left) {
    if (source == Q) return get_q(at, left);
    if (source == DY) return get_dy(at, left);
    if (BANKS > 1u && bank == 1u) return source == KEYS ? get_k1(at, left) : get_v1(at, left);
    if (BANKS > 2u && bank == 2u) return source == KEYS ? get_k2(at, left) : get_v2(at, left);
    if (BANKS > 3u && bank == 3u) return source == KEYS ? get_k3(at, left) : get_v3(at, left);
    return source == KEYS ? get_k0(at, left) : get_v0(at, left);
}

float lse2[TM], rd[TM], delta[TM], p_[TM * TN];

// dy . y of each row.
void dot_rows(uint base) {
    [[unroll]] for (uint r = 0u; r < TM; r++) {
        rd[r] = 0.0;
        for (uint c = lane_x(); c < K4; c += STAGE == 1u ? LX : 1u) {
            int left = m0 + row_of(r) < tq ? int(K - 4u * c) : 0;
            uint at = base + row_of(r) * d + 4u * c;
            rd[r] += dot(get_dy(at, left), get_y(at, left));
        }
    }
    rows_sum(rd);
}

// One walk over the keys: sums dy . out into rd, or dq into acc.
void walk(uint set, uint base, bool sums, float w) {
    uint begin = 0u, n = set_parts(entry, set);
    for (uint p = 0u; p < n; p++) {
        uvec2 part = set_part(entry, set, p);
        bank = part.x;
        uint tokens = tb[bank];
        float off = part_offset(entry, set, p);
        for (uint k = 0u; k < tokens && off > HIDDEN * 2.0; k += COLS) {
            if (CAUSAL && begin + k > m0 + ROWS - 1u) break;
            uint at = (part.y * tokens + k) * d + head * K;
            multiply(Q, base, tq - m0, KEYS, at, tokens - k);
            [[unroll]] for (uint i = 0u; i < TM * TN; i++) {
                float x = score(s[i], entry, m0 + row_of(i / TN), k + col_of(i % TN), tokens, begin, off);
                p_[i] = exp2(min(x - lse2[i / TN], 0.0));
            }
            multiply(DY, base, tq - m0, VALUES, at, tokens - k);
            if (sums) {
                [[unroll]] for (uint i = 0u; i < TM * TN; i++) rd[i / TN] += p_[i] * s[i];
            } else {
                [[unroll]] for (uint i = 0u; i < TM * TN; i++) s[i] = p_[i] * (w * s[i] - delta[i / TN]);
                accumulate(0u, KEYS, at, tokens - k);
            }
        }
        begin += tokens;
    }
}

void pull(uint set, uint base) {
    float w = set_weight(entry, set);
    [[unroll]] for (uint r = 0u; r < TM; r++) {
        uint i = m0 + row_of(r);
        float l = i < tq ? lse[lse_at(entry, set, i)] : NEG;
        lse2[r] = l > HIDDEN ? l * LOG2E : -NEG;            // a query that sees nothing: every p is 0
        if (RECOMPUTE) rd[r] = 0.0;
    }
    if (RECOMPUTE) {
        walk(set, base, true, w);
        rows_sum(rd);
    }
    [[unroll]] for (uint r = 0u; r < TM; r++) {
        uint i = m0 + row_of(r);
        delta[r] = (RECOMPUTE ? w : 1.0) * rd[r];
        if (i >= tq) continue;
        if (DLSE) delta[r] -= dlse[lse_at(entry, set, i)];
        if (d0 == 0u && lane_x() == 0u) rows_d[lse_at(entry, set, i)] = rd[r];
    }
    if (WANT_A) walk(set, base, false, w);
}

void main() {
    if (!place()) return;
    uint base = (entry * tq + m0) * d + head * K;
    [[unroll]] for (uint i = 0u; i < TM * TD; i++) acc[i] = vec4(0.0);
    if (!RECOMPUTE) dot_rows(base);
    for (uint set = 0u; set < SETS; set++) pull(set, base);
    if (!WANT_A) return;
    [[unroll]] for (uint r = 0u; r < TM; r++)
        [[unroll]] for (uint g = 0u; g < TD; g++) {
            uint c = group_of(g);
            if (m0 + row_of(r) < tq && c < K4) put_dq(base + row_of(r) * d + 4u * c, scale * acc[r * TD + g], int(K - 4u * c));
        }
}
