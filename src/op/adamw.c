/* adamw: one step of Adam with decoupled weight decay, in place.
 *   p, m, v  [n] f32 state      grad [n] f32
 *   hyper    [6] f32 {lr, beta1, beta2, eps, weight_decay, step (1-based)}
 *   factor   [2] f32 or NULL: factor[0] multiplies grad (clip_factor)
 *   found_inf u32 [1] or NULL: not 0 = nothing is changed
 *   copy     [n] f32|f16|bf16 state or NULL: p rounded, the compute copy
 *     g = factor grad;  p -= lr wd p;  m += (1 - b1)(g - m);  v = b2 v + (1 - b2) g^2
 *     p -= lr / (1 - b1^step) m / (sqrt(v) / sqrt(1 - b2^step) + eps)
 *   errors  E_SHAPE      source  Loshchilov & Hutter 2019, algorithm 2; torch.optim.AdamW
 * SPDX-License-Identifier: MIT */
#include "op/adam.h"
#include "op/move.h"
#include <math.h>

enum { P, GRAD, M, V, HYPER, FACTOR, FOUND_INF, COPY, INPUTS };
extern const op_info op_adamw_info;

void op_adamw_(graph *g, tensor *p, tensor *grad, tensor *m, tensor *v, tensor *hyper,
               tensor *factor, tensor *found_inf, tensor *copy, const char *here) {
    op_record(g, &op_adamw_info, here, NULL, OP_IN(p, grad, m, v, hyper, factor, found_inf, copy));
}

static status infer(graph *g, node *n) {
    (void)g;
    dtype t = n->in[P]->dtype;
    int64_t count = tensor_count(n->in[P]);
    if (t != dtype_acc(t)) return fail(E_SHAPE, "adamw: p is %s, not f32", dtype_name(t));
    for (int i = P; i <= FACTOR; i++) {
        int64_t want = i == HYPER ? 6 : i == FACTOR ? 2 : count;
        if (!n->in[i] && i == FACTOR) continue;
        if (tensor_count(n->in[i]) != want || n->in[i]->dtype != t)
            return fail(E_SHAPE, "adamw: input %d has %lld elements of %s, expected %lld of %s", i,
                        (long long)tensor_count(n->in[i]), dtype_name(n->in[i]->dtype),
                        (long long)want, dtype_name(t));
    }
    if (n->in[FOUND_INF] &&
        (n->in[FOUND_INF]->dtype != DT_U32 || tensor_count(n->in[FOUND_INF]) != 1))
        return fail(E_SHAPE, "adamw: found_inf is u32 [1]");
    const tensor *copy = n->in[COPY];
    if (copy && (tensor_count(copy) != count || !move_is_float(copy->dtype)))
        return fail(E_SHAPE, "adamw: copy is %s of %lld elements, expected floats, %lld of them",
                    dtype_name(copy->dtype), (long long)tensor_count(copy), (long long)count);
    return OK;
}

static status encode(gpu_cmd *c, const node *n) {
    const tensor *copy = n->in[COPY], *hyper = n->in[HYPER];
    struct {
        uint32_t n;
    } push = {(uint32_t)tensor_count(n->in[P])};
    gpu_dispatch_params d = {
        .shader = "adamw",
        .type = copy ? copy->dtype : DT_F32,
        .spec = {n->in[FACTOR] != NULL, n->in[FOUND_INF] != NULL, copy != NULL},
        .n_spec = 3,
        .n_bind = INPUTS,
        .push = &push,
        .push_bytes = sizeof push,
        .work = 16.0 * push.n};
    for (int i = 0; i < INPUTS; i++)
        d.bind[i] = (n->in[i] ? n->in[i] : i == COPY ? n->in[P] : hyper)->span;
    return move_dispatch(c, d, push.n);
}

typedef struct job {
    const node *n;
    host_isa isa;
    adam_step s;
} job;

static void run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const node *n = j->n;
    float *p = n->in[P]->data, *m = n->in[M]->data, *v = n->in[V]->data;
    const float *g = n->in[GRAD]->data;
    const tensor *copy = n->in[COPY];
    for (int64_t i = begin; i < end; i += 2048) { /* the copy reads what is still cached */
        int64_t k = MIN(2048, end - i);
        adam_update(j->isa, &j->s, p + i, g + i, m + i, v + i, k);
        if (copy) move_save(j->isa, copy, i, k, p + i);
    }
}

static void host_run(host *h, const node *n) {
    const tensor *factor = n->in[FACTOR];
    if (n->in[FOUND_INF] && *(const uint32_t *)n->in[FOUND_INF]->data) return;
    adam_step s = adam_step_of(n->in[HYPER]->data, factor ? factor->data : NULL);
    host_parallel(h, tensor_count(n->in[P]), MOVE_GRAIN, run, &(job){n, host_get_isa(h), s});
}

static void ref(const node *n) {
    if (n->in[FOUND_INF] && IN(FOUND_INF, 0) != 0) return;
    double lr = IN(HYPER, 0), b1 = IN(HYPER, 1), b2 = IN(HYPER, 2), eps = IN(HYPER, 3),
           wd = IN(HYPER, 4), t = IN(HYPER, 5);
    double factor = n->in[FACTOR] ? IN(FACTOR, 0) : 1;
    EACH(i, n->in[P]) {
        double g = factor * IN(GRAD, i), m = b1 * IN(M, i) + (1 - b1) * g,
               v = b2 * IN(V, i) + (1 - b2) * g * g;
        double p = IN(P, i) * (1 - lr * wd) -
                   lr / (1 - pow(b1, t)) * m / (sqrt(v) / sqrt(1 - pow(b2, t)) + eps);
        SET_IN(M, i, m);
        SET_IN(V, i, v);
        SET_IN(P, i, p);
        if (n->in[COPY]) SET_IN(COPY, i, p);
    }
}

/* in: p, grad, m, v, found_inf or -, copy or -
 * a: lr, beta1, beta2, eps, weight_decay, step, factor (0 = none) */
static tensor *build(graph *g, tensor **in, const op_case *c) {
    dtype t = in[0]->dtype;
    tensor *h[6];
    for (int i = 0; i < 6; i++) h[i] = op_fill(g, t, SHAPE(1), (float)c->a[i]);
    tensor *factor = c->a[6] != 0 ? op_fill(g, t, SHAPE(2), (float)c->a[6]) : NULL;
    op_adamw_(g, in[0], in[1], in[2], in[3], op_concat_(g, h, 6, 0, HERE), factor, in[4], in[5],
              HERE);
    return in[0];
}

static const op_case cases[] = {
    CASE("f32[1] f32[1] f32[1] f32[1]=0:1 - -", .a = {1e-3, 0.9, 0.999, 1e-8, 0.01, 1}),
    CASE("f32[33] f32[33] f32[33] f32[33]=0:0 u32<1[1] -",
         .a = {1e-2, 0.9, 0.99, 1e-8, 0.1, 1, 0.25}),
    CASE("f32[1003] f32[1003] f32[1003] f32[1003]=0:1 - -", .a = {1e-2, 0.5, 0.95, 1e-6, 0, 7}),
    CASE("f32[64,33] f32[64,33] f32[64,33] f32[64,33]=0:1 - -",
         .a = {0.1, 0.2, 0.999, 1e-8, 0.1, 100000}),
    /* found_inf: no step */
    CASE("f32[3,5] f32[3,5] f32[3,5] f32[3,5]=0:1 u32<1000[1] -",
         .a = {0.1, 0.9, 0.999, 1e-8, 0.1, 3, 1}),
    CASE("f32[1021] f32[1021] f32[1021] f32[1021]=0:1 u32<1[1] [1021]",
         .a = {1e-2, 0.9, 0.999, 1e-8, 0.01, 2, 0.5}),
};

const op_info op_adamw_info = {.name = "adamw",
                               .n_in = INPUTS,
                               .n_out = 0,
                               .types = TYPES_FLOAT,
                               .writes = 1u << P | 1u << M | 1u << V | 1u << COPY,
                               .infer = infer,
                               .encode = encode,
                               .host = host_run,
                               .ref = ref,
                               .build = build,
                               CASES(cases)};
