/* prodigy.h: the optimiser Prodigy, behind optimizer_create and optimizer_step.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "train/train.h"

#define PRODIGY_START 1e-6                 /* d before the first step */
enum { PRODIGY_MEASURE, PRODIGY_GATHER, PRODIGY_APPLY, PRODIGY_CLEAR };

/* o has its arrays. */
status prodigy_create(optimizer *o);
/* limits, decay and found_inf are written. factor: what the gradients were multiplied by, and their norm; *inf: no step was taken. */
status prodigy_step(optimizer *o, const optimizer_params *p, float factor[2], bool *inf);
