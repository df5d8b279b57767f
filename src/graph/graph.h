/* graph.h: tensors, recorded nodes, gradients, plans. Write it like define-by-run, run it like a static
 * graph: model code records nodes; graph_compile once per shape; plan_run replays.
 *
 *     graph  *g = graph_create(dev);
 *     tensor *x = graph_input(g, "x", DT_F32, 2, (int64_t[]){4, 8});
 *     tensor *w = graph_array(g, weights);               // persistent memory, may be updated in place
 *     tensor *y = op_silu(g, op_matmul(g, x, w));
 *     graph_output(g, y, "y");
 *     plan *p;  TRY(graph_compile(g, NULL, &p));         // reports the first recording error, if any
 *     TRY(plan_write(p, "x", data));  TRY(plan_run(p, NULL, NULL));  TRY(plan_read(p, "y", out));
 *
 * SPDX-License-Identifier: MIT */
#pragma once
#include "base/dtype.h"
#include "gpu/gpu.h"
#include "host/host.h"

#define MAX_DIMS 6
#define MAX_IN   24            /* inputs of one node */
#define MAX_OUT  10
typedef struct tensor tensor;
typedef struct node node;
typedef struct graph graph;
typedef struct plan plan;
typedef struct array array;
typedef struct device device;
typedef struct op_info op_info;

typedef struct shape { int n; int64_t d[MAX_DIMS]; } shape; /* outermost first */
#define SHAPE(...) ((shape){sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t), {__VA_ARGS__}})
int64_t shape_count(const shape *s);
bool    shape_equal(const shape *a, const shape *b);
const char *shape_text(const shape *s, char buf[96]);   /* "[2, 64, 64, 320]" */

/* ---- devices ---- */
typedef struct device_desc { char id[24]; bool is_cpu; const gpu_caps *gpu; const host_caps *host; bool auto_pick; } device_desc;
typedef struct device_params {
    const char *name;          /* auto | cpu | vulkan | vulkan:N | ref (every op by its plain-C meaning: tests) */
    const char *cache_dir;     /* pipeline cache and tuning table; NULL = none */
    int threads;               /* cpu: 0 = all cores */
    bool validation;           /* Vulkan validation layer; its messages are errors */
    uint64_t memory_limit_bytes; /* refuse plans and arrays above this; 0 = what the device has */
} device_params;
/* ops: the table of all ops (op_all in op/op.h); the graph needs its add and cast for gradients. */
typedef struct op_table { const op_info *const *info; int n;
    tensor *(*add)(graph *, tensor *, tensor *, const char *at); tensor *(*cast)(graph *, tensor *, dtype, const char *at); } op_table;
status device_open(const op_table *ops, const device_params *p, device **out);
void   device_close(device *d);
const char *device_id(const device *d);                  /* "cpu", "vulkan:0", "ref" */
uint64_t device_memory_free_bytes(const device *d);
void     device_memory_use(const device *d, uint64_t *arrays, uint64_t *activations); /* bytes held now */
size_t   device_alignment(const device *d);              /* bytes: offsets of array views are multiples of it */
int64_t  device_max_elems(const device *d);              /* f32 elements of the largest array */
/* Every device, for `imago devices`. *why_no_vulkan is set when Vulkan is not offered. Free with device_list_free. */
typedef struct device_list { device_desc d[32]; int n; const char *why_no_vulkan; host *h; gpu_instance *i; } device_list;
status device_list_get(device_list *l);
void   device_list_free(device_list *l);
/* Best compute type: bf16 on a cpu that is fast at it, f16 on a GPU with f16 arithmetic, else f32. */
dtype  device_auto_precision(const device *d);
int    device_validation_errors(const device *d);

/* ---- arrays: persistent typed memory on a device ---- */
typedef enum region { REGION_WEIGHTS, REGION_STATE, REGION_STAGING } region;
/*   WEIGHTS: frozen, may be packed per op.  STATE: updated in place by plans.  STAGING: inputs, host-visible.
 * zero-filled. errors E_GPU_MEMORY / E_HOST_MEMORY with what was asked and what is free. */
status array_create(device *d, region r, dtype t, shape s, const char *name, array **out);
/* A WEIGHTS array that takes no memory until it is written or a plan reads it itself (not a packed copy of it). */
status array_create_deferred(device *d, dtype t, shape s, const char *name, array **out);
/* Where a deferred array's values come from: fetch writes the whole array, in its dtype, to host memory. Called as
 * often as the values are needed, so packed copies can be made without keeping the original; ctx must outlive a. */
typedef status (*array_fetch)(void *ctx, void *dst);
void   array_set_source(array *a, array_fetch fetch, void *ctx);
bool   array_is_empty(const array *a);                   /* deferred, and without a source: reads as zeros */
/* A window of a STATE array sharing its memory: parent must outlive it. */
status array_view(array *parent, int64_t offset_elems, shape s, const char *name, array **out);
void   array_destroy(array *a);
status array_write(array *a, const void *src);           /* whole array in its own dtype; repacks what ops packed of it */
status array_read(array *a, void *dst);
status array_write_f32(array *a, const float *src);      /* converts */
status array_read_f32(array *a, float *dst);
shape  array_shape(const array *a);
dtype  array_dtype(const array *a);
int64_t array_count(const array *a);
const char *array_name(const array *a);

/* ---- recording ---- */
struct tensor {
    graph *g; node *by; int out_index;                   /* by: NULL for inputs and arrays */
    array *array;                                        /* persistent storage, or NULL */
    tensor *base;                                        /* a view shares base's storage, else NULL */
    dtype dtype; shape s; const char *name; int id; bool is_input, is_output, poison;
    /* placement, set by graph_compile */
    void *data; gpu_span span; int first, last;          /* live node interval */
    uint64_t offset; int chunk;                          /* in the activation space */
    int64_t ref_step;                                    /* tests: ref computes every ref_step-th element; 0 = all */
};
struct node {
    const op_info *op; graph *g; const char *at;         /* at: file:line of the model code */
    int n_in, n_out; tensor *in[MAX_IN], *out[MAX_OUT];  /* in[i] may be NULL: optional input absent */
    void *attrs; int id, segment; bool dead;
    /* set by prepare */
    size_t scratch_bytes; tensor *scratch;               /* u32 [..], planner-owned, live for this node only */
    void *prepared; void (*unprepare)(void *);           /* host_prim and the like; freed with the plan */
    array *packed[4]; bool work_known; double work;
};
static inline int64_t tensor_count(const tensor *t) { return shape_count(&t->s); }
static inline size_t  tensor_bytes(const tensor *t) { return (size_t)shape_count(&t->s) * dtype_bytes(t->dtype); }
#define ATTRS(n, type) ((type *)(n)->attrs)

graph  *graph_create(device *d);                         /* NULL only when memory is short at once; later failures stick */
void    graph_destroy(graph *g);                         /* plans made from it own it after compile: do not call then */
device *graph_device(const graph *g);
tensor *graph_input (graph *g, const char *name, dtype t, shape s);
tensor *graph_array (graph *g, array *a);                /* the same tensor for the same array */
void    graph_output(graph *g, tensor *t, const char *name);
void    graph_segment(graph *g, const char *name);       /* starts a checkpoint segment (ends the last); NULL ends only */
void    graph_fail  (graph *g, const char *at, status st, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
status  graph_status(const graph *g);                    /* first failure so far; its message goes to the error trace */
/* Records one node. attrs are copied. Returns out[0] (poison after a failure); other outputs: tensor->by->out[k]. */
tensor *op_record(graph *g, const op_info *op, const char *at, const void *attrs, int n_in, tensor *const *in);
#define OP_IN(...) (int)(sizeof((tensor *[]){__VA_ARGS__}) / sizeof(tensor *)), (tensor *[]){__VA_ARGS__}
tensor *tensor_out(tensor *t, int k);                    /* k-th output of the node that made t; safe on poison */
void   *graph_alloc(graph *g, size_t bytes);             /* arena of the graph; NULL marks the graph failed */

/* d loss / d wanted[i] into grads[i] (NULL where loss does not depend on it). Only paths towards `wanted`
 * are recorded. seed has the shape of loss, [1]: the loss scale, e.g. an input or op_fill(g, DT_F32, SHAPE(1), 1).
 * Segments recorded so far are recomputed in the backward pass when checkpoint is true. */
void graph_backward(graph *g, tensor *loss, tensor *seed, tensor *const *wanted, int n, tensor **grads, bool checkpoint);
bool node_wants(const node *n, int i);                   /* in backward: is the gradient of in[i] asked for? */

/* ---- plans ---- */
typedef struct plan_report {
    uint64_t activation_bytes;  int peak_node; char peak[256]; /* "conv2d [2,64,64,320] at unet.c:120" */
    uint64_t persistent_bytes, scratch_peak_bytes; int n_nodes, n_submits; double work;
} plan_report;
typedef struct plan_params { bool no_alias; const char *label; } plan_params; /* no_alias: each tensor its own memory (debugging) */
/* Consumes g, also on failure. Refuses with the report when memory is short. */
status graph_compile(graph *g, const plan_params *pp, plan **out);
void   plan_destroy(plan *p);
const plan_report *plan_get_report(const plan *p);
status plan_write(plan *p, const char *input, const void *src);   /* in the input's dtype */
status plan_run  (plan *p, bool (*cancelled)(void *), void *ctx); /* outputs are overwritten by the next run */
status plan_read (plan *p, const char *output, void *dst);        /* in the output's dtype */
status plan_read_f32(plan *p, const char *output, float *dst);
void   plan_profile_print(plan *p);                               /* per-op times of the last run (IMAGO_PROFILE) */
/* Milliseconds and work of all nodes of one op in the last profiled run; false when there is none. */
bool   plan_op_time(const plan *p, const char *op, double *ms, double *work, double *bytes);

/* ---- plan cache: keyed by all that is baked in; least recently used plans are dropped ---- */
typedef struct plan_cache plan_cache;
plan_cache *plan_cache_create(int max_plans);
void        plan_cache_destroy(plan_cache *c);
plan       *plan_cache_get(plan_cache *c, const char *key);       /* NULL = not there */
status      plan_cache_put(plan_cache *c, const char *key, plan *p); /* owns p, also on failure */

/* IMAGO_CHECK / profile switches for one device, for tests (debug.c sets the default) */
typedef struct device_checks { bool finite, ref, guard, profile; const char *dump_dir; } device_checks;
void device_set_checks(device *d, device_checks c);
