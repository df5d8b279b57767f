// types: f32 h16
// attention: a workgroup's queries against all their keys, softmax kept running, sets summed.
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
#include "attention_io.glsl"
SOURCE(7, q)
SOURCE(8, k0) SOURCE(9, k1) SOURCE(10, k2) SOURCE(11, k3)
SOURCE(12, v0) SOURCE(13, v1) SOURCE(14, v2) SOURCE(15, v3)
SINK(16, y)
BUF_OUT(17, float, lse)
#include "attention.glsl"

const uint Q = 0u, KEYS = 1u, VALUES = 2u;
uint bank;
vec4 load4(uint source, uint at, int left) {
    if (source == Q) return get_q(at, left);
    if (BANKS > 1u && bank == 1u) return source == KEYS ? get_k1(at, left) : get_v1(at, left);
    if (BANKS > 2u && bank == 2u) return source == KEYS ? get_k2(at, left) : get_v2(at, left);
    if (BANKS > 3u && bank == 3u) return source == KEYS ? get_k3(at, left) : get_v3(at, left);
    return source == KEYS ? get_k0(at, left) : get_v0(at, left);
}

float top[TM], sum[TM];   // running maximum (base 2), this thread's part of the running sum
vec4 total[SETS > 1u ? TM * TD : 1u];

// Scores in s -> probabilities relative to the new maxima; what was summed before is scaled down.
void soften(uint key0, uint tokens, uint begin, float off) {
    float most[TM];
    [[unroll]] for (uint r = 0u; r < TM; r++) {
        most[r] = NEG;
        [[unroll]] for (uint j = 0u; j < TN; j++) {
            s[r * TN + j] = score(s[r * TN + j], entry, m0 + row_of(r), key0 + col_of(j), tokens, begin, off);
            most[r] = max(most[r], s[r * TN + j]);
        }
    }
    rows_max(most);
    [[unroll]] for (uint r = 0u; r < TM; r++) {
        float now = max(top[r], most[r]), shrink = exp2(top[r] - now);
        top[r] = now;
        sum[r] *= shrink;
        [[unroll]] for (uint g = 0u; g < TD; g++) acc[r * TD + g] *= shrink;
        [[unroll]] for (uint j = 0u; j < TN; j++) {
            float x = s[r * TN + j], p = x < HIDDEN * 2.0 ? 0.0 : exp2(x - now);
            s[r * TN + j] = p;
            sum[r] += p;
        }
    }
}

void attend(uint set) {
    uint q_base = (entry * tq + m0) * d + head * K, begin = 0u, n = set_parts(entry, set);
    [[unroll]] for (uint r = 0u; r < TM; r++) top[r] = NEG, sum[r] = 0.0;
    [[unroll]] for (uint i = 0u; i < TM * TD; i++) acc[i] = vec4(0.0);
    for (uint p = 0u; p < n; p++) {
        uvec2 part = set_part(entry, set, p);
        bank = part.x;
        uint tokens = tb[bank];
        float off = part_offset(entry, set, p);
        for (uint k = 0u; k < tokens && off > HIDDEN * 2.0; k += COLS) {
            if (CAUSAL && begin + k > m0 + ROWS - 1u) break;
            uint base = (part.y * tokens + k) * d + head * K;
            multiply(Q, q_base, tq - m0, KEYS, base, tokens - k);
            soften(k, tokens, begin, off);
            accumulate(0u, VALUES, base, tokens - k);
        }
        begin += tokens;
    }
    rows_sum(sum);
    float w = set_weight(entry, set);
    [[unroll]] for (uint r = 0u; r < TM; r++) {
        float f = sum[r] == 0.0 ? 0.0 : w / sum[r];
        [[unroll]] for (uint g = 0u; g < TD; g++) {
            if (SETS > 1u) total[r * TD + g] += f * acc[r * TD + g];
            else acc[r * TD + g] *= f;
        }
        if (d0 == 0u && lane_x() == 0u && m0 + row_of(r) < tq)
            lse[lse_at(entry, set, m0 + row_of(r))] = sum[r] == 0.0 ? uintBitsToFloat(0xff800000u) : (top[r] + log2(sum[r])) * LN2;
    }
}

void main() {
    if (!place()) return;
    if (SETS > 1u) [[unroll]] for (uint i = 0u; i < TM * TD; i++) total[i] = vec4(0.0);
    for (uint set = 0u; set < SETS; set++) attend(set);
    [[unroll]] for (uint r = 0u; r < TM; r++) {
        uint i = m0 + row_of(r);
        [[unroll]] for (uint g = 0u; g < TD; g++) {
            uint c = group_of(g);
            vec4 v = SETS > 1u ? total[r * TD + g] : acc[r * TD + g];
            if (i < tq && c < K4) put_y((entry * tq + i) * d + head * K + 4u * c, v, int(K - 4u * c));
        }
    }
}
