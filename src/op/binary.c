/* binary: a + b, a - b, a * b, a / b, elementwise with NumPy broadcasting.
 *   a, b  f32|f16|bf16, one type   returns the shape both stretch to, same type; computed in f32
 *   Dims are merged where both operands allow, so most calls end as one dim, or rows beside a
 *     vector.
 *   Gradients: summed back to the operand's shape in f32 (op_sum_to), so that of a stretched
 *     operand is f32.
 *   errors  E_SHAPE if the shapes do not broadcast, E_UNSUPPORTED if the types differ
 *   source  NumPy, "Broadcasting"
 * SPDX-License-Identifier: MIT */
#include "op/block.h"

typedef struct binary_attrs {
    uint32_t kind;
} binary_attrs;
extern const op_info op_binary_info;

tensor *op_binary_(graph *g, tensor *a, tensor *b, binary_kind k, const char *here) {
    return op_record(g, &op_binary_info, here, &(binary_attrs){(uint32_t)k}, OP_IN(a, b));
}

static status infer(graph *g, node *n) {
    (void)g;
    const tensor *a = n->in[0], *b = n->in[1];
    shape s;
    char ta[96], tb[96];
    if (a->dtype != b->dtype || !move_is_float(a->dtype))
        return fail(E_UNSUPPORTED, "operands are %s and %s; give one float type (op_cast)",
                    dtype_name(a->dtype), dtype_name(b->dtype));
    if (!bcast_shape(&a->s, &b->s, &s))
        return fail(E_SHAPE, "%s and %s do not broadcast: dims must be equal or 1",
                    shape_text(&a->s, ta), shape_text(&b->s, tb));
    out_set(n, 0, a->dtype, s);
    return OK;
}

static bcast layout(const node *n) {
    return bcast_of(&n->out[0]->s, 2, (const shape *[]){&n->in[0]->s, &n->in[1]->s});
}

static status encode(gpu_cmd *c, const node *n) {
    const tensor *y = n->out[0];
    bcast l = layout(n);
    int last = l.n - 1;
    uint32_t unit = l.d[last] % 4 == 0 ? 4 : 1;
    struct {
        uint32_t n, d[MAX_DIMS], a[MAX_DIMS], b[MAX_DIMS];
    } push = {.n = (uint32_t)(tensor_count(y) / unit)};
    bcast_push(&l, unit, push.d, (uint32_t *[]){push.a, push.b});
    return move_dispatch(c,
                         (gpu_dispatch_params){.shader = "binary",
                                               .type = y->dtype,
                                               .spec = {ATTRS(n, binary_attrs)->kind, unit == 4,
                                                        l.stride[0][last] == 1,
                                                        l.stride[1][last] == 1, (uint32_t)l.n},
                                               .n_spec = 5,
                                               .bind = {n->in[0]->span, n->in[1]->span, y->span},
                                               .n_bind = 3,
                                               .push = &push,
                                               .push_bytes = sizeof push},
                         push.n);
}

#define DEFINE(name, operator)                                                                     \
    HOST_KERNEL(name,                                                                              \
                (const float *restrict a, const float *restrict b, float *restrict y, int64_t n),  \
                (a, b, y, n)) {                                                                    \
        for (int64_t i = 0; i < n; i++) y[i] = a[i] operator b[i];                                 \
    }
DEFINE(block_add, +)
DEFINE(block_sub, -)
DEFINE(block_mul, *)
DEFINE(block_div, /)

typedef void block_fn(host_isa, const float *, const float *, float *, int64_t);
static block_fn *const blocks[B_KIND_COUNT] = {
    [B_ADD] = block_add, [B_SUB] = block_sub, [B_MUL] = block_mul, [B_DIV] = block_div};

typedef struct job {
    const node *n;
    host_isa isa;
    bcast l;
} job;

static void run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const tensor *a = j->n->in[0], *b = j->n->in[1], *y = j->n->out[0];
    block_fn *f = blocks[ATTRS(j->n, binary_attrs)->kind];
    float ba[LANES], bb[LANES], by[LANES];
    for (int64_t i = begin, m; i < end; i += m) {
        /* to the end of a row where rows are long: a vector operand is then read where it lies */
        int64_t row = j->l.d[j->l.n - 1];
        m = MIN(LANES, end - i);
        if (row >= 128) m = MIN(m, row - i % row);
        const float *va = bcast_in(j->isa, &j->l, 0, a->data, a->dtype, i, m, ba),
                    *vb = bcast_in(j->isa, &j->l, 1, b->data, b->dtype, i, m, bb);
        f(j->isa, va, vb, block_out(y->data, y->dtype, i, by), m);
        block_done(j->isa, y->data, y->dtype, i, m, by);
    }
}

static void host_run(host *h, const node *n) {
    host_parallel(h, tensor_count(n->out[0]), BLOCK_GRAIN, run,
                  &(job){n, host_get_isa(h), layout(n)});
}

static void backward(graph *g, const node *n, tensor *const dy[], tensor *dx[]) {
    tensor *a = n->in[0], *b = n->in[1], *d = dy[0];
    bool wa = node_wants(n, 0), wb = node_wants(n, 1);
    switch ((binary_kind)ATTRS(n, binary_attrs)->kind) {
    case B_ADD:
        if (wa) dx[0] = op_sum_to_(g, d, a->s, n->at);
        if (wb) dx[1] = op_sum_to_(g, d, b->s, n->at);
        break;
    case B_SUB:
        if (wa) dx[0] = op_sum_to_(g, d, a->s, n->at);
        if (wb) dx[1] = op_unary_(g, op_sum_to_(g, d, b->s, n->at), U_NEG, n->at);
        break;
    case B_MUL:
        if (wa) dx[0] = op_sum_to_(g, op_binary_(g, d, b, B_MUL, n->at), a->s, n->at);
        if (wb) dx[1] = op_sum_to_(g, op_binary_(g, d, a, B_MUL, n->at), b->s, n->at);
        break;
    case B_DIV: /* d(a/b)/db = -(a/b)/b */
        d = op_binary_(g, d, b, B_DIV, n->at);
        if (wa) dx[0] = op_sum_to_(g, d, a->s, n->at);
        if (wb)
            dx[1] =
                op_unary_(g, op_sum_to_(g, op_binary_(g, d, n->out[0], B_MUL, n->at), b->s, n->at),
                          U_NEG, n->at);
        break;
    case B_KIND_COUNT: break;
    }
}

static void ref(const node *n) {
    bcast l = layout(n);
    EACH(i, n->out[0]) {
        double a = IN(0, bcast_index(&l, 0, i)), b = IN(1, bcast_index(&l, 1, i)), y = 0;
        switch ((binary_kind)ATTRS(n, binary_attrs)->kind) {
        case B_ADD: y = a + b; break;
        case B_SUB: y = a - b; break;
        case B_MUL: y = a * b; break;
        case B_DIV: y = a / b; break;
        case B_KIND_COUNT: break;
        }
        SET(0, i, y);
    }
}

/* a[0]: kind */
static tensor *build(graph *g, tensor **in, const op_case *c) {
    return op_binary_(g, in[0], in[1], (binary_kind)c->a[0], HERE);
}

static const op_case cases[] = {
    CASE("[1] [1]", .a = {B_ADD}),
    CASE("[3,37] [3,37]", .a = {B_SUB}),
    CASE("[2,3,4] [4]", .a = {B_ADD}),
    CASE("[2,3,5] [5]", .a = {B_MUL}),
    CASE("[2,3,4] [3,1]", .a = {B_SUB}),
    CASE("[5] [4,1]", .a = {B_MUL}),
    CASE("[2,8,1] [1,8,12]", .a = {B_MUL}),
    CASE("[1] [3,2,8]", .a = {B_SUB}),
    CASE("[7,9] [1]=0.5:2", .a = {B_DIV}),
    CASE("[2,3,8] [2,1,1]=0.5:2", .a = {B_DIV}),
    CASE("[3,4]=-1:1 [3,4]=0.5:2", .a = {B_DIV}),
    CASE("[2,1,3,1,2,5] [1,4,1,3,1,5]", .a = {B_ADD}),
    CASE("[2,1,3,1,2,4] [1,4,1,3,1,4]", .a = {B_MUL}),
    CASE("[2,3,4,2,3,1] [2,3,1,2,1,8]", .a = {B_SUB}),
    CASE("[2,32,32,320] [320]", .a = {B_ADD}, .no_grad = true),
    CASE("[2,32,32,320] [2,1,1,320]", .a = {B_ADD}),
    CASE("[2,64,64,320] [2,64,64,320]", .a = {B_ADD}, .no_grad = true),
};

const op_info op_binary_info = {.name = "binary",
                                .n_in = 2,
                                .n_out = 1,
                                .attrs_size = sizeof(binary_attrs),
                                .types = TYPES_FLOAT,
                                .infer = infer,
                                .encode = encode,
                                .host = host_run,
                                .backward = backward,
                                .ref = ref,
                                .build = build,
                                CASES(cases)};
