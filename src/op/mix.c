/* mix: a weighted sum with weights per sample: every sampler step, optionally kept outside a mask.
 *   x_0 .. x_{S-1}  [N, ...] f32|f16|bf16 (cast to f32)      w [N, S] f32
 *   mask  f32, broadcasts to [N, ...], with keep [N, ...]; both or neither
 *   returns [N, ...] f32: y = sum_i w[n, i] x_i;  with a mask: mask y + (1 - mask) keep
 *   No gradient to the mask.      errors  E_SHAPE
 *   source  Lugmayr et al. 2022 §4.1 (known regions by mask)
 * SPDX-License-Identifier: MIT */
#include "op/move.h"

#define MIX_MAX 8
enum { W = MIX_MAX, MASK, KEEP, INPUTS };
typedef struct mix_attrs {
    uint32_t n;
} mix_attrs;
extern const op_info op_mix_info;

static tensor *to_acc(graph *g, tensor *x, const char *here) {
    return op_cast_(g, x, dtype_acc(x->dtype), here);
}

tensor *op_mix_(graph *g, tensor *const *x, int n, tensor *w, tensor *mask, tensor *keep,
                const char *here) {
    tensor *in[INPUTS] = {0};
    if (n < 1 || n > MIX_MAX)
        graph_fail(g, here, E_SHAPE, "mix of %d tensors: 1 to %d are possible", n, MIX_MAX);
    for (int i = 0; i < MIN(n, MIX_MAX); i++) in[i] = to_acc(g, x[i], here);
    in[W] = w;
    in[MASK] = mask;
    in[KEEP] = keep ? to_acc(g, keep, here) : NULL;
    return op_record(g, &op_mix_info, here, &(mix_attrs){(uint32_t)n}, INPUTS, in);
}

static status infer(graph *g, node *n) {
    (void)g;
    uint32_t terms = ATTRS(n, mix_attrs)->n;
    const tensor *x = n->in[0], *w = n->in[W], *mask = n->in[MASK];
    if (w->s.n != 2 || w->s.d[0] != x->s.d[0] || w->s.d[1] != (int64_t)terms ||
        w->dtype != x->dtype)
        return fail(E_SHAPE, "mix: w must be f32 [%lld, %u]", (long long)x->s.d[0], terms);
    for (uint32_t i = 1; i < terms; i++)
        if (!shape_equal(&n->in[i]->s, &x->s))
            return fail(E_SHAPE, "mix: input %u differs in shape from input 0", i);
    if (!mask != !n->in[KEEP]) return fail(E_SHAPE, "mix: mask and keep come together");
    if (mask) {
        bool fits =
            mask->s.n <= x->s.n && mask->dtype == x->dtype && shape_equal(&n->in[KEEP]->s, &x->s);
        for (int i = 1; fits && i <= mask->s.n; i++)
            fits = mask->s.d[mask->s.n - i] == 1 || mask->s.d[mask->s.n - i] == x->s.d[x->s.n - i];
        if (!fits)
            return fail(E_SHAPE, "mix: mask must broadcast to input 0, keep must have its shape");
    }
    out_set(n, 0, x->dtype, x->s);
    return OK;
}

/* x's dims, at least [N, 1], and the stride of the mask along each: 0 where it is stretched. */
typedef struct layout {
    int n;
    int64_t size[MAX_DIMS], stride[MAX_DIMS];
} layout;

static layout layout_of(const node *n) {
    const shape *x = &n->in[0]->s;
    layout l = {.n = x->n};
    for (int i = 0; i < x->n; i++) l.size[i] = x->d[i];
    if (l.n == 1) l.size[l.n++] = 1;
    if (!n->in[MASK]) return l;
    const shape *m = &n->in[MASK]->s;
    int64_t step = 1;
    for (int i = x->n - 1, k = m->n - 1; k >= 0; i--, k--) {
        l.stride[i] = m->d[k] > 1 ? step : 0;
        step *= m->d[k];
    }
    return l;
}

static status encode(gpu_cmd *c, const node *n) {
    const tensor *x = n->in[0], *y = n->out[0];
    layout l = layout_of(n);
    struct {
        uint32_t n, per, dims, size[MAX_DIMS], stride[MAX_DIMS];
    } push = {(uint32_t)tensor_count(y), (uint32_t)(tensor_count(y) / x->s.d[0]), (uint32_t)l.n};
    gpu_dispatch_params p = {.shader = "mix",
                             .type = DT_U32,
                             .spec = {ATTRS(n, mix_attrs)->n, n->in[MASK] != NULL},
                             .n_spec = 2,
                             .n_bind = INPUTS + 1,
                             .push = &push,
                             .push_bytes = sizeof push,
                             .work = (double)tensor_count(y) * 10};
    for (int i = 0; i < l.n; i++)
        push.size[i] = (uint32_t)l.size[i], push.stride[i] = (uint32_t)l.stride[i];
    for (int i = 0; i < INPUTS; i++) p.bind[i] = (n->in[i] ? n->in[i] : x)->span;
    p.bind[INPUTS] = y->span;
    return move_dispatch(c, p, push.n);
}

HOST_KERNEL(mix_row,
            (const float *const *x, const float *w, int terms, const float *mask, int64_t mask_step,
             const float *keep, float *restrict y, int64_t at, int64_t n),
            (x, w, terms, mask, mask_step, keep, y, at, n)) {
    for (int64_t i = 0; i < n; i++) y[i] = w[0] * x[0][at + i];
    for (int t = 1; t < terms; t++) {
        const float *v = x[t] + at;
        for (int64_t i = 0; i < n; i++) y[i] += w[t] * v[i];
    }
    if (mask && mask_step)
        for (int64_t i = 0; i < n; i++) y[i] = mask[i] * y[i] + (1.0f - mask[i]) * keep[at + i];
    else if (mask)
        for (int64_t i = 0; i < n; i++) y[i] = mask[0] * y[i] + (1.0f - mask[0]) * keep[at + i];
}

/* row: elements that share their weights and their row of the mask */
typedef struct job {
    const node *n;
    host_isa isa;
    layout l;
    int64_t row;
} job;

/* Rows [begin, end). */
static void run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const node *n = j->n;
    const layout *l = &j->l;
    int terms = (int)ATTRS(n, mix_attrs)->n;
    int64_t per_sample = tensor_count(n->out[0]) / l->size[0] / j->row;
    const float *x[MIX_MAX] = {0}, *keep = n->in[KEEP] ? n->in[KEEP]->data : NULL;
    for (int i = 0; i < terms; i++) x[i] = n->in[i]->data;
    for (int64_t r = begin; r < end; r++) {
        const float *mask = n->in[MASK] ? n->in[MASK]->data : NULL;
        int64_t rest = r;
        for (int i = l->n - 2; mask && i >= 0; i--) {
            mask += rest % l->size[i] * l->stride[i];
            rest /= l->size[i];
        }
        mix_row(j->isa, x, (const float *)n->in[W]->data + r / per_sample * terms, terms, mask,
                l->stride[l->n - 1], keep, (float *)n->out[0]->data + r * j->row, r * j->row,
                j->row);
    }
}

static void host_run(host *h, const node *n) {
    int64_t count = tensor_count(n->out[0]);
    job j = {.n = n, .isa = host_get_isa(h), .l = layout_of(n)};
    j.row = n->in[MASK] ? j.l.size[j.l.n - 1] : count / j.l.size[0];
    host_parallel(h, count / j.row, MAX(1, MOVE_GRAIN / j.row), run, &j);
}

/* With d = mask dy: dx_i = w_i d, dw_i = sum(d x_i) over each sample, dkeep = dy - d. */
static void backward(graph *g, const node *n, tensor *const dy[], tensor *dx[]) {
    int terms = (int)ATTRS(n, mix_attrs)->n;
    shape per_sample = n->in[0]->s;
    for (int i = 1; i < per_sample.n; i++) per_sample.d[i] = 1;
    tensor *d = n->in[MASK] ? op_binary_(g, dy[0], n->in[MASK], B_MUL, n->at) : dy[0], *dw[MIX_MAX];
    for (int i = 0; i < terms; i++) {
        if (!node_wants(n, i)) continue;
        tensor *w = op_reshape_(g, op_slice_(g, n->in[W], 1, i, i + 1, n->at), per_sample, n->at);
        dx[i] = op_binary_(g, d, w, B_MUL, n->at);
    }
    if (node_wants(n, KEEP)) dx[KEEP] = op_binary_(g, dy[0], d, B_SUB, n->at);
    if (!node_wants(n, W)) return;
    for (int i = 0; i < terms; i++) {
        tensor *s = op_binary_(g, d, n->in[i], B_MUL, n->at);
        if (per_sample.n > 1) s = op_reduce_(g, s, R_SUM, (1u << per_sample.n) - 2u, n->at);
        dw[i] = op_reshape_(g, s, SHAPE(per_sample.d[0], 1), n->at);
    }
    dx[W] = op_concat_(g, dw, terms, 1, n->at);
}

static void ref(const node *n) {
    int terms = (int)ATTRS(n, mix_attrs)->n;
    layout l = layout_of(n);
    int64_t per = tensor_count(n->out[0]) / l.size[0];
    EACH(i, n->out[0]) {
        double y = 0;
        for (int k = 0; k < terms; k++) y += IN(W, i / per * terms + k) * IN(k, i);
        int64_t at = 0, rest = i;
        for (int k = l.n - 1; k >= 0; k--) {
            at += rest % l.size[k] * l.stride[k];
            rest /= l.size[k];
        }
        SET(0, i, n->in[MASK] ? IN(MASK, at) * y + (1 - IN(MASK, at)) * IN(KEEP, i) : y);
    }
}

/* in: w, mask or -, keep or -, then the terms; a[0]: how many */
static tensor *build(graph *g, tensor **in, const op_case *c) {
    return op_mix_(g, in + 3, (int)c->a[0], in[0], in[1], in[2], HERE);
}

static const op_case cases[] = {
    CASE("f32[1,1] - - [1,1]", .a = {1}),
    CASE("f32[3,2] - - [3] [3]", .a = {2}),
    CASE("f32[2,3] - - [2,5,7] f32[2,5,7] [2,5,7]", .a = {3}),
    CASE("f32[2,2] f32[2,3,4,1]=0:1! f32[2,3,4,5] f32[2,3,4,5] [2,3,4,5]", .a = {2}),
    CASE("f32[3,1] f32[3]=0:1! f32[3] [3]", .a = {1}),
    CASE("f32[2,8] f32[4,6]=0:1! [2,4,6] [2,4,6] [2,4,6] [2,4,6] [2,4,6] [2,4,6] [2,4,6] [2,4,6] "
         "[2,4,6]",
         .a = {8}),
    CASE("f32[2,4] - - f32[2,64,64,4] [2,64,64,4] f32[2,64,64,4] f32[2,64,64,4]", .a = {4},
         .no_grad = true),
};

const op_info op_mix_info = {.name = "mix",
                             .n_in = INPUTS,
                             .n_out = 1,
                             .attrs_size = sizeof(mix_attrs),
                             .types = TYPES_FLOAT,
                             .infer = infer,
                             .encode = encode,
                             .host = host_run,
                             .backward = backward,
                             .ref = ref,
                             .build = build,
                             CASES(cases)};
