/* reshape: the same elements in the same order under another shape; a view, nothing runs.
 *   x  [...] any type   returns shape s with as many elements
 *   errors  E_SHAPE if the element counts differ      source  torch.reshape of a contiguous tensor
 * SPDX-License-Identifier: MIT */
#include "op/op.h"

extern const op_info op_reshape_info;

tensor *op_reshape_(graph *g, tensor *x, shape s, const char *here) {
    return op_record(g, &op_reshape_info, here, &s, OP_IN(x));
}

static status infer(graph *g, node *n) {
    (void)g;
    const shape *s = ATTRS(n, shape);
    char a[96];
    if (shape_count(s) != tensor_count(n->in[0]))
        return fail(E_SHAPE, "reshape to %s needs %lld elements, the input has %lld",
                    shape_text(s, a), (long long)shape_count(s), (long long)tensor_count(n->in[0]));
    out_set(n, 0, n->in[0]->dtype, *s);
    return OK;
}

static void backward(graph *g, const node *n, tensor *const dy[], tensor *dx[]) {
    dx[0] = op_reshape_(g, dy[0], n->in[0]->s, n->at);
}

/* Not run by any executor: the view shares its input's memory. */
static void ref(const node *n) { EACH(i, n->out[0]) SET(0, i, IN(0, i)); }

static tensor *build(graph *g, tensor **in, const op_case *c) {
    shape s = {.n = (int)c->a[0]};
    for (int i = 0; i < s.n; i++) s.d[i] = (int64_t)c->a[i + 1];
    return op_scale(g, op_reshape_(g, op_scale(g, in[0], 2.0f), s, HERE), 0.5f);
}

static const op_case cases[] = {
    CASE("[1]", .a = {2, 1, 1}),
    CASE("[2,3,5]", .a = {2, 6, 5}),
    CASE("[2,8,8,4]", .a = {3, 2, 64, 4}),
    CASE("[7]", .a = {6, 1, 1, 7, 1, 1, 1}),
};

const op_info op_reshape_info = {.name = "reshape",
                                 .n_in = 1,
                                 .n_out = 1,
                                 .attrs_size = sizeof(shape),
                                 .types = TYPES_FLOAT,
                                 .view = true,
                                 .grad_any_type = true,
                                 .infer = infer,
                                 .backward = backward,
                                 .ref = ref,
                                 .build = build,
                                 CASES(cases)};
