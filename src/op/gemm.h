/* gemm.h: inside op/: what matmul and the convolutions share on Vulkan: the tile shapes of
 * shaders/lib/tile.glsl, their choice per device, splitting of long sums, the geometry of a
 * convolution.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "op/op.h"

/* Constants 1..6 of tile.glsl. With coopmat (the side of a fragment; 0 = none) those of
 * coopmat.glsl: threads, subgroups down and across, fragments of a subgroup down and across, depth.
 */
typedef struct gemm_tile {
    uint32_t lx, ly, stage, tm, tn4, bk, coopmat;
} gemm_tile;
static inline int64_t tile_rows(const gemm_tile *t) {
    return (int64_t)t->tm * t->ly * MAX(t->coopmat, 1u);
}
static inline int64_t tile_cols(const gemm_tile *t) {
    return t->coopmat ? (int64_t)t->stage * t->tn4 * t->coopmat : 4 * (int64_t)t->tn4 * t->lx;
}

/* The operands as the shader walks them. a_t: vectors of A run along m; b_t: vectors of B run along
 * k. a_vec, b_vec: every vector is aligned and wholly inside or outside. */
typedef struct gemm_form {
    bool a_t, b_t, a_vec, b_vec;
} gemm_form;

/* How one node is dispatched; made in prepare, read in encode. splits: parts of the sum, added by
 * split_reduce. */
typedef struct gemm_plan {
    gemm_tile tile;
    uint32_t splits;
    uint64_t part_offset;
} gemm_plan;

/* Times the tiles a GPU can choose from on a job of the caller's, once per device and size class,
 * and remembers the best; software drivers have a fixed answer. emit appends the job with the given
 * tile, on scratch spans of the given sizes whose contents do not matter. */
typedef struct gemm_job {
    const char *name, *coopmat; /* coopmat: stem of that variant, NULL = none */
    dtype type;
    gemm_form form;
    int64_t m, n, k, batch; /* as they are: the size class */
    int64_t cap_m;          /* rows of the timed job: 0 = m; set by gemm_choose for emit */
    uint64_t bytes[3];      /* a, b, y of the timed job at cap_m rows, from size() */
    void (*size)(struct gemm_job *j);
    status (*emit)(gpu_cmd *c, const struct gemm_job *j, const gemm_tile *t,
                   const gpu_span span[3]);
    const void *ctx;
} gemm_job;
#define TUNE_FLOPS 2e10 /* a timed job is cut down to this: 5 ms on a small GPU, and yet it fills a large one */
status gemm_choose(gpu *d, gemm_job *j, gemm_tile *out);

#define GEMM_FILL 512 /* workgroups that fill a large GPU */
/* Parts of a sum of `k` terms (at most max_splits) so that few tiles still fill the device. */
uint32_t gemm_splits(const gemm_tile *t, int64_t m, int64_t n, int64_t batch, int64_t k,
                     int64_t max_splits);

/* What follows the product. */
typedef struct gemm_epilogue {
    bool vec, bias, residual, f32;
    host_act act;
} gemm_epilogue;
/* Fills the constants of tile.glsl or coopmat.glsl, and of epilogue.glsl; returns how many. */
int gemm_spec(const gemm_tile *t, const gemm_form *f, const gemm_epilogue *e,
              uint32_t spec[GPU_MAX_SPEC]);
/* Adds the partial sums [splits, taps, count] of `part` into y [count, taps] with rows of n. bias,
 * residual may be zero spans. */
status gemm_reduce(gpu_cmd *c, dtype type, const gemm_epilogue *e, gpu_span part, gpu_span bias,
                   gpu_span residual, gpu_span y, int64_t count, int64_t taps, int64_t splits,
                   int64_t n);

gpu_span span_part(gpu_span s, uint64_t offset, uint64_t bytes);
status gemm_plan_keep(node *n, const gemm_plan *p); /* n->prepared = a copy */

/* ---- gradient of a fused epilogue; pre: what the activation was given ---- */
tensor *gemm_act_bwd(graph *g, const node *n, tensor *pre, tensor *dy, host_act act);
tensor *gemm_dbias(graph *g, const node *n, tensor *dy); /* sums [..., N] to [N] f32 */
double gemm_act_ref(host_act a, double x);

/* ---- convolutions: conv.c has what conv2d.c and conv2d_bwd.c share ---- */
typedef struct conv_geom {
    int64_t n, h, w, i, oh, ow, o, kh, kw;
    int stride, pt, pl, pb, pr;
} conv_geom;
conv_geom conv_geometry(const shape *x, int64_t kh, int64_t kw, const shape *y,
                        const conv2d_attrs *at);
host_conv_desc conv_host_desc(const conv_geom *cg, host_conv_kind kind, dtype type);
static inline double conv_work(const conv_geom *cg) {
    return 2.0 * (double)(cg->n * cg->oh * cg->ow) * (double)(cg->o * cg->i * cg->kh * cg->kw);
}
/* attrs of the gradient ops: what cannot be told from dy. */
typedef struct conv2d_bwd_attrs {
    conv2d_attrs c;
    uint32_t h, w, kh, kw;
} conv2d_bwd_attrs;
extern const op_info op_conv2d_bwd_x_info, op_conv2d_bwd_w_info;

/* Vulkan, forward (back = false: x -> y) and input gradient (back = true: dy -> dx). w_in: which
 * input w is. prepare: tile, splits, scratch, and a packed copy of w if it is frozen; else encode
 * packs it into scratch. */
status conv_prepare(prep *p, node *n, const conv_geom *cg, bool back, int w_in);
/* bind: source, w (ignored: taken from w_in), bias, residual, destination */
status conv_encode(gpu_cmd *c, const node *n, const conv_geom *cg, bool back, int w_in,
                   const gemm_epilogue *e, const gpu_span bind[5]);

/* ---- cpu: a host_prim kept in n->prepared (owned from here on, also on failure), packing a frozen
 * weight, scratch ---- */
status gemm_host_keep(prep *p, node *n, host_prim *prim, int w_in);
static inline const void *gemm_host_weight(const node *n, int w_in) {
    return n->packed[0] ? packed_data(n, 0) : n->in[w_in]->data;
}
static inline void *gemm_host_scratch(const node *n) {
    return n->scratch ? n->scratch->data : NULL;
}
