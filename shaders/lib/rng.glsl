/* rng.glsl: counter-based random numbers, the same words as base/rng.c for the same key and element.
 *   words    Philox4x32-10 of counter {elem lo, elem hi, sample lo, sample hi}, key {seed.x, seed.y ^ stream}
 *   uniform  (w0 >> 8) 2^-24, in [0, 1)
 *   normal   sqrt(-2 ln u1) cos(2 pi u2),  u1 = (w0 + 1) 2^-32,  u2 = w1 2^-32   (Box & Muller 1958)
 * cos is our own: Vulkan allows the built-in an absolute error of 2^-11. So is ln near 1, where the
 * built-in may err by 2^-21 absolute and the result would keep few digits.
 * source  Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", §4.3 and table 2
 * SPDX-License-Identifier: MIT */

uvec4 rng_philox(uvec4 c, uvec2 k) {
    for (int round = 0; round < 10; round++) {
        uint hi0, lo0, hi1, lo1;
        umulExtended(0xD2511F53u, c.x, hi0, lo0);
        umulExtended(0xCD9E8D57u, c.z, hi1, lo1);
        c = uvec4(hi1 ^ c.y ^ k.x, lo1, hi0 ^ c.w ^ k.y, lo0);
        k += uvec2(0x9E3779B9u, 0xBB67AE85u);
    }
    return c;
}

/* -ln((w + 1) 2^-32). Above u = 3/4 from d = 1 - u, exact in integers: -ln(1 - d) = 2 atanh(d / (2 - d)). */
float rng_minus_log(uint w) {
    if (w >= 0xC0000000u) {
        float d = float(~w) * 2.3283064365386963e-10;
        float s = d / (2.0 - d), q = s * s; /* s <= 1/7: the next term is below 2^-25 of the sum */
        return 2.0 * s * (1.0 + q * (1.0 / 3.0 + q * (0.2 + q * (1.0 / 7.0))));
    }
    return -log(float(w + 1u) * 2.3283064365386963e-10);
}

/* cos(2 pi w 2^-32): the quadrant from the top bits, then Taylor on [-pi/4, pi/4] (errors below 3e-8). */
float rng_cos_turn(uint w) {
    uint quadrant = (w + 0x20000000u) >> 30;
    float x = float(int(w - (quadrant << 30))) * 1.4629180792671596e-9, q = x * x;
    float sn = x * (1.0 + q * (-1.0 / 6.0 + q * (1.0 / 120.0 + q * (-1.0 / 5040.0 + q / 362880.0))));
    float cs = 1.0 + q * (-0.5 + q * (1.0 / 24.0 + q * (-1.0 / 720.0 + q / 40320.0)));
    float r = (quadrant & 1u) == 1u ? sn : cs;
    return quadrant == 1u || quadrant == 2u ? -r : r;
}

float rng_uniform(uvec2 seed, uint stream, uvec2 sample_index, uvec2 elem) {
    uvec4 w = rng_philox(uvec4(elem, sample_index), uvec2(seed.x, seed.y ^ stream));
    return float(w.x >> 8) * 5.9604644775390625e-8;
}

float rng_normal(uvec2 seed, uint stream, uvec2 sample_index, uvec2 elem) {
    uvec4 w = rng_philox(uvec4(elem, sample_index), uvec2(seed.x, seed.y ^ stream));
    return sqrt(2.0 * rng_minus_log(w.x)) * rng_cos_turn(w.y);
}
