/* concat: up to 8 tensors one after another along one dim.
 *   x_i  [.., d_i, ..] one type, other dims equal   returns [.., sum d_i, ..]
 *   errors  E_SHAPE if other dims or the types differ      source  torch.cat
 * SPDX-License-Identifier: MIT */
#include "op/move.h"

#define CONCAT_MAX 8
typedef struct concat_attrs {
    uint32_t dim;
} concat_attrs;
extern const op_info op_concat_info;

tensor *op_concat_(graph *g, tensor *const *x, int n, int dim, const char *here) {
    if (n < 1 || n > CONCAT_MAX)
        graph_fail(g, here, E_SHAPE, "concat of %d tensors: 1 to %d are possible", n, CONCAT_MAX);
    if (n == 1) return x[0];
    return op_record(g, &op_concat_info, here, &(concat_attrs){(uint32_t)dim}, n, x);
}

static status infer(graph *g, node *n) {
    (void)g;
    uint32_t dim = ATTRS(n, concat_attrs)->dim;
    shape s = n->in[0]->s;
    if (dim >= (uint32_t)s.n)
        return fail(E_SHAPE, "concat along dim %d of a tensor of %d dims", (int)dim, s.n);
    for (int i = 1; i < n->n_in; i++) {
        shape x = n->in[i]->s;
        if (x.n == s.n) s.d[dim] += x.d[dim], x.d[dim] = s.d[dim];
        if (!shape_equal(&x, &s))
            return fail(E_SHAPE,
                        "concat along dim %d: input %d differs from input 0 in another dim",
                        (int)dim, i);
        if (n->in[i]->dtype != n->in[0]->dtype)
            return fail(E_SHAPE, "concat of %s and %s: cast one of them",
                        dtype_name(n->in[0]->dtype), dtype_name(n->in[i]->dtype));
    }
    out_set(n, 0, n->in[0]->dtype, s);
    return OK;
}

/* Elements of each input in one row of the output, which is all from dim on: at[i] .. at[i + 1]. */
static void row_parts(const node *n, int64_t at[CONCAT_MAX + 1]) {
    int64_t outer, inner;
    int dim = (int)ATTRS(n, concat_attrs)->dim;
    move_split(&n->out[0]->s, dim, &outer, &inner);
    at[0] = 0;
    for (int i = 0; i < CONCAT_MAX; i++)
        at[i + 1] = at[i] + (i < n->n_in ? n->in[i]->s.d[dim] * inner : 0);
}

static status encode(gpu_cmd *c, const node *n) {
    const tensor *y = n->out[0];
    int64_t at[CONCAT_MAX + 1];
    row_parts(n, at);
    uint32_t unit = 4;
    for (int i = 1; i <= n->n_in; i++)
        if (at[i] % 4) unit = 1;
    struct {
        uint32_t n, at[CONCAT_MAX + 1];
    } push = {(uint32_t)tensor_count(y) / unit};
    gpu_dispatch_params p = {.shader = "concat",
                             .type = move_type(y->dtype),
                             .spec = {unit == 4},
                             .n_spec = 1,
                             .n_bind = CONCAT_MAX + 1,
                             .push = &push,
                             .push_bytes = sizeof push};
    for (int i = 0; i <= CONCAT_MAX; i++) push.at[i] = (uint32_t)at[i] / unit;
    for (int i = 0; i < CONCAT_MAX; i++) p.bind[i] = n->in[i < n->n_in ? i : 0]->span;
    p.bind[CONCAT_MAX] = y->span;
    return move_dispatch(c, p, push.n);
}

/* Elements [begin, end) of the output. */
static void run(void *ctx, int64_t begin, int64_t end) {
    const node *n = ctx;
    int64_t at[CONCAT_MAX + 1];
    row_parts(n, at);
    size_t e = dtype_bytes(n->out[0]->dtype);
    char *dst = n->out[0]->data;
    int64_t width = at[CONCAT_MAX];
    for (int64_t i = begin; i < end;) {
        int64_t row = i / width, col = i % width, k = 0;
        while (col >= at[k + 1]) k++;
        int64_t part = at[k + 1] - at[k], m = MIN(at[k + 1] - col, end - i);
        memcpy(dst + (size_t)i * e,
               (const char *)n->in[k]->data + (size_t)(row * part + col - at[k]) * e,
               (size_t)m * e);
        i += m;
    }
}

static void host_run(host *h, const node *n) {
    host_parallel(h, tensor_count(n->out[0]), MOVE_GRAIN, run, (void *)(uintptr_t)n);
}

static void backward(graph *g, const node *n, tensor *const dy[], tensor *dx[]) {
    int dim = (int)ATTRS(n, concat_attrs)->dim;
    int64_t at = 0;
    for (int i = 0; i < n->n_in; i++) {
        int64_t d = n->in[i]->s.d[dim];
        if (node_wants(n, i)) dx[i] = op_slice_(g, dy[0], dim, at, at + d, n->at);
        at += d;
    }
}

static void ref(const node *n) {
    int64_t at[CONCAT_MAX + 1];
    row_parts(n, at);
    EACH(i, n->out[0]) {
        int64_t row = i / at[CONCAT_MAX], col = i % at[CONCAT_MAX];
        int k = 0;
        while (col >= at[k + 1]) k++;
        SET(0, i, IN(k, row * (at[k + 1] - at[k]) + col - at[k]));
    }
}

/* a[0]: dim, a[1]: number of inputs */
static tensor *build(graph *g, tensor **in, const op_case *c) {
    return op_concat_(g, in, (int)c->a[1], (int)c->a[0], HERE);
}

static const op_case cases[] = {
    CASE("[1] [1]", .a = {0, 2}),
    CASE("[2,3,5] [2,1,5]", .a = {1, 2}),
    CASE("[2,3,8] [2,3,4]", .a = {2, 2}),
    CASE("[3] [1] [2] [4] [1] [5] [1] [6]", .a = {0, 8}),
    CASE("[2,4,4] [1,4,4] [3,4,4]", .a = {0, 3}),
    CASE("[2,16,16,320] [2,16,16,640]", .a = {3, 2}, .no_grad = true),
};

const op_info op_concat_info = {.name = "concat",
                                .n_in = CONCAT_MAX,
                                .n_out = 1,
                                .attrs_size = sizeof(concat_attrs),
                                .types = TYPES_FLOAT,
                                .grad_any_type = true,
                                .infer = infer,
                                .encode = encode,
                                .host = host_run,
                                .backward = backward,
                                .ref = ref,
                                .build = build,
                                CASES(cases)};
