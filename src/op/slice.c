/* slice: entries [begin, end) of one dim.
 *   x  [.., d, ..] any type   returns [.., end - begin, ..]; x itself when that is all of it
 *   errors  E_SHAPE unless 0 <= begin < end <= d      source  torch.narrow
 * SPDX-License-Identifier: MIT */
#include "op/move.h"

typedef struct slice_attrs {
    int64_t begin, end;
    uint32_t dim;
} slice_attrs;
extern const op_info op_slice_info;

tensor *op_slice_(graph *g, tensor *x, int dim, int64_t begin, int64_t end, const char *here) {
    if (!x->poison && dim >= 0 && dim < x->s.n && begin == 0 && end == x->s.d[dim]) return x;
    return op_record(g, &op_slice_info, here, &(slice_attrs){begin, end, (uint32_t)dim}, OP_IN(x));
}

static status infer(graph *g, node *n) {
    (void)g;
    const slice_attrs *a = ATTRS(n, slice_attrs);
    shape s = n->in[0]->s;
    if (a->dim >= (uint32_t)s.n || a->begin < 0 || a->begin >= a->end || a->end > s.d[a->dim])
        return fail(E_SHAPE, "slice [%lld, %lld) of dim %d", (long long)a->begin, (long long)a->end,
                    (int)a->dim);
    s.d[a->dim] = a->end - a->begin;
    out_set(n, 0, n->in[0]->dtype, s);
    return OK;
}

static move_window window(const node *n) {
    int64_t before[MAX_DIMS] = {0};
    before[ATTRS(n, slice_attrs)->dim] = -ATTRS(n, slice_attrs)->begin;
    return move_window_of(&n->in[0]->s, &n->out[0]->s, before, 0.0f);
}

static status encode(gpu_cmd *c, const node *n) {
    move_window w = window(n);
    return move_window_encode(c, n, &w);
}

static void host_run(host *h, const node *n) {
    move_window w = window(n);
    move_window_host(h, n, &w);
}

static void backward(graph *g, const node *n, tensor *const dy[], tensor *dx[]) {
    const slice_attrs *a = ATTRS(n, slice_attrs);
    int64_t before[MAX_DIMS] = {0}, after[MAX_DIMS] = {0};
    before[a->dim] = a->begin;
    after[a->dim] = n->in[0]->s.d[a->dim] - a->end;
    dx[0] = op_pad_(g, dy[0], before, after, 0.0f, n->at);
}

static void ref(const node *n) {
    move_window w = window(n);
    move_window_ref(n, &w);
}

/* a: dim, begin, end */
static tensor *build(graph *g, tensor **in, const op_case *c) {
    return op_slice_(g, in[0], (int)c->a[0], (int64_t)c->a[1], (int64_t)c->a[2], HERE);
}

static const op_case cases[] = {
    CASE("[2]", .a = {0, 1, 2}),        CASE("[2,6,3]", .a = {1, 1, 4}),
    CASE("[5,4,4]", .a = {0, 2, 5}),    CASE("[2,3,4,12]", .a = {3, 4, 12}),
    CASE("[2,3,4,11]", .a = {3, 0, 7}), CASE("[2,16,16,960]", .a = {3, 320, 960}, .no_grad = true),
};

const op_info op_slice_info = {.name = "slice",
                               .n_in = 1,
                               .n_out = 1,
                               .attrs_size = sizeof(slice_attrs),
                               .types = TYPES_FLOAT,
                               .grad_any_type = true,
                               .infer = infer,
                               .encode = encode,
                               .host = host_run,
                               .backward = backward,
                               .ref = ref,
                               .build = build,
                               CASES(cases)};
