/* attention_bwd: the gradient of attention to q and to the k and v of every bank, as one op.
 *   in   those of attention, dy [Nq, Tq, D] T, y T or absent, lse [Nq, S, heads, Tq] f32, its gradient or absent
 *   out  D [Nq, S, heads, Tq] f32, then what `wants` names of dq, dk0, dv0, dk1, …, each T and of its input's shape
 *   A bank's entry gets its sum over all query entries and sets that read it, in the order they are listed.
 *   D = dy . out_s is what a softmax's gradient subtracts. With one set, and no gradient to the weight asked for,
 *   that is dy . y, already weighted; with several sets out_s is not at hand and is computed again.
 * It has no gradient of its own.      source  Dao et al. 2022, appendix B
 * SPDX-License-Identifier: MIT */
#include "op/attention_internal.h"

int attention_bwd_out(const node *n, int want) {
    uint32_t wants = ATTRS(n, attention_attrs)->wants;
    return wants >> want & 1u ? 1 + __builtin_popcount(wants & ((1u << want) - 1u)) : -1;
}

/* The outputs are D and those wanted: fewer than the row says. */
static status infer(graph *g, node *n) {
    status st = OK;
    const attention_attrs *at = ATTRS(n, attention_attrs);
    const tensor *q = n->in[AT_Q], *dy = n->in[AT_DY], *y = n->in[AT_Y], *lse = n->in[AT_LSE], *dlse = n->in[AT_DLSE];
    (void)g;
    TRY(attention_check(n));
    attention_geom a = attention_geometry(n);
    shape rows = SHAPE(a.nq, a.sets, a.heads, a.tq);
    if (!shape_equal(&dy->s, &q->s) || dy->dtype != q->dtype || (y && (!shape_equal(&y->s, &q->s) || y->dtype != q->dtype)) ||
        !shape_equal(&lse->s, &rows) || lse->dtype != dtype_acc(q->dtype) || (dlse && (!shape_equal(&dlse->s, &rows) || dlse->dtype != lse->dtype)))
        return fail(E_SHAPE, "attention_bwd: dy, y, lse and its gradient must have the shapes and types of attention's outputs");
    if (y && a.sets > 1) return fail(E_SHAPE, "attention_bwd: with %d sets the output does not tell that of each set", a.sets);
    n->n_out = 1 + __builtin_popcount(at->wants);
    out_set(n, 0, lse->dtype, rows);
    for (int want = 0; want < WANT_COUNT; want++) {
        int k = attention_bwd_out(n, want);
        int slot = want == WANT_Q ? AT_Q : want % 2 ? AT_K + want / 2 : AT_V + want / 2 - 1;
        if (k >= 0) out_like(n, k, n->in[slot]);
    }
out:
    return st;
}

static status prepare(prep *p, node *n) { return p->gpu ? attention_gpu_prepare(p, n) : attention_host_bwd_prepare(p, n); }

/* ---- cases: attention's gradient is checked in its own row; these compare every output with ref, at sizes and
 * in combinations that differences would take too long for.
 * in: q, k, v, dy, weights, offset, and k1, v1;   a: heads, causal, sets, wants */
static tensor *build(graph *g, tensor **in, const op_case *c) {
    attention_set set[16];
    int sets = MAX((int)c->a[2], 1);
    int64_t nq = in[0]->s.d[0], nb = in[1]->s.d[0];
    for (int64_t i = 0; i < nq * sets; i++)
        set[i] = (attention_set){2, {{0, (uint16_t)(i % nb)}, {in[6] != NULL, (uint16_t)((i + 1) % (in[6] ? in[6]->s.d[0] : nb))}}};
    attention_params p = {.heads = (int)c->a[0], .causal = c->a[1] != 0, .q = in[0], .n_banks = in[6] ? 2 : 1, .k = {in[1], in[6]},
        .v = {in[2], in[7]}, .n_sets = sets, .sets = c->a[2] > 0 ? set : NULL, .weights = in[4], .offset = in[5]};
    tensor *y = op_attention_(g, &p, HERE);
    if (y->poison) return y;
    attention_attrs at = *ATTRS(y->by, attention_attrs);
    at.wants = (uint32_t)c->a[3];
    tensor *x[AT_BWD_INPUTS];
    memcpy(x, y->by->in, sizeof *x * AT_INPUTS);
    x[AT_DY] = in[3];
    x[AT_Y] = sets > 1 ? NULL : y;
    x[AT_LSE] = tensor_out(y, 1);
    x[AT_DLSE] = NULL;
    return op_record(g, &op_attention_bwd_info, HERE, &at, AT_BWD_INPUTS, x);
}

static const op_case cases[] = {
    CASE("[1,1,1] [1,1,1] [1,1,1] [1,1,1] - - - -", .a = {1, 0, 0, 7}, .tol = 1e-4),
    CASE("[2,65,40] [2,77,40] [2,77,40] [2,65,40] - - - -", .a = {1, 0, 0, 7}, .tol = 1e-4),
    CASE("[1,101,80] [1,101,80] [1,101,80] [1,101,80] f32[1,1] - - -", .a = {1, 1, 0, 7}, .tol = 1e-4),
    CASE("[3,33,32] [3,45,32] [3,45,32] [3,33,32] f32[3,1] f32[3,1,2] - -", .a = {2, 0, 1, 7}, .tol = 1e-4),
    CASE("[3,33,14] [3,21,14] [3,21,14] [3,33,14] f32[3,3] f32[3,3,2] [2,35,14] [2,35,14]", .a = {2, 0, 3, 31}, .tol = 1e-4),
    CASE("[3,33,14] [3,21,14] [3,21,14] [3,33,14] f32[3,3] f32[3,3,2] [2,35,14] [2,35,14]", .a = {2, 1, 3, 20}, .tol = 1e-4),
    CASE("[2,9,12] [2,9,12] [2,9,12] [2,9,12] - - - -", .a = {3, 0, 0, 1}, .tol = 1e-4),
    CASE("[2,9,12] [2,9,12] [2,9,12] [2,9,12] - - - -", .a = {3, 0, 0, 2}, .tol = 1e-4),
    CASE("[2,9,12] [2,9,12] [2,9,12] [2,9,12] - - - -", .a = {3, 0, 0, 0}, .tol = 1e-4),
    CASE("[1,40,160] [1,40,160] [1,40,160] [1,40,160] - - - -", .a = {1, 0, 0, 7}, .tol = 1e-4),
    CASE("[1,24,512] [1,40,512] [1,40,512] [1,24,512] - - - -", .a = {1, 0, 0, 7}, .tol = 1e-4),
};

const op_info op_attention_bwd_info = {
    .name = "attention_bwd", .n_in = AT_BWD_INPUTS, .n_out = 1 + WANT_COUNT, .attrs_size = sizeof(attention_attrs), .types = TYPES_FLOAT,
    .infer = infer, .prepare = prepare, .encode = attention_gpu_bwd_encode, .host = attention_host_bwd_run,
    .ref = attention_bwd_ref, .work = attention_bwd_work, .build = build, CASES(cases)};
