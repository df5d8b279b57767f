/* grid_step.h: inside engine/: a batch of grids and its loss, apart from where grids come from.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "engine/grid.h"

#define GRID_BATCH_MAX 64

/* Mean over grids of the mean squared error over the cells that are made. Inputs beside the network's: "x0" [n, h, w, C],
 * "level_x", "level_v" [n, 2], "weight" [n] f32, "sample" [n], "seed" [2] u32. out: the network's output; may be NULL */
tensor *grid_loss(grid_model *m, graph *g, const grid_rows *r, tensor **out);

/* The caller fills z, context and task; the rest is made of them. */
typedef struct grid_batch {
    int grids, cells; size_t one, text;    /* elements of a latent, of a text's features */
    grid_rows rows; grid_task *task;       /* [grids] */
    float *z, *context;                    /* [grids][cells][one], [grids][cells][text] */
    float *seen, *t, *weight, *level_x, *level_v, *traits, *bank;
    uint32_t *sample; bool *sees; double *abar;
} grid_batch;
status grid_batch_create(const grid_model *m, int grids, int rows, int cols, int h, int w, int tokens, grid_geometry geometry, grid_batch *b);
void   grid_batch_destroy(grid_batch *b);
/* Writes every input of p, which was recorded with grid_loss on b->rows, for samples [first, first + grids). */
status grid_batch_write(const grid_model *m, grid_batch *b, plan *p, uint32_t seed, uint64_t first);
