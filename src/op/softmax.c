/* softmax: y = exp(x - max) / sum over the last dim. softmax_bwd: (y, dy) -> dx = y (dy - sum dy
 * y).
 *   x  [..., C] f32|f16|bf16   returns [..., C] same type; computed in f32
 *   -infinity gives 0; a row of nothing else gives NaN, as torch
 *   errors  none      source  torch.softmax
 * SPDX-License-Identifier: MIT */
#include "op/block.h"
#include "op/vmath.h"
#include <math.h>

extern const op_info op_softmax_info, op_softmax_bwd_info;

tensor *op_softmax_(graph *g, tensor *x, const char *here) {
    return op_record(g, &op_softmax_info, here, NULL, OP_IN(x));
}

static status infer(graph *g, node *n) {
    (void)g;
    const tensor *x = n->in[0];
    if (!move_is_float(x->dtype))
        return fail(E_UNSUPPORTED, "softmax: x is %s; give a float type", dtype_name(x->dtype));
    if (n->n_in > 1 && (!shape_equal(&x->s, &n->in[1]->s) || n->in[1]->dtype != x->dtype))
        return fail(E_SHAPE, "softmax_bwd: y and dy must have one shape and type");
    out_like(n, 0, x);
    return OK;
}

static int64_t width(const node *n) { return n->in[0]->s.d[n->in[0]->s.n - 1]; }

static status encode(gpu_cmd *c, const node *n) {
    int64_t w = width(n), rows = tensor_count(n->in[0]) / w;
    uint32_t unit = w % 4 == 0 ? 4 : 1, lx = 1;
    while (lx < 256 && lx * unit < w) lx *= 2;
    struct {
        uint32_t rows, c;
    } push = {(uint32_t)rows, (uint32_t)w};
    bool grad = n->n_in > 1;
    return move_dispatch(
        c,
        (gpu_dispatch_params){
            .shader = "softmax",
            .type = n->out[0]->dtype,
            .spec = {unit == 4, lx, grad},
            .n_spec = 3,
            .bind = {n->in[0]->span, grad ? n->in[1]->span : n->in[0]->span, n->out[0]->span},
            .n_bind = 3,
            .push = &push,
            .push_bytes = sizeof push,
            .work = (double)rows * (double)w * 8},
        (uint64_t)div_up(rows, 256 / lx) * 256);
}

/* Floats kept between the passes over a row; longer rows of half types compute exp twice. */
#define ROW 4096

HOST_KERNEL(row_max, (const float *restrict x, int64_t n, float *out), (x, n, out)) {
    float m = *out;
#pragma omp simd reduction(max : m)
    for (int64_t i = 0; i < n; i++) m = x[i] > m ? x[i] : m;
    *out = m;
}

/* e = exp(x - max); their sum is added to out. e may be x. */
HOST_KERNEL(row_exp, (const float *x, float max, float *e, int64_t n, float *out),
            (x, max, e, n, out)) {
    float s = 0;
#pragma omp simd reduction(+ : s)
    for (int64_t i = 0; i < n; i++) {
        float v = vexp_negative(x[i] - max);
        e[i] = v;
        s += v;
    }
    *out += s;
}

HOST_KERNEL(row_scale, (const float *x, float a, float *y, int64_t n), (x, a, y, n)) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * a;
}

typedef struct job {
    const node *n;
    host_isa isa;
} job;

/* NaN is no maximum; where the maximum is -infinity the row is NaN, and so it is with any NaN in
 * it. */
static void wide_row(const job *j, int64_t at, int64_t w) {
    const tensor *x = j->n->in[0], *y = j->n->out[0];
    float buf[LANES], max = -INFINITY, sum = 0;
    for (int64_t i = 0; i < w; i += LANES)
        row_max(j->isa, block_in(j->isa, x->data, x->dtype, at + i, MIN(LANES, w - i), buf),
                MIN(LANES, w - i), &max);
    for (int pass = 0; pass < 2; pass++) {
        float inv = 1 / sum, unused = 0;
        for (int64_t i = 0; i < w; i += LANES) {
            int64_t m = MIN(LANES, w - i);
            row_exp(j->isa, block_in(j->isa, x->data, x->dtype, at + i, m, buf), max, buf, m,
                    pass ? &unused : &sum);
            if (pass)
                row_scale(j->isa, buf, inv, buf, m),
                    host_convert_serial(j->isa,
                                        (char *)y->data + (size_t)(at + i) * dtype_bytes(y->dtype),
                                        y->dtype, buf, DT_F32, m);
        }
    }
}

static void run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const tensor *x = j->n->in[0], *y = j->n->out[0];
    int64_t w = width(j->n);
    float buf[ROW];
    for (int64_t r = begin; r < end; r++) {
        if (w > ROW && x->dtype != DT_F32) {
            wide_row(j, r * w, w);
            continue;
        }
        const float *v = block_in(j->isa, x->data, x->dtype, r * w, w, buf);
        float *e = block_out(y->data, y->dtype, r * w, buf), max = -INFINITY, sum = 0;
        row_max(j->isa, v, w, &max);
        row_exp(j->isa, v, max, e, w, &sum);
        row_scale(j->isa, e, 1 / sum, e, w);
        block_done(j->isa, y->data, y->dtype, r * w, w, e);
    }
}

static void host_run(host *h, const node *n) {
    int64_t w = width(n);
    host_parallel(h, tensor_count(n->in[0]) / w, MAX(1, BLOCK_GRAIN / w), run,
                  &(job){n, host_get_isa(h)});
}

HOST_KERNEL(row_dot, (const float *restrict a, const float *restrict b, int64_t n, float *out),
            (a, b, n, out)) {
    float s = 0;
#pragma omp simd reduction(+ : s)
    for (int64_t i = 0; i < n; i++) s += a[i] * b[i];
    *out += s;
}

HOST_KERNEL(row_grad,
            (const float *restrict y, const float *restrict dy, float dot, float *restrict dx,
             int64_t n),
            (y, dy, dot, dx, n)) {
    for (int64_t i = 0; i < n; i++) dx[i] = y[i] * (dy[i] - dot);
}

static void bwd_run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const tensor *y = j->n->in[0], *dy = j->n->in[1], *dx = j->n->out[0];
    int64_t w = width(j->n);
    float by[LANES], bdy[LANES], out[LANES];
    for (int64_t r = begin; r < end; r++) {
        float dot = 0;
        for (int pass = 0; pass < 2; pass++)
            for (int64_t i = 0; i < w; i += LANES) {
                int64_t m = MIN(LANES, w - i), at = r * w + i;
                const float *vy = block_in(j->isa, y->data, y->dtype, at, m, by),
                            *vdy = block_in(j->isa, dy->data, dy->dtype, at, m, bdy);
                if (!pass) {
                    row_dot(j->isa, vy, vdy, m, &dot);
                    continue;
                }
                row_grad(j->isa, vy, vdy, dot, block_out(dx->data, dx->dtype, at, out), m);
                block_done(j->isa, dx->data, dx->dtype, at, m, out);
            }
    }
}

static void bwd_host(host *h, const node *n) {
    int64_t w = width(n);
    host_parallel(h, tensor_count(n->in[0]) / w, MAX(1, BLOCK_GRAIN / w), bwd_run,
                  &(job){n, host_get_isa(h)});
}

static void backward(graph *g, const node *n, tensor *const dy[], tensor *dx[]) {
    dx[0] = op_record(g, &op_softmax_bwd_info, n->at, NULL, OP_IN(n->out[0], dy[0]));
}

static void ref(const node *n) {
    int64_t w = width(n);
    for (int64_t r = 0; r < tensor_count(n->in[0]) / w; r++) {
        double max = -INFINITY, sum = 0;
        for (int64_t i = 0; i < w; i++) max = fmax(max, IN(0, r * w + i));
        for (int64_t i = 0; i < w; i++) sum += exp(IN(0, r * w + i) - max);
        for (int64_t i = 0; i < w; i++) SET(0, r * w + i, exp(IN(0, r * w + i) - max) / sum);
    }
}

static void bwd_ref(const node *n) {
    int64_t w = width(n);
    for (int64_t r = 0; r < tensor_count(n->in[0]) / w; r++) {
        double dot = 0;
        for (int64_t i = 0; i < w; i++) dot += IN(0, r * w + i) * IN(1, r * w + i);
        for (int64_t i = 0; i < w; i++)
            SET(0, r * w + i, IN(0, r * w + i) * (IN(1, r * w + i) - dot));
    }
}

static tensor *build(graph *g, tensor **in, const op_case *c) {
    (void)c;
    return op_softmax(g, in[0]);
}

static tensor *bwd_build(graph *g, tensor **in, const op_case *c) {
    (void)c;
    return op_record(g, &op_softmax_bwd_info, HERE, NULL, OP_IN(in[0], in[1]));
}

static const op_case cases[] = {
    CASE("[1]"),
    CASE("[5,1]"),
    CASE("[3,37]=-9:9"),
    CASE("[2,3,8]=-300:300", .no_grad = true),
    CASE("[2,1025]=-4:4"),
    CASE("[3,5000]=-4:4", .no_grad = true),
    CASE("[70001,4]", .no_grad = true),
    CASE("[2,8,256,77]=-4:4", .no_grad = true),
    CASE("[1,2,64,1024]=-8:8"),
};
static const op_case bwd_cases[] = {
    CASE("[1] [1]"),
    CASE("[3,37]=0:0.05 [3,37]"),
    CASE("[2,3,8]=0:0.2 [2,3,8]"),
    CASE("[2,1025]=0:0.01 [2,1025]"),
    CASE("[3,5000]=0:0.001 [3,5000]"),
    CASE("[2,8,256,77]=0:0.02 [2,8,256,77]"),
};

const op_info op_softmax_info = {.name = "softmax",
                                 .n_in = 1,
                                 .n_out = 1,
                                 .types = TYPES_FLOAT,
                                 .infer = infer,
                                 .encode = encode,
                                 .host = host_run,
                                 .backward = backward,
                                 .ref = ref,
                                 .build = build,
                                 CASES(cases)};

const op_info op_softmax_bwd_info = {.name = "softmax_bwd",
                                     .n_in = 2,
                                     .n_out = 1,
                                     .types = TYPES_FLOAT,
                                     .infer = infer,
                                     .encode = encode,
                                     .host = bwd_host,
                                     .ref = bwd_ref,
                                     .build = bwd_build,
                                     CASES(bwd_cases)};
