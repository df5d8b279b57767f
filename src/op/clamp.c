/* clamp: y = x limited to [lo, hi], elementwise. clamp_bwd: dx = dy inside and at the bounds, 0
 * outside.
 *   x  [...] f32|f16|bf16   returns [...] same shape and type; NaN stays NaN
 *   errors  E_SHAPE if lo > hi      source  torch.clamp
 * On Vulkan a kind of the unary shaders.
 * SPDX-License-Identifier: MIT */
#include "op/block.h"

typedef struct clamp_attrs {
    float lo, hi;
} clamp_attrs;
extern const op_info op_clamp_info, op_clamp_bwd_info;

tensor *op_clamp_(graph *g, tensor *x, float lo, float hi, const char *here) {
    return op_record(g, &op_clamp_info, here, &(clamp_attrs){lo, hi}, OP_IN(x));
}

static status infer(graph *g, node *n) {
    (void)g;
    const tensor *x = n->in[0];
    const clamp_attrs *a = ATTRS(n, clamp_attrs);
    if (!move_is_float(x->dtype))
        return fail(E_UNSUPPORTED, "%s: x is %s; give a float type", n->op->name,
                    dtype_name(x->dtype));
    if (!(a->lo <= a->hi))
        return fail(E_SHAPE, "clamp: bounds %g to %g are in the wrong order", (double)a->lo,
                    (double)a->hi);
    if (n->n_in > 1 && (!shape_equal(&x->s, &n->in[1]->s) || n->in[1]->dtype != x->dtype))
        return fail(E_SHAPE, "clamp_bwd: x and dy must have one shape and type");
    out_like(n, 0, x);
    return OK;
}

static status encode(gpu_cmd *c, const node *n) {
    uint64_t count = (uint64_t)tensor_count(n->out[0]);
    bool vec = count % 4 == 0;
    struct {
        uint32_t n;
        float lo, hi;
    } push = {(uint32_t)(vec ? count / 4 : count), ATTRS(n, clamp_attrs)->lo,
              ATTRS(n, clamp_attrs)->hi};
    gpu_dispatch_params p = {.shader = n->n_in > 1 ? "unary_bwd" : "unary",
                             .type = n->out[0]->dtype,
                             .spec = {13, vec},
                             .n_spec = 2,
                             .push = &push,
                             .push_bytes = sizeof push};
    for (int k = 0; k < n->n_in; k++) p.bind[p.n_bind++] = n->in[k]->span;
    p.bind[p.n_bind++] = n->out[0]->span;
    return move_dispatch(c, p, push.n);
}

HOST_KERNEL(block_clamp,
            (const float *restrict x, float *restrict y, int64_t n, float lo, float hi),
            (x, y, n, lo, hi)) {
    for (int64_t i = 0; i < n; i++) {
        float v = x[i] < lo ? lo : x[i];
        y[i] = v > hi ? hi : v;
    }
}

HOST_KERNEL(block_clamp_bwd,
            (const float *restrict x, const float *restrict dy, float *restrict dx, int64_t n,
             float lo, float hi),
            (x, dy, dx, n, lo, hi)) {
    for (int64_t i = 0; i < n; i++) {
        float v = x[i] >= lo ? dy[i] : 0.0f;
        dx[i] = x[i] <= hi ? v : 0.0f;
    }
}

typedef struct job {
    const node *n;
    host_isa isa;
} job;

static void run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const tensor *x = j->n->in[0], *dy = j->n->n_in > 1 ? j->n->in[1] : NULL, *out = j->n->out[0];
    const clamp_attrs *a = ATTRS(j->n, clamp_attrs);
    float bx[LANES], bdy[LANES], by[LANES];
    for (int64_t i = begin; i < end; i += LANES) {
        int64_t m = MIN(LANES, end - i);
        const float *vx = block_in(j->isa, x->data, x->dtype, i, m, bx);
        float *y = block_out(out->data, out->dtype, i, by);
        if (dy)
            block_clamp_bwd(j->isa, vx, block_in(j->isa, dy->data, dy->dtype, i, m, bdy), y, m,
                            a->lo, a->hi);
        else
            block_clamp(j->isa, vx, y, m, a->lo, a->hi);
        block_done(j->isa, out->data, out->dtype, i, m, by);
    }
}

static void host_run(host *h, const node *n) {
    host_parallel(h, tensor_count(n->out[0]), BLOCK_GRAIN, run, &(job){n, host_get_isa(h)});
}

static void backward(graph *g, const node *n, tensor *const dy[], tensor *dx[]) {
    dx[0] = op_record(g, &op_clamp_bwd_info, n->at, n->attrs, OP_IN(n->in[0], dy[0]));
}

static void ref(const node *n) {
    double lo = (double)ATTRS(n, clamp_attrs)->lo, hi = (double)ATTRS(n, clamp_attrs)->hi;
    EACH(i, n->out[0]) SET(0, i, IN(0, i) < lo ? lo : IN(0, i) > hi ? hi : IN(0, i));
}

static void bwd_ref(const node *n) {
    double lo = (double)ATTRS(n, clamp_attrs)->lo, hi = (double)ATTRS(n, clamp_attrs)->hi;
    EACH(i, n->out[0]) SET(0, i, IN(0, i) >= lo && IN(0, i) <= hi ? IN(1, i) : 0);
}

static tensor *build(graph *g, tensor **in, const op_case *c) {
    return op_clamp(g, in[0], (float)c->a[0], (float)c->a[1]);
}

static tensor *bwd_build(graph *g, tensor **in, const op_case *c) {
    return op_record(g, &op_clamp_bwd_info, HERE, &(clamp_attrs){(float)c->a[0], (float)c->a[1]},
                     OP_IN(in[0], in[1]));
}

static const op_case cases[] = {
    CASE("[1]", .a = {-1, 1}),
    CASE("[3,37]", .a = {-0.5, 0.75}),
    CASE("[1,512,512,3]=-2:2", .a = {-1, 1}, .no_grad = true),
};
static const op_case bwd_cases[] = {
    CASE("[1] [1]", .a = {-1, 1}),
    CASE("[3,37] [3,37]", .a = {-0.5, 0.75}),
    CASE("[4,64,64,3]=-2:2 [4,64,64,3]", .a = {-1, 1}),
};

const op_info op_clamp_info = {.name = "clamp",
                               .n_in = 1,
                               .n_out = 1,
                               .attrs_size = sizeof(clamp_attrs),
                               .types = TYPES_FLOAT,
                               .infer = infer,
                               .encode = encode,
                               .host = host_run,
                               .backward = backward,
                               .ref = ref,
                               .build = build,
                               CASES(cases)};

const op_info op_clamp_bwd_info = {.name = "clamp_bwd",
                                   .n_in = 2,
                                   .n_out = 1,
                                   .attrs_size = sizeof(clamp_attrs),
                                   .types = TYPES_FLOAT,
                                   .infer = infer,
                                   .encode = encode,
                                   .host = host_run,
                                   .ref = bwd_ref,
                                   .build = bwd_build,
                                   CASES(bwd_cases)};
