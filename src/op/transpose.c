/* transpose: dims in another order, up to 6; a copy.
 *   x  [...] any type   returns y with dim i = x's dim perm[i]
 *   Dims that stay neighbours are merged first. What is left is one of three copies: rows (the
 *   innermost dim stays), 4 x 4 blocks (it moves, both inner dims divide by 4), single elements.
 *   errors  E_SHAPE if perm is not a permutation      source  torch.permute(...).contiguous()
 * SPDX-License-Identifier: MIT */
#include "op/move.h"

typedef struct transpose_attrs {
    int32_t perm[MAX_DIMS];
} transpose_attrs;
extern const op_info op_transpose_info;

tensor *op_transpose_(graph *g, tensor *x, const int perm[MAX_DIMS], const char *here) {
    transpose_attrs a;
    for (int i = 0; i < MAX_DIMS; i++) a.perm[i] = perm[i];
    return op_record(g, &op_transpose_info, here, &a, OP_IN(x));
}

static status infer(graph *g, node *n) {
    (void)g;
    const tensor *x = n->in[0];
    const transpose_attrs *a = ATTRS(n, transpose_attrs);
    shape s = {.n = x->s.n};
    uint32_t seen = 0;
    for (int i = 0; i < s.n; i++) {
        int p = a->perm[i];
        if (p < 0 || p >= s.n || seen >> p & 1u)
            return fail(E_SHAPE,
                        "transpose: entry %d of perm is %d; perm must order the dims 0 to %d", i, p,
                        s.n - 1);
        seen |= 1u << p;
        s.d[i] = x->s.d[p];
    }
    out_set(n, 0, x->dtype, s);
    return OK;
}

/* The copy after merging: output dims d, their strides in source and output, in elements.
 * q: the dim of source stride 1. */
typedef struct layout {
    int n, q;
    int64_t d[MAX_DIMS], src[MAX_DIMS], dst[MAX_DIMS];
} layout;

static layout merged(const node *n) {
    const tensor *x = n->in[0];
    int64_t stride[MAX_DIMS], step = 1;
    layout l = {0};
    for (int i = x->s.n - 1; i >= 0; i--) stride[i] = step, step *= x->s.d[i];
    for (int i = 0; i < x->s.n; i++) {
        int p = ATTRS(n, transpose_attrs)->perm[i];
        int64_t d = x->s.d[p];
        if (d == 1) continue;
        if (l.n && l.src[l.n - 1] == stride[p] * d) {
            l.d[l.n - 1] *= d;
            l.src[l.n - 1] = stride[p];
        } else {
            l.d[l.n] = d;
            l.src[l.n++] = stride[p];
        }
    }
    if (!l.n) l.n = 1, l.d[0] = l.src[0] = 1;
    step = 1;
    for (int i = l.n - 1; i >= 0; i--) {
        l.dst[i] = step;
        step *= l.d[i];
        if (l.src[i] == 1) l.q = i;
    }
    return l;
}

enum { ELEMENTS, ROWS, BLOCKS };

static status encode(gpu_cmd *c, const node *n) {
    const tensor *x = n->in[0], *y = n->out[0];
    layout l = merged(n);
    int last = l.n - 1, mode = ELEMENTS;
    struct {
        uint32_t n, dims, src_last, dst_q, d[MAX_DIMS], src[MAX_DIMS], dst[MAX_DIMS];
    } push = {0};
    if (l.n == 1) return gpu_copy(c, y->span, x->span, tensor_bytes(x));
    if (l.q == last && l.d[last] % 4 == 0) mode = ROWS;
    if (l.q != last && l.d[last] % 4 == 0 && l.d[l.q] % 4 == 0) mode = BLOCKS;
    push.dims = (uint32_t)l.n;
    push.src_last = (uint32_t)l.src[last];
    push.dst_q = (uint32_t)l.dst[l.q];
    push.n = (uint32_t)(tensor_count(x) / (mode == BLOCKS ? 16 : mode == ROWS ? 4 : 1));
    for (int i = 0; i < l.n; i++) {
        bool four = (mode != ELEMENTS && i == last) || (mode == BLOCKS && i == l.q);
        push.d[i] = (uint32_t)(l.d[i] / (four ? 4 : 1));
        push.src[i] = (uint32_t)(l.src[i] * (four ? 4 : 1));
        push.dst[i] = (uint32_t)(l.dst[i] * (four ? 4 : 1));
    }
    return move_dispatch(c,
                         (gpu_dispatch_params){.shader = "transpose",
                                               .type = move_type(x->dtype),
                                               .spec = {(uint32_t)mode},
                                               .n_spec = 1,
                                               .bind = {x->span, y->span},
                                               .n_bind = 2,
                                               .push = &push,
                                               .push_bytes = sizeof push},
                         push.n);
}

/* Elements a side: a tile's 16 source and 16 output cache lines stay in the first-level cache. */
#define TILE 16

/* dst[i * dst_q + k] = src[i + k * src_last] over a tile. */
#define BLOCK_COPY(name, type)                                                                     \
    HOST_KERNEL(name,                                                                              \
                (const type *restrict src, int64_t src_last, type *restrict dst, int64_t dst_q,    \
                 int64_t nq, int64_t nl),                                                          \
                (src, src_last, dst, dst_q, nq, nl)) {                                             \
        if (nq == TILE && nl == TILE) {                                                            \
            for (int64_t i = 0; i < TILE; i++)                                                     \
                for (int64_t k = 0; k < TILE; k++) dst[i * dst_q + k] = src[i + k * src_last];     \
        } else {                                                                                   \
            for (int64_t i = 0; i < nq; i++)                                                       \
                for (int64_t k = 0; k < nl; k++) dst[i * dst_q + k] = src[i + k * src_last];       \
        }                                                                                          \
    }
BLOCK_COPY(block_words, uint32_t)
BLOCK_COPY(block_halves, uint16_t)

typedef struct job {
    const node *n;
    layout l;
    host_isa isa;
} job;

/* Rows [begin, end): all dims but the last. */
static void run_rows(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const layout *l = &j->l;
    size_t e = dtype_bytes(j->n->in[0]->dtype), bytes = (size_t)l->d[l->n - 1] * e;
    for (int64_t r = begin; r < end; r++) {
        int64_t rest = r, from = 0;
        for (int i = l->n - 2; i >= 0; i--) {
            from += rest % l->d[i] * l->src[i];
            rest /= l->d[i];
        }
        memcpy((char *)j->n->out[0]->data + (size_t)r * bytes,
               (const char *)j->n->in[0]->data + (size_t)from * e, bytes);
    }
}

/* Strips [begin, end): TILE entries of dim q at one index of each outer dim, the whole last dim. */
static void run_blocks(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const layout *l = &j->l;
    int last = l->n - 1;
    size_t e = dtype_bytes(j->n->in[0]->dtype);
    int64_t strips = div_up(l->d[l->q], TILE);
    for (int64_t s = begin; s < end; s++) {
        int64_t rest = s / strips, q = s % strips * TILE, from = q, to = q * l->dst[l->q],
                nq = MIN(TILE, l->d[l->q] - q);
        for (int i = last - 1; i >= 0; i--) {
            if (i == l->q) continue;
            from += rest % l->d[i] * l->src[i];
            to += rest % l->d[i] * l->dst[i];
            rest /= l->d[i];
        }
        for (int64_t k = 0; k < l->d[last]; k += TILE) {
            const void *src =
                (const char *)j->n->in[0]->data + (size_t)(from + k * l->src[last]) * e;
            void *dst = (char *)j->n->out[0]->data + (size_t)(to + k) * e;
            int64_t nl = MIN(TILE, l->d[last] - k);
            if (e == 4)
                block_words(j->isa, src, l->src[last], dst, l->dst[l->q], nq, nl);
            else
                block_halves(j->isa, src, l->src[last], dst, l->dst[l->q], nq, nl);
        }
    }
}

static void host_run(host *h, const node *n) {
    job j = {n, merged(n), host_get_isa(h)};
    int64_t last = j.l.d[j.l.n - 1], rows = tensor_count(n->in[0]) / last;
    if (j.l.q == j.l.n - 1)
        host_parallel(h, rows, MAX(1, MOVE_GRAIN / last), run_rows, &j);
    else
        host_parallel(h, rows / j.l.d[j.l.q] * div_up(j.l.d[j.l.q], TILE),
                      MAX(1, MOVE_GRAIN / (TILE * last)), run_blocks, &j);
}

static void backward(graph *g, const node *n, tensor *const dy[], tensor *dx[]) {
    int back[MAX_DIMS] = {0};
    for (int i = 0; i < n->in[0]->s.n; i++) back[ATTRS(n, transpose_attrs)->perm[i]] = i;
    dx[0] = op_transpose_(g, dy[0], back, n->at);
}

static void ref(const node *n) {
    const shape *xs = &n->in[0]->s, *ys = &n->out[0]->s;
    EACH(i, n->out[0]) {
        int64_t at[MAX_DIMS] = {0}, rest = i, from = 0;
        for (int k = ys->n - 1; k >= 0; k--) {
            at[ATTRS(n, transpose_attrs)->perm[k]] = rest % ys->d[k];
            rest /= ys->d[k];
        }
        for (int k = 0; k < xs->n; k++) from = from * xs->d[k] + at[k];
        SET(0, i, IN(0, from));
    }
}

static tensor *build(graph *g, tensor **in, const op_case *c) {
    int perm[MAX_DIMS];
    for (int i = 0; i < MAX_DIMS; i++) perm[i] = (int)c->a[i];
    return op_transpose_(g, in[0], perm, HERE);
}

static const op_case cases[] = {
    CASE("[1]", .a = {0}),
    CASE("[3,5]", .a = {1, 0}),
    CASE("[20,36]", .a = {1, 0}),
    CASE("[2,3,4,5]", .a = {0, 2, 1, 3}),
    CASE("[2,9,2,8]", .a = {0, 2, 1, 3}),
    CASE("[2,8,4,12]", .a = {0, 3, 1, 2}),
    CASE("[2,12,5,7]", .a = {0, 2, 3, 1}),
    CASE("[2,3,1,4,2,3]", .a = {5, 3, 1, 4, 2, 0}),
    CASE("[4,3,8,2,4,4]", .a = {4, 1, 0, 3, 5, 2}),
    CASE("[2,64,64,40]", .a = {0, 3, 1, 2}, .no_grad = true),
    CASE("[2,77,8,40]", .a = {0, 2, 1, 3}, .no_grad = true),
};

const op_info op_transpose_info = {.name = "transpose",
                                   .n_in = 1,
                                   .n_out = 1,
                                   .attrs_size = sizeof(transpose_attrs),
                                   .types = TYPES_FLOAT,
                                   .grad_any_type = true,
                                   .infer = infer,
                                   .encode = encode,
                                   .host = host_run,
                                   .backward = backward,
                                   .ref = ref,
                                   .build = build,
                                   CASES(cases)};
