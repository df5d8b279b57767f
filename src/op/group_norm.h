/* group_norm.h: what group_norm and its gradient share.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "op/norm.h"

typedef struct group_norm_attrs {
    uint32_t groups, silu;
    float eps;
} group_norm_attrs;
extern const op_info op_group_norm_bwd_info;

/* Samples done together on the CPU: those that fit the cores' second-level caches (2 MB each) side
 * by side. */
static inline int64_t norm_batch(const norm_geom *m) { return MAX(1, (1 << 20) / (m->p * m->c)); }

/* Joins the parts of norm_columns per sample and group: for the forward op into mean and rstd, for
 * the gradient into {sum dz scale, sum dz xhat scale} / count, as a and b [n, g]. scale may be
 * NULL. */
status group_norm_combine_encode(gpu_cmd *c, const norm_geom *m, bool gradient, float eps,
                                 const tensor *scale, gpu_span part_a, gpu_span part_b, gpu_span a,
                                 gpu_span b);
