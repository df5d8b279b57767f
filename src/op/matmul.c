/* matmul: y = act(op(a) op(b) + bias) + residual, f32 sums.
 *   a         [..., M, K] T ([..., K, M] if trans_a)
 *   b         [K, N] or [..., K, N] T ([.., N, K] if trans_b). 2-D: the leading dims of a fold into M,
 *             or into K with trans_a. n-D: a has the same leading dims.
 *   bias      [N] f32, residual y's shape and type, both may be NULL
 *   returns   [..., M, N] T, or f32 if asked
 *   gradients of a 2-D b (a weight) and of bias in f32, else in T
 *   source    torch.nn.functional.linear, torch.matmul
 * Vulkan: shaders/matmul.comp; cpu: oneDNN, frozen weights packed.
 * SPDX-License-Identifier: MIT */
#include "op/gemm.h"
#include <stdio.h>

extern const op_info op_matmul_info;

typedef struct dims {
    int64_t batch, m, n, k;
    bool shared;
} dims; /* shared: one b for all of a */

static dims dims_of(const node *n) {
    const matmul_attrs *at = ATTRS(n, matmul_attrs);
    const shape *a = &n->in[0]->s, *b = &n->in[1]->s;
    int64_t a_last = a->d[a->n - 1], b_last = b->d[b->n - 1], b_prev = b->d[b->n - 2];
    dims d = {.batch = 1, .shared = b->n == 2, .n = at->trans_b ? b_prev : b_last};
    int64_t rest = shape_count(a) / a_last;
    if (!d.shared) {
        for (int i = 0; i < b->n - 2; i++) d.batch *= b->d[i];
        rest = a->d[a->n - 2];
    }
    d.m = at->trans_a ? a_last : rest;
    d.k = at->trans_a ? rest : a_last;
    return d;
}

tensor *op_matmul_(graph *g, tensor *a, tensor *b, tensor *bias, tensor *residual, matmul_attrs at,
                   const char *here) {
    return op_record(g, &op_matmul_info, here, &at, OP_IN(a, b, bias, residual));
}

static status infer_shape(const node *n, shape *y) {
    const matmul_attrs *at = ATTRS(n, matmul_attrs);
    const tensor *a = n->in[0], *b = n->in[1];
    char ta[96], tb[96];
    if (b->s.n < 2 || a->s.n < 1 || (at->trans_a && a->s.n < 2) || (b->s.n > 2 && a->s.n != b->s.n))
        return fail(E_SHAPE, "matmul: a %s and b %s: b must be 2-D, or have as many dims as a",
                    shape_text(&a->s, ta), shape_text(&b->s, tb));
    for (int i = 0; b->s.n > 2 && i < b->s.n - 2; i++)
        if (a->s.d[i] != b->s.d[i])
            return fail(E_SHAPE, "matmul: a %s and b %s: the leading dims differ",
                        shape_text(&a->s, ta), shape_text(&b->s, tb));
    dims d = dims_of(n);
    int64_t kb = b->s.d[b->s.n - (at->trans_b ? 1 : 2)];
    if (kb != d.k)
        return fail(E_SHAPE, "matmul: a %s%s and b %s%s: the inner sizes %lld and %lld differ",
                    shape_text(&a->s, ta), at->trans_a ? " transposed" : "", shape_text(&b->s, tb),
                    at->trans_b ? " transposed" : "", (long long)d.k, (long long)kb);
    *y = a->s;
    if (at->trans_a && d.shared)
        *y = SHAPE(d.m, d.n);
    else
        y->d[y->n - 1] = d.n;
    if (at->trans_a && !d.shared) y->d[y->n - 2] = d.m;
    return OK;
}

static status infer(graph *g, node *n) {
    status st = OK;
    const matmul_attrs *at = ATTRS(n, matmul_attrs);
    const tensor *a = n->in[0], *b = n->in[1], *bias = n->in[2], *res = n->in[3];
    shape y;
    char text[96], want[96];
    (void)g;
    if (a->dtype == DT_U32 || a->dtype != b->dtype)
        return fail(E_SHAPE, "matmul: a is %s and b is %s: both must be of one float type",
                    dtype_name(a->dtype), dtype_name(b->dtype));
    TRY(infer_shape(n, &y));
    dtype t = at->out == DT_COUNT ? a->dtype : dtype_acc(a->dtype);
    if (at->out != DT_COUNT && at->out != DT_F32 && at->out != a->dtype)
        return fail(E_SHAPE, "matmul: output type %s: only the type of a (%s) or f32",
                    dtype_name((dtype)at->out), dtype_name(a->dtype));
    if (at->out == a->dtype) t = a->dtype;
    if (bias &&
        (bias->s.n != 1 || bias->s.d[0] != y.d[y.n - 1] || bias->dtype != dtype_acc(a->dtype)))
        return fail(E_SHAPE, "matmul: bias %s %s: expected [%lld] f32", dtype_name(bias->dtype),
                    shape_text(&bias->s, text), (long long)y.d[y.n - 1]);
    if (res && (!shape_equal(&res->s, &y) || res->dtype != t))
        return fail(E_SHAPE, "matmul: residual %s %s: expected the output's %s %s",
                    dtype_name(res->dtype), shape_text(&res->s, text), dtype_name(t),
                    shape_text(&y, want));
    out_set(n, 0, t, y);
out:
    return st;
}

static double work(const node *n) {
    dims d = dims_of(n);
    return 2.0 * (double)d.batch * (double)d.m * (double)d.n * (double)d.k;
}

static void ref(const node *n) {
    const matmul_attrs *at = ATTRS(n, matmul_attrs);
    dims d = dims_of(n);
    EACH(i, n->out[0]) {
        int64_t col = i % d.n, row = i / d.n % d.m, z = i / d.n / d.m, bz = d.shared ? 0 : z;
        double s = 0;
        for (int64_t k = 0; k < d.k; k++)
            s += IN(0, z * d.m * d.k + (at->trans_a ? k * d.m + row : row * d.k + k)) *
                 IN(1, bz * d.n * d.k + (at->trans_b ? col * d.k + k : k * d.n + col));
        if (n->in[2]) s += IN(2, col);
        s = gemm_act_ref((host_act)at->act, s);
        SET(0, i, n->in[3] ? s + IN(3, i) : s);
    }
}

/* ---- cpu ---- */
static status prepare_host(prep *p, node *n) {
    status st = OK;
    const matmul_attrs *at = ATTRS(n, matmul_attrs);
    dims d = dims_of(n);
    host_prim *prim = NULL;
    bool frozen = d.shared && prep_frozen(n, 1);
    host_matmul_desc h = {.batch = d.batch,
                          .m = d.m,
                          .n = d.n,
                          .k = d.k,
                          .trans_a = at->trans_a,
                          .trans_w = at->trans_b,
                          .w_shared = d.shared,
                          .in = n->in[0]->dtype,
                          .out = n->out[0]->dtype,
                          .bias = n->in[2] != NULL,
                          .residual = n->in[3] != NULL,
                          .packed_w = frozen,
                          .act = (host_act)at->act};
    TRY(host_matmul_create(p->host, &h, &prim));
    TRY(gemm_host_keep(p, n, prim, frozen ? 1 : -1));
out:
    return st;
}

static void host_run(host *h, const node *n) {
    host_matmul_run(h, n->prepared, n->in[0]->data, gemm_host_weight(n, 1),
                    n->in[2] ? n->in[2]->data : NULL, n->in[3] ? n->in[3]->data : NULL,
                    n->out[0]->data, gemm_host_scratch(n));
}

/* ---- Vulkan ---- */
static gemm_form form_of(const dims *d, const matmul_attrs *at) {
    return (gemm_form){at->trans_a, at->trans_b, (at->trans_a ? d->m : d->k) % 4 == 0,
                       (at->trans_b ? d->k : d->n) % 4 == 0};
}

static gemm_epilogue epilogue_of(const node *n, const dims *d) {
    return (gemm_epilogue){d->n % 4 == 0, n->in[2] != NULL, n->in[3] != NULL,
                           n->out[0]->dtype == DT_F32, (host_act)ATTRS(n, matmul_attrs)->act};
}

/* bind: a, b, bias, residual, y (or the partial sums when splits > 1) */
static status emit(gpu_cmd *c, const dims *d, const gemm_form *f, dtype type, const gemm_tile *t,
                   uint32_t splits, const gemm_epilogue *e, const gpu_span bind[5]) {
    int64_t tm = div_up(d->m, tile_rows(t)), tn = div_up(d->n, tile_cols(t));
    int64_t split_k = div_up(div_up(d->k, splits), 16) * 16;
    struct {
        uint32_t m, n, k, lda, ldb, a_batch, b_batch, tiles_m, tiles_n, batch, splits, k_split;
    } push = {(uint32_t)d->m,
              (uint32_t)d->n,
              (uint32_t)d->k,
              (uint32_t)(f->a_t ? d->m : d->k),
              (uint32_t)(f->b_t ? d->k : d->n),
              (uint32_t)(d->m * d->k),
              d->shared ? 0 : (uint32_t)(d->n * d->k),
              (uint32_t)tm,
              (uint32_t)tn,
              (uint32_t)d->batch,
              splits,
              (uint32_t)split_k};
    gpu_dispatch_params p = {.shader = t->coopmat ? "matmul_coopmat" : "matmul",
                             .type = type,
                             .n_bind = 5,
                             .bind = {bind[0], bind[1], e->bias ? bind[2] : bind[0],
                                      e->residual ? bind[3] : bind[0], bind[4]},
                             .push = &push,
                             .push_bytes = sizeof push,
                             .work = 2.0 * (double)d->batch * (double)d->m * (double)d->n *
                                     (double)d->k};
    p.n_spec = gemm_spec(t, f, e, p.spec);
    gpu_groups_1d((uint64_t)(tm * tn * d->batch * splits), 1, p.groups);
    return gpu_dispatch_(c, &p);
}

enum { MOST_SPLITS = 64 };

/* y: as it is, or its parts: no more than the largest tiles that gemm_splits hands out. */
static void tune_size(gemm_job *j) {
    size_t e = dtype_bytes(j->type);
    int64_t y = j->cap_m * j->n, parts = MIN(MOST_SPLITS * y, (int64_t)GEMM_FILL * 128 * 128);
    j->bytes[0] = (uint64_t)(j->cap_m * j->k) * e;
    j->bytes[1] = (uint64_t)(j->n * j->k) * e;
    j->bytes[2] = MAX((uint64_t)y * e, (uint64_t)parts * 4);
}

static status tune_emit(gpu_cmd *c, const gemm_job *j, const gemm_tile *t, const gpu_span s[3]) {
    dims d = {1, j->cap_m, j->n, j->k, true};
    uint32_t splits = gemm_splits(t, d.m, d.n, 1, d.k, MOST_SPLITS);
    gemm_epilogue e = {.vec = j->n % 4 == 0, .f32 = splits > 1 || j->type == DT_F32};
    return emit(c, &d, &j->form, j->type, t, splits, &e,
                (const gpu_span[5]){s[0], s[1], s[0], s[0], s[2]});
}

static status prepare_gpu(prep *p, node *n) {
    status st = OK;
    dims d = dims_of(n);
    gemm_plan gp = {0};
    gemm_job j = {.name = "matmul",
                  .coopmat = "matmul_coopmat",
                  .type = n->in[0]->dtype,
                  .form = form_of(&d, ATTRS(n, matmul_attrs)),
                  .m = d.m,
                  .n = d.n,
                  .k = d.k,
                  .batch = d.batch,
                  .size = tune_size,
                  .emit = tune_emit};
    TRY(gemm_choose(p->gpu, &j, &gp.tile));
    gp.splits = gemm_splits(&gp.tile, d.m, d.n, d.batch, d.k, MOST_SPLITS);
    if (gp.splits > 1) prep_scratch(n, (size_t)(gp.splits * d.batch * d.m * d.n) * 4);
    TRY(gemm_plan_keep(n, &gp));
out:
    return st;
}

static status prepare(prep *p, node *n) { return p->gpu ? prepare_gpu(p, n) : prepare_host(p, n); }

static status encode(gpu_cmd *c, const node *n) {
    status st = OK;
    const gemm_plan *p = n->prepared;
    dims d = dims_of(n);
    gemm_form f = form_of(&d, ATTRS(n, matmul_attrs));
    gemm_epilogue e = epilogue_of(n, &d);
    gpu_span a = n->in[0]->span, y = n->out[0]->span;
    gpu_span bind[5] = {a, n->in[1]->span, n->in[2] ? n->in[2]->span : a,
                        n->in[3] ? n->in[3]->span : a, y};
    dtype type = n->in[0]->dtype;
    if (p->splits == 1) return emit(c, &d, &f, type, &p->tile, 1, &e, bind);
    gemm_epilogue part = {.vec = e.vec, .f32 = true};
    bind[4] = n->scratch->span;
    TRY(emit(c, &d, &f, type, &p->tile, p->splits, &part, bind));
    TRY(gemm_reduce(c, type, &e, n->scratch->span, bind[2], bind[3], y, d.batch * d.m * d.n, 1,
                    p->splits, d.n));
out:
    return st;
}

/* ---- gradients ---- */
static tensor *product(graph *g, const node *n, tensor *a, bool ta, tensor *b, bool tb, dtype out) {
    return op_matmul_(g, a, b, NULL, NULL, (matmul_attrs){ta, tb, ACT_NONE, out}, n->at);
}

static void backward(graph *g, const node *n, tensor *const dys[], tensor *dx[]) {
    const matmul_attrs *at = ATTRS(n, matmul_attrs);
    tensor *a = n->in[0], *b = n->in[1], *dy = dys[0];
    bool ta = at->trans_a, tb = at->trans_b;
    dims d = dims_of(n);
    if (node_wants(n, 3)) dx[3] = dy;
    if (at->act != ACT_NONE)
        dy = gemm_act_bwd(
            g, n,
            op_matmul_(g, a, b, n->in[2], NULL, (matmul_attrs){ta, tb, ACT_NONE, at->out}, n->at),
            dy, (host_act)at->act);
    if (node_wants(n, 2)) dx[2] = gemm_dbias(g, n, dy);
    if (!node_wants(n, 0) && !node_wants(n, 1)) return;
    dy = op_cast_(g, dy, a->dtype, n->at);
    if (node_wants(n, 0)) {
        tensor *da = ta ? product(g, n, b, tb, dy, true, DT_COUNT)
                        : product(g, n, dy, false, b, !tb, DT_COUNT);
        dx[0] = op_reshape_(g, da, a->s, n->at);
    }
    if (!node_wants(n, 1)) return;
    dtype out = d.shared ? DT_F32 : DT_COUNT;
    if (d.shared) { /* the folded dims are the sum */
        a = op_reshape_(g, a, ta ? SHAPE(d.k, d.m) : SHAPE(d.m, d.k), n->at);
        dy = op_reshape_(g, dy, SHAPE(d.m, d.n), n->at);
    }
    dx[1] = tb ? product(g, n, dy, true, a, ta, out) : product(g, n, a, !ta, dy, false, out);
}

static tensor *build(graph *g, tensor **in, const op_case *c) {
    matmul_attrs at = {(uint32_t)c->a[0], (uint32_t)c->a[1], (uint32_t)c->a[2],
                       c->a[3] != 0 ? DT_F32 : DT_COUNT};
    return op_matmul_(g, in[0], in[1], in[2], in[3], at, HERE);
}

/* a: trans_a, trans_b, act, f32 output */
static const op_case cases[] = {
    CASE("[1,1] [1,1] - -"),
    CASE("[7,5] [5,3] f32[3] -"),
    CASE("[5,7] [5,3] - -", .a = {1, 0}),
    CASE("[7,5] [3,5] f32[3] [7,3]", .a = {0, 1}),
    CASE("[5,7] [3,5] - -", .a = {1, 1}),
    CASE("[2,3,8] [12,8] f32[12] [2,3,12]", .a = {0, 1, ACT_SILU}),
    CASE("[3,2,8] [6,4] - -", .a = {1, 0}),
    CASE("[2,5,8] [8,12] f32[12] -", .a = {0, 0, ACT_GELU_ERF}),
    CASE("[2,5,8] [8,9] f32[9] -", .a = {0, 0, ACT_GELU_TANH}),
    CASE("[6,8] [8,9] - -", .a = {0, 0, ACT_QUICK_GELU}),
    CASE("[6,8] [8,8] f32[8] -", .a = {0, 0, ACT_RELU}, .no_grad = true),
    CASE("[3,6,4] [3,4,5] - -"),
    CASE("[3,4,6] [3,4,5] - -", .a = {1, 0}),
    CASE("[2,2,6,4] [2,2,5,4] f32[5] [2,2,6,5]", .a = {0, 1}),
    CASE("[3,4,6] [3,5,4] - -", .a = {1, 1}),
    CASE("[6,16] [16,8] f32[8] -", .a = {0, 0, ACT_NONE, 1}),
    CASE("[33,68] [68,36] f32[36] -"),
    CASE("[33,67] [67,37] f32[37] -"),
    CASE("[130,64] [132,64]@ f32[132] [130,132]", .a = {0, 1}, .no_grad = true),
    CASE("[4099,9] [4099,5] - -", .a = {1, 0, ACT_NONE, 1}, .no_grad = true,
         .tol = 1e-4), /* a long sum: split */
    CASE("[3000,12] [3000,8] - -", .a = {1, 0}, .no_grad = true, .tol = 1e-4),
    CASE("[154,768] [320,768] f32[320] -", .a = {0, 1}, .no_grad = true),
    CASE("[2,64,320] [320,320]@ f32[320] [2,64,320]", .a = {0, 1}, .no_grad = true),
    CASE("[2,4096,320] [2560,320]@ f32[2560] -", .a = {0, 1}, .no_grad = true, .big = true),
    CASE("[4096,1280] [1280,1280] - -", .a = {0, 0}, .no_grad = true, .big = true),
    CASE("[8192,320] [8192,320] - -", .a = {1, 0, ACT_NONE, 1}, .no_grad = true, .big = true,
         .tol = 1e-4),
};

const op_info op_matmul_info = {.name = "matmul",
                                .n_in = 4,
                                .n_out = 1,
                                .attrs_size = sizeof(matmul_attrs),
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
