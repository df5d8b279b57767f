/* ema: exponential moving average of weights, in place: avg = d avg + (1 - d) p.
 *   avg [n] f32 state, p [n] f32, decay [1] f32
 *   errors  E_SHAPE      source  Polyak & Juditsky 1992; diffusers EMAModel.step
 * SPDX-License-Identifier: MIT */
#include "op/move.h"

extern const op_info op_ema_info;

void op_ema_(graph *g, tensor *avg, tensor *p, tensor *decay, const char *here) {
    op_record(g, &op_ema_info, here, NULL, OP_IN(avg, p, decay));
}

static status infer(graph *g, node *n) {
    (void)g;
    dtype t = n->in[0]->dtype;
    if (t != dtype_acc(t) || n->in[1]->dtype != t || n->in[2]->dtype != t ||
        tensor_count(n->in[0]) != tensor_count(n->in[1]) || tensor_count(n->in[2]) != 1)
        return fail(E_SHAPE, "ema takes avg and p of one size and decay [1], all f32");
    return OK;
}

static status encode(gpu_cmd *c, const node *n) {
    struct {
        uint32_t n;
    } push = {(uint32_t)tensor_count(n->in[0])};
    return move_dispatch(
        c,
        (gpu_dispatch_params){.shader = "ema",
                              .type = DT_U32,
                              .bind = {n->in[0]->span, n->in[1]->span, n->in[2]->span},
                              .n_bind = 3,
                              .push = &push,
                              .push_bytes = sizeof push},
        push.n);
}

HOST_KERNEL(ema_block, (float *restrict avg, const float *restrict p, float d, int64_t n),
            (avg, p, d, n)) {
    for (int64_t i = 0; i < n; i++) avg[i] = d * avg[i] + (1.0f - d) * p[i];
}

typedef struct job {
    const node *n;
    host_isa isa;
} job;

static void run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    ema_block(j->isa, (float *)j->n->in[0]->data + begin, (const float *)j->n->in[1]->data + begin,
              *(const float *)j->n->in[2]->data, end - begin);
}

static void host_run(host *h, const node *n) {
    host_parallel(h, tensor_count(n->in[0]), MOVE_GRAIN, run, &(job){n, host_get_isa(h)});
}

static void ref(const node *n) {
    double d = IN(2, 0);
    EACH(i, n->in[0]) SET_IN(0, i, d * IN(0, i) + (1 - d) * IN(1, i));
}

static tensor *build(graph *g, tensor **in, const op_case *c) {
    (void)c;
    op_ema_(g, in[0], in[1], in[2], HERE);
    return in[0];
}

static const op_case cases[] = {
    CASE("f32[1] f32[1] f32[1]=0.9:1"),
    CASE("f32[3,7] f32[3,7] f32[1]=0:1"),
    CASE("f32[1003] f32[1003] f32[1]=0.99:1"),
};

const op_info op_ema_info = {.name = "ema",
                             .n_in = 3,
                             .n_out = 0,
                             .types = TYPES_F32,
                             .writes = 1u << 0,
                             .infer = infer,
                             .encode = encode,
                             .host = host_run,
                             .ref = ref,
                             .build = build,
                             CASES(cases)};
