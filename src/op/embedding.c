/* embedding: rows of a table.
 *   table  [V, D] f32|f16|bf16      ids  [...] u32; an id of V or more reads row V - 1
 *   returns [..., D] of the table's type
 * embedding_bwd: the table's gradient [V, D] f32: zero, then the first position of each id adds all
 * its positions in order, so that no atomics are needed and the sum has one order.
 *   errors  E_SHAPE      source  torch.nn.functional.embedding
 * SPDX-License-Identifier: MIT */
#include "host/lanes.h"
#include "op/move.h"

typedef struct embedding_bwd_attrs {
    int64_t v;
} embedding_bwd_attrs; /* rows of the table */
extern const op_info op_embedding_info, op_embedding_bwd_info;

tensor *op_embedding_(graph *g, tensor *table, tensor *ids, const char *here) {
    return op_record(g, &op_embedding_info, here, NULL, OP_IN(table, ids));
}

static status infer(graph *g, node *n) {
    (void)g;
    const tensor *table = n->in[0], *ids = n->in[1];
    if (table->s.n != 2 || !move_is_float(table->dtype))
        return fail(E_SHAPE, "embedding takes a float table [V, D]");
    if (ids->dtype != DT_U32 || ids->s.n >= MAX_DIMS)
        return fail(E_SHAPE, "embedding takes u32 ids of at most %d dims", MAX_DIMS - 1);
    shape s = ids->s;
    s.d[s.n++] = table->s.d[1];
    out_set(n, 0, table->dtype, s);
    return OK;
}

static status encode(gpu_cmd *c, const node *n) {
    const tensor *table = n->in[0], *ids = n->in[1], *y = n->out[0];
    uint32_t unit = table->s.d[1] % 4 ? 1 : 4;
    struct {
        uint32_t n, v, d;
    } push = {(uint32_t)tensor_count(y) / unit, (uint32_t)table->s.d[0],
              (uint32_t)table->s.d[1] / unit};
    return move_dispatch(c,
                         (gpu_dispatch_params){.shader = "embedding",
                                               .type = move_type(table->dtype),
                                               .spec = {unit == 4},
                                               .n_spec = 1,
                                               .bind = {table->span, ids->span, y->span},
                                               .n_bind = 3,
                                               .push = &push,
                                               .push_bytes = sizeof push},
                         push.n);
}

static int64_t row_of(const node *n, int ids, int64_t i, int64_t v) {
    int64_t id = ((const uint32_t *)n->in[ids]->data)[i];
    return MIN(id, v - 1);
}

static void run(void *ctx, int64_t begin, int64_t end) {
    const node *n = ctx;
    const shape *s = &n->in[0]->s;
    size_t bytes = (size_t)s->d[1] * dtype_bytes(n->in[0]->dtype);
    for (int64_t i = begin; i < end; i++)
        memcpy((char *)n->out[0]->data + (size_t)i * bytes,
               (const char *)n->in[0]->data + (size_t)row_of(n, 1, i, s->d[0]) * bytes, bytes);
}

static void host_run(host *h, const node *n) {
    host_parallel(h, tensor_count(n->in[1]), MAX(1, MOVE_GRAIN / n->in[0]->s.d[1]), run,
                  (void *)(uintptr_t)n);
}

static void backward(graph *g, const node *n, tensor *const dy[], tensor *dx[]) {
    if (node_wants(n, 0))
        dx[0] = op_record(g, &op_embedding_bwd_info, n->at,
                          &(embedding_bwd_attrs){n->in[0]->s.d[0]}, OP_IN(n->in[1], dy[0]));
}

static void ref(const node *n) {
    int64_t v = n->in[0]->s.d[0], d = n->in[0]->s.d[1];
    EACH(i, n->out[0]) SET(0, i, IN(0, row_of(n, 1, i / d, v) * d + i % d));
}

static tensor *build(graph *g, tensor **in, const op_case *c) {
    (void)c;
    return op_embedding_(g, in[0], in[1], HERE);
}

static const op_case cases[] = {
    CASE("[1,1] u32<1[1]"),
    CASE("[9,5] u32<9[2,3]"),
    CASE("[7,8] u32<11[3,1,4]"), /* some ids past the table */
    CASE("[4940,768] u32<4940[2,77]", .no_grad = true),
};

const op_info op_embedding_info = {.name = "embedding",
                                   .n_in = 2,
                                   .n_out = 1,
                                   .types = TYPES_FLOAT,
                                   .infer = infer,
                                   .encode = encode,
                                   .host = host_run,
                                   .backward = backward,
                                   .ref = ref,
                                   .build = build,
                                   CASES(cases)};

/* ---- gradient: ids [...] u32, dy [..., D] -> [V, D] f32 ---- */

static status bwd_infer(graph *g, node *n) {
    (void)g;
    const tensor *ids = n->in[0], *dy = n->in[1];
    int64_t v = ATTRS(n, embedding_bwd_attrs)->v, d = dy->s.d[dy->s.n - 1];
    if (v < 1 || tensor_count(ids) * d != tensor_count(dy))
        return fail(E_SHAPE, "embedding_bwd: dy must be ids' shape and D");
    out_set(n, 0, dtype_acc(dy->dtype), SHAPE(v, d));
    return OK;
}

static status bwd_encode(gpu_cmd *c, const node *n) {
    const tensor *ids = n->in[0], *dy = n->in[1], *y = n->out[0];
    struct {
        uint32_t n, word;
    } zero = {(uint32_t)tensor_count(y), 0};
    status st = move_dispatch(c,
                              (gpu_dispatch_params){.shader = "zeros",
                                                    .type = DT_U32,
                                                    .bind = {y->span},
                                                    .n_bind = 1,
                                                    .push = &zero,
                                                    .push_bytes = sizeof zero},
                              (uint64_t)div_up(zero.n, 4));
    if (st != OK) return st;
    struct {
        uint32_t n, v, d, slices;
    } push = {(uint32_t)tensor_count(ids), (uint32_t)y->s.d[0], (uint32_t)y->s.d[1],
              (uint32_t)div_up(y->s.d[1], 256)};
    uint64_t groups = (uint64_t)push.n * push.slices; /* a workgroup per position and 256 columns */
    return move_dispatch(c,
                         (gpu_dispatch_params){.shader = "embedding_bwd",
                                               .type = dy->dtype,
                                               .bind = {ids->span, dy->span, y->span},
                                               .n_bind = 3,
                                               .push = &push,
                                               .push_bytes = sizeof push},
                         groups * 256);
}

HOST_KERNEL(add_row, (float *y, const void *dy, dtype t, int64_t at, int64_t n),
            (y, dy, t, at, n)) {
    float v[LANES];
    for (int64_t i = 0; i < n; i += LANES) {
        int64_t m = MIN(n - i, LANES);
        lanes_load(dy, t, at + i, m, v);
        for (int64_t k = 0; k < m; k++) y[i + k] += v[k];
    }
}

typedef struct job {
    const node *n;
    host_isa isa;
} job;

/* Columns [begin, end) of the table: all positions in order. */
static void bwd_run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const node *n = j->n;
    const tensor *dy = n->in[1];
    int64_t v = n->out[0]->s.d[0], d = n->out[0]->s.d[1], count = tensor_count(n->in[0]);
    float *y = n->out[0]->data;
    for (int64_t r = 0; r < v; r++) memset(y + r * d + begin, 0, (size_t)(end - begin) * 4);
    for (int64_t i = 0; i < count; i++)
        add_row(j->isa, y + row_of(n, 0, i, v) * d + begin, dy->data, dy->dtype, i * d + begin,
                end - begin);
}

static void bwd_host(host *h, const node *n) {
    host_parallel(h, n->out[0]->s.d[1], 64, bwd_run, &(job){n, host_get_isa(h)});
}

static void bwd_ref(const node *n) {
    int64_t v = n->out[0]->s.d[0], d = n->out[0]->s.d[1], count = tensor_count(n->in[0]);
    EACH(i, n->out[0]) {
        double sum = 0;
        for (int64_t k = 0; k < count; k++)
            if (row_of(n, 0, k, v) == i / d) sum += IN(1, k * d + i % d);
        SET(0, i, sum);
    }
}

/* a[0]: V */
static tensor *bwd_build(graph *g, tensor **in, const op_case *c) {
    return op_record(g, &op_embedding_bwd_info, HERE, &(embedding_bwd_attrs){(int64_t)c->a[0]},
                     OP_IN(in[0], in[1]));
}

static void bwd_backward(graph *g, const node *n, tensor *const dy[], tensor *dx[]) {
    if (node_wants(n, 1))
        dx[1] = op_reshape_(
            g, op_cast_(g, op_embedding_(g, dy[0], n->in[0], n->at), n->in[1]->dtype, n->at),
            n->in[1]->s, n->at);
}

static const op_case bwd_cases[] = {
    CASE("u32<1[1] [1,1]", .a = {1}),
    CASE("u32<9[2,3] [2,3,5]", .a = {9}),
    CASE("u32<5[4,11] [4,11,7]", .a = {4}),
    CASE("u32<300[2,77] [2,77,320]", .a = {400}, .no_grad = true),
    /* over 65,535 workgroups */
    CASE("u32<3[33000] [33000,257]", .a = {3}, .no_grad = true, .big = true),
};

const op_info op_embedding_bwd_info = {.name = "embedding_bwd",
                                       .n_in = 2,
                                       .n_out = 1,
                                       .attrs_size = sizeof(embedding_bwd_attrs),
                                       .types = TYPES_FLOAT,
                                       .infer = bwd_infer,
                                       .encode = bwd_encode,
                                       .host = bwd_host,
                                       .backward = bwd_backward,
                                       .ref = bwd_ref,
                                       .build = bwd_build,
                                       CASES(bwd_cases)};
