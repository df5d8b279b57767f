/* lu.h: what inverse and solve share (solve.c): X with A X = B for a batch of small matrices, by
 * elimination with partial pivoting in f32.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "op/op.h"

#define LU_MAX 256 /* rows: one workgroup eliminates one matrix */

/* Nodes: in[0] = A [..., n, n], out[0] = X [..., n, m]; in[1] = B, or absent for the identity. */
status lu_check(const node *n); /* A square, n <= LU_MAX, f32 */
status lu_prepare(prep *p, node *n);
status lu_encode(gpu_cmd *c, const node *n);
void lu_host(host *h, const node *n);
void lu_ref(const node *n);
double lu_work(const node *n);

/* For cases: x / 4 + the identity, well conditioned for entries in [-1, 1]. */
tensor *lu_case_matrix(graph *g, tensor *x);
