// types: none
// time_embedding: one invocation per (sample, frequency). The phase t f / (2 pi) is a sum of two
// floats, so that its fraction is right for t of thousands. `precise` keeps the error terms.
// source  Dekker 1971, "A floating-point technique for extending the available precision"
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
layout(local_size_x = 256) in;
BUF_IN(0, float, t)
BUF_OUT(1, float, y)
// ratio: of neighbouring frequencies; turn: 1 / (2 pi); both as sums hi + lo
layout(push_constant) uniform push {
    uint n, dim, flip;
    float ratio_hi, ratio_lo, turn_hi, turn_lo;
};

vec2 two_product(float a, float b) {
    precise float p = a * b;
    // 2^12 + 1 halves the 24 bits
    precise float ca = 4097.0 * a, ah = ca - (ca - a), al = a - ah;
    precise float cb = 4097.0 * b, bh = cb - (cb - b), bl = b - bh;
    precise float e = ((ah * bh - p) + ah * bl + al * bh) + al * bl;
    return vec2(p, e);
}

vec2 multiply(vec2 a, vec2 b) {
    vec2 p = two_product(a.x, b.x);
    precise float lo = p.y + (a.x * b.y + a.y * b.x);
    precise float hi = p.x + lo;
    precise float rest = lo - (hi - p.x);
    return vec2(hi, rest);
}

// (sin, cos) of v turns, |v| <= 1/2: quadrant, then Taylor on [-pi/4, pi/4]; the built-ins may err by
// 2^-11.
vec2 sin_cos_turn(float v) {
    float quadrant = round(4.0 * v), x = (v - 0.25 * quadrant) * 6.283185307179586, q = x * x;
    float s = 1.0 / 120.0 + q * (-1.0 / 5040.0 + q / 362880.0);
    float c = 1.0 / 24.0 + q * (-1.0 / 720.0 + q * (1.0 / 40320.0 - q / 3628800.0));
    s = x * (1.0 + q * (-1.0 / 6.0 + q * s));
    c = 1.0 + q * (-0.5 + q * c);
    int k = int(quadrant) & 3;
    return k == 0 ? vec2(s, c) : k == 1 ? vec2(c, -s) : k == 2 ? vec2(-s, -c) : vec2(-c, s);
}

void main() {
    uint half_dim = dim / 2u, per = (dim + 1u) / 2u, i = index_1d();
    if (i >= n * per) return;
    uint sample_at = i / per, k = i - sample_at * per;
    if (k >= half_dim) { // the last column of an odd dim
        y[sample_at * dim + dim - 1u] = 0.0;
        return;
    }
    vec2 f = vec2(turn_hi, turn_lo), power = vec2(ratio_hi, ratio_lo);
    for (uint e = k; e != 0u; e >>= 1) { // f ratio^k
        if ((e & 1u) != 0u) f = multiply(f, power);
        power = multiply(power, power);
    }
    vec2 phase = multiply(vec2(t[sample_at], 0.0), f);
    precise float turns = (phase.x - round(phase.x)) + phase.y;
    vec2 sc = sin_cos_turn(turns);
    y[sample_at * dim + k] = flip != 0u ? sc.y : sc.x;
    y[sample_at * dim + half_dim + k] = flip != 0u ? sc.x : sc.y;
}
