/* unary: y = f(x), elementwise; the kinds of unary_kind. unary_bwd: dx = f'(x) dy.
 *   x  [...] f32|f16|bf16   returns [...] same shape and type; computed in f32
 *   silu x s(x), s the logistic function; gelu x Phi(x) (erf); gelu_tanh x s(2u), which is the tanh
 *     form, u = sqrt(2/pi) (x + 0.044715 x^3); quick_gelu x s(1.702 x)
 *   gradients at kinks as torch: relu'(0) = 0, abs'(0) = 0
 * One shader for all kinds; it also carries scale and clamp (op/scale.c, op/clamp.c).
 *   errors  none      source  Hendrycks & Gimpel 2016; torch.nn.functional
 * SPDX-License-Identifier: MIT */
#include "op/block.h"
#include "op/vmath.h"
#include <math.h>

typedef struct unary_attrs {
    uint32_t kind;
} unary_attrs;
extern const op_info op_unary_info, op_unary_bwd_info;

tensor *op_unary_(graph *g, tensor *x, unary_kind k, const char *here) {
    return op_record(g, &op_unary_info, here, &(unary_attrs){(uint32_t)k}, OP_IN(x));
}

static status infer(graph *g, node *n) {
    (void)g;
    const tensor *x = n->in[0];
    if (!move_is_float(x->dtype))
        return fail(E_UNSUPPORTED, "%s: x is %s; give a float type", n->op->name,
                    dtype_name(x->dtype));
    if (n->n_in > 1 && (!shape_equal(&x->s, &n->in[1]->s) || n->in[1]->dtype != x->dtype))
        return fail(E_SHAPE, "%s: x and dy must have one shape and type", n->op->name);
    out_like(n, 0, x);
    return OK;
}

static status encode(gpu_cmd *c, const node *n) {
    uint64_t count = (uint64_t)tensor_count(n->out[0]);
    bool vec = count % 4 == 0;
    struct {
        uint32_t n;
        float a, b;
    } push = {(uint32_t)(vec ? count / 4 : count), 0, 0};
    gpu_dispatch_params p = {.shader = n->op->name,
                             .type = n->out[0]->dtype,
                             .spec = {ATTRS(n, unary_attrs)->kind, vec},
                             .n_spec = 2,
                             .push = &push,
                             .push_bytes = sizeof push};
    for (int k = 0; k < n->n_in; k++) p.bind[p.n_bind++] = n->in[k]->span;
    p.bind[p.n_bind++] = n->out[0]->span;
    return move_dispatch(c, p, push.n);
}

/* ---- CPU ---- */

#define SQRT_2_OVER_PI 0.7978845608028654
LANE_INLINE float gelu_tanh_gate(float x) {
    return vsigmoid(x *
                    ((float)(2 * SQRT_2_OVER_PI) + (float)(2 * SQRT_2_OVER_PI * 0.044715) * x * x));
}

LANE_INLINE float value(unary_kind k, float x) {
    float s;
    switch (k) {
    case U_SILU: return x * vsigmoid(x);
    case U_GELU: return x * vnormal_cdf(x);
    case U_GELU_TANH: return x * gelu_tanh_gate(x);
    case U_QUICK_GELU: return x * vsigmoid(1.702f * x);
    case U_RELU: return x < 0 ? 0 : x;
    case U_SIGMOID: s = vsigmoid(x); return x == x ? s : x;
    case U_TANH: return vtanh(x);
    case U_EXP: return vexp(x);
    case U_SQRT: return sqrtf(x);
    case U_SQUARE: return x * x;
    case U_ABS: return lane_bits(lane_word(x) & 0x7fffffffu);
    case U_NEG: return -x;
    case U_KIND_COUNT: break;
    }
    return x;
}

LANE_INLINE float slope(unary_kind k, float x) {
    float s;
    switch (k) {
    case U_SILU: s = vsigmoid(x); return s + x * s * (1 - s);
    case U_GELU: return vnormal_cdf(x) + x * vnormal_pdf(x);
    case U_GELU_TANH:
        s = gelu_tanh_gate(x);
        return s +
               x * s * (1 - s) *
                   ((float)(2 * SQRT_2_OVER_PI) + (float)(6 * SQRT_2_OVER_PI * 0.044715) * x * x);
    case U_QUICK_GELU: s = vsigmoid(1.702f * x); return s + 1.702f * x * s * (1 - s);
    case U_RELU: return x > 0 ? 1.0f : 0.0f;
    case U_SIGMOID: s = vsigmoid(x); return s * (1 - s);
    case U_TANH: s = vtanh(x); return 1 - s * s;
    case U_EXP: return vexp(x);
    case U_SQRT: return 0.5f / sqrtf(x);
    case U_SQUARE: return 2 * x;
    case U_ABS: return x > 0 ? 1.0f : x < 0 ? -1.0f : 0.0f;
    case U_NEG: return -1;
    case U_KIND_COUNT: break;
    }
    return 1;
}

/* name, kind */
#define KINDS(K)                                                                                   \
    K(silu, U_SILU)                                                                                \
    K(gelu, U_GELU) K(gelu_tanh, U_GELU_TANH) K(quick_gelu, U_QUICK_GELU) K(relu, U_RELU)          \
        K(sigmoid, U_SIGMOID) K(tanh, U_TANH) K(exp, U_EXP) K(sqrt, U_SQRT) K(square, U_SQUARE)    \
            K(abs, U_ABS) K(neg, U_NEG)

#define DEFINE(name, kind)                                                                         \
    HOST_KERNEL(block_##name, (const float *restrict x, float *restrict y, int64_t n),             \
                (x, y, n)) {                                                                       \
        for (int64_t i = 0; i < n; i++) y[i] = value(kind, x[i]);                                  \
    }                                                                                              \
    HOST_KERNEL(                                                                                   \
        block_bwd_##name,                                                                          \
        (const float *restrict x, const float *restrict dy, float *restrict dx, int64_t n),        \
        (x, dy, dx, n)) {                                                                          \
        for (int64_t i = 0; i < n; i++) dx[i] = dy[i] * slope(kind, x[i]);                         \
    }
KINDS(DEFINE)

typedef void block_fn(host_isa, const float *, float *, int64_t);
typedef void block_bwd_fn(host_isa, const float *, const float *, float *, int64_t);
#define ROW(name, kind)     [kind] = block_##name,
#define ROW_BWD(name, kind) [kind] = block_bwd_##name,
static block_fn *const blocks[U_KIND_COUNT] = {KINDS(ROW)};
static block_bwd_fn *const blocks_bwd[U_KIND_COUNT] = {KINDS(ROW_BWD)};

typedef struct job {
    const node *n;
    host_isa isa;
} job;

static void run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const tensor *x = j->n->in[0], *y = j->n->out[0];
    block_fn *f = blocks[ATTRS(j->n, unary_attrs)->kind];
    float bx[LANES], by[LANES];
    for (int64_t i = begin; i < end; i += LANES) {
        int64_t m = MIN(LANES, end - i);
        f(j->isa, block_in(j->isa, x->data, x->dtype, i, m, bx),
          block_out(y->data, y->dtype, i, by), m);
        block_done(j->isa, y->data, y->dtype, i, m, by);
    }
}

static void host_run(host *h, const node *n) {
    host_parallel(h, tensor_count(n->out[0]), BLOCK_GRAIN, run, &(job){n, host_get_isa(h)});
}

static void bwd_run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const tensor *x = j->n->in[0], *dy = j->n->in[1], *dx = j->n->out[0];
    block_bwd_fn *f = blocks_bwd[ATTRS(j->n, unary_attrs)->kind];
    float bx[LANES], bdy[LANES], bdx[LANES];
    for (int64_t i = begin; i < end; i += LANES) {
        int64_t m = MIN(LANES, end - i);
        f(j->isa, block_in(j->isa, x->data, x->dtype, i, m, bx),
          block_in(j->isa, dy->data, dy->dtype, i, m, bdy), block_out(dx->data, dx->dtype, i, bdx),
          m);
        block_done(j->isa, dx->data, dx->dtype, i, m, bdx);
    }
}

static void bwd_host(host *h, const node *n) {
    host_parallel(h, tensor_count(n->out[0]), BLOCK_GRAIN, bwd_run, &(job){n, host_get_isa(h)});
}

static void backward(graph *g, const node *n, tensor *const dy[], tensor *dx[]) {
    dx[0] = op_record(g, &op_unary_bwd_info, n->at, n->attrs, OP_IN(n->in[0], dy[0]));
}

/* ---- meaning ---- */

static double logistic(double x) { return 1 / (1 + exp(-x)); }
static double gelu_u(double x) { return SQRT_2_OVER_PI * (x + 0.044715 * x * x * x); }

static double exact(unary_kind k, double x) {
    switch (k) {
    case U_SILU: return x * logistic(x);
    case U_GELU: return 0.5 * x * (1 + erf(x / sqrt(2)));
    case U_GELU_TANH: return 0.5 * x * (1 + tanh(gelu_u(x)));
    case U_QUICK_GELU: return x * logistic(1.702 * x);
    case U_RELU: return x < 0 ? 0 : x;
    case U_SIGMOID: return logistic(x);
    case U_TANH: return tanh(x);
    case U_EXP: return exp(x);
    case U_SQRT: return sqrt(x);
    case U_SQUARE: return x * x;
    case U_ABS: return fabs(x);
    case U_NEG: return -x;
    case U_KIND_COUNT: break;
    }
    return x;
}

static double exact_slope(unary_kind k, double x) {
    double s = logistic(x), q = logistic(1.702 * x), t;
    switch (k) {
    case U_SILU: return s * (1 + x * (1 - s));
    case U_GELU:
        return 0.5 * (1 + erf(x / sqrt(2))) +
               x * exp(-x * x / 2) / sqrt(2 * 3.14159265358979323846);
    case U_GELU_TANH:
        t = tanh(gelu_u(x));
        return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * SQRT_2_OVER_PI * (1 + 3 * 0.044715 * x * x);
    case U_QUICK_GELU: return q * (1 + 1.702 * x * (1 - q));
    case U_RELU: return x > 0;
    case U_SIGMOID: return s * (1 - s);
    case U_TANH: return 1 - tanh(x) * tanh(x);
    case U_EXP: return exp(x);
    case U_SQRT: return 0.5 / sqrt(x);
    case U_SQUARE: return 2 * x;
    case U_ABS: return (x > 0) - (x < 0);
    case U_NEG: return -1;
    case U_KIND_COUNT: break;
    }
    return 1;
}

static void ref(const node *n) {
    EACH(i, n->out[0]) SET(0, i, exact(ATTRS(n, unary_attrs)->kind, IN(0, i)));
}

static void bwd_ref(const node *n) {
    EACH(i, n->out[0]) SET(0, i, IN(1, i) * exact_slope(ATTRS(n, unary_attrs)->kind, IN(0, i)));
}

/* a[0]: kind */
static tensor *build(graph *g, tensor **in, const op_case *c) {
    return op_unary_(g, in[0], (unary_kind)c->a[0], HERE);
}

static tensor *bwd_build(graph *g, tensor **in, const op_case *c) {
    return op_record(g, &op_unary_bwd_info, HERE, &(unary_attrs){(uint32_t)c->a[0]},
                     OP_IN(in[0], in[1]));
}

static const op_case cases[] = {
    CASE("[1]", .a = {U_SILU}),
    CASE("[3,37]=-8:8", .a = {U_SILU}),
    CASE("[2,32,32,320]=-4:4", .a = {U_SILU}, .no_grad = true),
    CASE("[5,8]=-100:100", .a = {U_SILU}),
    CASE("[3,37]=-6:6", .a = {U_GELU}),
    CASE("[64,16]=-1:1", .a = {U_GELU}),
    CASE("[3,37]=-6:6", .a = {U_GELU_TANH}),
    CASE("[2,77,3072]=-4:4", .a = {U_QUICK_GELU}, .no_grad = true),
    CASE("[3,37]=-6:6", .a = {U_QUICK_GELU}),
    CASE("[3,37]", .a = {U_RELU}),
    CASE("[3,36]=-20:20", .a = {U_SIGMOID}),
    CASE("[3,36]=-20:20", .a = {U_TANH}),
    CASE("[101]=-1:1", .a = {U_TANH}),
    CASE("[3,37]=-10:3", .a = {U_EXP}),
    CASE("[4,9]=-120:-80", .a = {U_EXP}),
    CASE("[3,37]=0.01:9", .a = {U_SQRT}),
    CASE("[3,37]=-3:3", .a = {U_SQUARE}),
    CASE("[3,37]", .a = {U_ABS}),
    CASE("[3,37]", .a = {U_NEG}),
    CASE("[17000001]", .a = {U_NEG}, .no_grad = true,
         .big = true), /* more than 65,535 workgroups */
};

static const op_case bwd_cases[] = {
    CASE("[1] [1]", .a = {U_SILU}),
    CASE("[3,37]=-8:8 [3,37]", .a = {U_SILU}),
    CASE("[2,32,32,320]=-4:4 [2,32,32,320]", .a = {U_GELU}),
    CASE("[5,8]=-100:100 [5,8]", .a = {U_SILU}),
    CASE("[3,37]=-6:6 [3,37]", .a = {U_GELU_TANH}),
    CASE("[3,37]=-6:6 [3,37]", .a = {U_QUICK_GELU}),
    CASE("[3,37] [3,37]", .a = {U_RELU}),
    CASE("[3,36]=-20:20 [3,36]", .a = {U_SIGMOID}),
    CASE("[3,36]=-20:20 [3,36]", .a = {U_TANH}),
    CASE("[3,37]=-10:3 [3,37]", .a = {U_EXP}),
    CASE("[3,37]=0.01:9 [3,37]", .a = {U_SQRT}),
    CASE("[3,37]=-3:3 [3,37]", .a = {U_SQUARE}),
    CASE("[3,37] [3,37]", .a = {U_ABS}),
    CASE("[3,37] [3,37]", .a = {U_NEG}),
};

const op_info op_unary_info = {.name = "unary",
                               .n_in = 1,
                               .n_out = 1,
                               .attrs_size = sizeof(unary_attrs),
                               .types = TYPES_FLOAT,
                               .infer = infer,
                               .encode = encode,
                               .host = host_run,
                               .backward = backward,
                               .ref = ref,
                               .build = build,
                               CASES(cases)};

const op_info op_unary_bwd_info = {.name = "unary_bwd",
                                   .n_in = 2,
                                   .n_out = 1,
                                   .attrs_size = sizeof(unary_attrs),
                                   .types = TYPES_FLOAT,
                                   .infer = infer,
                                   .encode = encode,
                                   .host = bwd_host,
                                   .ref = bwd_ref,
                                   .build = bwd_build,
                                   CASES(bwd_cases)};
