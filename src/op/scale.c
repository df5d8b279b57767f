/* scale: y = a x + b with constants baked in, elementwise. On Vulkan a kind of the unary shader.
 *   x  [...] f32|f16|bf16   returns [...] same shape and type; computed in f32
 *   errors  none
 * SPDX-License-Identifier: MIT */
#include "op/block.h"

typedef struct scale_attrs {
    float a, b;
} scale_attrs;
extern const op_info op_scale_info;

tensor *op_scale_(graph *g, tensor *x, float a, float b, const char *here) {
    return op_record(g, &op_scale_info, here, &(scale_attrs){a, b}, OP_IN(x));
}

static status infer(graph *g, node *n) {
    (void)g;
    if (!move_is_float(n->in[0]->dtype))
        return fail(E_UNSUPPORTED, "scale: x is %s; give a float type",
                    dtype_name(n->in[0]->dtype));
    out_like(n, 0, n->in[0]);
    return OK;
}

static status encode(gpu_cmd *c, const node *n) {
    const tensor *x = n->in[0], *y = n->out[0];
    uint64_t count = (uint64_t)tensor_count(y);
    bool vec = count % 4 == 0;
    struct {
        uint32_t n;
        float a, b;
    } push = {(uint32_t)(vec ? count / 4 : count), ATTRS(n, scale_attrs)->a,
              ATTRS(n, scale_attrs)->b};
    return move_dispatch(c,
                         (gpu_dispatch_params){.shader = "unary",
                                               .type = y->dtype,
                                               .spec = {12, vec},
                                               .n_spec = 2,
                                               .bind = {x->span, y->span},
                                               .n_bind = 2,
                                               .push = &push,
                                               .push_bytes = sizeof push},
                         push.n);
}

HOST_KERNEL(block_scale, (const float *restrict x, float *restrict y, int64_t n, float a, float b),
            (x, y, n, a, b)) {
    for (int64_t i = 0; i < n; i++) y[i] = a * x[i] + b;
}

typedef struct job {
    const node *n;
    host_isa isa;
} job;

static void run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const tensor *x = j->n->in[0], *y = j->n->out[0];
    const scale_attrs *s = ATTRS(j->n, scale_attrs);
    float bx[LANES], by[LANES];
    for (int64_t i = begin; i < end; i += LANES) {
        int64_t m = MIN(LANES, end - i);
        block_scale(j->isa, block_in(j->isa, x->data, x->dtype, i, m, bx),
                    block_out(y->data, y->dtype, i, by), m, s->a, s->b);
        block_done(j->isa, y->data, y->dtype, i, m, by);
    }
}

static void host_run(host *h, const node *n) {
    host_parallel(h, tensor_count(n->out[0]), BLOCK_GRAIN, run, &(job){n, host_get_isa(h)});
}

static void backward(graph *g, const node *n, tensor *const dy[], tensor *dx[]) {
    dx[0] = op_scale_(g, dy[0], ATTRS(n, scale_attrs)->a, 0, n->at);
}

static void ref(const node *n) {
    const scale_attrs *s = ATTRS(n, scale_attrs);
    EACH(i, n->out[0]) SET(0, i, (double)s->a * IN(0, i) + (double)s->b);
}

static tensor *build(graph *g, tensor **in, const op_case *c) {
    return op_affine(g, in[0], (float)c->a[0], (float)c->a[1]);
}

static const op_case cases[] = {
    CASE("[1]", .a = {2, 0}),
    CASE("[3,37]", .a = {-1.5, 0.25}),
    CASE("[2,64,64,320]", .a = {0.18215, 0}, .no_grad = true),
};

const op_info op_scale_info = {.name = "scale",
                               .n_in = 1,
                               .n_out = 1,
                               .attrs_size = sizeof(scale_attrs),
                               .types = TYPES_FLOAT,
                               .infer = infer,
                               .encode = encode,
                               .host = host_run,
                               .backward = backward,
                               .ref = ref,
                               .build = build,
                               CASES(cases)};
