/* norm_rows.h: layer_norm and rms_norm, which differ by the mean only: every row of x [rows, C] by
 * itself.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "op/norm.h"

typedef struct norm_rows_attrs {
    float eps;
    uint32_t sums;
} norm_rows_attrs; /* sums: the gradient of scale (and shift) is asked for */

/* Operands of a forward or gradient node; mean and shift NULL for rms_norm. */
typedef struct norm_rows_io {
    const tensor *x, *scale, *shift, *dy; /* in; dy NULL: forward */
    const tensor *y, *mean, *rstd; /* y or dx; statistics: out of forward, in of the gradient */
    const tensor *dscale, *dshift; /* out of the gradient */
    bool rms, sums;
    float eps;
} norm_rows_io;

status norm_rows_prepare(prep *p, node *n, const norm_rows_io *io);
status norm_rows_encode(gpu_cmd *c, const node *n, const norm_rows_io *io);
void norm_rows_host(host *h, const node *n, const norm_rows_io *io);
void norm_rows_ref(const node *n, const norm_rows_io *io);
/* x's shape without its last dim: that of mean and rstd. */
shape norm_rows_shape(const tensor *x);
