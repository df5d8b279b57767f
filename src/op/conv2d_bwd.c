/* conv2d_bwd_x: (dy, w) -> dx [N, H, W, I] T.   conv2d_bwd_w: (x, dy) -> dw [O, I, kh, kw] f32.
 *   dx[n, y, x, i] = sum over taps and o of dy[n, (y + pad_t - kh) / stride, .., o] w[o, i, kh, kw],
 *                    where the division is exact
 *   dw[o, i, tap]  = sum over output pixels of dy[p, o] x[p * stride + tap - pad, i]
 *   attrs  the convolution's, and the sizes of x and w that dy does not tell
 * They have no gradient of their own.
 * SPDX-License-Identifier: MIT */
#include "op/gemm.h"
#include <stdio.h>

static conv_geom geom_x(const node *n) {
    const conv2d_bwd_attrs *at = ATTRS(n, conv2d_bwd_attrs);
    return conv_geometry(&n->out[0]->s, at->kh, at->kw, &n->in[0]->s, &at->c);
}

static conv_geom geom_w(const node *n) {
    const conv2d_bwd_attrs *at = ATTRS(n, conv2d_bwd_attrs);
    return conv_geometry(&n->in[0]->s, at->kh, at->kw, &n->in[1]->s, &at->c);
}

/* Does a dy of this size come from an image of h x w? */
static bool sizes_match(const conv2d_bwd_attrs *at, const shape *dy, int64_t h, int64_t w) {
    int64_t y = h + at->c.pad_t + at->c.pad_b - at->kh, x = w + at->c.pad_l + at->c.pad_r - at->kw;
    return dy->n == 4 && y >= 0 && x >= 0 && at->c.stride > 0 && dy->d[1] == y / at->c.stride + 1 &&
           dy->d[2] == x / at->c.stride + 1;
}

static status infer_x(graph *g, node *n) {
    const conv2d_bwd_attrs *at = ATTRS(n, conv2d_bwd_attrs);
    const tensor *dy = n->in[0], *w = n->in[1];
    char td[96], tw[96];
    (void)g;
    if (w->s.n != 4 || w->s.d[2] != at->kh || w->s.d[3] != at->kw ||
        !sizes_match(at, &dy->s, at->h, at->w) || dy->s.d[3] != w->s.d[0] || dy->dtype != w->dtype)
        return fail(
            E_SHAPE,
            "conv2d_bwd_x: dy %s %s and w %s %s are not those of a convolution of a %u x %u image",
            dtype_name(dy->dtype), shape_text(&dy->s, td), dtype_name(w->dtype),
            shape_text(&w->s, tw), at->h, at->w);
    out_set(n, 0, dy->dtype, SHAPE(dy->s.d[0], at->h, at->w, w->s.d[1]));
    return OK;
}

static status infer_w(graph *g, node *n) {
    const conv2d_bwd_attrs *at = ATTRS(n, conv2d_bwd_attrs);
    const tensor *x = n->in[0], *dy = n->in[1];
    char tx[96], td[96];
    (void)g;
    if (x->s.n != 4 || !sizes_match(at, &dy->s, x->s.d[1], x->s.d[2]) || x->s.d[0] != dy->s.d[0] ||
        x->dtype != dy->dtype)
        return fail(E_SHAPE,
                    "conv2d_bwd_w: x %s %s and dy %s %s are not those of a %u x %u convolution",
                    dtype_name(x->dtype), shape_text(&x->s, tx), dtype_name(dy->dtype),
                    shape_text(&dy->s, td), at->kh, at->kw);
    out_set(n, 0, dtype_acc(x->dtype), SHAPE(dy->s.d[3], x->s.d[3], at->kh, at->kw));
    return OK;
}

static double work_x(const node *n) {
    conv_geom cg = geom_x(n);
    return conv_work(&cg);
}

static double work_w(const node *n) {
    conv_geom cg = geom_w(n);
    return conv_work(&cg);
}

static void ref_x(const node *n) {
    conv_geom cg = geom_x(n);
    int64_t taps = cg.kh * cg.kw;
    EACH(at, n->out[0]) {
        int64_t i = at % cg.i, x = at / cg.i % cg.w, y = at / cg.i / cg.w % cg.h,
                b = at / cg.i / cg.w / cg.h;
        double s = 0;
        for (int64_t k = 0; k < taps; k++) {
            int64_t ty = y + cg.pt - k / cg.kw, tx = x + cg.pl - k % cg.kw;
            if (ty < 0 || tx < 0 || ty % cg.stride || tx % cg.stride) continue;
            int64_t oy = ty / cg.stride, ox = tx / cg.stride;
            if (oy >= cg.oh || ox >= cg.ow) continue;
            for (int64_t o = 0; o < cg.o; o++)
                s += IN(0, ((b * cg.oh + oy) * cg.ow + ox) * cg.o + o) *
                     IN(1, (o * cg.i + i) * taps + k);
        }
        SET(0, at, s);
    }
}

static void ref_w(const node *n) {
    conv_geom cg = geom_w(n);
    int64_t taps = cg.kh * cg.kw;
    EACH(at, n->out[0]) {
        int64_t k = at % taps, i = at / taps % cg.i, o = at / taps / cg.i;
        double s = 0;
        for (int64_t p = 0; p < cg.n * cg.oh * cg.ow; p++) {
            int64_t x = p % cg.ow * cg.stride + k % cg.kw - cg.pl,
                    y = p / cg.ow % cg.oh * cg.stride + k / cg.kw - cg.pt;
            if (x < 0 || y < 0 || x >= cg.w || y >= cg.h) continue;
            s +=
                IN(0, ((p / cg.ow / cg.oh * cg.h + y) * cg.w + x) * cg.i + i) * IN(1, p * cg.o + o);
        }
        SET(0, at, s);
    }
}

/* ---- cpu ---- */
static status prepare_host(prep *p, node *n, const conv_geom *cg, host_conv_kind kind, int w_in) {
    status st = OK;
    host_prim *prim = NULL;
    host_conv_desc h = conv_host_desc(cg, kind, n->in[0]->dtype);
    h.packed_w = w_in >= 0 && prep_frozen(n, w_in);
    TRY(host_conv_create(p->host, &h, &prim));
    TRY(gemm_host_keep(p, n, prim, h.packed_w ? w_in : -1));
out:
    return st;
}

static void host_run_x(host *h, const node *n) {
    host_conv_run(h, n->prepared, n->in[0]->data, gemm_host_weight(n, 1), NULL, NULL,
                  n->out[0]->data, gemm_host_scratch(n));
}

static void host_run_w(host *h, const node *n) {
    host_conv_run(h, n->prepared, n->in[0]->data, n->in[1]->data, NULL, NULL, n->out[0]->data,
                  gemm_host_scratch(n));
}

/* ---- Vulkan ---- */
static status prepare_x(prep *p, node *n) {
    conv_geom cg = geom_x(n);
    return p->gpu ? conv_prepare(p, n, &cg, true, 1) : prepare_host(p, n, &cg, HOST_CONV_BWD_X, 1);
}

static status encode_x(gpu_cmd *c, const node *n) {
    conv_geom cg = geom_x(n);
    gpu_span dy = n->in[0]->span;
    gemm_epilogue e = {.vec = cg.i % 4 == 0, .f32 = n->out[0]->dtype == DT_F32};
    return conv_encode(c, n, &cg, true, 1, &e,
                       (const gpu_span[5]){dy, dy, dy, dy, n->out[0]->span});
}

/* bind: dy, x, dw or the partial sums [splits, taps, O, I] */
static status emit_w(gpu_cmd *c, const conv_geom *cg, dtype type, const gemm_tile *t,
                     uint32_t splits, const gpu_span bind[3]) {
    int64_t tm = div_up(cg->o, tile_rows(t)), tn = div_up(cg->i, tile_cols(t));
    struct {
        uint32_t n, h, w, i, oh, ow, o, kh, kw, stride;
        int32_t pt, pl;
        uint32_t tiles_m, tiles_n, splits;
    } push = {(uint32_t)cg->n,  (uint32_t)cg->h,      (uint32_t)cg->w, (uint32_t)cg->i,
              (uint32_t)cg->oh, (uint32_t)cg->ow,     (uint32_t)cg->o, (uint32_t)cg->kh,
              (uint32_t)cg->kw, (uint32_t)cg->stride, cg->pt,          cg->pl,
              (uint32_t)tm,     (uint32_t)tn,         splits};
    gemm_form f = {true, false, cg->o % 4 == 0, cg->i % 4 == 0};
    gemm_epilogue e = {.vec = cg->i % 4 == 0};
    gpu_dispatch_params p = {.shader = t->coopmat ? "conv2d_bwd_w_coopmat" : "conv2d_bwd_w",
                             .type = type,
                             .bind = {bind[0], bind[1], bind[2]},
                             .n_bind = 3,
                             .push = &push,
                             .push_bytes = sizeof push,
                             .work = conv_work(cg)};
    p.n_spec = gemm_spec(t, &f, &e, p.spec);
    if (!t->coopmat) p.n_spec = 11;
    gpu_groups_1d((uint64_t)(tm * tn * cg->kh * cg->kw * splits), 1, p.groups);
    return gpu_dispatch_(c, &p);
}

/* Parts of the sum: of pixels, but of image rows with a software driver's tile (see
 * conv2d_bwd_w_body.glsl). */
static uint32_t splits_w(const conv_geom *cg, const gemm_tile *t) {
    int64_t rows = cg->n * cg->oh, pixels = rows * cg->ow;
    return gemm_splits(t, cg->o, cg->i, cg->kh * cg->kw, pixels, t->stage ? pixels : rows);
}

/* Timed split as it will be; 512: gemm_splits makes no shorter parts. */
static void tune_size(gemm_job *j) {
    const conv_geom *cg = j->ctx;
    int64_t pixels = cg->n * cg->oh * cg->ow, most = MAX(1, pixels / 512);
    size_t e = dtype_bytes(j->type);
    j->bytes[0] = (uint64_t)(pixels * cg->o) * e;
    j->bytes[1] = (uint64_t)(cg->n * cg->h * cg->w * cg->i) * e;
    j->bytes[2] = (uint64_t)(most * cg->o * cg->i * cg->kh * cg->kw) * 4;
}

static status tune_emit(gpu_cmd *c, const gemm_job *j, const gemm_tile *t, const gpu_span s[3]) {
    return emit_w(c, j->ctx, j->type, t, splits_w(j->ctx, t), s);
}

static status prepare_gpu_w(prep *p, node *n, const conv_geom *cg) {
    status st = OK;
    gemm_plan gp = {0};
    conv_geom timed = *cg;
    int64_t taps = cg->kh * cg->kw;
    while (timed.n > 1 && conv_work(&timed) > TUNE_FLOPS) timed.n /= 2;
    gemm_job j = {.name = "conv2d_bwd_w",
                  .coopmat = "conv2d_bwd_w_coopmat",
                  .type = n->in[0]->dtype,
                  .form = {true, false, cg->o % 4 == 0, cg->i % 4 == 0},
                  .m = cg->o,
                  .n = cg->i,
                  .k = cg->n * cg->oh * cg->ow,
                  .batch = taps,
                  .size = tune_size,
                  .emit = tune_emit,
                  .ctx = &timed};
    TRY(gemm_choose(p->gpu, &j, &gp.tile));
    gp.splits = splits_w(cg, &gp.tile);
    if (gp.splits > 1) prep_scratch(n, (size_t)(gp.splits * cg->o * cg->i * taps) * 4);
    TRY(gemm_plan_keep(n, &gp));
out:
    return st;
}

static status prepare_w(prep *p, node *n) {
    conv_geom cg = geom_w(n);
    return p->gpu ? prepare_gpu_w(p, n, &cg) : prepare_host(p, n, &cg, HOST_CONV_BWD_W, -1);
}

static status encode_w(gpu_cmd *c, const node *n) {
    status st = OK;
    const gemm_plan *p = n->prepared;
    conv_geom cg = geom_w(n);
    dtype type = n->in[0]->dtype;
    gpu_span dw = n->out[0]->span;
    if (p->splits == 1)
        return emit_w(c, &cg, type, &p->tile, 1,
                      (const gpu_span[3]){n->in[1]->span, n->in[0]->span, dw});
    gemm_epilogue e = {.f32 = true};
    gpu_span part = n->scratch->span;
    TRY(emit_w(c, &cg, type, &p->tile, p->splits,
               (const gpu_span[3]){n->in[1]->span, n->in[0]->span, part}));
    TRY(gemm_reduce(c, DT_F32, &e, part, part, part, dw, cg.o * cg.i, cg.kh * cg.kw, p->splits,
                    cg.i));
out:
    return st;
}

static conv2d_bwd_attrs case_attrs(const op_case *c) {
    const double *a = c->a;
    return (conv2d_bwd_attrs){
        {(uint32_t)a[0], (uint32_t)a[1], (uint32_t)a[2], (uint32_t)a[3], (uint32_t)a[4], ACT_NONE},
        (uint32_t)a[5],
        (uint32_t)a[6],
        (uint32_t)a[7],
        (uint32_t)a[8]};
}

static tensor *build_x(graph *g, tensor **in, const op_case *c) {
    conv2d_bwd_attrs at = case_attrs(c);
    return op_record(g, &op_conv2d_bwd_x_info, HERE, &at, OP_IN(in[0], in[1]));
}

static tensor *build_w(graph *g, tensor **in, const op_case *c) {
    conv2d_bwd_attrs at = case_attrs(c);
    return op_record(g, &op_conv2d_bwd_w_info, HERE, &at, OP_IN(in[0], in[1]));
}

/* a: stride, pad_t, pad_l, pad_b, pad_r, h, w, kh, kw */
#define NG .no_grad = true
static const op_case cases_x[] = {
    CASE("[1,1,1,1] [1,1,1,1]", .a = {1, 0, 0, 0, 0, 1, 1, 1, 1}, NG),
    CASE("[2,5,7,4] [4,3,3,3]", .a = {1, 1, 1, 1, 1, 5, 7, 3, 3}, NG),
    CASE("[2,3,3,9] [9,4,3,3]", .a = {2, 1, 1, 1, 1, 5, 6, 3, 3}, NG),
    CASE("[1,3,3,8] [8,4,3,3]@", .a = {2, 0, 0, 1, 1, 6, 6, 3, 3}, NG),
    CASE("[2,3,4,5] [5,12,1,1]", .a = {1, 0, 0, 0, 0, 3, 4, 1, 1}, NG),
    CASE("[1,3,3,8] [8,8,1,1]@", .a = {2, 0, 0, 0, 0, 5, 6, 1, 1}, NG),
    CASE("[1,4,3,4] [4,4,2,2]", .a = {2, 1, 0, 1, 0, 6, 6, 2, 2}, NG),
    CASE("[1,5,4,4] [4,3,7,7]", .a = {2, 3, 3, 3, 3, 9, 8, 7, 7}, NG),
    CASE("[2,8,8,128] [128,36,3,3]@", .a = {1, 1, 1, 1, 1, 8, 8, 3, 3}, NG),
    CASE("[2,64,64,320] [320,320,3,3]@", .a = {1, 1, 1, 1, 1, 64, 64, 3, 3}, NG, .big = true),
    CASE("[2,32,32,320] [320,320,3,3]", .a = {2, 1, 1, 1, 1, 64, 64, 3, 3}, NG, .big = true),
};
static const op_case cases_w[] = {
    CASE("[1,1,1,1] [1,1,1,1]", .a = {1, 0, 0, 0, 0, 1, 1, 1, 1}, NG),
    CASE("[2,5,7,3] [2,5,7,4]", .a = {1, 1, 1, 1, 1, 0, 0, 3, 3}, NG),
    CASE("[2,5,6,4] [2,3,3,9]", .a = {2, 1, 1, 1, 1, 0, 0, 3, 3}, NG),
    CASE("[1,6,6,4] [1,3,3,8]", .a = {2, 0, 0, 1, 1, 0, 0, 3, 3}, NG),
    CASE("[2,4,5,12] [2,4,5,5]", .a = {1, 0, 0, 0, 0, 0, 0, 1, 1}, NG),
    CASE("[1,5,6,8] [1,3,3,8]", .a = {2, 0, 0, 0, 0, 0, 0, 1, 1}, NG),
    CASE("[1,6,6,4] [1,4,3,4]", .a = {2, 1, 0, 1, 0, 0, 0, 2, 2}, NG),
    CASE("[1,9,8,3] [1,5,4,4]", .a = {2, 3, 3, 3, 3, 0, 0, 7, 7}, NG),
    CASE("[3,20,20,4] [3,20,20,5]", .a = {1, 1, 1, 1, 1, 0, 0, 3, 3}, NG, .tol = 1e-4),
    CASE("[2,3,4,9] [2,3,4,8]", .a = {1, 1, 1, 1, 1, 0, 0, 3, 3}, NG),
    CASE("[1,40,30,8] [1,40,30,4]", .a = {1, 0, 0, 0, 0, 0, 0, 1, 1}, NG,
         .tol = 1e-4), /* long sum, one tile: split */
    CASE("[2,64,64,320] [2,64,64,320]", .a = {1, 1, 1, 1, 1, 0, 0, 3, 3}, NG, .tol = 1e-4,
         .big = true),
    CASE("[32,16,16,128] [32,16,16,128]", .a = {1, 1, 1, 1, 1, 0, 0, 3, 3}, NG, .tol = 1e-4,
         .big = true),
};

const op_info op_conv2d_bwd_x_info = {.name = "conv2d_bwd_x",
                                      .n_in = 2,
                                      .n_out = 1,
                                      .attrs_size = sizeof(conv2d_bwd_attrs),
                                      .types = TYPES_FLOAT,
                                      .infer = infer_x,
                                      .prepare = prepare_x,
                                      .encode = encode_x,
                                      .host = host_run_x,
                                      .ref = ref_x,
                                      .work = work_x,
                                      .build = build_x,
                                      CASES(cases_x)};
const op_info op_conv2d_bwd_w_info = {.name = "conv2d_bwd_w",
                                      .n_in = 2,
                                      .n_out = 1,
                                      .attrs_size = sizeof(conv2d_bwd_attrs),
                                      .types = TYPES_FLOAT,
                                      .infer = infer_w,
                                      .prepare = prepare_w,
                                      .encode = encode_w,
                                      .host = host_run_w,
                                      .ref = ref_w,
                                      .work = work_w,
                                      .build = build_w,
                                      CASES(cases_w)};
