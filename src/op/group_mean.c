/* group_mean: every entry of the batch becomes the mean of its group: y[n] = mean of x[m] with
 * group[m] = group[n].
 *   x  [N, ...] f32|f16|bf16; group u32 [N], data that may change between runs   returns like x;
 *     summed in f32, in order
 *   The map is symmetric, so the gradient is the same op on dy.
 *   errors  E_SHAPE if group is not u32 [N]      source  FreeMorph's mode M (attention outputs
 *     averaged over roles)
 * SPDX-License-Identifier: MIT */
#include "op/block.h"

typedef struct group_mean_attrs {
    uint32_t groups;
} group_mean_attrs;
extern const op_info op_group_mean_info;

tensor *op_group_mean_(graph *g, tensor *x, tensor *group, int n_groups, const char *here) {
    return op_record(g, &op_group_mean_info, here, &(group_mean_attrs){(uint32_t)MAX(n_groups, 0)},
                     OP_IN(x, group));
}

static status infer(graph *g, node *n) {
    (void)g;
    const tensor *x = n->in[0], *group = n->in[1];
    if (!move_is_float(x->dtype))
        return fail(E_UNSUPPORTED, "group_mean: x is %s; give a float type", dtype_name(x->dtype));
    if (group->dtype != DT_U32 || group->s.n != 1 || group->s.d[0] != x->s.d[0])
        return fail(E_SHAPE, "group_mean: group must be u32 [%lld], one id per entry",
                    (long long)x->s.d[0]);
    if (ATTRS(n, group_mean_attrs)->groups < 1)
        return fail(E_SHAPE, "group_mean: n_groups must be at least 1");
    out_like(n, 0, x);
    return OK;
}

static status encode(gpu_cmd *c, const node *n) {
    const tensor *x = n->in[0];
    int64_t entry = tensor_count(x) / x->s.d[0];
    uint32_t unit = entry % 4 == 0 ? 4 : 1;
    struct {
        uint32_t n, entries, entry;
    } push = {(uint32_t)(tensor_count(x) / unit), (uint32_t)x->s.d[0], (uint32_t)(entry / unit)};
    return move_dispatch(c,
                         (gpu_dispatch_params){.shader = "group_mean",
                                               .type = x->dtype,
                                               .spec = {unit == 4},
                                               .n_spec = 1,
                                               .bind = {x->span, n->in[1]->span, n->out[0]->span},
                                               .n_bind = 3,
                                               .push = &push,
                                               .push_bytes = sizeof push,
                                               .work = (double)tensor_count(x) * (double)x->s.d[0]},
                         push.n);
}

HOST_KERNEL(add_block, (float *restrict sum, const float *restrict x, int64_t n), (sum, x, n)) {
    for (int64_t i = 0; i < n; i++) sum[i] += x[i];
}
HOST_KERNEL(scale_block, (float *restrict sum, float a, int64_t n), (sum, a, n)) {
    for (int64_t i = 0; i < n; i++) sum[i] *= a;
}

typedef struct job {
    const node *n;
    host_isa isa;
} job;

/* Elements [begin, end) of every entry; each group is summed at its first member and stored at all.
 * */
static void run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const tensor *x = j->n->in[0], *y = j->n->out[0];
    const uint32_t *group = j->n->in[1]->data;
    int64_t entries = x->s.d[0], entry = tensor_count(x) / entries;
    float sum[LANES], buf[LANES];
    for (int64_t i = begin; i < end; i += LANES) {
        int64_t m = MIN(LANES, end - i);
        for (int64_t k = 0; k < entries; k++) {
            bool first = true;
            int64_t members = 0;
            for (int64_t q = 0; q < k; q++) first &= group[q] != group[k];
            if (!first) continue;
            memset(sum, 0, sizeof sum);
            for (int64_t q = k; q < entries; q++) {
                if (group[q] != group[k]) continue;
                add_block(j->isa, sum, block_in(j->isa, x->data, x->dtype, q * entry + i, m, buf),
                          m);
                members++;
            }
            scale_block(j->isa, sum, 1.0f / (float)members, m);
            for (int64_t q = k; q < entries; q++)
                if (group[q] == group[k])
                    host_convert_serial(
                        j->isa, (char *)y->data + (size_t)(q * entry + i) * dtype_bytes(y->dtype),
                        y->dtype, sum, DT_F32, m);
        }
    }
}

static void host_run(host *h, const node *n) {
    int64_t entries = n->in[0]->s.d[0];
    host_parallel(h, tensor_count(n->in[0]) / entries, MAX(1, BLOCK_GRAIN / entries), run,
                  &(job){n, host_get_isa(h)});
}

static void backward(graph *g, const node *n, tensor *const dy[], tensor *dx[]) {
    if (node_wants(n, 0))
        dx[0] = op_group_mean_(g, dy[0], n->in[1], (int)ATTRS(n, group_mean_attrs)->groups, n->at);
}

static void ref(const node *n) {
    int64_t entries = n->in[0]->s.d[0], entry = tensor_count(n->in[0]) / entries;
    EACH(i, n->out[0]) {
        double sum = 0, members = 0;
        for (int64_t k = 0; k < entries; k++)
            if (IN(1, k) == IN(1, i / entry)) sum += IN(0, k * entry + i % entry), members++;
        SET(0, i, sum / members);
    }
}

/* a[0]: groups */
static tensor *build(graph *g, tensor **in, const op_case *c) {
    return op_group_mean(g, in[0], in[1], (int)c->a[0]);
}

static const op_case cases[] = {
    CASE("[1] u32<1[1]", .a = {1}),
    CASE("[5,7] u32<2[5]", .a = {2}),
    CASE("[6,3,8] u32<4[6]", .a = {4}),
    CASE("[7,1,300] u32<3[7]", .a = {3}),
    CASE("[8,256,320] u32<3[8]", .a = {3}, .no_grad = true),
};

const op_info op_group_mean_info = {.name = "group_mean",
                                    .n_in = 2,
                                    .n_out = 1,
                                    .attrs_size = sizeof(group_mean_attrs),
                                    .types = TYPES_FLOAT,
                                    .infer = infer,
                                    .encode = encode,
                                    .host = host_run,
                                    .backward = backward,
                                    .ref = ref,
                                    .build = build,
                                    CASES(cases)};
