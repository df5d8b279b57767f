/* noise.h: the random numbers of PyTorch, so that a seed gives the picture people know. In NCHW order, as torch draws.
 * Source: ATen's CPUGeneratorImpl and normal_fill, CUDA's Philox4x32-10; checked against torch (tests/golden/make_noise.py).
 * SPDX-License-Identifier: MIT */
#pragma once
#include "base/dtype.h"

typedef enum noise_source { NOISE_CPU, NOISE_PHILOX, NOISE_SOURCE_COUNT } noise_source; /* torch.Generator("cpu"); ("cuda") */
typedef struct noise_gen {
    noise_source source; dtype type;               /* type: what torch draws in: f32, f16 or bf16 */
    uint64_t seed; uint32_t state[624]; int at;   /* mt19937 */
    bool have_spare; double spare;                 /* of the short (n < 16) path */
    uint32_t philox_offset;
} noise_gen;
void noise_init(noise_gen *g, noise_source source, dtype type, uint64_t seed);
/* torch.randn(n, generator=g, dtype=type): the next n normals, widened to f32. One call is one tensor: two calls of n/2 give other
 * numbers than one of n. Half types: f32 draws, rounded (but for the last 16 where n is no multiple of 16).
 * NOISE_PHILOX: as on a GPU with at least n resident threads (latents are that small); beyond it CUDA's order depends on the GPU. */
void noise_normal(noise_gen *g, float *out, int64_t n);
void noise_uniform(noise_gen *g, float *out, int64_t n);          /* torch.rand */
uint32_t noise_below(noise_gen *g, uint32_t n);                    /* torch.randint(0, n, (1,)) */
