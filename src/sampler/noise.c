/* noise.c: PyTorch's generators. The CPU one fills 16 or more normals in blocks (Box-Muller on the
 * halves of a block) and fewer one by one in double, keeping the second of each pair for later
 * calls. torch's vector code uses approximations of log and cos, ours libm's: they differ in the
 * last bits of a float. Half types are f32 draws, rounded; so it is in torch 2.13, while 1.13 drew
 * 11 and 8 random bits for f16 and bf16. CUDA's is a counter: no state but the number of calls.
 * Source: ATen DistributionTemplates.h, CPUGeneratorImpl; Matsumoto & Nishimura 1998; cuRAND's
 * curand_normal4. SPDX-License-Identifier: MIT */
#include "sampler/noise.h"
#include <math.h>

#define PI         3.14159265358979323846
#define MT_N       624
#define MT_M       397
#define BLOCK      16
#define WIDE_RANGE (1u << 28) /* torch's randint takes 64 bits from here on */

void noise_init(noise_gen *g, noise_source source, dtype type, uint64_t seed) {
    *g = (noise_gen){.source = source, .type = type, .seed = seed, .at = MT_N};
    g->state[0] = (uint32_t)seed; /* torch drops the high half */
    for (uint32_t i = 1; i < MT_N; i++)
        g->state[i] = 1812433253u * (g->state[i - 1] ^ (g->state[i - 1] >> 30)) + i;
}

static void twist(uint32_t *s) {
    for (int i = 0; i < MT_N; i++) {
        uint32_t y = (s[i] & 0x80000000u) | (s[(i + 1) % MT_N] & 0x7fffffffu);
        s[i] = s[(i + MT_M) % MT_N] ^ (y >> 1) ^ (y & 1 ? 0x9908b0dfu : 0);
    }
}

static uint32_t mt_u32(noise_gen *g) {
    if (g->at == MT_N) twist(g->state), g->at = 0;
    uint32_t y = g->state[g->at++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

static uint64_t mt_u64(noise_gen *g) {
    uint64_t high = mt_u32(g), low = mt_u32(g);
    return (high << 32) | low;
}

static double mt_double(noise_gen *g) { return (double)(mt_u64(g) & ((1ull << 53) - 1)) * 0x1p-53; }

static float mt_uniform(noise_gen *g) { return (float)(mt_u32(g) & 0xffffffu) * 0x1p-24f; }

static float rounded(dtype t, float v) {
    if (t == DT_F16) return f16_to_f32(f32_to_f16(v));
    return t == DT_BF16 ? bf16_to_f32(f32_to_bf16(v)) : v;
}

/* Uniforms to normals, in place. */
static void normal_block(dtype t, float *d) {
    for (int j = 0; j < BLOCK / 2; j++) {
        double radius = sqrt(-2 * log(1 - (double)d[j])), theta = 2 * PI * (double)d[j + BLOCK / 2];
        d[j] = rounded(t, (float)(radius * cos(theta)));
        d[j + BLOCK / 2] = rounded(t, (float)(radius * sin(theta)));
    }
}

static double normal_single(noise_gen *g) {
    if (g->have_spare) return g->have_spare = false, g->spare;
    double u1 = mt_double(g), u2 = mt_double(g), radius = sqrt(-2 * log1p(-u2));
    g->have_spare = true;
    g->spare = radius * sin(2 * PI * u1);
    return radius * cos(2 * PI * u1);
}

static void cpu_normal(noise_gen *g, float *out, int64_t n) {
    if (n < BLOCK) {
        for (int64_t i = 0; i < n; i++) out[i] = rounded(g->type, (float)normal_single(g));
        return;
    }
    int64_t whole = n / BLOCK * BLOCK;
    /* in f32 torch draws what the tail's redraw replaces, in the half types it does not */
    for (int64_t i = 0; i < (dtype_is_half(g->type) ? whole : n); i++) out[i] = mt_uniform(g);
    for (int64_t i = 0; i < whole; i += BLOCK) normal_block(g->type, out + i);
    if (n == whole) return;
    float *tail = out + n - BLOCK; /* the last 16 are drawn anew, also those that were done */
    for (int i = 0; i < BLOCK; i++) tail[i] = mt_uniform(g);
    normal_block(g->type, tail);
}

static void philox_words(const noise_gen *g, int64_t i, uint32_t w[4]) {
    const uint32_t ctr[4] = {g->philox_offset, 0, (uint32_t)i, (uint32_t)((uint64_t)i >> 32)};
    rng_philox(ctr, (const uint32_t[]){(uint32_t)g->seed, (uint32_t)(g->seed >> 32)}, w);
}

void noise_normal(noise_gen *g, float *out, int64_t n) {
    if (g->source == NOISE_CPU) {
        cpu_normal(g, out, n);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        uint32_t w[4];
        philox_words(g, i, w);
        double u = (double)w[0] * 0x1p-32 + 0x1p-33, v = ((double)w[1] + 0.5) * 0x1p-32;
        out[i] = rounded(g->type, (float)(sqrt(-2 * log(u)) * sin(2 * PI * v)));
    }
    g->philox_offset++;
}

/* What was rounded up to 1 becomes 0, as in torch. */
static float below_one(float u) { return u == 1 ? 0 : u; }

void noise_uniform(noise_gen *g, float *out, int64_t n) {
    if (g->source == NOISE_CPU) {
        for (int64_t i = 0; i < n; i++) out[i] = below_one(rounded(g->type, mt_uniform(g)));
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        uint32_t w[4];
        philox_words(g, i, w);
        out[i] = below_one(rounded(g->type, (float)((double)w[0] * 0x1p-32 + 0x1p-33)));
    }
    g->philox_offset++;
}

uint32_t noise_below(noise_gen *g, uint32_t n) {
    if (g->source == NOISE_CPU && n < WIDE_RANGE) return mt_u32(g) % n;
    if (g->source == NOISE_CPU) return (uint32_t)(mt_u64(g) % n);
    uint32_t w[4];
    philox_words(g, 0, w);
    g->philox_offset++;
    return w[0] % n;
}
