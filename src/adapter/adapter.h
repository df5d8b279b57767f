/* adapter.h: small trainable changes of linear and convolution layers. One file per adapter, one row in adapters.def.
 * nn_linear and nn_conv2d are the only callers, so an adapter reaches every model.
 *
 * Several adapters on one layer are defined by their effect on its weight: each takes what the earlier ones made of the
 * layer as its base, as if they had been merged one after the other. Every adapter can say what it does to the weight
 * (`weight`); most know a cheaper form that leaves the weight alone (`input`, `output`), used where the order allows.
 * Strength m: lora adds m times its addition; rotations turn by m times their skew matrix, so they stay rotations and -1 is
 * the inverse; scales become 1 + m (s - 1). Other programs interpolate R and the identity instead.
 * Trainables are f32 always; the graph casts what it makes of them to the layer's type.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "graph/params.h"
#include "op/op.h"

#define ADAPTER_MAX_TENSORS 3
#define ADAPTER_MAX_STACK   8              /* adapters on one layer */
#define ADAPTER_KEY_BYTES   192            /* "<layer><key>" */

typedef struct adapter_info adapter_info;

/* What one adapted layer is like. Zero means the default; fields an adapter does not use are ignored. */
typedef struct adapter_options {
    int rank; float alpha;                 /* lora: the addition is scaled by alpha / rank (alpha 0: by 1), */
    bool rslora;                           /* or by alpha / sqrt(rank) */
    bool dora, dora_columns;               /* dora: trained norm of every row; columns: of every input channel (old LyCORIS files) */
    int block;                             /* rotations: side of a block wanted (0 = 32, boft 4); adapter_block says what a layer gets */
    bool share;                            /* oft: one block for all */
    bool output_side;                      /* rotate what comes out of the layer (LyCORIS, old PEFT) instead of what goes in */
    bool row_scale;                        /* oft, boft: and scale every output */
    int terms; bool old_series;            /* oft_neumann: terms (0 = 5) of PEFT 0.18's series, or of 0.16's and 0.17's */
    float eps;                             /* coft: blocks stay within eps / sqrt(blocks) of zero; 0 = 6e-5 block^2 */
    int factors; bool ascending;           /* boft: butterfly factors (0 = 1), applied longest stride first, or last */
    float dropout;                         /* rotations, while training: chance of a block to be left out */
} adapter_options;

/* One adapted layer. Its trainables live in `ps` as "<layer><key>". */
typedef struct adapter_site {
    const adapter_info *info; const adapter_options *opts; params *ps, *left;
    const char *layer;                     /* "down_blocks.0.attentions.0.…to_q" */
    shape w;                               /* the layer's weight, [O, I] or [O, I, kh, kw] */
    const conv2d_attrs *conv;              /* NULL = linear; only while recording */
    tensor *strength;                      /* f32 [1] or [N]; NULL = 1 */
    tensor *seed, *step;                   /* dropout: u32 [2] and u32 [1]; NULL = none */
    const char *at;
} adapter_site;

typedef struct adapter_tensor { const char *key; shape s; bool vector, skew; } adapter_tensor; /* vector: no weight decay; skew: [..., b, b], of
                                                                        which only the skew part counts */

struct adapter_info {
    const char *name;
    /* The trainables of a layer; refuses layers it cannot adapt. */
    status  (*tensors)(const adapter_site *s, adapter_tensor t[ADAPTER_MAX_TENSORS], int *n);
    /* Start values into zeroed t[]; the layer is unchanged then. w: the layer's weight. NULL = zeros. */
    void    (*init)   (const adapter_site *s, float *const t[], const float *w, uint32_t seed);
    bool    (*by_weight)(const adapter_site *s);                      /* has no other form on this layer; NULL = never */
    tensor *(*input)  (graph *g, const adapter_site *s, tensor *x);   /* x -> x'; NULL = none */
    tensor *(*weight) (graph *g, const adapter_site *s, tensor *w);   /* w -> w', checkpoint order; strength is [1] */
    tensor *(*output) (graph *g, const adapter_site *s, tensor *x, tensor *y); /* y -> y' with x after `input`; NULL = none */
    bool    (*scales_output)(const adapter_site *s);                  /* output does more than add: y must come without bias */
    bool    per_entry;                                                /* input and output take strength [N] */
    /* Folds into the weight on the host, in double; inverse: takes it out again (with t and m as they went in). */
    status  (*merge)  (const adapter_site *s, const float *const t[], double m, bool inverse, float *w);
    /* Records what keeps trainables in their allowed set, to be run after every update; NULL = none. */
    void    (*project)(graph *g, const adapter_site *s);
};

/* A layer named by a file, with its own kind and options. */
typedef struct adapter_entry { const char *layer; const adapter_info *info; adapter_options opts; } adapter_entry;

/* Which layers of a model carry an adapter: those whose name ends with one of `targets` (NULL ends it), or exactly those of
 * `entry`. strength, seed and step are tensors of the graph being recorded. */
typedef struct adapter_set {
    const adapter_info *info; const char *const *targets; adapter_options opts; params *ps;
    const adapter_entry *entry; int n_entries;
    tensor *strength, *seed, *step;
    params *left;                          /* lora: whose B, of the same layer and rank, is used and trained; NULL = an own one. Not for merging. */
    const struct adapter_set *next;        /* applied after this one */
} adapter_set;

const adapter_info *adapter_find(const char *name);                   /* NULL = no such adapter */
const adapter_info *adapter_at(int i);                                /* the table; NULL past its end */
/* The site of a set on a layer; false when it carries none. */
bool   adapter_site_of(const adapter_set *a, const char *layer, shape w, const char *at, adapter_site *s);
/* The same for parameter i of a model: layer and *s are set when it is a weight that can carry adapters and a wants it. */
bool   adapter_site_at(const adapter_set *a, const params *model, int i, char layer[128], adapter_site *s);
/* The trained values of a site: v[0] is mem_alloc'ed and holds them all; free it in any case. */
status adapter_values(const adapter_site *s, adapter_tensor t[ADAPTER_MAX_TENSORS], float *v[ADAPTER_MAX_TENSORS], int *n);
/* Start values of every site of one set (not of its followers); model: the declared layers, with their weights. */
status adapter_init_all(const adapter_set *a, params *model, uint32_t seed);
/* Records `project` for every site of one set. */
void   adapter_project_all(graph *g, const adapter_set *a, const params *model);
/* Trained numbers that count: a skew matrix has b (b - 1) / 2. */
int64_t adapter_effective_count(const adapter_set *a, const params *model);

/* One call of a layer: y = x w^T or conv(x, w), with the adapters of `first` and its followers, + bias + residual. */
typedef struct adapter_call {
    const char *layer, *at; tensor *x, *w, *bias, *residual; shape w_shape; const conv2d_attrs *conv;
} adapter_call;
tensor *adapter_layer(graph *g, const adapter_set *first, const adapter_call *c);

/* ---- merging ---- */
/* Folds every site of one set into the model's weights, read and written through `model`; m: strength. The inverse takes it
 * out. errors E_UNSUPPORTED where the adapter has no inverse (dora: its old norms are gone) */
status adapter_merge_all(const adapter_set *a, params *model, double m, bool inverse);

/* ---- shared by adapters ---- */
tensor *adapter_param(graph *g, const adapter_site *s, const char *key);      /* f32 */
/* x scaled by the site's strength: [1], or [N] along x's first dim; x itself when it is 1 */
tensor *adapter_scaled(graph *g, const adapter_site *s, tensor *x);
/* PEFT's rule: the divisor of d nearest to `want`, the lower of two; d where want is larger. */
int64_t adapter_block(int64_t d, int64_t want);
