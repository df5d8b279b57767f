/* avg_pool: mean over k x k windows.
 *   x  [N, H, W, C] f32|f16|bf16
 *   returns [N, OH, OW, C] same type; padding counts as zeros in the mean, what hangs over the
 * padded image in ceil mode does not count avg_pool_bwd: every input pixel gathers dy / count from
 * the windows that hold it. errors  E_SHAPE: no window fits, padding above k / 2      source  torch
 * avg_pool2d SPDX-License-Identifier: MIT */
#include "op/pool.h"

extern const op_info op_avg_pool_info, op_avg_pool_bwd_info;

tensor *op_avg_pool_(graph *g, tensor *x, pool_attrs at, const char *here) {
    return op_record(g, &op_avg_pool_info, here, &at, OP_IN(x));
}

static status infer(graph *g, node *n) {
    (void)g;
    shape s = {0};
    status st = pool_infer("avg_pool", n->in[0], ATTRS(n, pool_attrs), &s);
    if (st == OK) out_set(n, 0, n->in[0]->dtype, s);
    return st;
}

static pool_geom geom(const node *n) {
    return pool_geometry(&n->in[0]->s, &n->out[0]->s, ATTRS(n, pool_attrs));
}

static status encode(gpu_cmd *c, const node *n) {
    pool_geom g = geom(n);
    return pool_emit(c, "avg_pool", &g, n->out[0], (gpu_span[]){n->in[0]->span, n->out[0]->span},
                     2);
}

HOST_KERNEL(mean_pixels,
            (const void *x, dtype t, int64_t at, int64_t rows, int64_t row_stride, int64_t cols,
             int64_t c, float scale, void *y, int64_t to),
            (x, t, at, rows, row_stride, cols, c, scale, y, to)) {
    float sum[LANES], v[LANES];
    for (int64_t k = 0; k < c; k += LANES) {
        int64_t m = MIN(c - k, LANES);
        for (int64_t i = 0; i < m; i++) sum[i] = 0;
        for (int64_t a = 0; a < rows; a++)
            for (int64_t b = 0; b < cols; b++) {
                lanes_load(x, t, at + a * row_stride + b * c + k, m, v);
                for (int64_t i = 0; i < m; i++) sum[i] += v[i];
            }
        for (int64_t i = 0; i < m; i++) sum[i] *= scale;
        lanes_save(isa, y, t, to + k, m, sum);
    }
}

typedef struct job {
    const node *n;
    host_isa isa;
} job;

/* Output rows [begin, end) of all images. */
static void run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const node *n = j->n;
    pool_geom g = geom(n);
    for (int64_t r = begin; r < end; r++) {
        int64_t y0, y1, x0, x1, high = pool_window(r % g.oh, g.h, &g, &y0, &y1);
        for (int64_t q = 0; q < g.ow; q++) {
            int64_t wide = pool_window(q, g.w, &g, &x0, &x1),
                    at = ((r / g.oh * g.h + y0) * g.w + x0) * g.c;
            mean_pixels(j->isa, n->in[0]->data, n->in[0]->dtype, at, y1 - y0, g.w * g.c, x1 - x0,
                        g.c, 1.0f / (float)(high * wide), n->out[0]->data, (r * g.ow + q) * g.c);
        }
    }
}

static void host_run(host *h, const node *n) {
    pool_geom g = geom(n);
    host_parallel(h, g.n * g.oh, MAX(1, MOVE_GRAIN / (g.ow * g.c * g.k * g.k)), run,
                  &(job){n, host_get_isa(h)});
}

static tensor *record_bwd(graph *g, tensor *dy, const pool_attrs *a, int64_t h, int64_t w,
                          const char *at) {
    return op_record(g, &op_avg_pool_bwd_info, at, &(pool_bwd_attrs){*a, (uint32_t)h, (uint32_t)w},
                     OP_IN(dy));
}

static void backward(graph *g, const node *n, tensor *const dy[], tensor *dx[]) {
    dx[0] = record_bwd(g, dy[0], ATTRS(n, pool_attrs), n->in[0]->s.d[1], n->in[0]->s.d[2], n->at);
}

static void ref(const node *n) {
    pool_geom g = geom(n);
    EACH(i, n->out[0]) {
        int64_t c = i % g.c, q = i / g.c % g.ow, r = i / g.c / g.ow % g.oh,
                b = i / g.c / g.ow / g.oh, y0, y1, x0, x1;
        int64_t count = pool_window(r, g.h, &g, &y0, &y1) * pool_window(q, g.w, &g, &x0, &x1);
        double sum = 0;
        for (int64_t y = y0; y < y1; y++)
            for (int64_t x = x0; x < x1; x++) sum += IN(0, ((b * g.h + y) * g.w + x) * g.c + c);
        SET(0, i, sum / (double)count);
    }
}

static tensor *build(graph *g, tensor **in, const op_case *c) {
    return op_avg_pool_(g, in[0], pool_case(c), HERE);
}

static const op_case cases[] = {
    CASE("[1,1,1,1]", .a = {1, 1, 0, 0}), CASE("[2,8,7,3]", .a = {3, 2, 1, 1}),
    CASE("[2,8,7,4]", .a = {3, 2, 0, 1}), CASE("[1,5,6,8]", .a = {2, 3, 1, 1}),
    CASE("[1,9,9,2]", .a = {4, 1, 2, 0}), CASE("[2,64,64,64]", .a = {2, 2, 0, 0}, .no_grad = true),
};

const op_info op_avg_pool_info = {.name = "avg_pool",
                                  .n_in = 1,
                                  .n_out = 1,
                                  .attrs_size = sizeof(pool_attrs),
                                  .types = TYPES_FLOAT,
                                  .infer = infer,
                                  .encode = encode,
                                  .host = host_run,
                                  .backward = backward,
                                  .ref = ref,
                                  .build = build,
                                  CASES(cases)};

/* ---- gradient: dy [N, OH, OW, C] -> dx [N, h, w, C] ---- */

static status bwd_infer(graph *g, node *n) {
    (void)g;
    return pool_bwd_infer("avg_pool_bwd", n);
}

static status bwd_encode(gpu_cmd *c, const node *n) {
    pool_geom g = pool_bwd_geometry(n);
    return pool_emit(c, "avg_pool_bwd", &g, n->out[0],
                     (gpu_span[]){n->in[0]->span, n->out[0]->span}, 2);
}

HOST_KERNEL(add_scaled, (const void *x, dtype t, int64_t at, int64_t m, float scale, float *sum),
            (x, t, at, m, scale, sum)) {
    float v[LANES];
    lanes_load(x, t, at, m, v);
    for (int64_t i = 0; i < m; i++) sum[i] += scale * v[i];
}

/* dx of pixel (y, x) of image b. */
static void bwd_pixel(const job *j, const pool_geom *g, int64_t b, int64_t y, int64_t x) {
    const node *n = j->n;
    int64_t r0, r1, q0, q1, a, e;
    pool_holders(y, g->oh, g, &r0, &r1);
    pool_holders(x, g->ow, g, &q0, &q1);
    for (int64_t k = 0; k < g->c; k += LANES) {
        float sum[LANES] = {0};
        int64_t m = MIN(g->c - k, LANES);
        for (int64_t r = r0; r < r1; r++)
            for (int64_t q = q0; q < q1; q++) {
                int64_t count = pool_window(r, g->h, g, &a, &e) * pool_window(q, g->w, g, &a, &e);
                add_scaled(j->isa, n->in[0]->data, n->in[0]->dtype,
                           ((b * g->oh + r) * g->ow + q) * g->c + k, m, 1.0f / (float)count, sum);
            }
        move_save(j->isa, n->out[0], ((b * g->h + y) * g->w + x) * g->c + k, m, sum);
    }
}

static void bwd_run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    pool_geom g = pool_bwd_geometry(j->n);
    for (int64_t r = begin; r < end; r++)
        for (int64_t x = 0; x < g.w; x++) bwd_pixel(j, &g, r / g.h, r % g.h, x);
}

static void bwd_host(host *h, const node *n) {
    pool_geom g = pool_bwd_geometry(n);
    host_parallel(h, g.n * g.h, MAX(1, MOVE_GRAIN / (g.w * g.c)), bwd_run,
                  &(job){n, host_get_isa(h)});
}

static void bwd_backward(graph *g, const node *n, tensor *const dy[], tensor *dx[]) {
    dx[0] = op_avg_pool_(g, dy[0], ATTRS(n, pool_bwd_attrs)->pool, n->at);
}

static void bwd_ref(const node *n) {
    pool_geom g = pool_bwd_geometry(n);
    EACH(i, n->out[0]) {
        int64_t c = i % g.c, x = i / g.c % g.w, y = i / g.c / g.w % g.h, b = i / g.c / g.w / g.h,
                r0, r1, q0, q1, a, e;
        double sum = 0;
        pool_holders(y, g.oh, &g, &r0, &r1);
        pool_holders(x, g.ow, &g, &q0, &q1);
        for (int64_t r = r0; r < r1; r++)
            for (int64_t q = q0; q < q1; q++)
                sum += IN(0, ((b * g.oh + r) * g.ow + q) * g.c + c) /
                       (double)(pool_window(r, g.h, &g, &a, &e) * pool_window(q, g.w, &g, &a, &e));
        SET(0, i, sum);
    }
}

/* a[4], a[5]: h, w of the image; the input is dy */
static tensor *bwd_build(graph *g, tensor **in, const op_case *c) {
    pool_attrs a = pool_case(c);
    return record_bwd(g, in[0], &a, (int64_t)c->a[4], (int64_t)c->a[5], HERE);
}

static const op_case bwd_cases[] = {
    CASE("[1,1,1,1]", .a = {1, 1, 0, 0, 1, 1}),
    CASE("[2,5,4,3]", .a = {3, 2, 1, 1, 8, 7}),
    CASE("[1,2,3,8]", .a = {2, 3, 1, 0, 5, 6}),
    CASE("[2,32,32,64]", .a = {2, 2, 0, 0, 64, 64}, .no_grad = true),
};

const op_info op_avg_pool_bwd_info = {.name = "avg_pool_bwd",
                                      .n_in = 1,
                                      .n_out = 1,
                                      .attrs_size = sizeof(pool_bwd_attrs),
                                      .types = TYPES_FLOAT,
                                      .infer = bwd_infer,
                                      .encode = bwd_encode,
                                      .host = bwd_host,
                                      .backward = bwd_backward,
                                      .ref = bwd_ref,
                                      .build = bwd_build,
                                      CASES(bwd_cases)};
