/* max_pool: largest element of k x k windows; padding never wins.
 *   x  [N, H, W, C] f32|f16|bf16
 *   returns [N, OH, OW, C] same type; output 1: where it was, u32 row * W + column
 *   ties: the first; NaN wins
 * max_pool_bwd: every input pixel gathers dy from the windows that chose it: no atomics, one order.
 *   errors  E_SHAPE: no window fits, padding above k / 2      source  torch max_pool2d
 * SPDX-License-Identifier: MIT */
#include "op/pool.h"
#include <math.h>

extern const op_info op_max_pool_info, op_max_pool_bwd_info;

tensor *op_max_pool_(graph *g, tensor *x, pool_attrs at, const char *here) {
    return op_record(g, &op_max_pool_info, here, &at, OP_IN(x));
}

static status infer(graph *g, node *n) {
    (void)g;
    shape s = {0};
    status st = pool_infer("max_pool", n->in[0], ATTRS(n, pool_attrs), &s);
    if (st != OK) return st;
    out_set(n, 0, n->in[0]->dtype, s);
    out_set(n, 1, DT_U32, s);
    return OK;
}

static pool_geom geom(const node *n) {
    return pool_geometry(&n->in[0]->s, &n->out[0]->s, ATTRS(n, pool_attrs));
}

static status encode(gpu_cmd *c, const node *n) {
    pool_geom g = geom(n);
    return pool_emit(c, "max_pool", &g, n->out[0],
                     (gpu_span[]){n->in[0]->span, n->out[0]->span, n->out[1]->span}, 3);
}

HOST_KERNEL(keep_larger,
            (const void *x, dtype t, int64_t at, int64_t m, uint32_t index, float *best,
             uint32_t *where),
            (x, t, at, m, index, best, where)) {
    float v[LANES];
    lanes_load(x, t, at, m, v);
    for (int64_t i = 0; i < m; i++) {
        bool take = v[i] > best[i] || v[i] != v[i];
        best[i] = take ? v[i] : best[i];
        where[i] = take ? index : where[i];
    }
}

typedef struct job {
    const node *n;
    host_isa isa;
} job;

static void pixel(const job *j, const pool_geom *g, int64_t b, int64_t r, int64_t q) {
    const node *n = j->n;
    int64_t y0, y1, x0, x1;
    pool_window(r, g->h, g, &y0, &y1);
    pool_window(q, g->w, g, &x0, &x1);
    for (int64_t k = 0; k < g->c; k += LANES) {
        float best[LANES];
        uint32_t where[LANES];
        int64_t m = MIN(g->c - k, LANES), to = ((b * g->oh + r) * g->ow + q) * g->c + k;
        for (int64_t i = 0; i < m; i++) best[i] = -INFINITY, where[i] = (uint32_t)(y0 * g->w + x0);
        for (int64_t y = y0; y < y1; y++)
            for (int64_t x = x0; x < x1; x++)
                keep_larger(j->isa, n->in[0]->data, n->in[0]->dtype,
                            ((b * g->h + y) * g->w + x) * g->c + k, m, (uint32_t)(y * g->w + x),
                            best, where);
        move_save(j->isa, n->out[0], to, m, best);
        memcpy((uint32_t *)n->out[1]->data + to, where, (size_t)m * 4);
    }
}

static void run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    pool_geom g = geom(j->n);
    for (int64_t r = begin; r < end; r++)
        for (int64_t q = 0; q < g.ow; q++) pixel(j, &g, r / g.oh, r % g.oh, q);
}

static void host_run(host *h, const node *n) {
    pool_geom g = geom(n);
    host_parallel(h, g.n * g.oh, MAX(1, MOVE_GRAIN / (g.ow * g.c * g.k * g.k)), run,
                  &(job){n, host_get_isa(h)});
}

static tensor *record_bwd(graph *g, tensor *dy, tensor *where, const pool_attrs *a, int64_t h,
                          int64_t w, const char *at) {
    return op_record(g, &op_max_pool_bwd_info, at, &(pool_bwd_attrs){*a, (uint32_t)h, (uint32_t)w},
                     OP_IN(dy, where));
}

static void backward(graph *g, const node *n, tensor *const dy[], tensor *dx[]) {
    if (dy[0])
        dx[0] = record_bwd(g, dy[0], n->out[1], ATTRS(n, pool_attrs), n->in[0]->s.d[1],
                           n->in[0]->s.d[2], n->at);
}

static void ref(const node *n) {
    pool_geom g = geom(n);
    EACH(i, n->out[0]) {
        int64_t c = i % g.c, q = i / g.c % g.ow, r = i / g.c / g.ow % g.oh,
                b = i / g.c / g.ow / g.oh, y0, y1, x0, x1;
        pool_window(r, g.h, &g, &y0, &y1);
        pool_window(q, g.w, &g, &x0, &x1);
        double best = -INFINITY;
        int64_t where = y0 * g.w + x0;
        for (int64_t y = y0; y < y1; y++)
            for (int64_t x = x0; x < x1; x++) {
                double v = IN(0, ((b * g.h + y) * g.w + x) * g.c + c);
                if (v > best || isnan(v)) best = v, where = y * g.w + x;
            }
        SET(0, i, best);
        SET(1, i, (double)where);
    }
}

static tensor *build(graph *g, tensor **in, const op_case *c) {
    return op_max_pool_(g, in[0], pool_case(c), HERE);
}

static const op_case cases[] = {
    CASE("[1,1,1,1]", .a = {1, 1, 0, 0}), CASE("[2,8,7,3]", .a = {3, 2, 0, 1}),
    CASE("[2,8,7,4]", .a = {3, 2, 1, 1}), CASE("[1,5,6,8]=-3:-1", .a = {2, 3, 1, 1}),
    CASE("[1,9,9,2]", .a = {4, 1, 2, 0}), CASE("[2,55,55,64]", .a = {3, 2, 0, 1}, .no_grad = true),
};

const op_info op_max_pool_info = {.name = "max_pool",
                                  .n_in = 1,
                                  .n_out = 2,
                                  .attrs_size = sizeof(pool_attrs),
                                  .types = TYPES_FLOAT,
                                  .infer = infer,
                                  .encode = encode,
                                  .host = host_run,
                                  .backward = backward,
                                  .ref = ref,
                                  .build = build,
                                  CASES(cases)};

/* ---- gradient: dy [N, OH, OW, C], where u32 of that shape -> dx [N, h, w, C] ---- */

static status bwd_infer(graph *g, node *n) {
    (void)g;
    if (!shape_equal(&n->in[0]->s, &n->in[1]->s))
        return fail(E_SHAPE, "max_pool_bwd: dy and where must have one shape");
    return pool_bwd_infer("max_pool_bwd", n);
}

static status bwd_encode(gpu_cmd *c, const node *n) {
    pool_geom g = pool_bwd_geometry(n);
    return pool_emit(c, "max_pool_bwd", &g, n->out[0],
                     (gpu_span[]){n->in[0]->span, n->in[1]->span, n->out[0]->span}, 3);
}

HOST_KERNEL(add_chosen,
            (const void *dy, dtype t, const uint32_t *where, int64_t at, int64_t m, uint32_t index,
             float *sum),
            (dy, t, where, at, m, index, sum)) {
    float v[LANES];
    lanes_load(dy, t, at, m, v);
    for (int64_t i = 0; i < m; i++) sum[i] += where[at + i] == index ? v[i] : 0.0f;
}

static void bwd_pixel(const job *j, const pool_geom *g, int64_t b, int64_t y, int64_t x) {
    const node *n = j->n;
    int64_t r0, r1, q0, q1;
    pool_holders(y, g->oh, g, &r0, &r1);
    pool_holders(x, g->ow, g, &q0, &q1);
    for (int64_t k = 0; k < g->c; k += LANES) {
        float sum[LANES] = {0};
        int64_t m = MIN(g->c - k, LANES);
        for (int64_t r = r0; r < r1; r++)
            for (int64_t q = q0; q < q1; q++)
                add_chosen(j->isa, n->in[0]->data, n->in[0]->dtype, n->in[1]->data,
                           ((b * g->oh + r) * g->ow + q) * g->c + k, m, (uint32_t)(y * g->w + x),
                           sum);
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

static void bwd_ref(const node *n) {
    pool_geom g = pool_bwd_geometry(n);
    EACH(i, n->out[0]) {
        int64_t c = i % g.c, x = i / g.c % g.w, y = i / g.c / g.w % g.h, b = i / g.c / g.w / g.h,
                r0, r1, q0, q1;
        double sum = 0;
        pool_holders(y, g.oh, &g, &r0, &r1);
        pool_holders(x, g.ow, &g, &q0, &q1);
        for (int64_t r = r0; r < r1; r++)
            for (int64_t q = q0; q < q1; q++) {
                int64_t at = ((b * g.oh + r) * g.ow + q) * g.c + c;
                if ((int64_t)IN(1, at) == y * g.w + x) sum += IN(0, at);
            }
        SET(0, i, sum);
    }
}

/* a[4], a[5]: h, w of the image; inputs: dy and an image whose max_pool gives the choice */
static tensor *bwd_build(graph *g, tensor **in, const op_case *c) {
    pool_attrs a = pool_case(c);
    tensor *y = op_max_pool_(g, in[1], a, HERE);
    return record_bwd(g, in[0], tensor_out(y, 1), &a, (int64_t)c->a[4], (int64_t)c->a[5], HERE);
}

static const op_case bwd_cases[] = {
    CASE("[1,1,1,1] [1,1,1,1]", .a = {1, 1, 0, 0, 1, 1}),
    CASE("[2,5,4,3] [2,8,7,3]", .a = {3, 2, 1, 1, 8, 7}),
    CASE("[1,2,3,8] [1,5,6,8]", .a = {2, 3, 1, 0, 5, 6}),
    CASE("[1,10,10,4] [1,9,9,4]", .a = {4, 1, 2, 0, 9, 9}),
    CASE("[2,27,27,64] [2,55,55,64]", .a = {3, 2, 0, 1, 55, 55}),
};

const op_info op_max_pool_bwd_info = {.name = "max_pool_bwd",
                                      .n_in = 2,
                                      .n_out = 1,
                                      .attrs_size = sizeof(pool_bwd_attrs),
                                      .types = TYPES_FLOAT,
                                      .infer = bwd_infer,
                                      .encode = bwd_encode,
                                      .host = bwd_host,
                                      .ref = bwd_ref,
                                      .build = bwd_build,
                                      CASES(bwd_cases)};
