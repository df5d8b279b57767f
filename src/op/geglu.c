/* geglu: y = a * gelu(b), where a and b are the halves of x's last dim; gelu by erf.
 * geglu_bwd: (x, dy) -> dx = {dy gelu(b), dy a gelu'(b)}.
 *   x  [..., 2C] f32|f16|bf16   returns [..., C] same type; computed in f32
 *   errors  E_SHAPE if the last dim is odd
 *   source  Shazeer 2020, "GLU variants improve transformer"; diffusers GEGLU
 * SPDX-License-Identifier: MIT */
#include "op/block.h"
#include "op/vmath.h"
#include <math.h>

extern const op_info op_geglu_info, op_geglu_bwd_info;

tensor *op_geglu_(graph *g, tensor *x, const char *here) {
    return op_record(g, &op_geglu_info, here, NULL, OP_IN(x));
}

static status infer(graph *g, node *n) {
    (void)g;
    shape s = n->in[0]->s;
    if (!move_is_float(n->in[0]->dtype))
        return fail(E_UNSUPPORTED, "geglu: x is %s; give a float type",
                    dtype_name(n->in[0]->dtype));
    if (s.d[s.n - 1] % 2)
        return fail(E_SHAPE, "geglu: the last dim, %lld, must be even", (long long)s.d[s.n - 1]);
    s.d[s.n - 1] /= 2;
    out_set(n, 0, n->in[0]->dtype, s);
    return OK;
}

static status bwd_infer(graph *g, node *n) {
    (void)g;
    const tensor *x = n->in[0], *dy = n->in[1];
    if (x->dtype != dy->dtype || tensor_count(x) != 2 * tensor_count(dy) ||
        x->s.d[x->s.n - 1] != 2 * dy->s.d[dy->s.n - 1])
        return fail(E_SHAPE, "geglu_bwd: dy must be half of x along the last dim");
    out_like(n, 0, x);
    return OK;
}

/* y or dy: the tensor of single width. */
static const tensor *narrow(const node *n) { return n->n_in > 1 ? n->in[1] : n->out[0]; }

static status encode(gpu_cmd *c, const node *n) {
    const tensor *y = narrow(n);
    int64_t width = y->s.d[y->s.n - 1];
    uint32_t unit = width % 4 == 0 ? 4 : 1;
    struct {
        uint32_t n, c;
    } push = {(uint32_t)tensor_count(y) / unit, (uint32_t)width / unit};
    gpu_dispatch_params p = {.shader = n->op->name,
                             .type = y->dtype,
                             .spec = {unit == 4},
                             .n_spec = 1,
                             .push = &push,
                             .push_bytes = sizeof push};
    for (int k = 0; k < n->n_in; k++) p.bind[p.n_bind++] = n->in[k]->span;
    p.bind[p.n_bind++] = n->out[0]->span;
    return move_dispatch(c, p, push.n);
}

HOST_KERNEL(block_geglu,
            (const float *restrict a, const float *restrict b, float *restrict y, int64_t n),
            (a, b, y, n)) {
    for (int64_t i = 0; i < n; i++) y[i] = a[i] * (b[i] * vnormal_cdf(b[i]));
}

HOST_KERNEL(block_geglu_bwd,
            (const float *restrict a, const float *restrict b, const float *restrict dy,
             float *restrict da, float *restrict db, int64_t n),
            (a, b, dy, da, db, n)) {
    for (int64_t i = 0; i < n; i++) {
        float cdf = vnormal_cdf(b[i]);
        da[i] = dy[i] * (b[i] * cdf);
        db[i] = dy[i] * a[i] * (cdf + b[i] * vnormal_pdf(b[i]));
    }
}

typedef struct job {
    const node *n;
    host_isa isa;
} job;

/* Elements [begin, end) of the narrow tensor. */
static void run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const tensor *x = j->n->in[0], *y = narrow(j->n), *out = j->n->out[0];
    int64_t c = y->s.d[y->s.n - 1];
    float ba[LANES], bb[LANES], by[LANES], oa[LANES], ob[LANES];
    for (int64_t i = begin, m; i < end; i += m) {
        int64_t row = i / c, col = i % c, at = row * 2 * c + col;
        m = MIN(MIN(LANES, end - i), c - col);
        const float *a = block_in(j->isa, x->data, x->dtype, at, m, ba),
                    *b = block_in(j->isa, x->data, x->dtype, at + c, m, bb);
        if (j->n->n_in == 1) {
            block_geglu(j->isa, a, b, block_out(out->data, out->dtype, i, oa), m);
            block_done(j->isa, out->data, out->dtype, i, m, oa);
        } else {
            const float *dy = block_in(j->isa, y->data, y->dtype, i, m, by);
            block_geglu_bwd(j->isa, a, b, dy, block_out(out->data, out->dtype, at, oa),
                            block_out(out->data, out->dtype, at + c, ob), m);
            block_done(j->isa, out->data, out->dtype, at, m, oa);
            block_done(j->isa, out->data, out->dtype, at + c, m, ob);
        }
    }
}

static void host_run(host *h, const node *n) {
    host_parallel(h, tensor_count(narrow(n)), BLOCK_GRAIN, run, &(job){n, host_get_isa(h)});
}

static void backward(graph *g, const node *n, tensor *const dy[], tensor *dx[]) {
    dx[0] = op_record(g, &op_geglu_bwd_info, n->at, NULL, OP_IN(n->in[0], dy[0]));
}

static double cdf(double x) { return 0.5 * (1 + erf(x / sqrt(2))); }

static void ref(const node *n) {
    int64_t c = n->out[0]->s.d[n->out[0]->s.n - 1];
    EACH(i, n->out[0]) {
        int64_t at = i / c * 2 * c + i % c;
        double b = IN(0, at + c);
        SET(0, i, IN(0, at) * b * cdf(b));
    }
}

static void bwd_ref(const node *n) {
    int64_t c = n->in[1]->s.d[n->in[1]->s.n - 1];
    EACH(i, n->in[1]) {
        int64_t at = i / c * 2 * c + i % c;
        double a = IN(0, at), b = IN(0, at + c), dy = IN(1, i);
        SET(0, at, dy * b * cdf(b));
        SET(0, at + c, dy * a * (cdf(b) + b * exp(-b * b / 2) / sqrt(2 * 3.14159265358979323846)));
    }
}

static tensor *build(graph *g, tensor **in, const op_case *c) {
    (void)c;
    return op_geglu(g, in[0]);
}

static tensor *bwd_build(graph *g, tensor **in, const op_case *c) {
    (void)c;
    return op_record(g, &op_geglu_bwd_info, HERE, NULL, OP_IN(in[0], in[1]));
}

static const op_case cases[] = {
    CASE("[2]"),
    CASE("[3,74]=-5:5"),
    CASE("[2,5,16]=-3:3"),
    CASE("[2,256,2560]=-3:3", .no_grad = true),
};
static const op_case bwd_cases[] = {
    CASE("[2] [1]"),
    CASE("[3,74]=-5:5 [3,37]"),
    CASE("[2,5,16]=-3:3 [2,5,8]"),
    CASE("[2,256,2560]=-3:3 [2,256,1280]"),
};

const op_info op_geglu_info = {.name = "geglu",
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

const op_info op_geglu_bwd_info = {.name = "geglu_bwd",
                                   .n_in = 2,
                                   .n_out = 1,
                                   .types = TYPES_FLOAT,
                                   .infer = bwd_infer,
                                   .encode = encode,
                                   .host = host_run,
                                   .ref = bwd_ref,
                                   .build = bwd_build,
                                   CASES(bwd_cases)};
