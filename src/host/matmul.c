/* matmul.c: host_matmul as a oneDNN matmul. Transposes are strides; a shared w folds the batch into
 * M. SPDX-License-Identifier: MIT */
#include "host/onednn.h"

/* A side of length 1 has no direction: it is written untransposed, since oneDNN reads the direction
 * off the strides. */
dn_layout dn_matrix(int64_t batch, int64_t rows, int64_t cols, bool trans, dtype t, bool three) {
    bool flip = trans && rows > 1 && cols > 1;
    int64_t row = flip ? 1 : cols, col = flip ? rows : 1;
    if (three) return (dn_layout){3, {batch, rows, cols}, {rows * cols, row, col}, t};
    return (dn_layout){2, {rows, cols}, {row, col}, t};
}

static bool bad(int64_t v) { return v < 1 || v > INT32_MAX; }

status host_matmul_create(host *h, const host_matmul_desc *d, host_prim **out) {
    *out = NULL;
    if (bad(d->batch) || bad(d->m) || bad(d->n) || bad(d->k) || d->act >= ACT_COUNT ||
        d->in > DT_BF16 || d->out > DT_BF16)
        return fail(E_SHAPE,
                    "matmul: batch %lld, [%lld, %lld] x [%lld, %lld], %s: every size must "
                    "be 1 to 2^31 - 1 and the types f32, f16 or bf16",
                    (long long)d->batch, (long long)d->m, (long long)d->k, (long long)d->k,
                    (long long)d->n, dtype_name(d->in));
    int64_t batch = d->batch, m = d->m;
    bool trans_a = d->trans_a && m > 1; /* [B, K, 1] is [B, 1, K] */
    bool fold = d->w_shared && !trans_a && batch <= INT32_MAX / m;
    if (fold) m *= batch, batch = 1;
    bool three = batch > 1;
    dn_spec s = {.kind = DN_MATMUL,
                 .act = d->act,
                 .residual = d->residual,
                 .packed_b = d->packed_w,
                 .b_any = d->packed_w};
    s.a = dn_matrix(batch, m, d->k, trans_a, d->in, three);
    s.b = dn_matrix(d->w_shared ? 1 : batch, d->k, d->n, d->trans_w, d->in, three);
    s.y = dn_matrix(batch, m, d->n, false, d->out, three);
    if (d->bias) s.bias = dn_matrix(1, 1, d->n, false, DT_F32, three);
    return dn_prim_create(h, &s, out);
}

void host_matmul_run(host *h, host_prim *p, const void *a, const void *w, const float *bias,
                     const void *residual, void *y, void *scratch) {
    dn_prim_run(h, p, a, w, bias, residual, y, scratch);
}
