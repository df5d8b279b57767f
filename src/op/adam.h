/* adam.h: the step that adamw and adamw8 take on the CPU, on moments in f32.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "host/host.h"

/* What the six numbers of adamw's `hyper` make of one step. */
typedef struct adam_step { float factor, keep, b2, c1, c2, size, root, eps; } adam_step;
adam_step adam_step_of(const float hyper[6], const float *factor); /* factor: NULL = 1 */
/* p, m, v [n] in place; inside a host_parallel body. */
void adam_update(host_isa isa, const adam_step *s, float *p, const float *g, float *m, float *v, int64_t n);
