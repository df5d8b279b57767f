/* reduce: sum, mean, standard deviation or Euclidean norm over the dims whose bit is set, kept as
 * 1.
 *   x  [...] f32|f16|bf16   returns f32; second output: the means, f32 of the same shape ([1] and 0
 *     but for std)
 *   std is unbiased (n - 1) and takes two passes: mean, then squared deviations.
 * reduce_bwd: dx, stretched to x's shape and type:
 *   sum dy;  mean dy / n;  std dy (x - mean) / ((n - 1) std);  norm2 dy x / norm;  0 where std or
 *     norm is 0 (as torch)
 *   errors  E_SHAPE if no dim is chosen      source  torch.sum, mean, std, linalg.vector_norm
 * SPDX-License-Identifier: MIT */
#include "op/sum.h"

typedef struct reduce_attrs {
    uint32_t kind, dims;
} reduce_attrs;
typedef struct reduce_bwd_attrs {
    uint32_t kind, type;
    shape s;
} reduce_bwd_attrs; /* x's type and shape */
extern const op_info op_reduce_info, op_reduce_bwd_info;

tensor *op_reduce_(graph *g, tensor *x, reduce_kind k, uint32_t dims, const char *here) {
    return op_record(g, &op_reduce_info, here, &(reduce_attrs){(uint32_t)k, dims}, OP_IN(x));
}

static status infer(graph *g, node *n) {
    (void)g;
    const tensor *x = n->in[0];
    const reduce_attrs *a = ATTRS(n, reduce_attrs);
    uint32_t all = (1u << x->s.n) - 1;
    shape s = x->s;
    char text[96];
    if (!move_is_float(x->dtype))
        return fail(E_UNSUPPORTED, "reduce: x is %s; give a float type", dtype_name(x->dtype));
    if (!(a->dims & all) || (a->dims != DIMS_ALL && a->dims & ~all))
        return fail(E_SHAPE,
                    "reduce: dims 0x%x of a tensor %s; bit i is dim i, at least one must be set",
                    a->dims, shape_text(&x->s, text));
    for (int i = 0; i < s.n; i++)
        if (a->dims >> i & 1u) s.d[i] = 1;
    out_set(n, 0, dtype_acc(x->dtype), s);
    out_set(n, 1, dtype_acc(x->dtype), a->kind == R_STD ? s : SHAPE(1));
    return OK;
}

static sum_geom geometry(const node *n, bool on_gpu) {
    return sum_geometry(&n->in[0]->s, ~ATTRS(n, reduce_attrs)->dims, on_gpu);
}

static sum_desc mean_of(const sum_geom *s) {
    return (sum_desc){SUM_X, 1.0 / (double)s->count, false};
}

static sum_desc desc_of(const node *n, const sum_geom *s) {
    switch ((reduce_kind)ATTRS(n, reduce_attrs)->kind) {
    case R_SUM: break;
    case R_MEAN: return mean_of(s);
    case R_STD: return (sum_desc){SUM_DEVIATION, 1.0 / (double)(s->count - 1), true};
    case R_NORM2: return (sum_desc){SUM_SQUARE, 1, true};
    case R_KIND_COUNT: break;
    }
    return (sum_desc){SUM_X, 1, false};
}

static status prepare(prep *p, node *n) {
    sum_geom s = geometry(n, p->gpu != NULL);
    prep_scratch(n, sum_scratch(&s));
    return OK;
}

static status encode(gpu_cmd *c, const node *n) {
    const tensor *x = n->in[0];
    sum_geom s = geometry(n, true);
    sum_desc d = desc_of(n, &s), m = mean_of(&s);
    gpu_span mean = n->out[1]->span, scratch = n->scratch ? n->scratch->span : (gpu_span){0};
    struct {
        uint32_t n, word;
    } zero = {1, 0};
    status st = d.term == SUM_DEVIATION
                    ? sum_encode(c, &s, &m, x->dtype, x->span, x->span, mean, scratch)
                    : move_dispatch(c,
                                    (gpu_dispatch_params){.shader = "zeros",
                                                          .type = DT_U32,
                                                          .bind = {mean},
                                                          .n_bind = 1,
                                                          .push = &zero,
                                                          .push_bytes = sizeof zero},
                                    1);
    return st != OK ? st : sum_encode(c, &s, &d, x->dtype, x->span, mean, n->out[0]->span, scratch);
}

static void host_run(host *h, const node *n) {
    const tensor *x = n->in[0];
    sum_geom s = geometry(n, false);
    sum_desc d = desc_of(n, &s), m = mean_of(&s);
    float *mean = n->out[1]->data, *scratch = n->scratch ? n->scratch->data : NULL;
    if (d.term == SUM_DEVIATION)
        sum_host(h, &s, &m, x->data, x->dtype, NULL, mean, scratch);
    else
        mean[0] = 0;
    sum_host(h, &s, &d, x->data, x->dtype, mean, n->out[0]->data, scratch);
}

static tensor *stretch(graph *g, reduce_kind k, const tensor *x, tensor *dy, tensor *vx, tensor *y,
                       tensor *mean, const char *here) {
    reduce_bwd_attrs a = {(uint32_t)k, x->dtype, x->s};
    return op_record(g, &op_reduce_bwd_info, here, &a, OP_IN(dy, vx, y, mean));
}

tensor *sum_stretch(graph *g, tensor *dy, const tensor *x, const char *here) {
    return stretch(g, R_SUM, x, dy, NULL, NULL, NULL, here);
}

static void backward(graph *g, const node *n, tensor *const dy[], tensor *dx[]) {
    reduce_kind k = (reduce_kind)ATTRS(n, reduce_attrs)->kind;
    tensor *x = n->in[0];
    if (dy[1]) graph_fail(g, n->at, E_UNSUPPORTED, "reduce: the second output has no gradient");
    if (!dy[0]) return;
    if (k == R_STD)
        dx[0] = stretch(g, k, x, dy[0], x, n->out[0], n->out[1], n->at);
    else if (k == R_NORM2)
        dx[0] = stretch(g, k, x, dy[0], x, n->out[0], NULL, n->at);
    else
        dx[0] = stretch(g, k, x, dy[0], NULL, NULL, NULL, n->at);
}

static void ref(const node *n) {
    sum_geom s = geometry(n, false);
    sum_desc d = desc_of(n, &s), m = mean_of(&s);
    SET(1, 0, 0);
    EACH(i, n->out[0]) {
        double mean =
            d.term == SUM_DEVIATION ? sum_exact(&s, &m, n->in[0]->data, n->in[0]->dtype, 0, i) : 0;
        if (d.term == SUM_DEVIATION) SET(1, i, mean);
        SET(0, i, sum_exact(&s, &d, n->in[0]->data, n->in[0]->dtype, mean, i));
    }
}

/* a: kind, dims */
static tensor *build(graph *g, tensor **in, const op_case *c) {
    return op_reduce_(g, in[0], (reduce_kind)c->a[0], (uint32_t)c->a[1], HERE);
}

static const op_case cases[] = {
    CASE("[1]", .a = {R_SUM, 1}),
    CASE("[3,37]", .a = {R_SUM, DIMS_ALL}),
    CASE("[3,37]", .a = {R_MEAN, 2}),
    CASE("[5,3,8]", .a = {R_MEAN, 1}),
    CASE("[3,4,5]", .a = {R_SUM, 5}),
    CASE("[3,37]=1:2", .a = {R_STD, 2}),
    CASE("[5,3,8]=100:101", .a = {R_STD, 1}, .tol = 1e-4),
    CASE("[2,3,4,5,3,2]", .a = {R_STD, 0x2a}),
    CASE("[3,2,4,5,3,4]", .a = {R_STD, 0x15}),
    CASE("[3,37]", .a = {R_NORM2, 3}),
    CASE("[2,5,5,8]", .a = {R_NORM2, 6}),
    CASE("[3,7]=0:0", .a = {R_NORM2, 2}),
    CASE("[3,7]=2:2", .a = {R_STD, 2}, .no_grad = true),
    CASE("[2,64,64,4]", .a = {R_STD, 14}),
    CASE("[2,64,64,320]", .a = {R_MEAN, 6}, .no_grad = true),
    CASE("[1,1,3000001]", .a = {R_NORM2, DIMS_ALL}, .no_grad = true),
    CASE("[70001,3]", .a = {R_SUM, 2}, .no_grad = true),
};

const op_info op_reduce_info = {.name = "reduce",
                                .n_in = 1,
                                .n_out = 2,
                                .attrs_size = sizeof(reduce_attrs),
                                .types = TYPES_FLOAT,
                                .infer = infer,
                                .prepare = prepare,
                                .encode = encode,
                                .host = host_run,
                                .backward = backward,
                                .ref = ref,
                                .build = build,
                                CASES(cases)};

/* ---- gradient: dy f32; x, y, mean as the kind needs them ---- */

static status bwd_infer(graph *g, node *n) {
    (void)g;
    const reduce_bwd_attrs *a = ATTRS(n, reduce_bwd_attrs);
    shape both;
    if (!bcast_shape(&n->in[0]->s, &a->s, &both) || !shape_equal(&both, &a->s))
        return fail(E_SHAPE, "reduce_bwd: dy does not stretch to x");
    out_set(n, 0, (dtype)a->type, a->s);
    return OK;
}

/* Dims of x with dy's strides, and the factor; n = elements under one dy. */
static bcast bwd_layout(const node *n, double *factor) {
    const shape *s = &ATTRS(n, reduce_bwd_attrs)->s;
    double count = (double)shape_count(s) / (double)tensor_count(n->in[0]);
    reduce_kind k = (reduce_kind)ATTRS(n, reduce_bwd_attrs)->kind;
    *factor = k == R_MEAN ? 1 / count : k == R_STD ? 1 / (count - 1) : 1;
    return bcast_of(s, 1, (const shape *[]){&n->in[0]->s});
}

static status bwd_encode(gpu_cmd *c, const node *n) {
    const tensor *dy = n->in[0], *x = n->in[1], *y = n->in[2], *mean = n->in[3], *dx = n->out[0];
    double factor;
    bcast l = bwd_layout(n, &factor);
    int last = l.n - 1;
    uint32_t unit = l.d[last] % 4 == 0 ? 4 : 1;
    struct {
        uint32_t n, d[MAX_DIMS], s[MAX_DIMS];
        float factor;
    } push = {.n = (uint32_t)(tensor_count(dx) / unit), .factor = (float)factor};
    bcast_push(&l, unit, push.d, (uint32_t *[]){push.s});
    return move_dispatch(
        c,
        (gpu_dispatch_params){
            .shader = "reduce_bwd",
            .type = dx->dtype,
            .spec = {unit == 4, l.stride[0][last] == 1, (uint32_t)l.n, x != NULL, mean != NULL},
            .n_spec = 5,
            .bind = {dy->span, x ? x->span : dx->span, y ? y->span : dy->span,
                     mean ? mean->span : dy->span, dx->span},
            .n_bind = 5,
            .push = &push,
            .push_bytes = sizeof push},
        push.n);
}

/* slope[i] = factor dy / y, 0 where y is 0; y = NULL: factor dy */
HOST_KERNEL(block_slope,
            (const float *restrict dy, const float *restrict y, float *restrict slope, float factor,
             int64_t n),
            (dy, y, slope, factor, n)) {
    if (!y)
        for (int64_t i = 0; i < n; i++) slope[i] = factor * dy[i];
    else
        for (int64_t i = 0; i < n; i++) slope[i] = y[i] == 0 ? 0 : factor * dy[i] / y[i];
}

HOST_KERNEL(block_apply,
            (const float *restrict slope, const float *restrict x, const float *restrict mean,
             float *restrict dx, int64_t n),
            (slope, x, mean, dx, n)) {
    if (!x)
        for (int64_t i = 0; i < n; i++) dx[i] = slope[i];
    else if (!mean)
        for (int64_t i = 0; i < n; i++) dx[i] = slope[i] * x[i];
    else
        for (int64_t i = 0; i < n; i++) dx[i] = slope[i] * (x[i] - mean[i]);
}

typedef struct job {
    const node *n;
    host_isa isa;
    bcast l;
    float factor;
} job;

static void bwd_run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const tensor *dy = j->n->in[0], *x = j->n->in[1], *y = j->n->in[2], *mean = j->n->in[3],
                 *dx = j->n->out[0];
    float bdy[LANES], bx[LANES], by[LANES], bm[LANES], slope[LANES], out[LANES];
    for (int64_t i = begin; i < end; i += LANES) {
        int64_t m = MIN(LANES, end - i);
        const float *vdy = bcast_in(j->isa, &j->l, 0, dy->data, DT_F32, i, m, bdy);
        const float *vy = y ? bcast_in(j->isa, &j->l, 0, y->data, DT_F32, i, m, by) : NULL;
        const float *vm = mean ? bcast_in(j->isa, &j->l, 0, mean->data, DT_F32, i, m, bm) : NULL;
        const float *vx = x ? block_in(j->isa, x->data, x->dtype, i, m, bx) : NULL;
        block_slope(j->isa, vdy, vy, slope, j->factor, m);
        block_apply(j->isa, slope, vx, vm, block_out(dx->data, dx->dtype, i, out), m);
        block_done(j->isa, dx->data, dx->dtype, i, m, out);
    }
}

static void bwd_host(host *h, const node *n) {
    double factor;
    job j = {n, host_get_isa(h), bwd_layout(n, &factor), 0};
    j.factor = (float)factor;
    host_parallel(h, tensor_count(n->out[0]), BLOCK_GRAIN, bwd_run, &j);
}

static void bwd_ref(const node *n) {
    double factor;
    bcast l = bwd_layout(n, &factor);
    EACH(i, n->out[0]) {
        int64_t o = bcast_index(&l, 0, i);
        double slope = factor * IN(0, o);
        if (n->in[2]) slope = IN(2, o) == 0 ? 0 : slope / IN(2, o);
        if (n->in[1]) slope *= IN(1, i) - (n->in[3] ? IN(3, o) : 0);
        SET(0, i, slope);
    }
}

/* a: kind */
static tensor *bwd_build(graph *g, tensor **in, const op_case *c) {
    reduce_kind k = (reduce_kind)c->a[0];
    bool second = k == R_STD || k == R_NORM2;
    return stretch(g, k, in[1], in[0], second ? in[1] : NULL, second ? in[2] : NULL,
                   k == R_STD ? in[3] : NULL, HERE);
}

static const op_case bwd_cases[] = {
    CASE("f32[1] [1]", .a = {R_SUM}),
    CASE("f32[3,1] [3,37]", .a = {R_MEAN}),
    CASE("f32[1,1,8] [5,3,8]", .a = {R_SUM}),
    CASE("f32[1,1,7] [5,3,7]", .a = {R_MEAN}),
    CASE("f32[2,1,4,1,3,1] [2,3,4,5,3,8]", .a = {R_SUM}),
    CASE("f32[1,2,1,5,1,4] [3,2,4,5,3,4] f32[1,2,1,5,1,4]=1:2 f32[1,2,1,5,1,4]", .a = {R_STD}),
    CASE("f32[3,1] [3,37] f32[3,1]=1:2 f32[3,1]", .a = {R_STD}),
    CASE("f32[1,1] [3,37] f32[1,1]=1:2", .a = {R_NORM2}),
    CASE("f32[3,1] [3,8] f32[3,1]=0:0", .a = {R_NORM2}),
    CASE("f32[2,1,1,320] [2,32,32,320]", .a = {R_MEAN}),
};

const op_info op_reduce_bwd_info = {.name = "reduce_bwd",
                                    .n_in = 4,
                                    .n_out = 1,
                                    .attrs_size = sizeof(reduce_bwd_attrs),
                                    .types = TYPES_FLOAT,
                                    .infer = bwd_infer,
                                    .encode = bwd_encode,
                                    .host = bwd_host,
                                    .ref = bwd_ref,
                                    .build = bwd_build,
                                    CASES(bwd_cases)};
