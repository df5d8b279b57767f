/* rms_norm: y = x * rstd * scale, rstd = 1 / sqrt(mean(x^2) + eps) of each row (the last dim).
 *   x  [..., C] f32|f16|bf16; scale [C] f32, may be NULL      returns y like x; rstd f32 [...]
 * rms_norm_bwd: (x, scale, rstd, dy) -> dx like x, dscale [C] f32 ([1] and 0 when not wanted)
 *   errors  E_SHAPE if scale is not f32 [C]      source  Zhang & Sennrich 2019;
 *     torch.nn.functional.rms_norm
 * SPDX-License-Identifier: MIT */
#include "op/norm_rows.h"

extern const op_info op_rms_norm_info, op_rms_norm_bwd_info;

tensor *op_rms_norm_(graph *g, tensor *x, tensor *scale, float eps, const char *here) {
    return op_record(g, &op_rms_norm_info, here, &(norm_rows_attrs){eps, 0}, OP_IN(x, scale));
}

static status infer(graph *g, node *n) {
    (void)g;
    const tensor *x = n->in[0];
    int64_t c = x->s.d[x->s.n - 1];
    if (!move_is_float(x->dtype))
        return fail(E_UNSUPPORTED, "rms_norm: x is %s; give a float type", dtype_name(x->dtype));
    if (!norm_vector(n->in[1], x, c))
        return fail(E_SHAPE, "rms_norm: scale must be f32 [%lld]", (long long)c);
    out_like(n, 0, x);
    out_set(n, 1, dtype_acc(x->dtype), norm_rows_shape(x));
    return OK;
}

static norm_rows_io io_of(const node *n) {
    return (norm_rows_io){.x = n->in[0],
                          .scale = n->in[1],
                          .y = n->out[0],
                          .rstd = n->out[1],
                          .rms = true,
                          .eps = ATTRS(n, norm_rows_attrs)->eps};
}

static status encode(gpu_cmd *c, const node *n) {
    norm_rows_io io = io_of(n);
    return norm_rows_encode(c, n, &io);
}

static void host_run(host *h, const node *n) {
    norm_rows_io io = io_of(n);
    norm_rows_host(h, n, &io);
}

static void ref(const node *n) {
    norm_rows_io io = io_of(n);
    norm_rows_ref(n, &io);
}

static void backward(graph *g, const node *n, tensor *const dy[], tensor *dx[]) {
    if (dy[1]) graph_fail(g, n->at, E_UNSUPPORTED, "rms_norm: rstd has no gradient");
    if (!dy[0]) return;
    tensor *d = op_record(g, &op_rms_norm_bwd_info, n->at, &(norm_rows_attrs){0, node_wants(n, 1)},
                          OP_IN(n->in[0], n->in[1], n->out[1], dy[0]));
    if (node_wants(n, 0)) dx[0] = d;
    if (node_wants(n, 1)) dx[1] = tensor_out(d, 1);
}

static tensor *build(graph *g, tensor **in, const op_case *c) {
    (void)c;
    return op_rms_norm(g, in[0], in[1], 1e-6f);
}

static const op_case cases[] = {
    CASE("[1] f32[1]"),
    CASE("[3,37] f32[37]=0.5:2"),
    CASE("[2,5,8] f32[8]=0.5:2"),
    CASE("[3,36] -"),
    CASE("[5,1025] f32[1025]=0.5:2"),
    CASE("[1,77,4096] f32[4096]=0.5:2", .no_grad = true),
};

const op_info op_rms_norm_info = {.name = "rms_norm",
                                  .n_in = 2,
                                  .n_out = 2,
                                  .attrs_size = sizeof(norm_rows_attrs),
                                  .types = TYPES_FLOAT,
                                  .infer = infer,
                                  .encode = encode,
                                  .host = host_run,
                                  .backward = backward,
                                  .ref = ref,
                                  .build = build,
                                  CASES(cases)};

/* ---- gradient ---- */

enum { X, SCALE, RSTD, DY };

static status bwd_infer(graph *g, node *n) {
    (void)g;
    const tensor *x = n->in[X], *dy = n->in[DY];
    if (!shape_equal(&x->s, &dy->s) || x->dtype != dy->dtype)
        return fail(E_SHAPE, "rms_norm_bwd: x and dy must have one shape and type");
    out_like(n, 0, x);
    out_set(n, 1, dtype_acc(x->dtype),
            SHAPE(ATTRS(n, norm_rows_attrs)->sums ? x->s.d[x->s.n - 1] : 1));
    return OK;
}

static norm_rows_io bwd_io(const node *n) {
    return (norm_rows_io){.x = n->in[X],
                          .scale = n->in[SCALE],
                          .rstd = n->in[RSTD],
                          .dy = n->in[DY],
                          .y = n->out[0],
                          .dscale = n->out[1],
                          .rms = true,
                          .sums = ATTRS(n, norm_rows_attrs)->sums};
}

static status bwd_prepare(prep *p, node *n) {
    norm_rows_io io = bwd_io(n);
    return norm_rows_prepare(p, n, &io);
}

static status bwd_encode(gpu_cmd *c, const node *n) {
    norm_rows_io io = bwd_io(n);
    return norm_rows_encode(c, n, &io);
}

static void bwd_host(host *h, const node *n) {
    norm_rows_io io = bwd_io(n);
    norm_rows_host(h, n, &io);
}

static void bwd_ref(const node *n) {
    norm_rows_io io = bwd_io(n);
    norm_rows_ref(n, &io);
}

/* a[0]: sums */
static tensor *bwd_build(graph *g, tensor **in, const op_case *c) {
    return op_record(g, &op_rms_norm_bwd_info, HERE, &(norm_rows_attrs){0, c->a[0] != 0}, 4, in);
}

static const op_case bwd_cases[] = {
    CASE("[1,2] f32[2] f32[1]=0.5:2 [1,2]", .a = {1}),
    CASE("[3,37] f32[37] f32[3]=0.5:2 [3,37]", .a = {1}),
    CASE("[3,36] - f32[3]=0.5:2 [3,36]", .a = {0}),
    CASE("[2,500,128] f32[128] f32[2,500]=0.5:2 [2,500,128]", .a = {1}),
};

const op_info op_rms_norm_bwd_info = {.name = "rms_norm_bwd",
                                      .n_in = 4,
                                      .n_out = 2,
                                      .attrs_size = sizeof(norm_rows_attrs),
                                      .types = TYPES_FLOAT,
                                      .infer = bwd_infer,
                                      .prepare = bwd_prepare,
                                      .encode = bwd_encode,
                                      .host = bwd_host,
                                      .ref = bwd_ref,
                                      .build = bwd_build,
                                      CASES(bwd_cases)};
