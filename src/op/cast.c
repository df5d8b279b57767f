/* cast: y = x rounded to another float type, to nearest even.
 *   x  [...] f32|f16|bf16   returns [...] of type t; x itself when that is its type
 *   A gradient is cast to x's type: that of a f32 master weight read through its half copy stays
 * f32. In double (tests) every cast keeps f64. errors  E_UNSUPPORTED for u32      source  IEEE 754
 * round to nearest even SPDX-License-Identifier: MIT */
#include "op/move.h"

typedef struct cast_attrs {
    uint32_t to;
} cast_attrs;
extern const op_info op_cast_info;

tensor *op_cast_(graph *g, tensor *x, dtype t, const char *here) {
    if (x->dtype == t) return x;
    return op_record(g, &op_cast_info, here, &(cast_attrs){(uint32_t)t}, OP_IN(x));
}

static status infer(graph *g, node *n) {
    (void)g;
    dtype from = n->in[0]->dtype, to = (dtype)ATTRS(n, cast_attrs)->to;
    if (!move_is_float(from) || !move_is_float(to))
        return fail(E_UNSUPPORTED, "cast is between float types, not from %s to %s",
                    dtype_name(from), dtype_name(to));
    out_set(n, 0, from == DT_F64 ? DT_F64 : to, n->in[0]->s);
    return OK;
}

static status encode(gpu_cmd *c, const node *n) {
    const tensor *x = n->in[0], *y = n->out[0];
    uint64_t count = (uint64_t)tensor_count(x);
    bool vec = count % 4 == 0;
    struct {
        uint32_t n;
    } push = {(uint32_t)(vec ? count / 4 : count)};
    return move_dispatch(c,
                         (gpu_dispatch_params){.shader = "cast",
                                               .type = x->dtype,
                                               .spec = {vec,
                                                        y->dtype == DT_F32   ? 0
                                                        : y->dtype == DT_F16 ? 1
                                                                             : 2,
                                                        false},
                                               .n_spec = 3,
                                               .bind = {x->span, y->span},
                                               .n_bind = 2,
                                               .push = &push,
                                               .push_bytes = sizeof push},
                         push.n);
}

static void host_run(host *h, const node *n) {
    const tensor *x = n->in[0], *y = n->out[0];
    host_convert(h, y->data, y->dtype, x->data, x->dtype, tensor_count(x));
}

static void backward(graph *g, const node *n, tensor *const dy[], tensor *dx[]) {
    dx[0] = op_cast_(g, dy[0], n->in[0]->dtype, n->at);
}

static void ref(const node *n) { EACH(i, n->out[0]) SET(0, i, IN(0, i)); }

/* a[0]: the target; where it is the type under test, the type after it. */
static tensor *build(graph *g, tensor **in, const op_case *c) {
    static const dtype next[] = {[DT_F32] = DT_F16, [DT_F16] = DT_BF16, [DT_BF16] = DT_F32};
    dtype to = (dtype)c->a[0];
    return op_cast_(g, in[0], in[0]->dtype == to ? next[to] : to, HERE);
}

static const op_case cases[] = {
    CASE("[1]", .a = {DT_F16}, .tol = 4e-3),
    CASE("[3,37]", .a = {DT_F32}, .tol = 4e-3),
    CASE("[5,1001]=-0.0001:0.0001", .a = {DT_F16}, .tol = 4e-3), /* subnormal halves */
    CASE("[4,77,768]", .a = {DT_BF16}, .tol = 4e-3),
    /* over 65,535 workgroups */
    CASE("[4097,4097]", .a = {DT_BF16}, .tol = 4e-3, .no_grad = true, .big = true),
};

const op_info op_cast_info = {.name = "cast",
                              .n_in = 1,
                              .n_out = 1,
                              .attrs_size = sizeof(cast_attrs),
                              .types = TYPES_FLOAT,
                              .grad_any_type = true,
                              .infer = infer,
                              .encode = encode,
                              .host = host_run,
                              .backward = backward,
                              .ref = ref,
                              .build = build,
                              CASES(cases)};
