/* sum_to: adds over the dims along which broadcasting would have stretched s to x's shape.
 *   x  [...] f32|f16|bf16   returns s, f32 (gradients of biases and scales are); x itself when s is
 *     its shape
 *   errors  E_SHAPE if s does not broadcast to x's shape
 *   source  the gradient of NumPy's broadcasting
 * SPDX-License-Identifier: MIT */
#include "op/sum.h"

typedef struct sum_to_attrs {
    shape s;
} sum_to_attrs;
extern const op_info op_sum_to_info;

tensor *op_sum_to_(graph *g, tensor *x, shape s, const char *here) {
    if (shape_equal(&x->s, &s)) return x;
    return op_record(g, &op_sum_to_info, here, &(sum_to_attrs){s}, OP_IN(x));
}

static status infer(graph *g, node *n) {
    (void)g;
    const tensor *x = n->in[0];
    const shape *s = &ATTRS(n, sum_to_attrs)->s;
    shape both;
    char a[96], b[96];
    if (!move_is_float(x->dtype))
        return fail(E_UNSUPPORTED, "sum_to: x is %s; give a float type", dtype_name(x->dtype));
    if (s->n < 1 || s->n > x->s.n || !bcast_shape(&x->s, s, &both) || !shape_equal(&both, &x->s))
        return fail(E_SHAPE, "sum_to: %s does not broadcast to %s", shape_text(s, a),
                    shape_text(&x->s, b));
    out_set(n, 0, dtype_acc(x->dtype), *s);
    return OK;
}

static uint32_t kept(const node *n) {
    const shape *x = &n->in[0]->s, *s = &n->out[0]->s;
    uint32_t keep = 0;
    for (int i = 1; i <= s->n; i++)
        if (s->d[s->n - i] == x->d[x->n - i]) keep |= 1u << (x->n - i);
    return keep;
}

static const sum_desc plain = {SUM_X, 1, false};

static status prepare(prep *p, node *n) {
    sum_geom s = sum_geometry(&n->in[0]->s, kept(n), p->gpu != NULL);
    prep_scratch(n, sum_scratch(&s));
    return OK;
}

static status encode(gpu_cmd *c, const node *n) {
    sum_geom s = sum_geometry(&n->in[0]->s, kept(n), true);
    return sum_encode(c, &s, &plain, n->in[0]->dtype, n->in[0]->span, n->in[0]->span,
                      n->out[0]->span, n->scratch ? n->scratch->span : (gpu_span){0});
}

static void host_run(host *h, const node *n) {
    sum_geom s = sum_geometry(&n->in[0]->s, kept(n), false);
    sum_host(h, &s, &plain, n->in[0]->data, n->in[0]->dtype, NULL, n->out[0]->data,
             n->scratch ? n->scratch->data : NULL);
}

static void backward(graph *g, const node *n, tensor *const dy[], tensor *dx[]) {
    shape s = {.n = n->in[0]->s.n};
    for (int i = 0; i < s.n; i++)
        s.d[i] = i < s.n - dy[0]->s.n ? 1 : dy[0]->s.d[i - (s.n - dy[0]->s.n)];
    dx[0] = sum_stretch(g, op_reshape_(g, dy[0], s, n->at), n->in[0], n->at);
}

static void ref(const node *n) {
    sum_geom s = sum_geometry(&n->in[0]->s, kept(n), false);
    EACH(i, n->out[0]) SET(0, i, sum_exact(&s, &plain, n->in[0]->data, n->in[0]->dtype, 0, i));
}

/* a[0]: dims of the target, then its sizes */
static tensor *build(graph *g, tensor **in, const op_case *c) {
    shape s = {.n = (int)c->a[0]};
    for (int i = 0; i < s.n; i++) s.d[i] = (int64_t)c->a[1 + i];
    return op_sum_to_(g, in[0], s, HERE);
}

static const op_case cases[] = {
    CASE("[1,1]", .a = {1, 1}),
    CASE("[3,37]", .a = {1, 37}),
    CASE("[3,37]", .a = {2, 3, 1}),
    CASE("[5,3,8]", .a = {1, 8}),
    CASE("[2,3,5,4]", .a = {4, 2, 1, 1, 4}),
    CASE("[2,3,5,7]", .a = {4, 1, 3, 1, 7}),
    CASE("[2,3,4,5,3,2]", .a = {6, 2, 1, 4, 1, 3, 1}),
    CASE("[3,2,4,5,3,4]", .a = {6, 1, 2, 1, 5, 1, 4}),
    CASE("[2,9,7]", .a = {1, 1}),
    CASE("[2,64,64,320]", .a = {1, 320}),
    CASE("[2,64,64,4]", .a = {4, 2, 1, 1, 4}),
    CASE("[65539,3]", .a = {1, 3}, .no_grad = true),
    CASE("[70001,2]", .a = {2, 70001, 1}, .no_grad = true),
    CASE("[1000003]", .a = {1, 1}, .no_grad = true),
    CASE("[4,1000]", .a = {2, 4, 1}),
};

const op_info op_sum_to_info = {.name = "sum_to",
                                .n_in = 1,
                                .n_out = 1,
                                .attrs_size = sizeof(sum_to_attrs),
                                .types = TYPES_FLOAT,
                                .infer = infer,
                                .prepare = prepare,
                                .encode = encode,
                                .host = host_run,
                                .backward = backward,
                                .ref = ref,
                                .build = build,
                                CASES(cases)};
