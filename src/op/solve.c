/* solve: X with A X = B, batched.
 *   a  [..., n, n] f32, n <= 256      b  [..., n, m] f32, the same leading dims
 *   returns [..., n, m] f32; a singular matrix gives infinities or NaN
 *   errors  E_SHAPE      source  Golub & Van Loan 2013 §3.4 (partial pivoting); torch.linalg.solve
 *   gradient  dB = A^-T dX, dA = -dB X^T (Giles 2008 §2.3.1)
 * SPDX-License-Identifier: MIT */
#include "op/lu.h"
#include "host/lanes.h"
#include "op/move.h"
#include <math.h>

extern const op_info op_solve_info;

tensor *op_solve_(graph *g, tensor *a, tensor *b, const char *here) {
    return op_record(g, &op_solve_info, here, NULL, OP_IN(a, b));
}

/* ---- elimination, shared with inverse ---- */

typedef struct sizes {
    int64_t batch, n, m;
} sizes;
static sizes sizes_of(const node *n) {
    const shape *x = &n->out[0]->s;
    sizes z = {1, x->d[x->n - 2], x->d[x->n - 1]};
    z.batch = tensor_count(n->out[0]) / (z.n * z.m);
    return z;
}

status lu_check(const node *n) {
    const tensor *a = n->in[0];
    char text[96];
    if (a->dtype != dtype_acc(a->dtype))
        return fail(E_SHAPE, "%s works in f32, not %s", n->op->name, dtype_name(a->dtype));
    if (a->s.n < 2 || a->s.d[a->s.n - 1] != a->s.d[a->s.n - 2] || a->s.d[a->s.n - 1] > LU_MAX)
        return fail(E_SHAPE, "%s takes square matrices of at most %d rows, not %s", n->op->name,
                    LU_MAX, shape_text(&a->s, text));
    return OK;
}

/* A copy of every A, which elimination destroys; on Vulkan also the order of its rows. */
status lu_prepare(prep *p, node *n) {
    const shape *a = &n->in[0]->s;
    prep_scratch(n, tensor_bytes(n->in[0]) +
                        (p->gpu ? tensor_bytes(n->in[0]) / (size_t)a->d[a->n - 1] : 0));
    return OK;
}

double lu_work(const node *n) {
    sizes z = sizes_of(n);
    double s = (double)z.n;
    return (double)z.batch * (2.0 / 3 * s * s * s + 2 * s * s * (double)z.m);
}

status lu_encode(gpu_cmd *c, const node *n) {
    sizes z = sizes_of(n);
    const tensor *b = n->n_in > 1 ? n->in[1] : NULL;
    struct {
        uint32_t batch, n, m;
    } push = {(uint32_t)z.batch, (uint32_t)z.n, (uint32_t)z.m};
    gpu_dispatch_params p = {
        .shader = "solve",
        .type = DT_U32,
        .spec = {true, b == NULL},
        .n_spec = 2,
        .bind = {n->in[0]->span, (b ? b : n->in[0])->span, n->scratch->span, n->out[0]->span},
        .n_bind = 4,
        .push = &push,
        .push_bytes = sizeof push,
        .work = lu_work(n) / 2};
    /* a workgroup per matrix, then an invocation per column */
    status st = move_dispatch(c, p, (uint64_t)z.batch * 256);
    if (st != OK) return st;
    p.spec[0] = false;
    return move_dispatch(c, p, (uint64_t)(z.batch * z.m));
}

HOST_KERNEL(subtract_row, (float *restrict y, const float *restrict x, float f, int64_t n),
            (y, x, f, n)) {
    for (int64_t i = 0; i < n; i++) y[i] -= f * x[i];
}

static void swap_rows(float *a, float *b, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float t = a[i];
        a[i] = b[i];
        b[i] = t;
    }
}

/* X holds B and becomes the solution; A is destroyed. */
static void eliminate(host_isa isa, float *a, float *x, int64_t n, int64_t m) {
    for (int64_t k = 0; k < n; k++) {
        int64_t p = k;
        for (int64_t i = k + 1; i < n; i++)
            if (fabsf(a[i * n + k]) > fabsf(a[p * n + k])) p = i;
        if (p != k) {
            swap_rows(a + p * n, a + k * n, n);
            swap_rows(x + p * m, x + k * m, m);
        }
        for (int64_t i = k + 1; i < n; i++) {
            float f = a[i * n + k] / a[k * n + k];
            subtract_row(isa, a + i * n + k, a + k * n + k, f, n - k);
            subtract_row(isa, x + i * m, x + k * m, f, m);
        }
    }
    for (int64_t k = n - 1; k >= 0; k--) {
        for (int64_t i = k + 1; i < n; i++)
            subtract_row(isa, x + k * m, x + i * m, a[k * n + i], m);
        for (int64_t c = 0; c < m; c++) x[k * m + c] /= a[k * n + k];
    }
}

typedef struct job {
    const node *n;
    host_isa isa;
} job;

static void run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const node *n = j->n;
    sizes z = sizes_of(n);
    for (int64_t k = begin; k < end; k++) {
        float *a = (float *)n->scratch->data + k * z.n * z.n,
              *x = (float *)n->out[0]->data + k * z.n * z.m;
        memcpy(a, (const float *)n->in[0]->data + k * z.n * z.n, (size_t)(z.n * z.n) * 4);
        if (n->n_in > 1) {
            memcpy(x, (const float *)n->in[1]->data + k * z.n * z.m, (size_t)(z.n * z.m) * 4);
        } else {
            memset(x, 0, (size_t)(z.n * z.m) * 4);
            for (int64_t i = 0; i < z.n; i++) x[i * z.m + i] = 1.0f;
        }
        eliminate(j->isa, a, x, z.n, z.m);
    }
}

void lu_host(host *h, const node *n) {
    host_parallel(h, sizes_of(n).batch, 1, run, &(job){n, host_get_isa(h)});
}

/* Gauss-Jordan in double on [A | one column of B], column by column: the plainest form. */
static void ref_column(const node *n, int64_t k, int64_t c, double *a, double *x) {
    sizes z = sizes_of(n);
    for (int64_t i = 0; i < z.n * z.n; i++) a[i] = IN(0, k * z.n * z.n + i);
    for (int64_t i = 0; i < z.n; i++) x[i] = n->n_in > 1 ? IN(1, (k * z.n + i) * z.m + c) : i == c;
    for (int64_t q = 0; q < z.n; q++) {
        int64_t p = q;
        for (int64_t i = q + 1; i < z.n; i++)
            if (fabs(a[i * z.n + q]) > fabs(a[p * z.n + q])) p = i;
        for (int64_t i = 0; i < z.n; i++) {
            double t = a[p * z.n + i];
            a[p * z.n + i] = a[q * z.n + i];
            a[q * z.n + i] = t;
        }
        double t = x[p];
        x[p] = x[q];
        x[q] = t;
        for (int64_t i = 0; i < z.n; i++) {
            if (i == q) continue;
            double f = a[i * z.n + q] / a[q * z.n + q];
            for (int64_t e = q; e < z.n; e++) a[i * z.n + e] -= f * a[q * z.n + e];
            x[i] -= f * x[q];
        }
    }
    for (int64_t i = 0; i < z.n; i++) SET(0, (k * z.n + i) * z.m + c, x[i] / a[i * z.n + i]);
}

void lu_ref(const node *n) {
    sizes z = sizes_of(n);
    double a[LU_MAX * LU_MAX], x[LU_MAX];
    for (int64_t k = 0; k < z.batch; k++)
        for (int64_t c = 0; c < z.m; c++) ref_column(n, k, c, a, x);
}

/* The identity: a column of ones [n, 1] padded to [n, n + 1], read as rows of n. */
tensor *lu_case_matrix(graph *g, tensor *x) {
    int64_t n = x->s.d[x->s.n - 1], none[MAX_DIMS] = {0}, after[MAX_DIMS] = {0, n};
    tensor *eye = op_pad_(g, op_fill(g, x->dtype, SHAPE(n, 1), 1.0f), none, after, 0.0f, HERE);
    eye = op_reshape(g, op_slice(g, op_reshape(g, eye, n * (n + 1)), 0, 0, n * n), n, n);
    return op_add(g, op_scale(g, x, n > 16 ? 1.0f / (float)n : 0.25f), eye);
}

/* ---- solve ---- */

static status infer(graph *g, node *n) {
    (void)g;
    status st = lu_check(n);
    if (st != OK) return st;
    const tensor *a = n->in[0], *b = n->in[1];
    bool fits = a->s.n == b->s.n && a->dtype == b->dtype;
    for (int i = 0; fits && i < a->s.n - 1; i++) fits = a->s.d[i] == b->s.d[i];
    if (!fits) return fail(E_SHAPE, "solve: b must be [..., n, m] f32 with a's leading dims and n");
    out_like(n, 0, b);
    return OK;
}

static void backward(graph *g, const node *n, tensor *const dy[], tensor *dx[]) {
    int dims = n->in[0]->s.n, swap[MAX_DIMS];
    for (int i = 0; i < MAX_DIMS; i++) swap[i] = i;
    swap[dims - 2] = dims - 1;
    swap[dims - 1] = dims - 2;
    tensor *db = op_solve_(g, op_transpose_(g, n->in[0], swap, n->at), dy[0], n->at);
    if (node_wants(n, 1)) dx[1] = db;
    if (!node_wants(n, 0)) return;
    tensor *da = op_matmul_(g, db, n->out[0], NULL, NULL,
                            (matmul_attrs){.trans_b = 1, .out = DT_COUNT}, n->at);
    dx[0] = op_scale_(g, da, -1.0f, 0.0f, n->at);
}

static tensor *build(graph *g, tensor **in, const op_case *c) {
    (void)c;
    return op_solve_(g, lu_case_matrix(g, in[0]), in[1], HERE);
}

static const op_case cases[] = {
    CASE("[1,1] [1,1]"),
    CASE("[2,5,5] [2,5,3]"),
    CASE("[2,2,9,9] [2,2,9,17]"),
    CASE("[3,64,64] [3,64,1]", .no_grad = true),
    CASE("[1,256,256] [1,256,40]", .no_grad = true),
    /* over 65,535 workgroups */
    CASE("[65541,1,1] [65541,1,2]", .no_grad = true, .big = true),
};

const op_info op_solve_info = {.name = "solve",
                               .n_in = 2,
                               .n_out = 1,
                               .types = TYPES_F32,
                               .infer = infer,
                               .prepare = lu_prepare,
                               .encode = lu_encode,
                               .host = lu_host,
                               .backward = backward,
                               .ref = lu_ref,
                               .work = lu_work,
                               .build = build,
                               CASES(cases)};
