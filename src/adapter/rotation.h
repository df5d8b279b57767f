/* rotation.h: what the orthogonal adapters share. A rotation is R = I + D block by block, and only D is kept: rounded to
 * half precision, x + x D stays far closer to a rotation than x R, and is exactly x while D is 0.
 *   side     input: x' = x R, which is W R^T; output: y' = y R, which is R^T W. R = F_(m-1) … F_1 F_0 for boft.
 *   factor i blocks act on the coordinates [c][g][j][t] (g < 2, j < 2^i, t < b/2) with c and j fixed, in the order (g, t):
 *            a transpose of g and j makes them plain blocks, so no d x d permutation exists anywhere. Factor 0: plain blocks.
 *   a        [m, B, b, b] f32, Q = (A - A^T) / 2. The gradient of A is skew, so A stays so from its start at 0.
 * source  Qiu et al. 2023 (OFT); Liu et al. 2024 (BOFT); Qiu et al. 2025 (OFTv2)
 * SPDX-License-Identifier: MIT */
#pragma once
#include "adapter/adapter.h"

#define ROTATION_KEY       ".oft_R"
#define ROTATION_SCALE_KEY ".oft_s"
#define ROTATION_MAX_CAYLEY 256            /* rows op_solve takes */
#define ADAPTER_MAX_FACTORS 8              /* of boft: d = 1280 has at most 8 of blocks of 10 */

/* The rotated axis and how it is cut. */
typedef struct rotation_dims { int64_t d, factors, blocks, b; } rotation_dims; /* blocks: stored ones, 1 when shared */
status rotation_tensors(const adapter_site *s, const rotation_dims *z, adapter_tensor t[], int *n); /* A, and s where asked for */
void   rotation_init(const adapter_site *s, float *const t[], const float *w, uint32_t seed);
int64_t rotation_axis(const adapter_site *s);
/* Leaves the weight alone unless it is a convolution with a real kernel, rotated on its input side. */
bool   rotation_by_weight(const adapter_site *s);
bool   rotation_scales_output(const adapter_site *s);

/* ---- in the graph ---- */
tensor *rotation_skew(graph *g, const adapter_site *s);               /* m Q [factors, B, b, b], m the site's strength */
tensor *rotation_cayley(graph *g, tensor *q, const char *at);         /* D of (I - Q)(I + Q)^-1 */
tensor *rotation_dropped(graph *g, const adapter_site *s, tensor *d); /* training: some blocks 0 */
/* The three hooks, given D [factors, B, b, b]. */
tensor *rotation_input(graph *g, const adapter_site *s, tensor *d, tensor *x);
tensor *rotation_weight(graph *g, const adapter_site *s, tensor *d, tensor *w);
tensor *rotation_output(graph *g, const adapter_site *s, tensor *d, tensor *y);

/* ---- on the host, in double ---- */
/* q [b, b] -> D [b, b]; work [b, b] */
typedef void (*rotation_delta)(const adapter_options *o, int64_t b, const double *q, double *d, double *work);
void   rotation_cayley_host(const adapter_options *o, int64_t b, const double *q, double *d, double *work);
status rotation_merge(const adapter_site *s, const rotation_dims *z, rotation_delta delta, const float *const t[], double m, bool inverse, float *w);

/* A with R = (I - A)(I + A)^-1 of a rotation R [b, b]; false when R is none or turns by 180 degrees. work [2 b b] */
bool   rotation_log(int64_t b, const float *r, float *a, double *work);

/* ---- oft.c, for its two variants ---- */
status  oft_dims(const adapter_site *s, rotation_dims *z);
status  oft_tensors(const adapter_site *s, adapter_tensor t[], int *n);
tensor *oft_input(graph *g, const adapter_site *s, tensor *x);
tensor *oft_weight(graph *g, const adapter_site *s, tensor *w);
tensor *oft_output(graph *g, const adapter_site *s, tensor *x, tensor *y);
status  oft_merge(const adapter_site *s, const float *const t[], double m, bool inverse, float *w);
float   coft_radius(const adapter_site *s);    /* coft.c: of the ball that a block's Q stays in, Frobenius */
