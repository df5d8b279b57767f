// types: f32 h16
// attention_bwd_kv: dk and dv of a workgroup's keys of one bank: all queries of all sets that read them, in the
// order of the list `sets`: per bank a table of starts [entries + 1], then (query entry, set, part, first key) each.
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
#include "attention_io.glsl"
SOURCE(7, q)
SOURCE(8, k)
SOURCE(9, v)
SOURCE(10, dy)
BUF_IN(11, float, lse)
BUF_IN(12, float, dlse)
BUF_IN(13, float, rows_d)
SINK(14, dk)
SINK(15, dv)
#define ACCS 2u
#include "attention.glsl"

const uint Q = 0u, KEYS = 1u, VALUES = 2u, DY = 3u;
vec4 load4(uint source, uint at, int left) {
    if (source == Q) return get_q(at, left);
    if (source == DY) return get_dy(at, left);
    return source == KEYS ? get_k(at, left) : get_v(at, left);
}

float p_[TM * TN];

// What queries n of one set give to this block's keys; tokens: those of the bank, begin: the set's number of its first.
void pull(uint n, uint set, uint part, uint begin, uint tokens, uint base) {
    float off = part_offset(n, set, part), w = set_weight(n, set);
    for (uint i0 = 0u; i0 < tq && off > HIDDEN * 2.0; i0 += COLS) {
        if (CAUSAL && i0 + COLS - 1u < begin + m0) continue;
        uint q_base = (n * tq + i0) * d + head * K;
        float delta[TN];
        multiply(KEYS, base, tokens - m0, Q, q_base, tq - i0);
        [[unroll]] for (uint j = 0u; j < TN; j++) {
            uint i = i0 + col_of(j);
            float l = i < tq ? lse[lse_at(n, set, i)] : NEG;
            float l2 = l > HIDDEN ? l * LOG2E : -NEG;
            delta[j] = 0.0;
            if (i < tq) {
                delta[j] = (RECOMPUTE ? w : 1.0) * rows_d[lse_at(n, set, i)];
                if (DLSE) delta[j] -= dlse[lse_at(n, set, i)];
            }
            [[unroll]] for (uint r = 0u; r < TM; r++) {
                float x = score(s[r * TN + j], n, i, m0 + row_of(r), tokens, begin, off);
                p_[r * TN + j] = exp2(min(x - l2, 0.0));
            }
        }
        if (WANT_B) {
            [[unroll]] for (uint k = 0u; k < TM * TN; k++) s[k] = w * p_[k];
            accumulate(TM * TD, DY, q_base, tq - i0);
        }
        if (WANT_A) {
            multiply(VALUES, base, tokens - m0, DY, q_base, tq - i0);
            [[unroll]] for (uint k = 0u; k < TM * TN; k++) s[k] = p_[k] * (w * s[k] - delta[k % TN]);
            accumulate(0u, Q, q_base, tq - i0);
        }
    }
}

void main() {
    if (!place()) return;
    uint tokens = tb[0], base = (entry * tokens + m0) * d + head * K;
    [[unroll]] for (uint i = 0u; i < 2u * TM * TD; i++) acc[i] = vec4(0.0);
    if (TABLE) {
        uint u1 = sets[users_at + entry + 1u];
        for (uint u = sets[users_at + entry]; u < u1; u += 4u)
            pull(sets[users_at + u], sets[users_at + u + 1u], sets[users_at + u + 2u], sets[users_at + u + 3u], tokens, base);
    } else if (entry < nq) {
        pull(entry, 0u, 0u, 0u, tokens, base);
    }
    [[unroll]] for (uint r = 0u; r < TM; r++)
        [[unroll]] for (uint g = 0u; g < TD; g++) {
            uint c = group_of(g), at = base + row_of(r) * d + 4u * c;
            if (m0 + row_of(r) >= tokens || c >= K4) continue;
            if (WANT_A) put_dk(at, scale * acc[r * TD + g], int(K - 4u * c));
            if (WANT_B) put_dv(at, acc[TM * TD + r * TD + g], int(K - 4u * c));
        }
}
