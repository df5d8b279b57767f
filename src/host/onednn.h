/* onednn.h: the one place that knows oneDNN. Internal to host/: everything above describes a
 * primitive by a dn_spec and runs it as a host_prim.
 *
 * oneDNN comes in two API generations. Version 2 has descriptor structs by value and primitive
 * descriptors made from "operation descriptors"; version 3 has opaque handles and one create call
 * per primitive. onednn.c bridges them; all other code is the same for both.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "host/host.h"

#include <dnnl.h>
#include <stdatomic.h>

struct host {
    host_caps caps;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    atomic_bool failed; /* sticky until host_failed() takes it */
};

status dn_fail(dnnl_status_t r, const char *what);
/* As TRY, for a oneDNN call. */
#define DN(call)                                                                                   \
    do {                                                                                           \
        dnnl_status_t dn_r_ = (call);                                                              \
        if (dn_r_ != dnnl_success) {                                                               \
            st = dn_fail(dn_r_, #call);                                                            \
            error_trace(st, HERE, #call);                                                          \
            goto out;                                                                              \
        }                                                                                          \
    } while (0)

/* Dense data as the caller holds it. nd = 0: absent. */
typedef struct dn_layout {
    int nd;
    dnnl_dims_t dims, strides; /* elements */
    dtype type;                /* of the caller; the primitive may work in f32 instead */
} dn_layout;

typedef enum dn_kind { DN_MATMUL, DN_CONV_FWD, DN_CONV_BWD_X, DN_CONV_BWD_W } dn_kind;

/*             a          b          y
 *   MATMUL    src        weights    dst
 *   FWD       src        weights    dst
 *   BWD_X     diff_dst   weights    diff_src
 *   BWD_W     src        diff_dst   diff_weights
 * Layouts of a, b, y are those of the caller's memory; where *_any is set oneDNN may want another
 * one, and a reorder through scratch (or a packed copy of b) is put between. */
typedef struct dn_spec {
    dn_kind kind;
    dn_layout a, b, y, bias;
    bool b_any, y_any;
    bool packed_b;                 /* the run gets b as host_prim_pack made it */
    bool residual;                 /* y's shape and type, added after act */
    bool swap;                     /* the run is given (b, a) */
    bool wide;                     /* compute half types in f32 even where bf16 is fast */
    host_act act;
    dnnl_dims_t stride, pad_l, pad_r; /* convolutions: rows, columns */
} dn_spec;

/* [batch, rows, cols], or [rows, cols] unless three; the memory is [.., cols, rows] if trans. */
dn_layout dn_matrix(int64_t batch, int64_t rows, int64_t cols, bool trans, dtype t, bool three);

status dn_prim_create(host *h, const dn_spec *s, host_prim **out);
void dn_prim_run(host *h, host_prim *p, const void *a, const void *b, const float *bias,
                 const void *residual, void *y, void *scratch);
