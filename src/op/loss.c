/* loss: sum_n weight[n] * mean over elements (mask * l(pred - target)) / N.
 *   pred, target  [N, ...] f32|f16|bf16; weight [N] f32; mask f32, broadcasts to pred; weight and
 *     mask may be NULL (1)
 *   l: d^2; |d|; huber: d^2 / 2 up to |d| = delta, then delta (|d| - delta / 2)
 *   returns [1] f32. The mask weighs elements; the mean stays over all of them. No gradient to
 *     weight and mask.
 * loss_bwd: (pred, target, weight, mask, dy [1] f32) -> dpred like pred; dtarget is its negative.
 *   errors  E_SHAPE if shapes disagree      source  Huber 1964; torch.nn.functional.mse_loss,
 *     l1_loss, huber_loss
 * SPDX-License-Identifier: MIT */
#include "op/sum.h"
#include <math.h>

typedef struct loss_attrs {
    uint32_t kind;
    float delta;
} loss_attrs;
extern const op_info op_loss_info, op_loss_bwd_info;
enum { PRED, TARGET, WEIGHT, MASK, DY };
#define CHUNK 16384 /* elements of one partial sum on the CPU */

tensor *op_loss_(graph *g, tensor *pred, tensor *target, tensor *weight, tensor *mask, loss_kind k,
                 float huber_delta, const char *here) {
    return op_record(g, &op_loss_info, here, &(loss_attrs){(uint32_t)k, huber_delta},
                     OP_IN(pred, target, weight, mask));
}

static status check(const node *n) {
    const tensor *p = n->in[PRED], *t = n->in[TARGET], *w = n->in[WEIGHT], *m = n->in[MASK];
    shape both;
    char a[96], b[96];
    if (!move_is_float(p->dtype) || p->dtype != t->dtype || !shape_equal(&p->s, &t->s))
        return fail(E_SHAPE, "loss: pred %s %s and target %s %s must have one shape and float type",
                    dtype_name(p->dtype), shape_text(&p->s, a), dtype_name(t->dtype),
                    shape_text(&t->s, b));
    if (w && (w->dtype != dtype_acc(p->dtype) || w->s.n != 1 || w->s.d[0] != p->s.d[0]))
        return fail(E_SHAPE, "loss: weight must be f32 [%lld], one per sample",
                    (long long)p->s.d[0]);
    if (m && (m->dtype != dtype_acc(p->dtype) || !bcast_shape(&p->s, &m->s, &both) ||
              !shape_equal(&both, &p->s)))
        return fail(E_SHAPE, "loss: mask %s must be f32 and broadcast to %s", shape_text(&m->s, a),
                    shape_text(&p->s, b));
    if (ATTRS(n, loss_attrs)->kind == LOSS_HUBER && !(ATTRS(n, loss_attrs)->delta > 0))
        return fail(E_USAGE, "loss: huber needs a delta above 0, not %g",
                    (double)ATTRS(n, loss_attrs)->delta);
    return OK;
}

static status infer(graph *g, node *n) {
    (void)g;
    out_set(n, 0, dtype_acc(n->in[PRED]->dtype), SHAPE(1));
    return check(n);
}

static status bwd_infer(graph *g, node *n) {
    (void)g;
    out_like(n, 0, n->in[PRED]);
    return check(n);
}

/* Operands 0 = weight (one per sample), 1 = mask, under the elements of pred. */
static bcast layout(const node *n) {
    const shape *s = &n->in[PRED]->s;
    shape one = {1, {1}}, w = *s;
    for (int i = 1; i < w.n; i++) w.d[i] = 1;
    return bcast_of(
        s, 2, (const shape *[]){n->in[WEIGHT] ? &w : &one, n->in[MASK] ? &n->in[MASK]->s : &one});
}

/* ---- Vulkan: partial sums of workgroups, then their sum; the gradient elementwise ---- */

static uint32_t group_count(const node *n) {
    return (uint32_t)MAX(1, MIN(1024, tensor_count(n->in[PRED]) / 2048));
}

static status dispatch(gpu_cmd *c, const node *n, gpu_span out) {
    const tensor *p = n->in[PRED], *w = n->in[WEIGHT], *m = n->in[MASK];
    bcast l = layout(n);
    bool grad = n->n_in > DY;
    uint32_t groups = grad ? 0 : group_count(n);
    struct {
        uint32_t n, chunk, groups, d[MAX_DIMS], sw[MAX_DIMS], sm[MAX_DIMS];
        float delta, factor;
    } push = {.n = (uint32_t)tensor_count(p),
              .chunk = (uint32_t)div_up(tensor_count(p), MAX(groups, 1)),
              .groups = groups,
              .delta = ATTRS(n, loss_attrs)->delta,
              .factor = (float)(1 / (double)tensor_count(p))};
    bcast_push(&l, 1, push.d, (uint32_t *[]){push.sw, push.sm});
    return move_dispatch(
        c,
        (gpu_dispatch_params){
            .shader = grad ? "loss_bwd" : "loss",
            .type = p->dtype,
            .spec = {ATTRS(n, loss_attrs)->kind, w != NULL, m != NULL, (uint32_t)l.n},
            .n_spec = 4,
            .bind = {p->span, n->in[TARGET]->span, w ? w->span : p->span, m ? m->span : p->span,
                     grad ? n->in[DY]->span : out, out},
            .n_bind = grad ? 6 : 5,
            .push = &push,
            .push_bytes = sizeof push},
        grad ? push.n : (uint64_t)groups * 256);
}

static status prepare(prep *p, node *n) {
    prep_scratch(n, p->gpu ? group_count(n) * 4
                           : (size_t)div_up(tensor_count(n->in[PRED]), CHUNK) * sizeof(double));
    return OK;
}

static status encode(gpu_cmd *c, const node *n) {
    status st = dispatch(c, n, n->scratch->span);
    if (st != OK) return st;
    sum_geom s = sum_geometry(&SHAPE(group_count(n)), 0, true);
    sum_desc d = {SUM_X, 1 / (double)tensor_count(n->in[PRED]), false};
    return sum_encode(c, &s, &d, DT_F32, n->scratch->span, n->scratch->span, n->out[0]->span,
                      n->scratch->span);
}

static status bwd_encode(gpu_cmd *c, const node *n) { return dispatch(c, n, n->out[0]->span); }

/* ---- CPU ---- */

LANE_INLINE float absolute(float d) { return lane_bits(lane_word(d) & 0x7fffffffu); }
LANE_INLINE float limit(float d, float delta) {
    float v = d < -delta ? -delta : d;
    return v > delta ? delta : v;
}
/* huber: with c = d limited to delta, c (d - c / 2) is d^2 / 2 inside and delta |d| - delta^2 / 2
 * outside */
LANE_INLINE float value(loss_kind k, float d, float delta) {
    float c = limit(d, delta);
    return k == LOSS_MSE ? d * d : k == LOSS_L1 ? absolute(d) : c * (d - 0.5f * c);
}
LANE_INLINE float slope(loss_kind k, float d, float delta) {
    return k == LOSS_MSE  ? 2 * d
           : k == LOSS_L1 ? (d > 0   ? 1.0f
                             : d < 0 ? -1.0f
                                     : 0.0f)
                          : limit(d, delta);
}

/* w: weight * mask */
#define DEFINE(name, kind)                                                                         \
    HOST_KERNEL(sum_##name,                                                                        \
                (const float *restrict p, const float *restrict t, const float *restrict w,        \
                 float delta, int64_t n, float *out),                                              \
                (p, t, w, delta, n, out)) {                                                        \
        float s = 0;                                                                               \
        _Pragma("omp simd reduction(+ : s)") for (int64_t i = 0; i < n; i++) s +=                  \
            w[i] * value(kind, p[i] - t[i], delta);                                                \
        *out = s;                                                                                  \
    }                                                                                              \
    HOST_KERNEL(slope_##name,                                                                      \
                (const float *restrict p, const float *restrict t, const float *restrict w,        \
                 float delta, int64_t n, float factor, float *restrict dp),                        \
                (p, t, w, delta, n, factor, dp)) {                                                 \
        for (int64_t i = 0; i < n; i++) dp[i] = factor * w[i] * slope(kind, p[i] - t[i], delta);   \
    }
DEFINE(mse, LOSS_MSE)
DEFINE(l1, LOSS_L1)
DEFINE(huber, LOSS_HUBER)

HOST_KERNEL(multiply, (float *restrict w, const float *restrict m, int64_t n), (w, m, n)) {
    for (int64_t i = 0; i < n; i++) w[i] *= m[i];
}

typedef struct job {
    const node *n;
    host_isa isa;
    bcast l;
    double *part;
    float factor;
} job;

/* weight * mask of elements [at, at + m) */
static void weights_in(const job *j, int64_t at, int64_t m, float *w) {
    const tensor *weight = j->n->in[WEIGHT], *mask = j->n->in[MASK];
    float buf[LANES];
    if (weight)
        memcpy(w, bcast_in(j->isa, &j->l, 0, weight->data, DT_F32, at, m, buf), (size_t)m * 4);
    else
        for (int64_t i = 0; i < m; i++) w[i] = 1;
    if (mask) multiply(j->isa, w, bcast_in(j->isa, &j->l, 1, mask->data, DT_F32, at, m, buf), m);
}

/* Tasks are chunks of elements. */
static void run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const tensor *p = j->n->in[PRED], *t = j->n->in[TARGET];
    const loss_attrs *a = ATTRS(j->n, loss_attrs);
    float bp[LANES], bt[LANES], w[LANES], s;
    for (int64_t k = begin; k < end; k++) {
        double sum = 0;
        for (int64_t i = k * CHUNK, last = MIN(tensor_count(p), (k + 1) * CHUNK); i < last;
             i += LANES) {
            int64_t m = MIN(LANES, last - i);
            const float *vp = block_in(j->isa, p->data, p->dtype, i, m, bp),
                        *vt = block_in(j->isa, t->data, t->dtype, i, m, bt);
            weights_in(j, i, m, w);
            if (a->kind == LOSS_MSE)
                sum_mse(j->isa, vp, vt, w, a->delta, m, &s);
            else if (a->kind == LOSS_L1)
                sum_l1(j->isa, vp, vt, w, a->delta, m, &s);
            else
                sum_huber(j->isa, vp, vt, w, a->delta, m, &s);
            sum += (double)s;
        }
        j->part[k] = sum;
    }
}

static void host_run(host *h, const node *n) {
    int64_t count = tensor_count(n->in[PRED]), chunks = div_up(count, CHUNK);
    job j = {n, host_get_isa(h), layout(n), n->scratch->data, 0};
    host_parallel(h, chunks, 1, run, &j);
    double sum = 0;
    for (int64_t k = 0; k < chunks; k++) sum += j.part[k];
    *(float *)n->out[0]->data = (float)(sum / (double)count);
}

static void bwd_run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const tensor *p = j->n->in[PRED], *t = j->n->in[TARGET], *dp = j->n->out[0];
    const loss_attrs *a = ATTRS(j->n, loss_attrs);
    float bp[LANES], bt[LANES], w[LANES], out[LANES];
    for (int64_t i = begin; i < end; i += LANES) {
        int64_t m = MIN(LANES, end - i);
        const float *vp = block_in(j->isa, p->data, p->dtype, i, m, bp),
                    *vt = block_in(j->isa, t->data, t->dtype, i, m, bt);
        float *d = block_out(dp->data, dp->dtype, i, out);
        weights_in(j, i, m, w);
        if (a->kind == LOSS_MSE)
            slope_mse(j->isa, vp, vt, w, a->delta, m, j->factor, d);
        else if (a->kind == LOSS_L1)
            slope_l1(j->isa, vp, vt, w, a->delta, m, j->factor, d);
        else
            slope_huber(j->isa, vp, vt, w, a->delta, m, j->factor, d);
        block_done(j->isa, dp->data, dp->dtype, i, m, out);
    }
}

static void bwd_host(host *h, const node *n) {
    int64_t count = tensor_count(n->in[PRED]);
    job j = {n, host_get_isa(h), layout(n), NULL,
             (float)((double)*(float *)n->in[DY]->data / (double)count)};
    host_parallel(h, count, BLOCK_GRAIN, bwd_run, &j);
}

static void backward(graph *g, const node *n, tensor *const dy[], tensor *dx[]) {
    if (node_wants(n, WEIGHT) || node_wants(n, MASK))
        graph_fail(g, n->at, E_UNSUPPORTED, "loss: weight and mask have no gradient");
    tensor *d = op_record(g, &op_loss_bwd_info, n->at, n->attrs,
                          OP_IN(n->in[PRED], n->in[TARGET], n->in[WEIGHT], n->in[MASK], dy[0]));
    if (node_wants(n, PRED)) dx[PRED] = d;
    if (node_wants(n, TARGET)) dx[TARGET] = op_unary_(g, d, U_NEG, n->at);
}

static double weight_at(const node *n, const bcast *l, int64_t i) {
    return (n->in[WEIGHT] ? IN(WEIGHT, bcast_index(l, 0, i)) : 1) *
           (n->in[MASK] ? IN(MASK, bcast_index(l, 1, i)) : 1) / (double)tensor_count(n->in[PRED]);
}

static void ref(const node *n) {
    bcast l = layout(n);
    double sum = 0, delta = (double)ATTRS(n, loss_attrs)->delta;
    EACH(i, n->in[PRED]) {
        double d = IN(PRED, i) - IN(TARGET, i), v = d * d;
        if (ATTRS(n, loss_attrs)->kind == LOSS_L1) v = fabs(d);
        if (ATTRS(n, loss_attrs)->kind == LOSS_HUBER)
            v = fabs(d) <= delta ? d * d / 2 : delta * (fabs(d) - delta / 2);
        sum += weight_at(n, &l, i) * v;
    }
    SET(0, 0, sum);
}

static void bwd_ref(const node *n) {
    bcast l = layout(n);
    double delta = (double)ATTRS(n, loss_attrs)->delta;
    EACH(i, n->out[0]) {
        double d = IN(PRED, i) - IN(TARGET, i), v = 2 * d;
        if (ATTRS(n, loss_attrs)->kind == LOSS_L1) v = (d > 0) - (d < 0);
        if (ATTRS(n, loss_attrs)->kind == LOSS_HUBER) v = fmax(-delta, fmin(delta, d));
        SET(0, i, IN(DY, 0) * weight_at(n, &l, i) * v);
    }
}

/* a: kind, delta */
static tensor *build(graph *g, tensor **in, const op_case *c) {
    return op_loss_(g, in[0], in[1], in[2], in[3], (loss_kind)c->a[0], (float)c->a[1], HERE);
}

static tensor *bwd_build(graph *g, tensor **in, const op_case *c) {
    return op_record(g, &op_loss_bwd_info, HERE, &(loss_attrs){(uint32_t)c->a[0], (float)c->a[1]},
                     5, in);
}

static const op_case cases[] = {
    CASE("[1] [1] f32[1]! -", .a = {LOSS_MSE}),
    CASE("[3,37] [3,37] f32[3]=0:2! -", .a = {LOSS_MSE}),
    CASE("[3,4,5] [3,4,5] f32[3]=0:2! f32[3,4,1]=0:1!", .a = {LOSS_MSE}),
    CASE("[3,4,5] [3,4,5] f32[3]=0:2! f32[4,5]=0:1!", .a = {LOSS_L1}),
    CASE("[2,3,3,4] [2,3,3,4] f32[2]=0:2! f32[2,3,3,1]=0:1!", .a = {LOSS_HUBER, 0.5}),
    CASE("[2,3,3,4] [2,3,3,4] - f32[1]=1:2!", .a = {LOSS_HUBER, 0.75}),
    CASE("[7,9] [7,9] - -", .a = {LOSS_L1}),
    CASE("[4,64,64,4] [4,64,64,4] f32[4]=0:2! f32[4,64,64,1]=0:1!", .a = {LOSS_MSE}),
    CASE("[3,300001] [3,300001] f32[3]=0:2! -", .a = {LOSS_HUBER, 0.5}, .no_grad = true),
};

static const op_case bwd_cases[] = {
    CASE("[1] [1] f32[1] - f32[1]", .a = {LOSS_MSE}),
    CASE("[3,37] [3,37] f32[3]=0:2 - f32[1]", .a = {LOSS_MSE}),
    CASE("[3,4,5] [3,4,5] f32[3]=0:2 f32[4,5]=0:1 f32[1]", .a = {LOSS_L1}),
    CASE("[2,3,3,4] [2,3,3,4] - f32[2,3,3,1]=0:1 f32[1]=100:200", .a = {LOSS_HUBER, 0.5}),
    CASE("[2,3,3,4] [2,3,3,4] - - f32[1]=100:200", .a = {LOSS_HUBER, 0.5}),
    CASE("[4,64,64,4] [4,64,64,4] f32[4]=0:2 f32[4,64,64,1]=0:1 f32[1]=60000:65536",
         .a = {LOSS_MSE}),
};

const op_info op_loss_info = {.name = "loss",
                              .n_in = 4,
                              .n_out = 1,
                              .attrs_size = sizeof(loss_attrs),
                              .types = TYPES_FLOAT,
                              .infer = infer,
                              .prepare = prepare,
                              .encode = encode,
                              .host = host_run,
                              .backward = backward,
                              .ref = ref,
                              .build = build,
                              CASES(cases)};

const op_info op_loss_bwd_info = {.name = "loss_bwd",
                                  .n_in = 5,
                                  .n_out = 1,
                                  .attrs_size = sizeof(loss_attrs),
                                  .types = TYPES_FLOAT,
                                  .infer = bwd_infer,
                                  .encode = bwd_encode,
                                  .host = bwd_host,
                                  .ref = bwd_ref,
                                  .build = bwd_build,
                                  CASES(bwd_cases)};
