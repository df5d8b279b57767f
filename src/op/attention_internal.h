/* attention_internal.h: inside op/: what attention and attention_bwd agree on: input slots, attributes, geometry.
 *   attention.c      recorder, shapes, gradient, cases      attention_bwd.c   the gradient op
 *   attention_ref.c  the meaning of both                    attention_host.c  both on the CPU
 *   attention_gpu.c  both on Vulkan: tile shapes, tables of key sets, dispatches
 * SPDX-License-Identifier: MIT */
#pragma once
#include "op/op.h"

/* Slots of node inputs. The gradient op has those of attention, then its own. */
enum {
    AT_Q, AT_K, AT_V = AT_K + ATTENTION_MAX_BANKS, AT_WEIGHTS = AT_V + ATTENTION_MAX_BANKS,
    AT_OFFSET, AT_BIAS, AT_REGIONS_Q, AT_REGIONS_K, AT_TABLE, AT_INPUTS,
    AT_DY = AT_INPUTS,     /* [Nq, Tq, D] T */
    AT_Y,                  /* attention's output, or NULL: then dy . out_s is recomputed */
    AT_LSE,                /* its log-sum-exp [Nq, S, heads, Tq] f32 */
    AT_DLSE,               /* the gradient of that, or NULL */
    AT_BWD_INPUTS
};

/* Outputs of attention_bwd: out[0] = D [Nq, S, heads, Tq] f32 = dy . out_s (dy . y where AT_Y is given), then
 * those of the following whose bit is set in `wants`, in this order: dq, dk and dv of bank 0, of bank 1, … */
enum { WANT_Q = 0, WANT_K = 1, WANT_V = 2, WANT_COUNT = 1 + 2 * ATTENTION_MAX_BANKS }; /* bits; K and V: + 2 bank */

typedef struct attention_attrs {
    uint32_t heads, banks, sets, parts;   /* parts: most in any set */
    uint32_t wants;                       /* attention_bwd only */
    bool causal, plain;                   /* plain: one set each, {bank 0, entry n} */
    float scale;
    const attention_set *set;             /* [Nq][sets], in the graph's arena */
} attention_attrs;

typedef struct attention_geom {
    int64_t nq, tq, d, heads, k;          /* d = heads * k */
    int banks, sets, parts; bool causal; float scale;
    int64_t nb[ATTENTION_MAX_BANKS], tb[ATTENTION_MAX_BANKS];
    int64_t bias_n, bias_h, bias_q, bias_k; /* element strides of the bias; 0 where it is stretched */
    int64_t tk;                           /* keys of every set, where bias or regions are given */
    int64_t regions;                      /* R */
    bool recompute;                       /* attention_bwd: D is dy . out_s */
    const attention_set *set;
} attention_geom;
attention_geom attention_geometry(const node *n);
status attention_check(const node *n);    /* shapes and types of the inputs of attention */
int64_t attention_set_keys(const attention_geom *a, const attention_set *s);
/* Output of attention_bwd that holds want, or -1. */
int attention_bwd_out(const node *n, int want);

/* D comes weighted when it is dy . y. */
static inline double attention_d_weight(const attention_geom *a, double w) { return a->recompute ? w : 1; }

extern const op_info op_attention_info, op_attention_bwd_info;
void   attention_ref(const node *n);
void   attention_bwd_ref(const node *n);
double attention_work(const node *n);     /* 4 Tq Tk K per head and set */
double attention_bwd_work(const node *n);

status attention_host_prepare(prep *p, node *n);
void   attention_host_run(host *h, const node *n);
status attention_host_bwd_prepare(prep *p, node *n);
void   attention_host_bwd_run(host *h, const node *n);

status attention_gpu_prepare(prep *p, node *n);      /* attention and attention_bwd */
status attention_gpu_encode(gpu_cmd *c, const node *n);
status attention_gpu_bwd_encode(gpu_cmd *c, const node *n);
