/* norm.h: what the norms share: chunks of rows for sums over pixels or tokens, and column sums on
 * Vulkan.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "op/block.h"

/* Bytes. Parts of a node's scratch start at multiples, which any device's binding offsets allow. */
#define NORM_ALIGN 256

/* x seen as [n, p, c]; sums over p are cut into chunks of rows, by shape alone. */
typedef struct norm_geom {
    int64_t n, p, c, g, chunk, chunks;
} norm_geom;
/* CPU: a chunk of x stays in the second-level cache between two passes. */
static inline norm_geom norm_chunks_cpu(norm_geom m) {
    m.chunk = MAX(1, MAX(32768 / m.c, div_up(m.p, 1024)));
    m.chunks = div_up(m.p, m.chunk);
    return m;
}

/* x [N, ..., C] as n images of p pixels. */
static inline norm_geom norm_images(const tensor *x, uint32_t groups) {
    int64_t c = x->s.d[x->s.n - 1];
    return (norm_geom){.n = x->s.d[0], .p = tensor_count(x) / c / x->s.d[0], .c = c, .g = groups};
}
/* x [..., C] as rows of one image. */
static inline norm_geom norm_rows(const tensor *x) {
    int64_t c = x->s.d[x->s.n - 1];
    return (norm_geom){.n = 1, .p = tensor_count(x) / c, .c = c, .g = 1};
}

/* Is t NULL, or a vector of c statistics-type elements? */
static inline bool norm_vector(const tensor *t, const tensor *x, int64_t c) {
    return !t || (t->s.n == 1 && t->s.d[0] == c && t->dtype == dtype_acc(x->dtype));
}

/* ---- norm.c: column sums on Vulkan ----
 *   NORM_STATS   (mean, sum of squared deviations) of each chunk's rows, per channel
 *   NORM_GROUPS  (sum dz, sum dz xhat): dz = dy, through silu where fused; statistics per image and
 *     group
 *   NORM_ROWS    the same with statistics per row; mean may be absent (rms_norm)
 * into two parts, f32 [n * chunks, c] each. */
typedef enum norm_mode { NORM_STATS, NORM_GROUPS, NORM_ROWS } norm_mode;
typedef struct norm_columns {
    norm_mode mode;
    bool silu;
    const tensor *x, *dy, *scale, *shift, *mean, *rstd;
} norm_columns;
norm_geom norm_chunks_gpu(norm_geom m);
size_t norm_part_bytes(const norm_geom *m);      /* one part, aligned */
gpu_span norm_span(gpu_span s, uint64_t offset); /* the rest of s from offset */
status norm_columns_encode(gpu_cmd *c, const norm_geom *m, const norm_columns *d, gpu_span part_a,
                           gpu_span part_b);
/* part [n * chunks, c] -> y [c]; scratch of norm_total_scratch bytes. */
size_t norm_total_scratch(const norm_geom *m);
status norm_total_encode(gpu_cmd *c, const norm_geom *m, gpu_span part, gpu_span y,
                         gpu_span scratch);
