/* inverse: of small matrices, batched (the Cayley transform needs (I + S)^-1).
 *   a  [..., n, n] f32, n <= 256
 *   returns its inverse Y; a singular matrix gives infinities or NaN
 *   errors  E_SHAPE      source  torch.linalg.inv
 *   gradient  dA = -Y^T dY Y^T (Giles 2008 §2.2.3)
 * SPDX-License-Identifier: MIT */
#include "op/lu.h"

extern const op_info op_inverse_info;

tensor *op_inverse_(graph *g, tensor *a, const char *here) {
    return op_record(g, &op_inverse_info, here, NULL, OP_IN(a));
}

static status infer(graph *g, node *n) {
    (void)g;
    status st = lu_check(n);
    if (st == OK) out_like(n, 0, n->in[0]);
    return st;
}

static void backward(graph *g, const node *n, tensor *const dy[], tensor *dx[]) {
    tensor *y = n->out[0];
    tensor *left =
        op_matmul_(g, y, dy[0], NULL, NULL, (matmul_attrs){.trans_a = 1, .out = DT_COUNT}, n->at);
    tensor *da =
        op_matmul_(g, left, y, NULL, NULL, (matmul_attrs){.trans_b = 1, .out = DT_COUNT}, n->at);
    dx[0] = op_scale_(g, da, -1.0f, 0.0f, n->at);
}

static tensor *build(graph *g, tensor **in, const op_case *c) {
    (void)c;
    return op_inverse_(g, lu_case_matrix(g, in[0]), HERE);
}

static const op_case cases[] = {
    CASE("[1,1]"),
    CASE("[6,6]"),
    CASE("[3,2,7,7]"),
    CASE("[2,40,40]"),
    CASE("[1,256,256]", .no_grad = true, .big = true),
};

const op_info op_inverse_info = {.name = "inverse",
                                 .n_in = 1,
                                 .n_out = 1,
                                 .types = TYPES_F32,
                                 .infer = infer,
                                 .prepare = lu_prepare,
                                 .encode = lu_encode,
                                 .host = lu_host,
                                 .backward = backward,
                                 .ref = lu_ref,
                                 .work = lu_work,
                                 .build = build,
                                 CASES(cases)};
