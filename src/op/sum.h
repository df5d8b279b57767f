/* sum.h: sums over some dims of a tensor, for sum_to, reduce and loss. Dims are merged into at most
 * three kept and three summed ones; the innermost is either kept ("columns": rows of channels are
 * added up) or summed ("rows": each output is the sum of runs). Long sums are cut into splits whose
 * number follows from the shape alone; the partial sums, f32 [splits, outs] in scratch, are added
 * in order: the same numbers on every run and for every number of threads.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "op/block.h"

/* What is added up, and what becomes of the sum. */
typedef enum sum_term { SUM_X, SUM_SQUARE, SUM_DEVIATION } sum_term; /* x, x^2, (x - mean[o])^2 */
typedef struct sum_desc {
    sum_term term;
    double factor;
    bool root;
} sum_desc; /* y = factor * sum, or sqrt of that */

typedef struct sum_geom {
    int nk, nr;
    int64_t k[3], ks[3], r[3], rs[3]; /* sizes and strides in x, outermost first */
    int64_t outs, count;              /* kept and summed elements */
    bool columns;
    int64_t splits, chunk; /* summed elements per split */
} sum_geom;

/* keep: bit i set = dim i of x is kept. on_gpu: the splits of the shader, else those of the CPU
 * kernel. */
sum_geom sum_geometry(const shape *x, uint32_t keep, bool on_gpu);
size_t sum_scratch(const sum_geom *s); /* bytes; 0 with one split */

/* mean: f32 [outs], for SUM_DEVIATION. y: f32 [outs]. */
void sum_host(host *h, const sum_geom *s, const sum_desc *d, const void *x, dtype t,
              const float *mean, float *y, float *scratch);
status sum_encode(gpu_cmd *c, const sum_geom *s, const sum_desc *d, dtype t, gpu_span x,
                  gpu_span mean, gpu_span y, gpu_span scratch);
/* The double-precision meaning: element o of the output. */
double sum_exact(const sum_geom *s, const sum_desc *d, const void *x, dtype t, double mean,
                 int64_t o);

/* The gradient of a sum (reduce.c): dy, shape of x with summed dims 1, f32, stretched to x's shape
 * and type. */
tensor *sum_stretch(graph *g, tensor *dy, const tensor *x, const char *here);
