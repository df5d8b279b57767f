/* pad: a border of one constant, each side of each dim its own width; and the window copy it shares
 * with slice.
 *   x  [...] any type   returns dims before[i] + d_i + after[i]
 *   errors  E_SHAPE if a width is negative (use slice)      source  torch.nn.functional.pad
 * SPDX-License-Identifier: MIT */
#include "op/move.h"

typedef struct pad_attrs {
    int64_t before[MAX_DIMS], after[MAX_DIMS];
    float value;
} pad_attrs;
extern const op_info op_pad_info;

tensor *op_pad_(graph *g, tensor *x, const int64_t before[MAX_DIMS], const int64_t after[MAX_DIMS],
                float value, const char *here) {
    pad_attrs a = {.value = value};
    for (int i = 0; i < MAX_DIMS; i++) a.before[i] = before[i], a.after[i] = after[i];
    return op_record(g, &op_pad_info, here, &a, OP_IN(x));
}

static status infer(graph *g, node *n) {
    (void)g;
    const pad_attrs *a = ATTRS(n, pad_attrs);
    shape s = n->in[0]->s;
    for (int i = 0; i < s.n; i++) {
        if (a->before[i] < 0 || a->after[i] < 0 || a->before[i] > UINT32_MAX ||
            a->after[i] > UINT32_MAX)
            return fail(E_SHAPE, "pad: dim %d by %lld and %lld; widths are 0 or more", i,
                        (long long)a->before[i], (long long)a->after[i]);
        s.d[i] += a->before[i] + a->after[i];
    }
    out_set(n, 0, n->in[0]->dtype, s);
    return OK;
}

/* ---- the window copy ---- */

/* A dim that keeps its size is merged into the one outside it. */
move_window move_window_of(const shape *x, const shape *y, const int64_t before[MAX_DIMS],
                           float value) {
    move_window w = {.value = value};
    for (int i = 0; i < x->n; i++) {
        if (w.n && x->d[i] == y->d[i]) {
            w.out[w.n - 1] *= y->d[i];
            w.in[w.n - 1] *= x->d[i];
            w.before[w.n - 1] *= x->d[i];
            continue;
        }
        w.out[w.n] = y->d[i];
        w.in[w.n] = x->d[i];
        w.before[w.n++] = before[i];
    }
    return w;
}

status move_window_encode(gpu_cmd *c, const node *n, const move_window *w) {
    const tensor *x = n->in[0], *y = n->out[0];
    int last = w->n - 1;
    uint32_t unit = w->out[last] % 4 || w->in[last] % 4 || w->before[last] % 4 ? 1 : 4;
    struct {
        uint32_t n, dims, bits, out[MAX_DIMS], in[MAX_DIMS];
        int32_t before[MAX_DIMS];
    } push = {(uint32_t)tensor_count(y) / unit, (uint32_t)w->n, move_bits(y->dtype, w->value)};
    for (int i = 0; i < w->n; i++) {
        push.out[i] = (uint32_t)w->out[i] / (i == last ? unit : 1);
        push.in[i] = (uint32_t)w->in[i] / (i == last ? unit : 1);
        push.before[i] = (int32_t)(w->before[i] / (i == last ? (int64_t)unit : 1));
    }
    return move_dispatch(c,
                         (gpu_dispatch_params){.shader = "pad",
                                               .type = move_type(x->dtype),
                                               .spec = {unit == 4},
                                               .n_spec = 1,
                                               .bind = {x->span, y->span},
                                               .n_bind = 2,
                                               .push = &push,
                                               .push_bytes = sizeof push},
                         push.n);
}

static void fill(void *dst, size_t e, int64_t at, int64_t m, uint32_t bits) {
    if (e == 2)
        for (int64_t i = 0; i < m; i++) ((uint16_t *)dst)[at + i] = (uint16_t)bits;
    else
        for (int64_t i = 0; i < m; i++) ((uint32_t *)dst)[at + i] = bits;
}

/* Source of row r of the output (all dims but the last), or -1 when the row is border. */
static int64_t row_source(const move_window *w, int64_t r) {
    int64_t from = 0, stride = 1;
    for (int i = w->n - 2; i >= 0; i--) {
        int64_t at = r % w->out[i] - w->before[i];
        if (at < 0 || at >= w->in[i]) return -1;
        from += at * stride;
        stride *= w->in[i];
        r /= w->out[i];
    }
    return from;
}

typedef struct job {
    const node *n;
    const move_window *w;
} job;

/* Elements [begin, end) of the output. */
static void run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const move_window *w = j->w;
    int last = w->n - 1;
    int64_t width = w->out[last], before = w->before[last];
    size_t e = dtype_bytes(j->n->out[0]->dtype);
    const char *src = j->n->in[0]->data;
    char *dst = j->n->out[0]->data;
    uint32_t bits = move_bits(j->n->out[0]->dtype, w->value);
    for (int64_t i = begin; i < end;) {
        int64_t row = i / width, col = i % width, stop = MIN(width, col + end - i),
                from = row_source(w, row);
        int64_t a = from < 0 ? stop : MIN(stop, MAX(col, before)),
                b = from < 0 ? stop : MAX(a, MIN(stop, before + w->in[last]));
        fill(dst, e, i, a - col, bits);
        if (b > a)
            memcpy(dst + (size_t)(i + a - col) * e,
                   src + (size_t)(from * w->in[last] + a - before) * e, (size_t)(b - a) * e);
        fill(dst, e, i + b - col, stop - b, bits);
        i += stop - col;
    }
}

void move_window_host(host *h, const node *n, const move_window *w) {
    host_parallel(h, tensor_count(n->out[0]), MOVE_GRAIN, run, &(job){n, w});
}

void move_window_ref(const node *n, const move_window *w) {
    int last = w->n - 1;
    EACH(i, n->out[0]) {
        int64_t col = i % w->out[last] - w->before[last], from = row_source(w, i / w->out[last]);
        bool inside = from >= 0 && col >= 0 && col < w->in[last];
        SET(0, i, inside ? IN(0, from * w->in[last] + col) : (double)w->value);
    }
}

/* ---- pad ---- */

static move_window window(const node *n) {
    const pad_attrs *a = ATTRS(n, pad_attrs);
    return move_window_of(&n->in[0]->s, &n->out[0]->s, a->before, a->value);
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
    const pad_attrs *a = ATTRS(n, pad_attrs);
    tensor *d = dy[0];
    for (int i = 0; i < n->in[0]->s.n; i++)
        d = op_slice_(g, d, i, a->before[i], a->before[i] + n->in[0]->s.d[i], n->at);
    dx[0] = d;
}

static void ref(const node *n) {
    move_window w = window(n);
    move_window_ref(n, &w);
}

/* a: pairs of widths, one a dim; a[11]: value */
static tensor *build(graph *g, tensor **in, const op_case *c) {
    int64_t before[MAX_DIMS] = {0}, after[MAX_DIMS] = {0};
    for (int i = 0; i < 5; i++)
        before[i] = (int64_t)c->a[2 * i], after[i] = (int64_t)c->a[2 * i + 1];
    return op_pad_(g, in[0], before, after, (float)c->a[11], HERE);
}

static const op_case cases[] = {
    CASE("[1]", .a = {0, 3}),
    CASE("[7]", .a = {2, 1, .0, [11] = 0.5}),
    CASE("[2,3,4,5]", .a = {0, 0, 1, 2, 0, 1, [11] = -2}),
    CASE("[2,3,4,5]", .a = {1, 1, 1, 0, 2, 3, 3, 1}),
    CASE("[3,4,8]", .a = {0, 0, 1, 1, 4, 8, [11] = 1}),
    CASE("[2,64,64,32]", .a = {0, 0, 0, 1, 0, 1}, .no_grad = true),
};

const op_info op_pad_info = {.name = "pad",
                             .n_in = 1,
                             .n_out = 1,
                             .attrs_size = sizeof(pad_attrs),
                             .types = TYPES_FLOAT,
                             .grad_any_type = true,
                             .infer = infer,
                             .encode = encode,
                             .host = host_run,
                             .backward = backward,
                             .ref = ref,
                             .build = build,
                             CASES(cases)};
