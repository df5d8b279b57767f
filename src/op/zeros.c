/* zeros: a tensor filled with one constant, baked in.
 *   returns shape s, type t, every element `value`       errors  none      source  torch.full
 * SPDX-License-Identifier: MIT */
#include "op/move.h"

typedef struct zeros_attrs {
    shape s;
    uint32_t type;
    float value;
} zeros_attrs;
extern const op_info op_zeros_info;

tensor *op_zeros_(graph *g, dtype t, shape s, float value, const char *here) {
    return op_record(g, &op_zeros_info, here, &(zeros_attrs){s, (uint32_t)t, value}, 0,
                     (tensor *[]){NULL});
}

static status infer(graph *g, node *n) {
    (void)g;
    const zeros_attrs *a = ATTRS(n, zeros_attrs);
    out_set(n, 0, (dtype)a->type, a->s);
    return OK;
}

/* Whole words are written: an odd number of halves has two spare bytes behind it in the plan's
 * memory. */
static status encode(gpu_cmd *c, const node *n) {
    const tensor *y = n->out[0];
    gpu_span all = y->span;
    all.bytes = align_up(tensor_bytes(y), 4);
    uint32_t bits = move_bits(y->dtype, ATTRS(n, zeros_attrs)->value);
    struct {
        uint32_t n, word;
    } push = {(uint32_t)(all.bytes / 4), dtype_is_half(y->dtype) ? bits | bits << 16 : bits};
    return move_dispatch(c,
                         (gpu_dispatch_params){.shader = "zeros",
                                               .type = DT_U32,
                                               .bind = {all},
                                               .n_bind = 1,
                                               .push = &push,
                                               .push_bytes = sizeof push},
                         div_up(push.n, 4));
}

HOST_KERNEL(fill_words, (uint32_t * y, uint32_t word, int64_t n), (y, word, n)) {
    for (int64_t i = 0; i < n; i++) y[i] = word;
}
HOST_KERNEL(fill_halves, (uint16_t * y, uint16_t word, int64_t n), (y, word, n)) {
    for (int64_t i = 0; i < n; i++) y[i] = word;
}

typedef struct job {
    void *data;
    dtype t;
    uint32_t bits;
    host_isa isa;
} job;

static void run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    if (dtype_is_half(j->t))
        fill_halves(j->isa, (uint16_t *)j->data + begin, (uint16_t)j->bits, end - begin);
    else
        fill_words(j->isa, (uint32_t *)j->data + begin, j->bits, end - begin);
}

static void host_run(host *h, const node *n) {
    const tensor *y = n->out[0];
    job j = {y->data, y->dtype, move_bits(y->dtype, ATTRS(n, zeros_attrs)->value), host_get_isa(h)};
    host_parallel(h, tensor_count(y), 4 * MOVE_GRAIN, run, &j);
}

static void ref(const node *n) {
    EACH(i, n->out[0]) SET(0, i, (double)ATTRS(n, zeros_attrs)->value);
}

static tensor *build(graph *g, tensor **in, const op_case *c) {
    shape s = {3, {(int64_t)c->a[1], (int64_t)c->a[2], (int64_t)c->a[3]}};
    (void)in;
    return op_zeros_(g, (dtype)c->a[0], s, (float)c->a[4], HERE);
}

static const op_case cases[] = {
    CASE("", .a = {DT_F32, 1, 1, 1, 0}),   CASE("", .a = {DT_F32, 3, 5, 7, -0.5}),
    CASE("", .a = {DT_F16, 3, 5, 7, 1.5}), CASE("", .a = {DT_BF16, 1, 1, 1, 1.5}),
    CASE("", .a = {DT_U32, 2, 3, 3, 7}),   CASE("", .a = {DT_BF16, 64, 64, 320, 0}),
};

const op_info op_zeros_info = {.name = "zeros",
                               .n_in = 0,
                               .n_out = 1,
                               .attrs_size = sizeof(zeros_attrs),
                               .types = TYPES_F32,
                               .infer = infer,
                               .encode = encode,
                               .host = host_run,
                               .ref = ref,
                               .build = build,
                               CASES(cases)};
