/* adapter.h: small trainable additions to linear and convolution layers. One file per adapter, one row in
 * adapters.def. nn_linear and nn_conv2d are the only callers, so an adapter reaches every model.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "graph/params.h"

typedef struct adapter_info adapter_info;

/* One adapted layer. The trainables live in `ps` as "<layer><key>". */
typedef struct adapter_site {
    const adapter_info *info; params *ps;
    const char *layer;                     /* "down_blocks.0.attentions.0.…to_q" */
    shape w;                               /* the layer's weight, [O, I] or [O, I, kh, kw] */
    int rank; float alpha;                 /* scale of the addition = alpha / rank */
    const char *at;
} adapter_site;

struct adapter_info {
    const char *name, *keys;               /* "lora"; tensor-name suffixes that identify it in a file */
    status  (*declare)(const adapter_site *s);                        /* name and shape of each trainable */
    status  (*init)   (const adapter_site *s, uint32_t seed);         /* start values: the layer is unchanged */
    tensor *(*output) (graph *g, const adapter_site *s, tensor *x, tensor *y); /* y -> y', y without bias */
};

/* Which layers of a model carry an adapter: those whose name ends with one of `targets` (NULL ends it). */
typedef struct adapter_set { const adapter_info *info; const char *const *targets; int rank; float alpha; params *ps; } adapter_set;

const adapter_info *adapter_find(const char *name);                   /* NULL = no such adapter */
bool   adapter_targets(const adapter_set *a, const char *layer);
status adapter_init_all(const adapter_set *a, const params *model, uint32_t seed); /* init of every declared site */
