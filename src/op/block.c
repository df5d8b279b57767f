/* block.c: NumPy broadcasting: shapes, merged strides, and operands as blocks of floats.
 * SPDX-License-Identifier: MIT */
#include "op/block.h"

bool bcast_shape(const shape *a, const shape *b, shape *out) {
    *out = (shape){.n = MAX(a->n, b->n)};
    for (int i = 1; i <= out->n; i++) {
        int64_t x = i <= a->n ? a->d[a->n - i] : 1, y = i <= b->n ? b->d[b->n - i] : 1;
        if (x != y && x != 1 && y != 1) return false;
        out->d[out->n - i] = x == 1 ? y : x;
    }
    return true;
}

bcast bcast_of(const shape *out, int n_ops, const shape *const *op) {
    bcast b = {.n_ops = n_ops};
    int64_t step[BCAST_MAX] = {0}, d[MAX_DIMS], s[BCAST_MAX][MAX_DIMS];
    int n = 0; /* innermost first until the end */
    for (int k = 0; k < n_ops; k++) step[k] = 1;
    for (int i = 1; i <= out->n; i++) {
        int64_t size = out->d[out->n - i], at[BCAST_MAX];
        for (int k = 0; k < n_ops; k++) {
            int64_t own = i <= op[k]->n ? op[k]->d[op[k]->n - i] : 1;
            at[k] = own == 1 ? 0 : step[k];
            step[k] *= own;
        }
        if (size == 1) continue;
        bool merge = n > 0;
        for (int k = 0; k < n_ops && merge; k++) merge = at[k] == s[k][n - 1] * d[n - 1];
        if (merge) {
            d[n - 1] *= size;
            continue;
        }
        for (int k = 0; k < n_ops; k++) s[k][n] = at[k];
        d[n++] = size;
    }
    if (!n) {
        d[n] = 1;
        for (int k = 0; k < n_ops; k++) s[k][n] = 0;
        n++;
    }
    b.n = n;
    for (int i = 0; i < n; i++) {
        b.d[i] = d[n - 1 - i];
        for (int k = 0; k < n_ops; k++) b.stride[k][i] = s[k][n - 1 - i];
    }
    return b;
}

int64_t bcast_index(const bcast *b, int k, int64_t i) {
    int64_t at = 0;
    for (int j = b->n - 1; j >= 0; j--) {
        at += i % b->d[j] * b->stride[k][j];
        i /= b->d[j];
    }
    return at;
}

const float *bcast_in(host_isa isa, const bcast *b, int k, const void *x, dtype t, int64_t at,
                      int64_t n, float *buf) {
    int64_t row = b->d[b->n - 1], inner = b->stride[k][b->n - 1];
    if (b->n == 1 && inner == 1) return block_in(isa, x, t, at, n, buf);
    if (inner == 1 && at % row + n <= row)
        return block_in(isa, x, t, bcast_index(b, k, at), n, buf);
    for (int64_t i = 0; i < n;) {
        int64_t m = MIN(n - i, row - (at + i) % row), from = bcast_index(b, k, at + i);
        if (inner == 1) {
            host_convert_serial(isa, buf + i, DT_F32,
                                (const char *)x + (size_t)from * dtype_bytes(t), t, m);
        } else {
            float v = (float)dtype_load(x, t, from);
            for (int64_t j = 0; j < m; j++) buf[i + j] = v;
        }
        i += m;
    }
    return buf;
}

void bcast_push(const bcast *b, int64_t unit, uint32_t d[MAX_DIMS], uint32_t *const stride[]) {
    for (int i = 0; i < MAX_DIMS; i++) {
        int j = b->n - 1 - i;
        d[i] = j < 0 ? 1 : (uint32_t)(b->d[j] / (i == 0 ? unit : 1));
        for (int k = 0; k < b->n_ops; k++) stride[k][i] = j < 0 ? 0 : (uint32_t)b->stride[k][j];
    }
}
