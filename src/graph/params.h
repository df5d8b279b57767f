/* params.h: the weights of a model by checkpoint name, frozen or trainable.
 * A model is declared by recording it once on a graph that is never compiled (declaring = true): every
 * layer then adds its parameters with their shapes. params_allocate gives them memory:
 *   frozen     a WEIGHTS array each, in the compute type (vectors f32); ops may keep packed copies
 *   trainable  windows of flat STATE arrays, so that AdamW, clip, zero and save are one dispatch per flat:
 *              value f32 (master), grad f32, and in half precision the compute copy the optimiser refreshes
 * SPDX-License-Identifier: MIT */
#pragma once
#include "graph/graph.h"

typedef enum param_group { GROUP_DECAY, GROUP_NO_DECAY, GROUP_COUNT } param_group; /* no decay on norms and biases */

typedef struct param {
    char name[128]; shape s; bool vector;  /* vector: kept f32 (bias, norm scale) */
    bool trainable; param_group group;
    array *value;                          /* frozen: compute type; trainable: f32 master window */
    array *copy;                           /* trainable in half precision: the compute copy; else NULL */
    array *grad;                           /* trainable: f32 window */
    int flat; int64_t at;                  /* trainable: which flat, and the first element in it */
} param;

/* One contiguous run of trainables of one group: at most one binding of the device. */
typedef struct param_flat { param_group group; int64_t count; array *value, *grad, *copy; } param_flat;

typedef struct params {
    device *dev; dtype type; bool declaring;
    param *p; int n, cap;
    param_flat *flat; int n_flat;
    array **window; int n_window;          /* views of flats, to free */
} params;

void   params_init(params *ps, device *d, dtype type);
void   params_fini(params *ps);
param *params_find(const params *ps, const char *name);            /* NULL = not there */
/* Adds or finds; on a second declaration the shape must agree (E_SHAPE). */
status params_declare(params *ps, const char *name, shape s, bool vector);
status params_allocate(params *ps);                                /* what is not allocated yet */
/* Host values in checkpoint order, count elements. errors E_SHAPE when the count is not the parameter's. */
status params_set(params *ps, const char *name, const float *v, int64_t count);
status params_get(params *ps, const char *name, float *v, int64_t count);
/* Normal(0, std) keyed by (seed, name): equal on every device. Vectors named *.weight become 1, *.bias 0. */
status params_randomize(params *ps, uint32_t seed, float std);
/* The parameter as an operand of ops in graph g. Missing: the graph fails, naming it. */
tensor *params_tensor(params *ps, graph *g, const char *name, const char *at);
int64_t params_count(const params *ps, bool trainable_only);
