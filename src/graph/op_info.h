/* op_info.h: what an op is. One file op/NAME.c defines one (or a small family of) op_info; ops.def lists it.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "graph/graph.h"

/* ---- test cases ----
 * `in`: one token per input, "[2,3,5,4]" with an optional type before it:
 *    none  the type under test (f32, then f16 and bf16 where op_info.types has them)
 *    f32   always f32;    u32<N  integers in [0, N);    -  absent optional input
 *    after it "=lo:hi" gives the value range (default -1:1); "!" means no gradient is asked for;
 *    "@" makes it a frozen weight (WEIGHTS array: packed copies are used; no gradient).
 * Inputs of ops with `writes` are STATE arrays, and are compared after the run as outputs are.
 * The tester makes the inputs, calls build, and marks every output of the node build returned. */
typedef struct op_case {
    const char *in;
    tensor *(*build)(graph *g, tensor **in, const struct op_case *c); /* NULL = op_info.build */
    double a[12];                 /* attrs for build */
    double tol;                   /* relative to the largest output; 0 = 2e-5 for f32 (half types add their rounding) */
    bool no_grad;                 /* do not check gradients (kinks, size) */
    bool big;                     /* more than 0.2 GFLOP: release only, 1,000 sampled outputs */
} op_case;
#define CASE(spec, ...) {.in = spec, ##__VA_ARGS__}

/* ---- prepare: once per plan ---- */
typedef struct prep { device *dev; gpu *gpu; host *host; } prep; /* gpu NULL on cpu, host NULL on vulkan */
/* Bytes of scratch for this node, from the planner: n->scratch->data / ->span, 64-byte (device-) aligned. */
void prep_scratch(node *n, size_t bytes);
/* Is in[i] a frozen weight (WEIGHTS region), whose packed copy may be shared by all plans? */
bool prep_frozen(const node *n, int i);
/* A packed copy of frozen in[i], keyed by `key`, made once per array and kept beside it; slot 0..3 -> n->packed[slot].
 * fill gets the original and the packed memory: host pointers on cpu, spans + cmd on vulkan (cmd NULL on cpu). */
typedef struct pack_io { const void *src; void *dst; gpu_cmd *cmd; gpu_span src_span, dst_span; } pack_io;
status prep_pack(prep *p, node *n, int i, int slot, const char *key, size_t bytes, status (*fill)(const pack_io *io, void *ctx), void *ctx);

enum { TYPES_F32 = 1u << DT_F32, TYPES_FLOAT = 1u << DT_F32 | 1u << DT_F16 | 1u << DT_BF16 };

struct op_info {
    const char *name;                     /* "silu": row, shader stem, test name, profile label */
    uint8_t  n_in, n_out;                 /* most inputs; outputs include what is saved for backward */
    uint16_t attrs_size;                  /* structural constants only: what changes between replays is an input tensor */
    uint16_t types;                       /* TYPES_*: types the cases are run in */
    uint32_t writes;                      /* bit i: in[i] is updated in place (state); such a node is never dropped */
    bool     view;                        /* out[0] shares in[0]'s storage: nothing runs */
    bool     grad_any_type;               /* backward takes dy of any float type (cast, views): a f32 weight gradient
                                             passes; elsewhere dy is cast to out's type first */
    status (*infer)   (graph *g, node *n);            /* check inputs, set out[k]->dtype and ->s; use fail(E_SHAPE, ...) */
    status (*prepare) (prep *p, node *n);             /* once per plan: pipelines, primitives, scratch, packed weights */
    status (*encode)  (gpu_cmd *c, const node *n);    /* Vulkan: append dispatches; runs once, at compile time */
    void   (*host)    (host *h, const node *n);       /* CPU: executes only; NULL = ref serves */
    void   (*backward)(graph *g, const node *n, tensor *const dy[], tensor *dx[]); /* RECORD gradient nodes, fill dx[i]
                                                         only where node_wants(n, i); dy[k] is NULL where out[k] has no gradient; NULL = no gradient */
    void   (*ref)     (const node *n);                /* the meaning, plain C, computed in double */
    double (*work)    (const node *n);                /* flops of one run; NULL = elements moved */
    tensor *(*build)  (graph *g, tensor **in, const op_case *c); /* for the cases */
    const op_case *cases; int n_cases;
};
#define CASES(arr) .cases = (arr), .n_cases = (int)ARRAY_LEN(arr)

/* Access in ref(): element i of input/output k, in double, whatever the type. */
#define IN(k, i)       dtype_load(n->in[k]->data, n->in[k]->dtype, (i))
#define OUT(k, i)      dtype_load(n->out[k]->data, n->out[k]->dtype, (i))
#define SET(k, i, v)   dtype_store(n->out[k]->data, n->out[k]->dtype, (i), (v))
#define SET_IN(k, i, v) dtype_store(n->in[k]->data, n->in[k]->dtype, (i), (v))   /* ops that write their inputs */
/* Every element of t; big cases set ref_step so that a ref written as "each output by itself" computes samples only. */
#define EACH(i, t)     for (int64_t i = 0; i < tensor_count(t); i += (t)->ref_step > 1 ? (t)->ref_step : 1)

static inline void out_like(node *n, int k, const tensor *t) { n->out[k]->dtype = t->dtype; n->out[k]->s = t->s; }
static inline void out_set(node *n, int k, dtype t, shape s) { n->out[k]->dtype = t; n->out[k]->s = s; }

/* What an op's host or encode sees of a packed copy. */
const void *packed_data(const node *n, int slot);
gpu_span    packed_span(const node *n, int slot);
