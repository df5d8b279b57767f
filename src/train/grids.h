/* grids.h: grids of pictures whose cells belong together, as layouts with a role for every cell, and an endless stream of
 * captioned ones made from the corpus. Sample i of a seed is the same grid, whoever draws it and when. Held-out pictures
 * are never drawn, and a cell that is to be made is never the same picture as a given one.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "train/caption.h"
#include "train/compose.h"
#include "train/corpus.h"

#define GRID_MAX_CELLS 6
/* What a cell is to the others. EX_IN becomes EX_OUT as QUERY becomes OUT; REFs show what TARGETs show. */
typedef enum grid_role { GRID_REF, GRID_TARGET, GRID_EX_IN, GRID_EX_OUT, GRID_QUERY, GRID_OUT, GRID_STYLE, GRID_ROLE_COUNT } grid_role;

typedef struct grid_layout {
    const char *name, *help;
    int rows, cols;
    grid_role role[GRID_MAX_CELLS]; /* row by row */
    bool made[GRID_MAX_CELLS];      /* what is to be made; the rest is given */
} grid_layout;
/* The table; NULL past its end, NULL = no such layout. */
const grid_layout *grid_layout_at(int i);
const grid_layout *grid_layout_find(const char *name);
/* "tl", "br", "l", "tm": the name of a cell of a grid of at most 2 x 3; -1 = not one of this grid. */
int grid_cell_find(int rows, int cols, const char *name);
const char *grid_cell_name(int rows, int cols, int cell, char out[4]); /* returns out */

/* ---- grids from the corpus ---- */
#define GRID_KINDS 8                /* layouts that can be drawn: those of the table, by their place in it */
typedef struct grid_source_params {
    const char *folder;             /* of the corpus */
    uint32_t seed;
    double weight[GRID_KINDS];      /* of a layout, by its place in the table; 0 = never */
} grid_source_params;
typedef struct grid_sample {
    const grid_layout *layout;
    caption text[GRID_MAX_CELLS];   /* what each cell shows */
} grid_sample;
typedef struct grid_source grid_source;
/*   errors  those of corpus_open; E_USAGE: nothing to draw     owner  caller: grid_source_close (accepts NULL) */
status grid_source_open(const grid_source_params *p, grid_source **out);
void   grid_source_close(grid_source *s);
const corpus *grid_source_corpus(const grid_source *s);
/* rgb [cells of the layout][128, 128, 3] */
status grid_source_draw(const grid_source *s, uint64_t sample, compose_work *w, uint8_t *rgb, grid_sample *out);
/* "edit,recon3" -> weights, each 1.   errors  E_USAGE names the word and what there is */
status grid_source_layouts(const char *list, double weight[GRID_KINDS]);
