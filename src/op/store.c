/* store: state dst = src, or dst += src; dst is updated in place, the node has no output.
 *   dst, src  as many elements; float types may differ (sums are made in f32); u32 into u32 only
 *             without accumulate
 *   errors  E_SHAPE if the element counts differ, E_UNSUPPORTED for other types
 * SPDX-License-Identifier: MIT */
#include "host/lanes.h"
#include "op/move.h"

typedef struct store_attrs {
    uint32_t accumulate;
} store_attrs;
extern const op_info op_store_info;

void op_store_(graph *g, tensor *dst, tensor *src, bool accumulate, const char *here) {
    op_record(g, &op_store_info, here, &(store_attrs){accumulate}, OP_IN(dst, src));
}

static status infer(graph *g, node *n) {
    (void)g;
    const tensor *dst = n->in[0], *src = n->in[1];
    if (tensor_count(dst) != tensor_count(src))
        return fail(E_SHAPE, "store of %lld elements into %lld", (long long)tensor_count(src),
                    (long long)tensor_count(dst));
    bool u32 = dst->dtype == DT_U32 && src->dtype == DT_U32 && !ATTRS(n, store_attrs)->accumulate;
    if (!u32 && (!move_is_float(dst->dtype) || !move_is_float(src->dtype)))
        return fail(E_UNSUPPORTED, "store of %s into %s", dtype_name(src->dtype),
                    dtype_name(dst->dtype));
    return OK;
}

static status encode(gpu_cmd *c, const node *n) {
    const tensor *dst = n->in[0], *src = n->in[1];
    bool acc = ATTRS(n, store_attrs)->accumulate,
         plain = dst->dtype == DT_F32 && src->dtype == DT_F32;
    uint64_t count = (uint64_t)tensor_count(src);
    bool vec = count % 4 == 0;
    struct {
        uint32_t n;
    } push = {(uint32_t)(vec ? count / 4 : count)};
    if (!acc && dst->dtype == src->dtype)
        return gpu_copy(c, dst->span, src->span, tensor_bytes(src));
    return move_dispatch(c,
                         (gpu_dispatch_params){.shader = plain ? "accumulate" : "cast",
                                               .type = src->dtype,
                                               .spec = {vec,
                                                        dst->dtype == DT_F32   ? 0
                                                        : dst->dtype == DT_F16 ? 1
                                                                               : 2,
                                                        acc},
                                               .n_spec = plain ? 1 : 3,
                                               .bind = {src->span, dst->span},
                                               .n_bind = 2,
                                               .push = &push,
                                               .push_bytes = sizeof push},
                         push.n);
}

HOST_KERNEL(add_f32, (float *d, const float *s, int64_t n), (d, s, n)) {
    for (int64_t i = 0; i < n; i++) d[i] += s[i];
}
HOST_KERNEL(add_any, (void *d, dtype dt, const void *s, dtype st, int64_t at, int64_t n),
            (d, dt, s, st, at, n)) {
    float a[LANES], b[LANES];
    for (int64_t i = 0; i < n; i += LANES) {
        int64_t m = MIN(n - i, LANES);
        lanes_load(d, dt, at + i, m, a);
        lanes_load(s, st, at + i, m, b);
        for (int64_t k = 0; k < m; k++) a[k] += b[k];
        lanes_save(isa, d, dt, at + i, m, a);
    }
}

typedef struct job {
    const node *n;
    host_isa isa;
} job;

static void run_add(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const tensor *d = j->n->in[0], *s = j->n->in[1];
    if (d->dtype == DT_F32 && s->dtype == DT_F32)
        add_f32(j->isa, (float *)d->data + begin, (const float *)s->data + begin, end - begin);
    else
        add_any(j->isa, d->data, d->dtype, s->data, s->dtype, begin, end - begin);
}

static void host_run(host *h, const node *n) {
    const tensor *d = n->in[0], *s = n->in[1];
    int64_t count = tensor_count(s);
    if (ATTRS(n, store_attrs)->accumulate)
        host_parallel(h, count, MOVE_GRAIN, run_add, &(job){n, host_get_isa(h)});
    else
        host_convert(h, d->data, move_type(d->dtype), s->data, move_type(s->dtype), count);
}

static void ref(const node *n) {
    bool acc = ATTRS(n, store_attrs)->accumulate;
    EACH(i, n->in[1]) SET_IN(0, i, IN(1, i) + (acc ? IN(0, i) : 0));
}

static tensor *build(graph *g, tensor **in, const op_case *c) {
    op_store_(g, in[0], in[1], c->a[0] != 0, HERE);
    return in[0];
}

static const op_case cases[] = {
    CASE("[1] [1]", .a = {0}),
    CASE("[3,7] [3,7]", .a = {0}),
    CASE("[21] [3,7]", .a = {1}),
    CASE("f32[1003] [1003]", .a = {1}),
    CASE("[1003] f32[1003]", .a = {1}),
    CASE("f32[64,320] [64,320]", .a = {0}),
    CASE("[64,320] f32[64,320]", .a = {0}),
    CASE("[320,320,3,3] [320,320,3,3]", .a = {1}),
    CASE("u32<100[5] u32<100[5]", .a = {0}),
};

const op_info op_store_info = {.name = "store",
                               .n_in = 2,
                               .n_out = 0,
                               .attrs_size = sizeof(store_attrs),
                               .types = TYPES_FLOAT,
                               .writes = 1u << 0,
                               .infer = infer,
                               .encode = encode,
                               .host = host_run,
                               .ref = ref,
                               .build = build,
                               CASES(cases)};
