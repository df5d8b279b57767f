/* train.h: one training step as two plans. step: forward, loss, backward, gradients added to the flats.
 * update: global norm, clip, AdamW (and EMA later) per flat, gradients cleared.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "graph/params.h"
#include "op/op.h"

/* Optimiser state beside the flats of one `params`. */
typedef struct optimizer {
    params *ps;
    array **m, **v;                        /* per flat, f32 */
    array *hyper[GROUP_COUNT];             /* f32 [6]: lr, beta1, beta2, eps, weight_decay, step */
    array *limits;                         /* f32 [2]: max_norm (0 = off), loss_scale */
    array *found_inf;                      /* u32 [1] */
    plan *update; int64_t step;
} optimizer;
typedef struct optimizer_params { float lr, beta1, beta2, eps, weight_decay, max_norm, loss_scale; } optimizer_params;
#define OPTIMIZER_DEFAULTS .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .weight_decay = 1e-2f, .loss_scale = 1.0f

status optimizer_create(params *ps, optimizer *o);                /* after params_allocate */
void   optimizer_destroy(optimizer *o);
/* One AdamW step with what the flats' gradients hold, then clears them. *norm (may be NULL) gets the
 * gradient norm before clipping; a non-finite norm skips the step and sets *skipped. */
status optimizer_step(optimizer *o, const optimizer_params *p, float *norm, bool *skipped);

/* Adds the gradients of `loss` towards every trainable of ps[0..n) into their flats. seed: f32 [1], the loss scale. */
void train_backward(graph *g, tensor *loss, tensor *seed, params *const *ps, int n, bool checkpoint);
