/* conv2d: y = act(conv(x, w) + bias) + residual: cross-correlation with zero padding, f32 sums.
 *   x         [N, H, W, I] T
 *   w         [O, I, kh, kw] T, checkpoint layout
 *   bias      [O] f32, residual y's shape, both may be NULL
 *   returns   [N, OH, OW, O] T, OH = (H + pad_t + pad_b - kh) / stride + 1 rounded down, OW alike
 *   gradients dx and residual in T; dw and dbias in f32
 *   source    torch.nn.functional.conv2d
 * Vulkan: implicit matmul, shaders/conv2d.comp; cpu: oneDNN, frozen weights packed.
 * SPDX-License-Identifier: MIT */
#include "op/gemm.h"
#include <stdio.h>

extern const op_info op_conv2d_info;

tensor *op_conv2d_(graph *g, tensor *x, tensor *w, tensor *bias, tensor *residual, conv2d_attrs at,
                   const char *here) {
    return op_record(g, &op_conv2d_info, here, &at, OP_IN(x, w, bias, residual));
}

static conv_geom geom_of(const node *n) {
    const shape *w = &n->in[1]->s;
    return conv_geometry(&n->in[0]->s, w->d[2], w->d[3], &n->out[0]->s, ATTRS(n, conv2d_attrs));
}

static status infer(graph *g, node *n) {
    const conv2d_attrs *at = ATTRS(n, conv2d_attrs);
    const tensor *x = n->in[0], *w = n->in[1], *bias = n->in[2], *res = n->in[3];
    char tx[96], tw[96];
    (void)g;
    if (x->s.n != 4 || w->s.n != 4 || x->s.d[3] != w->s.d[1])
        return fail(E_SHAPE, "conv2d: x %s and w %s: expected [N, H, W, I] and [O, I, kh, kw]",
                    shape_text(&x->s, tx), shape_text(&w->s, tw));
    if (x->dtype == DT_U32 || x->dtype != w->dtype)
        return fail(E_SHAPE, "conv2d: x is %s and w is %s: both must be of one float type",
                    dtype_name(x->dtype), dtype_name(w->dtype));
    int64_t h = x->s.d[1] + at->pad_t + at->pad_b - w->s.d[2],
            wd = x->s.d[2] + at->pad_l + at->pad_r - w->s.d[3];
    if (at->stride < 1 || h < 0 || wd < 0)
        return fail(E_SHAPE,
                    "conv2d: x %s, w %s, stride %u, padding %u %u %u %u: the kernel is larger than "
                    "the padded image",
                    shape_text(&x->s, tx), shape_text(&w->s, tw), at->stride, at->pad_t, at->pad_l,
                    at->pad_b, at->pad_r);
    shape y = SHAPE(x->s.d[0], h / at->stride + 1, wd / at->stride + 1, w->s.d[0]);
    if (bias && (bias->s.n != 1 || bias->s.d[0] != y.d[3] || bias->dtype != dtype_acc(x->dtype)))
        return fail(E_SHAPE, "conv2d: bias %s %s: expected [%lld] f32", dtype_name(bias->dtype),
                    shape_text(&bias->s, tx), (long long)y.d[3]);
    if (res && (!shape_equal(&res->s, &y) || res->dtype != x->dtype))
        return fail(E_SHAPE, "conv2d: residual %s %s: expected the output's %s %s",
                    dtype_name(res->dtype), shape_text(&res->s, tx), dtype_name(x->dtype),
                    shape_text(&y, tw));
    out_set(n, 0, x->dtype, y);
    return OK;
}

static double work(const node *n) {
    conv_geom cg = geom_of(n);
    return conv_work(&cg);
}

static void ref(const node *n) {
    conv_geom cg = geom_of(n);
    EACH(at, n->out[0]) {
        int64_t o = at % cg.o, x = at / cg.o % cg.ow, y = at / cg.o / cg.ow % cg.oh,
                b = at / cg.o / cg.ow / cg.oh;
        double s = 0;
        for (int64_t k = 0; k < cg.kh * cg.kw; k++) {
            int64_t sy = y * cg.stride + k / cg.kw - cg.pt, sx = x * cg.stride + k % cg.kw - cg.pl;
            if (sy < 0 || sx < 0 || sy >= cg.h || sx >= cg.w) continue;
            for (int64_t i = 0; i < cg.i; i++)
                s += IN(0, ((b * cg.h + sy) * cg.w + sx) * cg.i + i) *
                     IN(1, (o * cg.i + i) * cg.kh * cg.kw + k);
        }
        if (n->in[2]) s += IN(2, o);
        s = gemm_act_ref((host_act)ATTRS(n, conv2d_attrs)->act, s);
        SET(0, at, n->in[3] ? s + IN(3, at) : s);
    }
}

static status prepare_host(prep *p, node *n) {
    status st = OK;
    host_prim *prim = NULL;
    conv_geom cg = geom_of(n);
    host_conv_desc h = conv_host_desc(&cg, HOST_CONV_FWD, n->in[0]->dtype);
    h.bias = n->in[2] != NULL;
    h.residual = n->in[3] != NULL;
    h.act = (host_act)ATTRS(n, conv2d_attrs)->act;
    h.packed_w = prep_frozen(n, 1);
    TRY(host_conv_create(p->host, &h, &prim));
    TRY(gemm_host_keep(p, n, prim, h.packed_w ? 1 : -1));
out:
    return st;
}

static void host_run(host *h, const node *n) {
    host_conv_run(h, n->prepared, n->in[0]->data, gemm_host_weight(n, 1),
                  n->in[2] ? n->in[2]->data : NULL, n->in[3] ? n->in[3]->data : NULL,
                  n->out[0]->data, gemm_host_scratch(n));
}

static status prepare(prep *p, node *n) {
    conv_geom cg = geom_of(n);
    return p->gpu ? conv_prepare(p, n, &cg, false, 1) : prepare_host(p, n);
}

static status encode(gpu_cmd *c, const node *n) {
    conv_geom cg = geom_of(n);
    gpu_span x = n->in[0]->span;
    gemm_epilogue e = {cg.o % 4 == 0, n->in[2] != NULL, n->in[3] != NULL,
                       n->out[0]->dtype == DT_F32, (host_act)ATTRS(n, conv2d_attrs)->act};
    return conv_encode(c, n, &cg, false, 1, &e,
                       (const gpu_span[5]){x, x, n->in[2] ? n->in[2]->span : x,
                                           n->in[3] ? n->in[3]->span : x, n->out[0]->span});
}

static bool pointwise(const conv_geom *cg) {
    return cg->kh * cg->kw == 1 && cg->stride == 1 && !(cg->pt | cg->pl | cg->pb | cg->pr);
}

static void backward(graph *g, const node *n, tensor *const dys[], tensor *dx[]) {
    conv_geom cg = geom_of(n);
    conv2d_bwd_attrs at = {*ATTRS(n, conv2d_attrs), (uint32_t)cg.h, (uint32_t)cg.w, (uint32_t)cg.kh,
                           (uint32_t)cg.kw};
    host_act act = (host_act)at.c.act;
    tensor *dy = dys[0];
    at.c.act = ACT_NONE;
    if (node_wants(n, 3)) dx[3] = dy;
    if (act != ACT_NONE)
        dy = gemm_act_bwd(g, n, op_conv2d_(g, n->in[0], n->in[1], n->in[2], NULL, at.c, n->at), dy,
                          act);
    if (node_wants(n, 0))
        dx[0] = op_record(g, &op_conv2d_bwd_x_info, n->at, &at, OP_IN(dy, n->in[1]));
    if (node_wants(n, 1) && pointwise(&cg)) { /* a matmul can split its long sum freely */
        tensor *x = op_reshape_(g, n->in[0], SHAPE(cg.n * cg.h * cg.w, cg.i), n->at);
        tensor *d = op_reshape_(g, dy, SHAPE(cg.n * cg.h * cg.w, cg.o), n->at);
        tensor *dw =
            op_matmul_(g, d, x, NULL, NULL, (matmul_attrs){.trans_a = 1, .out = DT_F32}, n->at);
        dx[1] = op_reshape_(g, dw, SHAPE(cg.o, cg.i, 1, 1), n->at);
    } else if (node_wants(n, 1)) {
        dx[1] = op_record(g, &op_conv2d_bwd_w_info, n->at, &at, OP_IN(n->in[0], dy));
    }
    if (node_wants(n, 2)) dx[2] = gemm_dbias(g, n, dy);
}

static tensor *build(graph *g, tensor **in, const op_case *c) {
    conv2d_attrs at = {(uint32_t)c->a[0], (uint32_t)c->a[1], (uint32_t)c->a[2],
                       (uint32_t)c->a[3], (uint32_t)c->a[4], (uint32_t)c->a[5]};
    return op_conv2d_(g, in[0], in[1], in[2], in[3], at, HERE);
}

/* a: stride, pad_t, pad_l, pad_b, pad_r, act */
static const op_case cases[] = {
    CASE("[1,1,1,1] [1,1,1,1] - -", .a = {1}),
    CASE("[2,5,7,3] [4,3,3,3] f32[4] -", .a = {1, 1, 1, 1, 1}),
    CASE("[2,5,6,4] [9,4,3,3] f32[9] [2,3,3,9]", .a = {2, 1, 1, 1, 1}),
    CASE("[1,6,6,4] [8,4,3,3] f32[8] -", .a = {2, 0, 0, 1, 1}),
    CASE("[1,7,5,4] [4,4,3,3] f32[4] -", .a = {1, 0, 2, 1, 0, ACT_SILU}),
    CASE("[2,4,5,12] [5,12,1,1] f32[5] [2,4,5,5]", .a = {1}),
    CASE("[2,5,5,5] [12,5,1,1] - -", .a = {1}),
    CASE("[1,5,5,8] [8,8,1,1] - -", .a = {2}),
    CASE("[1,5,4,3] [4,3,2,2] f32[4] -", .a = {1, 0, 0, 1, 1, ACT_GELU_ERF}),
    CASE("[1,6,6,4] [4,4,2,2] - -", .a = {2}),
    CASE("[1,9,8,3] [4,3,7,7] f32[4] -", .a = {2, 3, 3, 3, 3}),
    CASE("[1,6,6,320] [4,320,3,3]@ f32[4] -", .a = {1, 1, 1, 1, 1}, .no_grad = true),
    CASE("[2,8,8,64] [36,64,3,3]@ f32[36] [2,8,8,36]", .a = {1, 1, 1, 1, 1}, .no_grad = true),
    CASE("[1,8,8,128] [12,128,3,3] - -", .a = {1, 1, 1, 1, 1},
         .no_grad = true), /* few tiles, long sum: split */
    CASE("[1,16,16,4] [320,4,3,3]@ f32[320] -", .a = {1, 1, 1, 1, 1}, .no_grad = true),
    CASE("[2,64,64,320] [320,320,3,3]@ f32[320] -", .a = {1, 1, 1, 1, 1}, .no_grad = true,
         .big = true),
    CASE("[2,8,8,1280] [1280,1280,3,3] f32[1280] -", .a = {1, 1, 1, 1, 1}, .no_grad = true,
         .big = true),
    CASE("[2,64,64,320] [320,320,3,3] f32[320] -", .a = {2, 1, 1, 1, 1}, .no_grad = true,
         .big = true),
    CASE("[2,64,64,640] [320,640,1,1] f32[320] -", .a = {1}, .no_grad = true, .big = true),
    CASE("[32,16,16,128] [128,128,3,3] f32[128] -", .a = {1, 1, 1, 1, 1}, .no_grad = true,
         .big = true),
    CASE("[2,128,128,64] [3,64,3,3] f32[3] -", .a = {1, 1, 1, 1, 1}, .no_grad = true, .big = true),
};

const op_info op_conv2d_info = {.name = "conv2d",
                                .n_in = 4,
                                .n_out = 1,
                                .attrs_size = sizeof(conv2d_attrs),
                                .types = TYPES_FLOAT,
                                .infer = infer,
                                .prepare = prepare,
                                .encode = encode,
                                .host = host_run,
                                .backward = backward,
                                .ref = ref,
                                .work = work,
                                .build = build,
                                CASES(cases)};
