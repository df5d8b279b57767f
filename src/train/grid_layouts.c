/* grid_layouts.c: what grids mean, and the names of their cells.
 * SPDX-License-Identifier: MIT */
#include "train/grids.h"
#include <stdio.h>

static const grid_layout layouts[] = {
    {"edit", "an example's change of style, repeated on another picture", 2, 2, {GRID_EX_IN, GRID_EX_OUT, GRID_QUERY, GRID_OUT}, {[3] = true}},
    {"effect", "an example's change of colour, shadow, outline, turn or ground, repeated", 2, 2, {GRID_EX_IN, GRID_EX_OUT, GRID_QUERY, GRID_OUT}, {[3] = true}},
    {"recon3", "three pictures of a subject and a fourth to make", 2, 2, {GRID_REF, GRID_REF, GRID_REF, GRID_TARGET}, {[3] = true}},
    {"recon1", "one picture of a subject and three to make", 2, 2, {GRID_REF, GRID_TARGET, GRID_TARGET, GRID_TARGET}, {[1] = true, [2] = true, [3] = true}},
    {"compose", "two subjects, together in the two below", 2, 2, {GRID_REF, GRID_REF, GRID_OUT, GRID_OUT}, {[2] = true, [3] = true}},
};
_Static_assert(ARRAY_LEN(layouts) <= GRID_KINDS, "a weight for every layout");

const grid_layout *grid_layout_at(int i) { return i >= 0 && i < (int)ARRAY_LEN(layouts) ? &layouts[i] : NULL; }

const grid_layout *grid_layout_find(const char *name) {
    for (size_t i = 0; i < ARRAY_LEN(layouts); i++)
        if (strcmp(layouts[i].name, name) == 0) return &layouts[i];
    return NULL;
}

status grid_source_layouts(const char *list, double weight[GRID_KINDS]) {
    memset(weight, 0, sizeof *weight * GRID_KINDS);
    for (const char *p = list;; p++) {
        size_t n = strcspn(p, ","), i = 0;
        while (i < ARRAY_LEN(layouts) && (strlen(layouts[i].name) != n || memcmp(layouts[i].name, p, n) != 0)) i++;
        if (i == ARRAY_LEN(layouts)) return fail(E_USAGE, "layout '%.*s': expected edit, effect, recon3, recon1 or compose, with commas between", (int)n, p);
        weight[i] = 1;
        p += n;
        if (!*p) return OK;
    }
}

/* ---- cells ---- */
static const char *const column_names[3][3] = {{""}, {"l", "r"}, {"l", "m", "r"}};

static void name_of(int rows, int cols, int cell, char out[4]) {
    const char *row = rows == 1 ? "" : cell / cols ? "b" : "t";
    snprintf(out, 4, "%s%s", row, column_names[cols - 1][cell % cols]);
}

int grid_cell_find(int rows, int cols, const char *name) {
    char own[4];
    for (int i = 0; rows >= 1 && rows <= 2 && cols >= 1 && cols <= 3 && i < rows * cols; i++) {
        name_of(rows, cols, i, own);
        if (strcmp(own, name) == 0) return i;
    }
    return -1;
}

const char *grid_cell_name(int rows, int cols, int cell, char out[4]) { return name_of(rows, cols, cell, out), out; }
