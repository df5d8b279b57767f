/* layer_norm: y = (x - mean) * rstd * scale + shift, mean and variance of each row (the last dim).
 *   x  [..., C] f32|f16|bf16; scale, shift [C] f32, may be NULL
 *   returns y like x; mean and rstd = 1 / sqrt(var + eps), f32 [...], var biased
 * layer_norm_bwd: (x, scale, mean, rstd, dy) -> dx like x, dscale [C] f32, dshift [C] f32 ([1] and
 * 0 when not wanted)
 *   errors  E_SHAPE if scale or shift are not f32 [C]      source  Ba, Kiros & Hinton 2016;
 *     torch.nn.functional.layer_norm
 * SPDX-License-Identifier: MIT */
#include "op/norm_rows.h"

extern const op_info op_layer_norm_info, op_layer_norm_bwd_info;

tensor *op_layer_norm_(graph *g, tensor *x, tensor *scale, tensor *shift, float eps,
                       const char *here) {
    return op_record(g, &op_layer_norm_info, here, &(norm_rows_attrs){eps, 0},
                     OP_IN(x, scale, shift));
}

static status infer(graph *g, node *n) {
    (void)g;
    const tensor *x = n->in[0];
    int64_t c = x->s.d[x->s.n - 1];
    if (!move_is_float(x->dtype))
        return fail(E_UNSUPPORTED, "layer_norm: x is %s; give a float type", dtype_name(x->dtype));
    if (!norm_vector(n->in[1], x, c) || !norm_vector(n->in[2], x, c))
        return fail(E_SHAPE, "layer_norm: scale and shift must be f32 [%lld]", (long long)c);
    out_like(n, 0, x);
    out_set(n, 1, dtype_acc(x->dtype), norm_rows_shape(x));
    out_set(n, 2, dtype_acc(x->dtype), norm_rows_shape(x));
    return OK;
}

static norm_rows_io io_of(const node *n) {
    return (norm_rows_io){.x = n->in[0],
                          .scale = n->in[1],
                          .shift = n->in[2],
                          .y = n->out[0],
                          .mean = n->out[1],
                          .rstd = n->out[2],
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
    if (dy[1] || dy[2])
        graph_fail(g, n->at, E_UNSUPPORTED, "layer_norm: mean and rstd have no gradient");
    if (!dy[0]) return;
    norm_rows_attrs a = {0, node_wants(n, 1) || node_wants(n, 2)};
    tensor *d = op_record(g, &op_layer_norm_bwd_info, n->at, &a,
                          OP_IN(n->in[0], n->in[1], n->out[1], n->out[2], dy[0]));
    if (node_wants(n, 0)) dx[0] = d;
    if (node_wants(n, 1)) dx[1] = tensor_out(d, 1);
    if (node_wants(n, 2)) dx[2] = tensor_out(d, 2);
}

static tensor *build(graph *g, tensor **in, const op_case *c) {
    (void)c;
    return op_layer_norm(g, in[0], in[1], in[2], 1e-5f);
}

static const op_case cases[] = {
    CASE("[1] f32[1] f32[1]",
         .tol = 1e-3), /* the gradient is 0, from terms of size 1 / sqrt(eps) */
    CASE("[3,37] f32[37]=0.5:2 f32[37]"),
    CASE("[2,5,8] f32[8]=0.5:2 f32[8]"),
    CASE("[7,1025] f32[1025]=0.5:2 f32[1025]"),
    CASE("[3,36] - -"),
    CASE("[3,36] f32[36] -"),
    CASE("[3,36] - f32[36]"),
    CASE("[5,64]=50:51 f32[64] f32[64]", .tol = 2e-4), /* mean far from 0: x itself is rounded */
    CASE("[2,77,768] f32[768]=0.5:2 f32[768]", .no_grad = true),
    CASE("[2,1024,640] f32[640]=0.5:2 f32[640]", .no_grad = true),
    CASE("[300000,4] f32[4] f32[4]", .no_grad = true),
};

const op_info op_layer_norm_info = {.name = "layer_norm",
                                    .n_in = 3,
                                    .n_out = 3,
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

enum { X, SCALE, MEAN, RSTD, DY };

static status bwd_infer(graph *g, node *n) {
    (void)g;
    const tensor *x = n->in[X], *dy = n->in[DY];
    int64_t c = ATTRS(n, norm_rows_attrs)->sums ? x->s.d[x->s.n - 1] : 1;
    if (!shape_equal(&x->s, &dy->s) || x->dtype != dy->dtype)
        return fail(E_SHAPE, "layer_norm_bwd: x and dy must have one shape and type");
    out_like(n, 0, x);
    out_set(n, 1, dtype_acc(x->dtype), SHAPE(c));
    out_set(n, 2, dtype_acc(x->dtype), SHAPE(c));
    return OK;
}

static norm_rows_io bwd_io(const node *n) {
    return (norm_rows_io){.x = n->in[X],
                          .scale = n->in[SCALE],
                          .mean = n->in[MEAN],
                          .rstd = n->in[RSTD],
                          .dy = n->in[DY],
                          .y = n->out[0],
                          .dscale = n->out[1],
                          .dshift = n->out[2],
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
    return op_record(g, &op_layer_norm_bwd_info, HERE, &(norm_rows_attrs){0, c->a[0] != 0}, 5, in);
}

static const op_case bwd_cases[] = {
    CASE("[1,2] f32[2] f32[1] f32[1]=0.5:2 [1,2]", .a = {1}),
    CASE("[3,37] f32[37] f32[3] f32[3]=0.5:2 [3,37]", .a = {1}),
    CASE("[2,50,8] f32[8] f32[2,50] f32[2,50]=0.5:2 [2,50,8]", .a = {1}),
    CASE("[3,36] - f32[3] f32[3]=0.5:2 [3,36]", .a = {0}),
    CASE("[7,1025] f32[1025] f32[7] f32[7]=0.5:2 [7,1025]", .a = {1}),
    CASE("[2,1024,640] f32[640] f32[2,1024] f32[2,1024]=0.5:2 [2,1024,640]", .a = {1}),
    CASE("[2,1024,640] f32[640] f32[2,1024] f32[2,1024]=0.5:2 [2,1024,640]", .a = {0}),
};

const op_info op_layer_norm_bwd_info = {.name = "layer_norm_bwd",
                                        .n_in = 5,
                                        .n_out = 3,
                                        .attrs_size = sizeof(norm_rows_attrs),
                                        .types = TYPES_FLOAT,
                                        .infer = bwd_infer,
                                        .prepare = bwd_prepare,
                                        .encode = bwd_encode,
                                        .host = bwd_host,
                                        .ref = bwd_ref,
                                        .build = bwd_build,
                                        CASES(bwd_cases)};
