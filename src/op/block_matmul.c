/* block_matmul: times a block-diagonal matrix (orthogonal finetuning rotates blocks of channels).
 *   x  [..., B b] f32|f16|bf16      r  [B, b, b] of the same type
 *   returns x's shape and type: y[.., i b + k] = sum_j x[.., i b + j] r[i, j, k], or r[i, k, j] if
 *   trans_r; sums in f32
 *   errors  E_SHAPE      source  Qiu et al. 2023 (OFT) §3
 * SPDX-License-Identifier: MIT */
#include "host/lanes.h"
#include "op/move.h"

typedef struct block_attrs {
    uint32_t trans;
} block_attrs;
extern const op_info op_block_matmul_info;

tensor *op_block_matmul_(graph *g, tensor *x, tensor *r, bool trans_r, const char *here) {
    return op_record(g, &op_block_matmul_info, here, &(block_attrs){trans_r}, OP_IN(x, r));
}

static status infer(graph *g, node *n) {
    (void)g;
    const tensor *x = n->in[0], *r = n->in[1];
    if (r->s.n != 3 || r->s.d[1] != r->s.d[2] || r->s.d[0] * r->s.d[1] != x->s.d[x->s.n - 1] ||
        r->dtype != x->dtype || !move_is_float(x->dtype))
        return fail(E_SHAPE, "block_matmul takes x [..., B b] and r [B, b, b] of one float type");
    out_like(n, 0, x);
    return OK;
}

/* d = blocks * b */
typedef struct sizes {
    int64_t rows, blocks, b, d;
} sizes;
static sizes sizes_of(const node *n) {
    const shape *r = &n->in[1]->s;
    int64_t d = r->d[0] * r->d[1];
    return (sizes){tensor_count(n->in[0]) / d, r->d[0], r->d[1], d};
}

#define ROWS 4 /* an invocation makes at once, so that r is read once for all */

static status encode(gpu_cmd *c, const node *n) {
    sizes z = sizes_of(n);
    struct {
        uint32_t n, rows, b, d;
    } push = {(uint32_t)(div_up(z.rows, ROWS) * z.d), (uint32_t)z.rows, (uint32_t)z.b,
              (uint32_t)z.d};
    return move_dispatch(
        c,
        (gpu_dispatch_params){.shader = "block_matmul",
                              .type = n->in[0]->dtype,
                              .spec = {ATTRS(n, block_attrs)->trans},
                              .n_spec = 1,
                              .bind = {n->in[0]->span, n->in[1]->span, n->out[0]->span},
                              .n_bind = 3,
                              .push = &push,
                              .push_bytes = sizeof push,
                              .work = 2.0 * (double)z.rows * (double)z.d * (double)z.b},
        push.n);
}

#define HOST_ROWS 8 /* rows x columns of sums that the host kernel keeps in registers */
#define HOST_COLS 16
typedef float vec __attribute__((vector_size(HOST_COLS * 4), aligned(4)));
static int64_t padded(int64_t b) { return (int64_t)align_up((size_t)b, HOST_COLS); }

/* cpu: r as f32, blocks [j][k] with k padded to whole vectors. */
static status prepare(prep *p, node *n) {
    sizes z = sizes_of(n);
    if (p->host) prep_scratch(n, (size_t)(z.d * padded(z.b)) * 4);
    return OK;
}

HOST_KERNEL(load_block,
            (const void *r, dtype t, int64_t at, int64_t b, int64_t pad, bool trans, float *y),
            (r, t, at, b, pad, trans, y)) {
    float v[LANES];
    memset(y, 0, (size_t)(b * pad) * 4);
    for (int64_t i = 0; i < b; i++)
        for (int64_t k = 0; k < b; k += LANES) {
            int64_t m = MIN(b - k, LANES);
            lanes_load(r, t, at + i * b + k, m, v);
            if (trans)
                for (int64_t e = 0; e < m; e++) y[(k + e) * pad + i] = v[e];
            else
                memcpy(y + i * pad + k, v, (size_t)m * 4);
        }
}

/* y[row, k] = sum_j x[row, j] r[j, k] for up to HOST_ROWS rows of one block, d elements apart. */
HOST_KERNEL(block_rows,
            (const void *x, void *y, dtype t, int64_t at, int64_t d, int64_t rows, const float *r,
             int64_t b, int64_t pad),
            (x, y, t, at, d, rows, r, b, pad)) {
    float v[HOST_ROWS][LANES], line[HOST_COLS];
    const float *in[HOST_ROWS];
    for (int64_t q = 0; q < HOST_ROWS; q++)
        in[q] = t == DT_F32 ? (const float *)x + at + MIN(q, rows - 1) * d : v[q];
    for (int64_t k = 0; k < b; k += HOST_COLS) {
        int64_t nk = MIN(b - k, HOST_COLS);
        vec sum[HOST_ROWS] = {0};
        for (int64_t j = 0; j < b; j += LANES) {
            int64_t nj = MIN(b - j, LANES), from = t == DT_F32 ? j : 0;
            if (t != DT_F32 && (k == 0 || b > LANES)) /* else still there from the last k */
                for (int64_t q = 0; q < HOST_ROWS; q++)
                    lanes_load(x, t, at + MIN(q, rows - 1) * d + j, nj, v[q]);
            for (int64_t e = 0; e < nj; e++) {
                vec w;
                memcpy(&w, r + (j + e) * pad + k, sizeof w);
#pragma GCC unroll 8
                for (int q = 0; q < HOST_ROWS; q++) sum[q] += in[q][from + e] * w;
            }
        }
#pragma GCC unroll 8
        for (int q = 0; q < HOST_ROWS; q++) {
            if (q >= rows) continue;
            memcpy(line, &sum[q], sizeof line);
            if (nk == HOST_COLS)
                lanes_save(isa, y, t, at + q * d + k, HOST_COLS, line);
            else
                lanes_save(isa, y, t, at + q * d + k, nk, line);
        }
    }
}

typedef struct job {
    const node *n;
    host_isa isa;
} job;

static void run_load(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    sizes z = sizes_of(j->n);
    for (int64_t i = begin; i < end; i++)
        load_block(j->isa, j->n->in[1]->data, j->n->in[1]->dtype, i * z.b * z.b, z.b, padded(z.b),
                   ATTRS(j->n, block_attrs)->trans,
                   (float *)j->n->scratch->data + i * z.b * padded(z.b));
}

/* Groups of rows that one block is used for before the next: x streams, r stays in the second-level
 * cache. */
#define HOST_GROUPS 4

/* Groups [begin, end) of HOST_ROWS rows. */
static void run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const node *n = j->n;
    const tensor *x = n->in[0];
    sizes z = sizes_of(n);
    int64_t pad = padded(z.b);
    for (int64_t first = begin; first < end; first += HOST_GROUPS)
        for (int64_t i = 0; i < z.blocks; i++)
            for (int64_t g = first; g < MIN(end, first + HOST_GROUPS); g++)
                block_rows(j->isa, x->data, n->out[0]->data, x->dtype,
                           g * HOST_ROWS * z.d + i * z.b, z.d,
                           MIN(HOST_ROWS, z.rows - g * HOST_ROWS),
                           (const float *)n->scratch->data + i * z.b * pad, z.b, pad);
}

static void host_run(host *h, const node *n) {
    sizes z = sizes_of(n);
    job j = {n, host_get_isa(h)};
    host_parallel(h, z.blocks, MAX(1, MOVE_GRAIN / (z.b * z.b)), run_load, &j);
    host_parallel(h, div_up(z.rows, HOST_ROWS), MAX(1, 2 * MOVE_GRAIN / (z.d * z.b)), run, &j);
}

/* dr[i] = sum over rows of x_i^T dy_i: a matmul batched over blocks. */
static tensor *by_blocks(graph *g, tensor *x, sizes z, const char *at) {
    return op_transpose_(g, op_reshape_(g, x, SHAPE(z.rows, z.blocks, z.b), at),
                         (const int[MAX_DIMS]){1, 0, 2}, at);
}

static void backward(graph *g, const node *n, tensor *const dy[], tensor *dx[]) {
    bool trans = ATTRS(n, block_attrs)->trans;
    if (node_wants(n, 0)) dx[0] = op_block_matmul_(g, dy[0], n->in[1], !trans, n->at);
    if (!node_wants(n, 1)) return;
    sizes z = sizes_of(n);
    tensor *x = by_blocks(g, n->in[0], z, n->at), *d = by_blocks(g, dy[0], z, n->at);
    dx[1] = op_matmul_(g, trans ? d : x, trans ? x : d, NULL, NULL,
                       (matmul_attrs){.trans_a = 1, .out = DT_F32}, n->at);
}

static void ref(const node *n) {
    sizes z = sizes_of(n);
    bool trans = ATTRS(n, block_attrs)->trans;
    EACH(at, n->out[0]) {
        int64_t row = at / z.d, i = at % z.d / z.b, k = at % z.b;
        double sum = 0;
        for (int64_t j = 0; j < z.b; j++)
            sum += IN(0, row * z.d + i * z.b + j) *
                   IN(1, (i * z.b + (trans ? k : j)) * z.b + (trans ? j : k));
        SET(0, at, sum);
    }
}

static double work(const node *n) {
    sizes z = sizes_of(n);
    return 2.0 * (double)z.rows * (double)z.d * (double)z.b;
}

/* a[0]: trans_r */
static tensor *build(graph *g, tensor **in, const op_case *c) {
    return op_block_matmul_(g, in[0], in[1], c->a[0] != 0, HERE);
}

static const op_case cases[] = {
    CASE("[1,1] [1,1,1]", .a = {0}),
    CASE("[4,15] [3,5,5]", .a = {0}),
    CASE("[2,3,15] [3,5,5]", .a = {1}),
    CASE("[5,64] [8,8,8]", .a = {1}),
    CASE("[3,600] [1,600,600]", .a = {1}, .no_grad = true),
    CASE("[2,77,320] [10,32,32]", .a = {0}, .no_grad = true),
};

const op_info op_block_matmul_info = {.name = "block_matmul",
                                      .n_in = 2,
                                      .n_out = 1,
                                      .attrs_size = sizeof(block_attrs),
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
