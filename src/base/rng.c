/* rng.c: Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2,
 * 3"). A counter, not a state: any thread may draw any element, in any order, on any device.
 * shaders/lib/rng.glsl computes the same words; base.h holds the definition both follow.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"

#include <math.h>

uint32_t rng_stream(const char *name) {
    uint32_t h = 2166136261u; /* FNV-1a, 32 bit */
    for (; *name; name++) h = (h ^ (uint8_t)*name) * 16777619u;
    return h;
}

void rng_philox(const uint32_t ctr[4], const uint32_t key[2], uint32_t out[4]) {
    uint32_t c0 = ctr[0], c1 = ctr[1], c2 = ctr[2], c3 = ctr[3], k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u; /* golden ratio and sqrt(3)-1, the key's Weyl steps */
        k1 += 0xBB67AE85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

static void words(rng_key k, uint64_t sample, uint64_t elem, uint32_t w[4]) {
    const uint32_t ctr[4] = {(uint32_t)elem, (uint32_t)(elem >> 32), (uint32_t)sample,
                             (uint32_t)(sample >> 32)};
    const uint32_t key[2] = {k.seed[0], k.seed[1] ^ k.stream};
    rng_philox(ctr, key, w);
}

double rng_uniform(rng_key k, uint64_t sample, uint64_t elem) {
    uint32_t w[4];
    words(k, sample, elem, w);
    return (double)(w[0] >> 8) * 0x1p-24;
}

double rng_normal(rng_key k, uint64_t sample, uint64_t elem) {
    uint32_t w[4];
    words(k, sample, elem, w);
    double u1 = ((double)w[0] + 1) * 0x1p-32, u2 = (double)w[1] * 0x1p-32;
    return sqrt(-2 * log(u1)) * cos(2 * 3.14159265358979323846 * u2);
}
