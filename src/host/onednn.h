/* onednn.h: internal to host/. matmul.c and conv.c describe a primitive by a dn_spec, prim.c makes
 * and runs it as a host_prim.
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

status dn_fail(dnnl_status_t r, const char *call);
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

/* ---- two generations: dn_md owns a memory descriptor, dn_ref passes one ---- */
#if DNNL_VERSION_MAJOR < 3
typedef dnnl_memory_desc_t dn_md;
typedef const dnnl_memory_desc_t *dn_ref;
#define DN_REF(md) (&(md))
#else
typedef dnnl_memory_desc_t dn_md;
typedef const_dnnl_memory_desc_t dn_ref;
#define DN_REF(md) (md)
#endif
void dn_md_fini(dn_md *md);
/* l in the type `work` (f32 or bf16); any: leave the layout to oneDNN. */
dnnl_status_t dn_md_init(dn_md *md, const dn_layout *l, dtype work, bool any);
/* A hash of all that says where an element lies; equal descriptors may differ in it, unequal ones do not agree. */
uint64_t dn_md_hash(dn_ref md);
const char *dn_impl_name(const_dnnl_primitive_desc_t pd);

/* The descriptors of one primitive while it is made. */
typedef struct dn_mds {
    dn_md a, b, y, bias, residual;
    dn_md hint_w; /* of the forward convolution that a weight gradient belongs to */
} dn_mds;
void dn_mds_fini(dn_mds *m);
/* In the types a, b and y are computed in. *m and *pd are the caller's also on failure. */
typedef struct dn_work { dtype a, b, y; } dn_work;
status dn_pd_create(host *h, const dn_spec *s, dn_work work, dn_mds *m, dnnl_primitive_desc_t *pd);

/* ---- prim.c ---- */
status dn_prim_create(host *h, const dn_spec *s, host_prim **out);
void dn_prim_run(host *h, host_prim *p, const void *a, const void *b, const float *bias,
                 const void *residual, void *y, void *scratch);
