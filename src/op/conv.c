/* conv.c: what conv2d and its gradients share: geometry, and the Vulkan implicit matmul of
 * shaders/conv2d.comp, which is the forward pass and, gathering the other way, the input gradient.
 * Weights reach it as [kh, kw, I, O] (vectors along O, which is the sum when going back); 1x1
 * weights as they are.
 * SPDX-License-Identifier: MIT */
#include "op/gemm.h"
#include <stdio.h>

conv_geom conv_geometry(const shape *x, int64_t kh, int64_t kw, const shape *y,
                        const conv2d_attrs *at) {
    return (conv_geom){x->d[0],
                       x->d[1],
                       x->d[2],
                       x->d[3],
                       y->d[1],
                       y->d[2],
                       y->d[3],
                       kh,
                       kw,
                       (int)at->stride,
                       (int)at->pad_t,
                       (int)at->pad_l,
                       (int)at->pad_b,
                       (int)at->pad_r};
}

host_conv_desc conv_host_desc(const conv_geom *cg, host_conv_kind kind, dtype type) {
    return (host_conv_desc){.kind = kind,
                            .n = cg->n,
                            .h = cg->h,
                            .w = cg->w,
                            .i = cg->i,
                            .o = cg->o,
                            .kh = cg->kh,
                            .kw = cg->kw,
                            .oh = cg->oh,
                            .ow = cg->ow,
                            .stride = cg->stride,
                            .pad_t = cg->pt,
                            .pad_l = cg->pl,
                            .pad_b = cg->pb,
                            .pad_r = cg->pr,
                            .type = type};
}

/* The side the sum runs over (source) and the side that is written (destination). */
static int64_t src_c(const conv_geom *cg, bool back) { return back ? cg->o : cg->i; }
static int64_t dst_c(const conv_geom *cg, bool back) { return back ? cg->i : cg->o; }
static int64_t dst_pixels(const conv_geom *cg, bool back) {
    return cg->n * (back ? cg->h * cg->w : cg->oh * cg->ow);
}
static bool packs(const conv_geom *cg) { return cg->kh * cg->kw > 1; }

static gemm_form form_of(const conv_geom *cg, bool back) {
    bool b_t = packs(cg) == back; /* [taps, I, O] read back, or [O, I] read forward: along k */
    int64_t along = b_t ? src_c(cg, back) : dst_c(cg, back);
    return (gemm_form){false, b_t, src_c(cg, back) % 4 == 0, along % 4 == 0};
}

/* bind: source, w, bias, residual, destination or partial sums */
static status emit(gpu_cmd *c, const conv_geom *cg, bool back, dtype type, const gemm_tile *t,
                   uint32_t splits, const gemm_epilogue *e, const gpu_span bind[5]) {
    status st = OK;
    gemm_form f = form_of(cg, back);
    int classes = back ? cg->stride : 1;
    for (int cy = 0; cy < classes; cy++)
        for (int cx = 0; cx < classes; cx++) {
            int64_t rh = back ? div_up(cg->h - cy, classes) : cg->oh,
                    rw = back ? div_up(cg->w - cx, classes) : cg->ow;
            int64_t m = cg->n * rh * rw, tm = div_up(m, tile_rows(t)),
                    tn = div_up(dst_c(cg, back), tile_cols(t));
            if (m <= 0) continue;
            struct {
                uint32_t m, rh, rw, sh, sw, sc, dh, dw, dc, kh, kw, stride, back;
                int32_t pt, pl, cy, cx;
                uint32_t tiles_m, tiles_n, splits;
            } push = {(uint32_t)m,
                      (uint32_t)rh,
                      (uint32_t)rw,
                      (uint32_t)(back ? cg->oh : cg->h),
                      (uint32_t)(back ? cg->ow : cg->w),
                      (uint32_t)src_c(cg, back),
                      (uint32_t)(back ? cg->h : cg->oh),
                      (uint32_t)(back ? cg->w : cg->ow),
                      (uint32_t)dst_c(cg, back),
                      (uint32_t)cg->kh,
                      (uint32_t)cg->kw,
                      (uint32_t)cg->stride,
                      back,
                      cg->pt,
                      cg->pl,
                      cy,
                      cx,
                      (uint32_t)tm,
                      (uint32_t)tn,
                      splits};
            gpu_dispatch_params p = {.shader = t->coopmat ? "conv2d_coopmat" : "conv2d",
                                     .type = type,
                                     .n_bind = 5,
                                     .bind = {bind[0], bind[1], e->bias ? bind[2] : bind[0],
                                              e->residual ? bind[3] : bind[0], bind[4]},
                                     .push = &push,
                                     .push_bytes = sizeof push,
                                     .work = conv_work(cg) / (classes * classes)};
            p.n_spec = gemm_spec(t, &f, e, p.spec);
            gpu_groups_1d((uint64_t)(tm * tn * splits), 1, p.groups);
            TRY(gpu_dispatch_(c, &p));
        }
out:
    return st;
}

/* Tuning times the same layer with fewer images or rows. */
typedef struct tune_ctx {
    conv_geom cg;
    bool back;
} tune_ctx;

static conv_geom capped(const gemm_job *j) {
    const tune_ctx *t = j->ctx;
    conv_geom cg = t->cg;
    int64_t row = (t->back ? cg.w : cg.ow) * cg.n, rows = MAX(1, j->cap_m / row);
    if (rows < (t->back ? cg.h : cg.oh)) {
        cg.oh = t->back ? div_up(rows, cg.stride) : rows;
        cg.h = t->back ? rows : rows * cg.stride + cg.kh;
    }
    return cg;
}

static void tune_size(gemm_job *j) {
    conv_geom cg = capped(j);
    bool back = ((const tune_ctx *)j->ctx)->back;
    size_t e = dtype_bytes(j->type), x = (size_t)(cg.n * cg.h * cg.w * cg.i) * e,
           y = (size_t)(cg.n * cg.oh * cg.ow * cg.o) * e;
    j->bytes[0] = back ? y : x;
    j->bytes[1] = (uint64_t)(cg.i * cg.o * cg.kh * cg.kw) * e;
    j->bytes[2] = back ? x : y;
}

static status tune_emit(gpu_cmd *c, const gemm_job *j, const gemm_tile *t, const gpu_span s[3]) {
    const tune_ctx *ctx = j->ctx;
    conv_geom cg = capped(j);
    gemm_epilogue e = {.vec = j->n % 4 == 0, .f32 = j->type == DT_F32};
    return emit(c, &cg, ctx->back, j->type, t, 1, &e,
                (const gpu_span[5]){s[0], s[1], s[0], s[0], s[2]});
}

static status append_pack(gpu_cmd *c, const conv_geom *cg, dtype type, gpu_span w,
                          gpu_span packed) {
    struct {
        uint32_t o, i, taps;
    } push = {(uint32_t)cg->o, (uint32_t)cg->i, (uint32_t)(cg->kh * cg->kw)};
    int64_t count = cg->o * cg->i * cg->kh * cg->kw;
    gpu_dispatch_params p = {.shader = "conv2d_pack",
                             .type = type,
                             .bind = {w, packed},
                             .n_bind = 2,
                             .push = &push,
                             .push_bytes = sizeof push,
                             .work = (double)count};
    gpu_groups_1d((uint64_t)count, 256, p.groups);
    return gpu_dispatch_(c, &p);
}

typedef struct fill_ctx {
    conv_geom cg;
    dtype type;
} fill_ctx;

static status fill_pack(const pack_io *io, void *ctx) {
    const fill_ctx *f = ctx;
    return append_pack(io->cmd, &f->cg, f->type, io->src_span, io->dst_span);
}

status conv_prepare(prep *p, node *n, const conv_geom *cg, bool back, int w_in) {
    status st = OK;
    gemm_plan gp = {0};
    dtype type = n->in[w_in]->dtype;
    int64_t taps = cg->kh * cg->kw, pixels = dst_pixels(cg, back);
    tune_ctx ctx = {*cg, back};
    gemm_job j = {.name = back        ? "conv2d_bwd_x"
                          : taps == 1 ? "conv2d_1x1"
                                      : "conv2d",
                  .coopmat = "conv2d_coopmat",
                  .type = type,
                  .form = form_of(cg, back),
                  .m = pixels,
                  .n = dst_c(cg, back),
                  .k = src_c(cg, back) * taps,
                  .batch = 1,
                  .size = tune_size,
                  .emit = tune_emit,
                  .ctx = &ctx};
    TRY(gemm_choose(p->gpu, &j, &gp.tile));
    gp.splits = back && cg->stride > 1 ? 1 : gemm_splits(&gp.tile, pixels, j.n, 1, j.k, taps);
    if (packs(cg)) {
        size_t bytes = tensor_bytes(n->in[w_in]);
        if (prep_frozen(n, w_in)) {
            fill_ctx *f = graph_alloc(n->g, sizeof *f);
            if (!f) TRY(graph_status(n->g));
            *f = (fill_ctx){*cg, type};
            TRY(prep_pack(p, n, w_in, 0, "taps,I,O", bytes, fill_pack, f));
        } else {
            gp.part_offset = align_up(bytes, 256);
        }
    }
    size_t part = gp.splits > 1 ? (size_t)(gp.splits * pixels * j.n) * 4 : 0;
    if (gp.part_offset + part) prep_scratch(n, gp.part_offset + part);
    TRY(gemm_plan_keep(n, &gp));
out:
    return st;
}

status conv_encode(gpu_cmd *c, const node *n, const conv_geom *cg, bool back, int w_in,
                   const gemm_epilogue *e, const gpu_span bind[5]) {
    status st = OK;
    const gemm_plan *p = n->prepared;
    dtype type = n->in[w_in]->dtype;
    gpu_span b[5] = {bind[0], n->in[w_in]->span, bind[2], bind[3], bind[4]};
    if (n->packed[0]) {
        b[1] = packed_span(n, 0);
    } else if (packs(cg)) {
        b[1] = span_part(n->scratch->span, 0, tensor_bytes(n->in[w_in]));
        TRY(append_pack(c, cg, type, n->in[w_in]->span, b[1]));
    }
    if (p->splits == 1) return emit(c, cg, back, type, &p->tile, 1, e, b);
    int64_t cols = dst_c(cg, back), count = dst_pixels(cg, back) * cols;
    gemm_epilogue part = {.vec = e->vec, .f32 = true};
    b[4] = span_part(n->scratch->span, p->part_offset, (uint64_t)(p->splits * count) * 4);
    TRY(emit(c, cg, back, type, &p->tile, p->splits, &part, b));
    TRY(gemm_reduce(c, type, e, b[4], bind[2], bind[3], bind[4], count, 1, p->splits, cols));
out:
    return st;
}
