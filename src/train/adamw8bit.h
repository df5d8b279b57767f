/* adamw8bit.h: the optimiser AdamW with moments of 8 bits, behind optimizer_create and optimizer_step.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "train/train.h"

#define ADAMW8BIT_LEAST 4096               /* elements; below, a parameter's moments stay f32 */

/* The moments of part k, as they begin. destroy accepts a part that has none. */
status adamw8bit_create(optimizer *o, int k);
void   adamw8bit_destroy(optimizer *o, int k);
uint64_t adamw8bit_bytes(const params *part);
/* The step of every parameter. */
void   adamw8bit_record(optimizer *o, graph *g, tensor *factor, tensor *inf);
