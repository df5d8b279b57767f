/* pool.h: the windows that avg_pool and max_pool share, as torch counts them.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "host/lanes.h"
#include "op/move.h"

/* k, s, p: kernel, stride and padding, both sides alike */
typedef struct pool_geom {
    int64_t n, h, w, c, oh, ow, k, s, p;
} pool_geom;

/* attrs of the gradient ops: what cannot be told from dy. */
typedef struct pool_bwd_attrs {
    pool_attrs pool;
    uint32_t h, w;
} pool_bwd_attrs;

/* Windows along one side. In ceil mode one may hang over the far edge, but must start inside the
 * input or the near padding (torch.nn.functional.avg_pool2d). */
static inline int64_t pool_count(int64_t size, const pool_attrs *a) {
    int64_t room = size + 2 * (int64_t)a->pad - a->k;
    if (room < 0) return 0;
    int64_t n = (room + (a->ceil_mode ? a->stride - 1 : 0)) / a->stride + 1;
    return a->ceil_mode && (n - 1) * a->stride >= size + a->pad ? n - 1 : n;
}

static inline status pool_infer(const char *op, const tensor *x, const pool_attrs *a, shape *out) {
    if (x->s.n != 4 || !move_is_float(x->dtype))
        return fail(E_SHAPE, "%s takes a float image [N, H, W, C]", op);
    if (a->k < 1 || a->k > 65535 || a->stride < 1 || a->stride > 65535 || a->pad > a->k / 2)
        return fail(E_SHAPE,
                    "%s: kernel %u, stride %u, padding %u; padding is at most half the kernel", op,
                    a->k, a->stride, a->pad);
    int64_t oh = pool_count(x->s.d[1], a), ow = pool_count(x->s.d[2], a);
    if (oh < 1 || ow < 1)
        return fail(E_SHAPE, "%s: a window of %u does not fit into %lld x %lld", op, a->k,
                    (long long)x->s.d[1], (long long)x->s.d[2]);
    *out = SHAPE(x->s.d[0], oh, ow, x->s.d[3]);
    return OK;
}

static inline pool_geom pool_geometry(const shape *x, const shape *y, const pool_attrs *a) {
    return (pool_geom){x->d[0], x->d[1], x->d[2],   x->d[3], y->d[1],
                       y->d[2], a->k,    a->stride, a->pad};
}

static inline status pool_bwd_infer(const char *op, node *n) {
    const pool_bwd_attrs *a = ATTRS(n, pool_bwd_attrs);
    const shape *s = &n->in[0]->s;
    if (s->n != 4 || s->d[1] != pool_count(a->h, &a->pool) || s->d[2] != pool_count(a->w, &a->pool))
        return fail(E_SHAPE, "%s: dy does not belong to an image of %u x %u", op, a->h, a->w);
    out_set(n, 0, n->in[0]->dtype, SHAPE(s->d[0], a->h, a->w, s->d[3]));
    return OK;
}
static inline pool_geom pool_bwd_geometry(const node *n) {
    return pool_geometry(&n->out[0]->s, &n->in[0]->s, &ATTRS(n, pool_bwd_attrs)->pool);
}

/* a test case's a: k, stride, pad, ceil_mode */
static inline pool_attrs pool_case(const op_case *c) {
    return (pool_attrs){(uint32_t)c->a[0], (uint32_t)c->a[1], (uint32_t)c->a[2], (uint32_t)c->a[3]};
}

/* Window i along a side of `size`: [*a, *b) inside the input; returns its length, padding counted.
 */
static inline int64_t pool_window(int64_t i, int64_t size, const pool_geom *g, int64_t *a,
                                  int64_t *b) {
    int64_t begin = i * g->s - g->p, end = MIN(begin + g->k, size + g->p);
    *a = MAX(begin, 0);
    *b = MIN(end, size);
    return end - begin;
}

/* Windows [*a, *b) that hold input index y; there are `out` of them along this side. */
static inline void pool_holders(int64_t y, int64_t out, const pool_geom *g, int64_t *a,
                                int64_t *b) {
    *a = y + g->p < g->k ? 0 : (y + g->p - g->k) / g->s + 1;
    *b = MIN(out, (y + g->p) / g->s + 1);
}

/* One invocation per element of `to`, or per four channels. */
static inline status pool_emit(gpu_cmd *c, const char *shader, const pool_geom *g, const tensor *to,
                               const gpu_span *bind, int n_bind) {
    uint32_t unit = g->c % 4 ? 1 : 4;
    struct {
        uint32_t n, h, w, c, oh, ow, k, s, p;
    } push = {(uint32_t)tensor_count(to) / unit,
              (uint32_t)g->h,
              (uint32_t)g->w,
              (uint32_t)g->c / unit,
              (uint32_t)g->oh,
              (uint32_t)g->ow,
              (uint32_t)g->k,
              (uint32_t)g->s,
              (uint32_t)g->p};
    gpu_dispatch_params d = {.shader = shader,
                             .type = to->dtype,
                             .spec = {unit == 4},
                             .n_spec = 1,
                             .n_bind = n_bind,
                             .push = &push,
                             .push_bytes = sizeof push,
                             .work = (double)tensor_count(to) * (double)(g->k * g->k)};
    for (int i = 0; i < n_bind; i++) d.bind[i] = bind[i];
    return move_dispatch(c, d, push.n);
}
