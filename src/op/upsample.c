/* upsample: nearest neighbour to a given size (smaller sizes work too).
 *   x  [N, H, W, C] f32|f16|bf16
 *   returns [N, h, w, C]: row i reads row floor(i H / h), columns alike
 * upsample_bwd: dx of a source pixel is the sum over the pixels that read it, in f32, in order.
 *   errors  E_SHAPE unless x has 4 dims      source  torch.nn.functional.interpolate, mode nearest
 * SPDX-License-Identifier: MIT */
#include "host/lanes.h"
#include "op/move.h"

/* The output's size; for the gradient, x's. */
typedef struct upsample_attrs {
    int64_t h, w;
} upsample_attrs;
extern const op_info op_upsample_info, op_upsample_bwd_info;

tensor *op_upsample_(graph *g, tensor *x, int64_t h, int64_t w, const char *here) {
    return op_record(g, &op_upsample_info, here, &(upsample_attrs){h, w}, OP_IN(x));
}

static status infer(graph *g, node *n) {
    (void)g;
    const tensor *x = n->in[0];
    const upsample_attrs *a = ATTRS(n, upsample_attrs);
    if (x->s.n != 4 || !move_is_float(x->dtype))
        return fail(E_SHAPE, "%s takes a float image [N, H, W, C]", n->op->name);
    if (a->h < 1 || a->w < 1 || a->h > 65535 || a->w > 65535 || x->s.d[1] > 65535 ||
        x->s.d[2] > 65535)
        return fail(E_SHAPE, "%s to %lld x %lld: sides are 1 to 65535", n->op->name,
                    (long long)a->h, (long long)a->w);
    out_set(n, 0, x->dtype, SHAPE(x->s.d[0], a->h, a->w, x->s.d[3]));
    return OK;
}

/* Sizes of both images: x (small side of the forward op) and y. */
typedef struct sizes {
    int64_t n, h, w, oh, ow, c;
} sizes;
static sizes sizes_of(const tensor *x, const tensor *y) {
    return (sizes){x->s.d[0], x->s.d[1], x->s.d[2], y->s.d[1], y->s.d[2], x->s.d[3]};
}

static status emit(gpu_cmd *c, const char *shader, const tensor *from, const tensor *to, sizes z) {
    bool vec = z.c % 4 == 0;
    struct {
        uint32_t n, h, w, oh, ow, c;
    } push = {(uint32_t)(tensor_count(to) / (vec ? 4 : 1)),
              (uint32_t)z.h,
              (uint32_t)z.w,
              (uint32_t)z.oh,
              (uint32_t)z.ow,
              (uint32_t)(z.c / (vec ? 4 : 1))};
    return move_dispatch(
        c,
        (gpu_dispatch_params){.shader = shader,
                              .type = from->dtype,
                              .spec = {vec},
                              .n_spec = 1,
                              .bind = {from->span, to->span},
                              .n_bind = 2,
                              .push = &push,
                              .push_bytes = sizeof push,
                              .work = (double)(tensor_count(from) + tensor_count(to))},
        push.n);
}

static status encode(gpu_cmd *c, const node *n) {
    return emit(c, "upsample", n->in[0], n->out[0], sizes_of(n->in[0], n->out[0]));
}

/* Output rows [begin, end) of all images. */
static void run(void *ctx, int64_t begin, int64_t end) {
    const node *n = ctx;
    sizes z = sizes_of(n->in[0], n->out[0]);
    size_t pixel = (size_t)z.c * dtype_bytes(n->in[0]->dtype), row = (size_t)z.ow * pixel;
    for (int64_t r = begin; r < end; r++) {
        int64_t i = r % z.oh, y = i * z.h / z.oh;
        char *dst = (char *)n->out[0]->data + (size_t)r * row;
        if (r > begin && i > 0 && y == (i - 1) * z.h / z.oh) {
            memcpy(dst, dst - row, row);
            continue;
        }
        const char *src =
            (const char *)n->in[0]->data + (size_t)(r / z.oh * z.h + y) * (size_t)z.w * pixel;
        for (int64_t k = 0; k < z.ow; k++)
            memcpy(dst + (size_t)k * pixel, src + (size_t)(k * z.w / z.ow) * pixel, pixel);
    }
}

static void host_run(host *h, const node *n) {
    const shape *s = &n->out[0]->s;
    host_parallel(h, s->d[0] * s->d[1], MAX(1, MOVE_GRAIN / (s->d[2] * s->d[3])), run,
                  (void *)(uintptr_t)n);
}

static void backward(graph *g, const node *n, tensor *const dy[], tensor *dx[]) {
    const shape *s = &n->in[0]->s;
    dx[0] = op_record(g, &op_upsample_bwd_info, n->at, &(upsample_attrs){s->d[1], s->d[2]},
                      OP_IN(dy[0]));
}

static void ref(const node *n) {
    sizes z = sizes_of(n->in[0], n->out[0]);
    EACH(i, n->out[0]) {
        int64_t c = i % z.c, x = i / z.c % z.ow, y = i / z.c / z.ow % z.oh,
                b = i / z.c / z.ow / z.oh;
        SET(0, i, IN(0, ((b * z.h + y * z.h / z.oh) * z.w + x * z.w / z.ow) * z.c + c));
    }
}

/* a: h, w */
static tensor *build(graph *g, tensor **in, const op_case *c) {
    return op_upsample_(g, in[0], (int64_t)c->a[0], (int64_t)c->a[1], HERE);
}

static const op_case cases[] = {
    CASE("[1,1,1,1]", .a = {1, 1}), CASE("[1,1,1,1]", .a = {3, 2}),
    CASE("[2,3,4,5]", .a = {7, 9}), CASE("[2,3,5,8]", .a = {6, 10}),
    CASE("[1,7,9,4]", .a = {3, 4}), CASE("[2,16,16,640]", .a = {32, 32}, .no_grad = true),
};

const op_info op_upsample_info = {.name = "upsample",
                                  .n_in = 1,
                                  .n_out = 1,
                                  .attrs_size = sizeof(upsample_attrs),
                                  .types = TYPES_FLOAT,
                                  .infer = infer,
                                  .encode = encode,
                                  .host = host_run,
                                  .backward = backward,
                                  .ref = ref,
                                  .build = build,
                                  CASES(cases)};

/* ---- gradient ---- */

static status bwd_encode(gpu_cmd *c, const node *n) {
    return emit(c, "upsample_bwd", n->in[0], n->out[0], sizes_of(n->out[0], n->in[0]));
}

/* Outputs that read source index s: floor(i size / out) == s for i from here to first_reader(s +
 * 1). */
static int64_t first_reader(int64_t s, int64_t size, int64_t out) { return div_up(s * out, size); }

HOST_KERNEL(sum_pixels,
            (const void *dy, dtype t, int64_t at, int64_t rows, int64_t row_stride, int64_t cols,
             int64_t c, void *dx, int64_t to),
            (dy, t, at, rows, row_stride, cols, c, dx, to)) {
    float sum[LANES], v[LANES];
    for (int64_t k = 0; k < c; k += LANES) {
        int64_t m = MIN(c - k, LANES);
        for (int64_t i = 0; i < m; i++) sum[i] = 0;
        for (int64_t y = 0; y < rows; y++)
            for (int64_t x = 0; x < cols; x++) {
                lanes_load(dy, t, at + y * row_stride + x * c + k, m, v);
                for (int64_t i = 0; i < m; i++) sum[i] += v[i];
            }
        lanes_save(isa, dx, t, to + k, m, sum);
    }
}

typedef struct job {
    const node *n;
    host_isa isa;
} job;

/* Source rows [begin, end) of all images. */
static void bwd_run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const node *n = j->n;
    sizes z = sizes_of(n->out[0], n->in[0]);
    for (int64_t r = begin; r < end; r++) {
        int64_t s = r % z.h, y = first_reader(s, z.h, z.oh),
                rows = first_reader(s + 1, z.h, z.oh) - y;
        for (int64_t q = 0; q < z.w; q++) {
            int64_t x = first_reader(q, z.w, z.ow), cols = first_reader(q + 1, z.w, z.ow) - x;
            int64_t at = ((r / z.h * z.oh + y) * z.ow + x) * z.c;
            sum_pixels(j->isa, n->in[0]->data, n->in[0]->dtype, at, rows, z.ow * z.c, cols, z.c,
                       n->out[0]->data, (r * z.w + q) * z.c);
        }
    }
}

static void bwd_host(host *h, const node *n) {
    const shape *s = &n->in[0]->s;
    host_parallel(h, n->out[0]->s.d[0] * n->out[0]->s.d[1],
                  MAX(1, MOVE_GRAIN / (s->d[2] * s->d[3])), bwd_run, &(job){n, host_get_isa(h)});
}

static void bwd_backward(graph *g, const node *n, tensor *const dy[], tensor *dx[]) {
    dx[0] = op_upsample_(g, dy[0], n->in[0]->s.d[1], n->in[0]->s.d[2], n->at);
}

static void bwd_ref(const node *n) {
    sizes z = sizes_of(n->out[0], n->in[0]);
    EACH(i, n->out[0]) {
        int64_t c = i % z.c, q = i / z.c % z.w, s = i / z.c / z.w % z.h, b = i / z.c / z.w / z.h;
        double sum = 0;
        for (int64_t y = first_reader(s, z.h, z.oh); y < first_reader(s + 1, z.h, z.oh); y++)
            for (int64_t x = first_reader(q, z.w, z.ow); x < first_reader(q + 1, z.w, z.ow); x++)
                sum += IN(0, ((b * z.oh + y) * z.ow + x) * z.c + c);
        SET(0, i, sum);
    }
}

static tensor *bwd_build(graph *g, tensor **in, const op_case *c) {
    return op_record(g, &op_upsample_bwd_info, HERE,
                     &(upsample_attrs){(int64_t)c->a[0], (int64_t)c->a[1]}, OP_IN(in[0]));
}

static const op_case bwd_cases[] = {
    CASE("[1,1,1,1]", .a = {1, 1}),
    CASE("[2,7,9,5]", .a = {3, 4}),
    CASE("[2,6,10,8]", .a = {3, 5}),
    CASE("[1,3,4,4]", .a = {7, 9}),
    CASE("[2,32,32,640]", .a = {16, 16}, .no_grad = true),
};

const op_info op_upsample_bwd_info = {.name = "upsample_bwd",
                                      .n_in = 1,
                                      .n_out = 1,
                                      .attrs_size = sizeof(upsample_attrs),
                                      .types = TYPES_FLOAT,
                                      .infer = infer,
                                      .encode = bwd_encode,
                                      .host = bwd_host,
                                      .backward = bwd_backward,
                                      .ref = bwd_ref,
                                      .build = bwd_build,
                                      CASES(bwd_cases)};
