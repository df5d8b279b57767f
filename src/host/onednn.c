/* onednn.c: one prepared primitive (host_prim) from a dn_spec: descriptors, reorders, scratch.
 *
 * Everything is decided at create: memory objects exist, only their handles change at run. Types the
 * CPU has no fast arithmetic for (f16; bf16 without AVX512-BF16) are converted to f32 in scratch,
 * computed, and converted back; packed weights stay in the caller's type, so that half precision
 * halves their memory, and are widened at run.
 * Version differences are fenced in the chapter "two generations".
 * SPDX-License-Identifier: MIT */
#include "host/onednn.h"

#include <assert.h>
#include <omp.h>
#include <stdio.h>

enum { M_A, M_B, M_Y, M_BIAS, M_RESIDUAL, M_PAD, M_COUNT };

/* One reorder between the caller's layout and oneDNN's; prim NULL = the layouts are the same. */
typedef struct reorder {
    dnnl_primitive_t prim;
    dnnl_memory_t plain, blocked, pad;
} reorder;

typedef struct operand {
    dtype user, work;
    int64_t count;      /* elements in the caller's layout */
    size_t wide;        /* scratch offset of the copy in the work type, caller's layout */
    size_t blocked;     /* scratch offset of the reordered copy */
} operand;

struct host_prim {
    dnnl_primitive_t main;
    dnnl_memory_t mem[M_COUNT];
    dnnl_exec_arg_t arg[M_COUNT];
    int n_args;
    operand a, b, y, residual;
    reorder b_in, y_out;
    bool packed_b, swap;
    bool add_residual;       /* by us, after oneDNN */
    int64_t b_blocked_count; /* elements of b in oneDNN's layout, its padding included */
    size_t y_blocked_bytes;
    size_t pad, scratch;     /* offset of oneDNN's own scratchpad; all bytes */
    char impl[48];
};

status dn_fail(dnnl_status_t r, const char *what) {
    switch ((int)r) {
    case dnnl_out_of_memory: return fail(E_HOST_MEMORY, "oneDNN: out of memory in %s", what);
    case dnnl_unimplemented:
        return fail(E_UNSUPPORTED, "oneDNN %d.%d has no kernel for this shape and type (%s)",
                    dnnl_version()->major, dnnl_version()->minor, what);
    default: return fail(E_UNSUPPORTED, "oneDNN: status %d in %s", (int)r, what);
    }
}

static dnnl_data_type_t dn_type(dtype t) {
    assert(t == DT_F32 || t == DT_BF16);
    return t == DT_F32 ? dnnl_f32 : dnnl_bf16;
}

/* ---- two generations: descriptors ----
 * dn_md: an owned memory descriptor. dn_ref: how one is passed and how queries give it. */
#if DNNL_VERSION_MAJOR < 3
typedef dnnl_memory_desc_t dn_md;
typedef const dnnl_memory_desc_t *dn_ref;
#define REF(md) (&(md))
static void md_fini(dn_md *md) { (void)md; }
static dnnl_status_t md_init(dn_md *md, const dn_layout *l, dtype work, bool any) {
    return any ? dnnl_memory_desc_init_by_tag(md, l->nd, l->dims, dn_type(work), dnnl_format_tag_any)
               : dnnl_memory_desc_init_by_strides(md, l->nd, l->dims, dn_type(work), l->strides);
}
static dnnl_status_t append_eltwise(dnnl_post_ops_t ops, dnnl_alg_kind_t alg, float alpha) {
    return dnnl_post_ops_append_eltwise(ops, 1.0f, alg, alpha, 0.0f);
}
static dnnl_status_t attr_deterministic(dnnl_primitive_attr_t attr) {
    (void)attr; /* CPU kernels of version 2 are deterministic for a fixed number of threads */
    return dnnl_success;
}
#else
typedef dnnl_memory_desc_t dn_md;
typedef const_dnnl_memory_desc_t dn_ref;
#define REF(md) (md)
static void md_fini(dn_md *md) {
    if (*md) dnnl_memory_desc_destroy(*md);
}
static dnnl_status_t md_init(dn_md *md, const dn_layout *l, dtype work, bool any) {
    return any ? dnnl_memory_desc_create_with_tag(md, l->nd, l->dims, dn_type(work),
                                                  dnnl_format_tag_any)
               : dnnl_memory_desc_create_with_strides(md, l->nd, l->dims, dn_type(work),
                                                      l->strides);
}
static dnnl_status_t append_eltwise(dnnl_post_ops_t ops, dnnl_alg_kind_t alg, float alpha) {
    return dnnl_post_ops_append_eltwise(ops, alg, alpha, 0.0f);
}
static dnnl_status_t attr_deterministic(dnnl_primitive_attr_t attr) {
#if DNNL_VERSION_MAJOR > 3 || DNNL_VERSION_MINOR >= 4
    return dnnl_primitive_attr_set_deterministic(attr, 1);
#else
    (void)attr;
    return dnnl_success;
#endif
}
#endif

static const char *impl_name(const_dnnl_primitive_desc_t pd) {
    const char *name = NULL;
    dnnl_status_t r = dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &name);
    return r == dnnl_success && name ? name : "";
}

/* The descriptors of one primitive while it is made. */
typedef struct mds {
    dn_md a, b, y, bias, residual;
    dn_md hint_w, hint_y; /* forward convolution that the backward kinds are the gradient of */
} mds;

static void mds_fini(mds *m) {
    md_fini(&m->a), md_fini(&m->b), md_fini(&m->y), md_fini(&m->bias), md_fini(&m->residual);
    md_fini(&m->hint_w), md_fini(&m->hint_y);
}

/* Kernels of version 2.6.3 that go wrong, found by tests/test_host.c; the next one is taken.
 *   jit_1x1, any ISA: weight gradient with stride over NHWC: wrong (AVX2) or writes past its
 *   scratchpad (AVX-512)
 *   jit_bf16_1x1: second operand of a binary post-op misread for few channels */
static bool known_bad(const dn_spec *s, const_dnnl_primitive_desc_t pd) {
    const char *impl = impl_name(pd);
    return (s->kind == DN_CONV_BWD_W && s->stride[1] > 1 && strstr(impl, "1x1")) ||
           (s->residual && strstr(impl, "jit_bf16_1x1"));
}

/* ---- two generations: primitive descriptors ---- */
#if DNNL_VERSION_MAJOR < 3
static dnnl_status_t first_good(dnnl_primitive_desc_t *pd, const host *h, const dn_spec *s,
                                const_dnnl_op_desc_t d, dnnl_primitive_attr_t attr,
                                dnnl_primitive_desc_t hint) {
    dnnl_primitive_desc_iterator_t it = NULL;
    dnnl_status_t r = dnnl_primitive_desc_iterator_create(&it, d, attr, h->engine, hint);
    while (r == dnnl_success) {
        *pd = dnnl_primitive_desc_iterator_fetch(it);
        if (!*pd) r = dnnl_out_of_memory;
        if (!*pd || !known_bad(s, *pd)) break;
        dnnl_primitive_desc_destroy(*pd);
        *pd = NULL;
        r = dnnl_primitive_desc_iterator_next(it);
    }
    if (it) dnnl_primitive_desc_iterator_destroy(it);
    return r == dnnl_iterator_ends ? dnnl_unimplemented : r;
}
static dnnl_status_t pd_matmul(dnnl_primitive_desc_t *pd, const host *h, const dn_spec *s,
                               const mds *m, dnnl_primitive_attr_t attr) {
    dnnl_matmul_desc_t d;
    dnnl_status_t r = dnnl_matmul_desc_init(&d, &m->a, &m->b, s->bias.nd ? &m->bias : NULL, &m->y);
    return r != dnnl_success ? r : first_good(pd, h, s, &d, attr, NULL);
}
static dnnl_status_t pd_forward(dnnl_primitive_desc_t *pd, const host *h, const dn_spec *s, dn_ref x,
                                dn_ref w, dn_ref bias, dn_ref y, dnnl_prop_kind_t prop,
                                dnnl_primitive_attr_t attr) {
    dnnl_convolution_desc_t d;
    dnnl_status_t r =
        dnnl_convolution_forward_desc_init(&d, prop, dnnl_convolution_direct, x, w, bias, y,
                                           s->stride, s->pad_l, s->pad_r);
    return r != dnnl_success ? r : first_good(pd, h, s, &d, attr, NULL);
}
static dnnl_status_t pd_backward(dnnl_primitive_desc_t *pd, const host *h, const dn_spec *s,
                                 const mds *m, dnnl_primitive_attr_t attr,
                                 dnnl_primitive_desc_t hint) {
    dnnl_convolution_desc_t d;
    dnnl_status_t r =
        s->kind == DN_CONV_BWD_X
            ? dnnl_convolution_backward_data_desc_init(&d, dnnl_convolution_direct, &m->y, &m->b,
                                                       &m->a, s->stride, s->pad_l, s->pad_r)
            : dnnl_convolution_backward_weights_desc_init(&d, dnnl_convolution_direct, &m->a, &m->y,
                                                          NULL, &m->b, s->stride, s->pad_l,
                                                          s->pad_r);
    return r != dnnl_success ? r : first_good(pd, h, s, &d, attr, hint);
}
#else
static const dnnl_dims_t no_dilation;
static dnnl_status_t skip_bad(dnnl_primitive_desc_t pd, const dn_spec *s, dnnl_status_t r) {
    while (r == dnnl_success && known_bad(s, pd)) r = dnnl_primitive_desc_next_impl(pd);
    return r == dnnl_last_impl_reached ? dnnl_unimplemented : r;
}
static dnnl_status_t pd_matmul(dnnl_primitive_desc_t *pd, const host *h, const dn_spec *s,
                               const mds *m, dnnl_primitive_attr_t attr) {
    dnnl_status_t r = dnnl_matmul_primitive_desc_create(
        pd, h->engine, m->a, m->b, s->bias.nd ? m->bias : NULL, m->y, attr);
    return skip_bad(*pd, s, r);
}
static dnnl_status_t pd_forward(dnnl_primitive_desc_t *pd, const host *h, const dn_spec *s, dn_ref x,
                                dn_ref w, dn_ref bias, dn_ref y, dnnl_prop_kind_t prop,
                                dnnl_primitive_attr_t attr) {
    dnnl_status_t r = dnnl_convolution_forward_primitive_desc_create(
        pd, h->engine, prop, dnnl_convolution_direct, x, w, bias, y, s->stride, no_dilation,
        s->pad_l, s->pad_r, attr);
    return skip_bad(*pd, s, r);
}
static dnnl_status_t pd_backward(dnnl_primitive_desc_t *pd, const host *h, const dn_spec *s,
                                 const mds *m, dnnl_primitive_attr_t attr,
                                 dnnl_primitive_desc_t hint) {
    dnnl_status_t r =
        s->kind == DN_CONV_BWD_X
            ? dnnl_convolution_backward_data_primitive_desc_create(
                  pd, h->engine, dnnl_convolution_direct, m->y, m->b, m->a, s->stride, no_dilation,
                  s->pad_l, s->pad_r, hint, attr)
            : dnnl_convolution_backward_weights_primitive_desc_create(
                  pd, h->engine, dnnl_convolution_direct, m->a, m->y, NULL, m->b, s->stride,
                  no_dilation, s->pad_l, s->pad_r, hint, attr);
    return skip_bad(*pd, s, r);
}
#endif

/* ---- common to both from here on ---- */
static dnnl_status_t append_act(dnnl_post_ops_t ops, host_act act) {
    switch (act) {
    case ACT_SILU: return append_eltwise(ops, dnnl_eltwise_swish, 1.0f); /* x sigmoid(alpha x) */
    case ACT_GELU_ERF: return append_eltwise(ops, dnnl_eltwise_gelu_erf, 0.0f);
    case ACT_GELU_TANH: return append_eltwise(ops, dnnl_eltwise_gelu_tanh, 0.0f);
    case ACT_QUICK_GELU: return append_eltwise(ops, dnnl_eltwise_swish, 1.702f);
    case ACT_RELU: return append_eltwise(ops, dnnl_eltwise_relu, 0.0f);
    case ACT_NONE:
    case ACT_COUNT: break;
    }
    return dnnl_success;
}

static status make_attr(const dn_spec *s, const mds *m, dnnl_primitive_attr_t *attr) {
    status st = OK;
    dnnl_post_ops_t ops = NULL;
    DN(dnnl_primitive_attr_create(attr));
    DN(dnnl_primitive_attr_set_scratchpad_mode(*attr, dnnl_scratchpad_mode_user));
    DN(attr_deterministic(*attr));
    DN(dnnl_post_ops_create(&ops));
    DN(append_act(ops, s->act));
    if (s->residual) DN(dnnl_post_ops_append_binary(ops, dnnl_binary_add, REF(m->residual)));
    DN(dnnl_primitive_attr_set_post_ops(*attr, ops));
out:
    if (ops) dnnl_post_ops_destroy(ops);
    return st;
}

/* Descriptors are made anew by each try. */
static status make_pd(host *h, const dn_spec *s, const host_prim *p, mds *m,
                      dnnl_primitive_desc_t *pd) {
    status st = OK;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t hint = NULL;
    DN(md_init(&m->a, &s->a, p->a.work, false));
    DN(md_init(&m->b, &s->b, p->b.work, s->b_any));
    DN(md_init(&m->y, &s->y, p->y.work, s->y_any));
    if (s->bias.nd) DN(md_init(&m->bias, &s->bias, DT_F32, false));
    if (s->residual) DN(md_init(&m->residual, &s->y, p->y.work, false));
    TRY(make_attr(s, m, &attr));
    switch (s->kind) {
    case DN_MATMUL: DN(pd_matmul(pd, h, s, m, attr)); break;
    case DN_CONV_FWD:
        DN(pd_forward(pd, h, s, REF(m->a), REF(m->b), s->bias.nd ? REF(m->bias) : NULL, REF(m->y),
                      dnnl_forward_inference, attr));
        break;
    case DN_CONV_BWD_X: /* x = y, w = b, y = a of the forward convolution */
        DN(pd_forward(&hint, h, s, REF(m->y), REF(m->b), NULL, REF(m->a), dnnl_forward_training,
                      NULL));
        DN(pd_backward(pd, h, s, m, attr, hint));
        break;
    case DN_CONV_BWD_W: /* x = a, w = y's shape in x's type, y = b */
        DN(md_init(&m->hint_w, &s->y, p->a.work, true));
        DN(pd_forward(&hint, h, s, REF(m->a), REF(m->hint_w), NULL, REF(m->b),
                      dnnl_forward_training, NULL));
        DN(pd_backward(pd, h, s, m, attr, hint));
        break;
    }
out:
    if (hint) dnnl_primitive_desc_destroy(hint);
    if (attr) dnnl_primitive_attr_destroy(attr);
    return st;
}

static status make_memory(host *h, dn_ref md, dnnl_memory_t *out) {
    status st = OK;
    DN(dnnl_memory_create(out, md, h->engine, DNNL_MEMORY_NONE));
out:
    return st;
}

/* Appends an argument with its memory; `md` is what the primitive wants there. */
static status add_arg(host *h, host_prim *p, int m, int id, dn_ref md) {
    status st = OK;
    TRY(make_memory(h, md, &p->mem[m]));
    p->arg[p->n_args++] = (dnnl_exec_arg_t){id, p->mem[m]};
out:
    return st;
}

static size_t max_size(size_t a, size_t b) { return a > b ? a : b; }

/* from plain to blocked (in), or back. Leaves r->prim NULL when the layouts agree. */
static status make_reorder(host *h, dn_ref plain, dn_ref blocked, bool in, reorder *r,
                           size_t *pad_bytes) {
    status st = OK;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_primitive_attr_t attr = NULL;
    if (dnnl_memory_desc_equal(plain, blocked)) goto out;
    DN(dnnl_primitive_attr_create(&attr));
    DN(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user));
    DN(dnnl_reorder_primitive_desc_create(&pd, in ? plain : blocked, h->engine,
                                          in ? blocked : plain, h->engine, attr));
    dn_ref pad = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    *pad_bytes = max_size(*pad_bytes, dnnl_memory_desc_get_size(pad));
    TRY(make_memory(h, plain, &r->plain));
    TRY(make_memory(h, blocked, &r->blocked));
    TRY(make_memory(h, pad, &r->pad));
    DN(dnnl_primitive_create(&r->prim, pd));
out:
    if (attr) dnnl_primitive_attr_destroy(attr);
    if (pd) dnnl_primitive_desc_destroy(pd);
    return st;
}

static void reorder_fini(reorder *r) {
    if (r->prim) dnnl_primitive_destroy(r->prim);
    if (r->plain) dnnl_memory_destroy(r->plain);
    if (r->blocked) dnnl_memory_destroy(r->blocked);
    if (r->pad) dnnl_memory_destroy(r->pad);
}

static int64_t layout_count(const dn_layout *l) {
    int64_t n = 1;
    for (int i = 0; i < l->nd; i++) n *= l->dims[i];
    return n;
}

/* f16 and bf16 are computed in f32 unless the CPU multiplies bf16. y of a bf16 product is written by
 * oneDNN as f32 or bf16. */
static void choose_types(const host *h, const dn_spec *s, host_prim *p) {
    bool bf16 = h->caps.fast_bf16 && !s->wide && s->a.type == DT_BF16 && s->b.type == DT_BF16;
    dtype work = bf16 ? DT_BF16 : DT_F32;
    p->a = (operand){.user = s->a.type, .work = work, .count = layout_count(&s->a)};
    p->b = (operand){.user = s->b.type, .work = work, .count = layout_count(&s->b)};
    p->y = (operand){.user = s->y.type, .work = bf16 && s->y.type == DT_BF16 ? DT_BF16 : DT_F32,
                     .count = layout_count(&s->y)};
    p->residual = p->y;
    p->packed_b = s->packed_b;
    p->swap = s->swap;
}

static size_t take(size_t *total, size_t bytes) {
    size_t at = *total;
    *total = at + align_up(bytes, 64);
    return at;
}

static size_t take_wide(size_t *total, const operand *o, int64_t count) {
    return o->user == o->work ? 0 : take(total, (size_t)count * dtype_bytes(o->work));
}

static void lay_out_scratch(host_prim *p, bool residual, size_t pad_bytes) {
    size_t total = 0;
    p->a.wide = take_wide(&total, &p->a, p->a.count);
    p->b.wide = take_wide(&total, &p->b, MAX(p->b.count, p->b_blocked_count));
    p->y.wide = take_wide(&total, &p->y, p->y.count);
    if (residual) p->residual.wide = take_wide(&total, &p->residual, p->residual.count);
    if (p->b_in.prim)
        p->b.blocked = take(&total, (size_t)p->b_blocked_count * dtype_bytes(p->b.work));
    if (p->y_out.prim) p->y.blocked = take(&total, p->y_blocked_bytes);
    p->pad = take(&total, pad_bytes);
    p->scratch = total;
}

typedef struct arg_ids { int a, b, y; dnnl_query_t qa, qb, qy; } arg_ids;
static arg_ids ids_of(dn_kind k) {
    switch (k) {
    case DN_CONV_BWD_X:
        return (arg_ids){DNNL_ARG_DIFF_DST, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_SRC,
                         dnnl_query_diff_dst_md, dnnl_query_weights_md, dnnl_query_diff_src_md};
    case DN_CONV_BWD_W:
        return (arg_ids){DNNL_ARG_SRC, DNNL_ARG_DIFF_DST, DNNL_ARG_DIFF_WEIGHTS, dnnl_query_src_md,
                         dnnl_query_diff_dst_md, dnnl_query_diff_weights_md};
    case DN_MATMUL:
    case DN_CONV_FWD: break;
    }
    return (arg_ids){DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, dnnl_query_src_md,
                     dnnl_query_weights_md, dnnl_query_dst_md};
}

/* From a primitive descriptor to something that runs. */
static status finish(host *h, const dn_spec *s, host_prim *p, const mds *m,
                     dnnl_primitive_desc_t pd) {
    status st = OK;
    dn_md b_plain = {0}, y_plain = {0};
    arg_ids id = ids_of(s->kind);
    dn_ref b = dnnl_primitive_desc_query_md(pd, id.qb, 0);
    dn_ref y = dnnl_primitive_desc_query_md(pd, id.qy, 0);
    dn_ref pad = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    size_t pad_bytes = dnnl_memory_desc_get_size(pad);
    int residual_at = DNNL_ARG_ATTR_MULTIPLE_POST_OP(s->act != ACT_NONE) | DNNL_ARG_SRC_1;
    TRY(add_arg(h, p, M_A, id.a, dnnl_primitive_desc_query_md(pd, id.qa, 0)));
    TRY(add_arg(h, p, M_B, id.b, b));
    TRY(add_arg(h, p, M_Y, id.y, y));
    TRY(add_arg(h, p, M_PAD, DNNL_ARG_SCRATCHPAD, pad));
    if (s->bias.nd) TRY(add_arg(h, p, M_BIAS, DNNL_ARG_BIAS, REF(m->bias)));
    if (s->residual) TRY(add_arg(h, p, M_RESIDUAL, residual_at, REF(m->residual)));
    DN(md_init(&b_plain, &s->b, p->b.work, false));
    DN(md_init(&y_plain, &s->y, p->y.work, false));
    TRY(make_reorder(h, REF(b_plain), b, true, &p->b_in, &pad_bytes));
    TRY(make_reorder(h, REF(y_plain), y, false, &p->y_out, &pad_bytes));
    p->b_blocked_count = (int64_t)(dnnl_memory_desc_get_size(b) / dtype_bytes(p->b.work));
    p->y_blocked_bytes = dnnl_memory_desc_get_size(y);
    snprintf(p->impl, sizeof p->impl, "%s", impl_name(pd));
    DN(dnnl_primitive_create(&p->main, pd));
    lay_out_scratch(p, s->residual, pad_bytes);
out:
    md_fini(&b_plain), md_fini(&y_plain);
    return st;
}

status dn_prim_create(host *h, const dn_spec *s, host_prim **out) {
    status st = OK;
    mds m = {0};
    dnnl_primitive_desc_t pd = NULL;
    int threads = omp_get_max_threads();
    *out = NULL;
    host_prim *p = mem_zalloc(sizeof *p);
    if (!p) return fail(E_HOST_MEMORY, "oneDNN: no memory for a primitive");
    omp_set_num_threads(h->caps.threads); /* kernels split their work when they are made */
    choose_types(h, s, p);
    TRY(make_pd(h, s, p, &m, &pd));
    dn_spec t = *s;
    if (s->residual && (strstr(impl_name(pd), "gemm") || strstr(impl_name(pd), "ref"))) {
        /* These add a second operand slowly, and for convolutions of version 2.6.3 wrongly. */
        dnnl_primitive_desc_destroy(pd);
        pd = NULL;
        mds_fini(&m);
        memset(&m, 0, sizeof m);
        t.residual = false;
        p->add_residual = true;
        p->y.work = DT_F32; /* so that the sum is rounded once */
        TRY(make_pd(h, &t, p, &m, &pd));
    }
    TRY(finish(h, &t, p, &m, pd));
    *out = p;
    p = NULL;
out:
    omp_set_num_threads(threads);
    if (pd) dnnl_primitive_desc_destroy(pd);
    mds_fini(&m);
    host_prim_destroy(p);
    return st;
}

void host_prim_destroy(host_prim *p) {
    if (!p) return;
    if (p->main) dnnl_primitive_destroy(p->main);
    for (int i = 0; i < M_COUNT; i++)
        if (p->mem[i]) dnnl_memory_destroy(p->mem[i]);
    reorder_fini(&p->b_in);
    reorder_fini(&p->y_out);
    mem_free(p);
}

size_t host_prim_scratch(const host_prim *p) { return p->scratch; }
const char *host_prim_impl(const host_prim *p) { return p->impl; }
size_t host_prim_packed(const host_prim *p) {
    return p->b_in.prim && p->packed_b ? (size_t)p->b_blocked_count * dtype_bytes(p->b.user) : 0;
}

/* ---- running ---- */
static bool set_handle(dnnl_memory_t m, const void *data) {
    /* oneDNN takes one pointer type for inputs and outputs; inputs are not written. */
    return dnnl_memory_set_data_handle(m, (void *)(uintptr_t)data) == dnnl_success;
}

static bool run_reorder(host *h, const reorder *r, const void *plain, const void *blocked, bool in,
                        void *pad) {
    dnnl_exec_arg_t arg[] = {{DNNL_ARG_FROM, in ? r->plain : r->blocked},
                             {DNNL_ARG_TO, in ? r->blocked : r->plain},
                             {DNNL_ARG_SCRATCHPAD, r->pad}};
    return set_handle(r->plain, plain) && set_handle(r->blocked, blocked) &&
           set_handle(r->pad, pad) &&
           dnnl_primitive_execute(r->prim, h->stream, 3, arg) == dnnl_success;
}

/* The operand in the type oneDNN works in. */
static const void *widened(host *h, const operand *o, const void *user, int64_t count,
                           char *scratch) {
    if (o->user == o->work) return user;
    host_convert(h, scratch + o->wide, o->work, user, o->user, count);
    return scratch + o->wide;
}

typedef struct add_job {
    host_isa isa;
    const float *x;
    const char *residual;
    char *y;
    dtype t;
} add_job;

/* y = x + residual; x is f32 and may be y. */
static void add_piece(void *ctx, int64_t begin, int64_t end) {
    enum { BLOCK = 512 };
    const add_job *j = ctx;
    size_t bytes = dtype_bytes(j->t);
    float sum[BLOCK];
    for (int64_t i = begin; i < end; i += BLOCK) {
        int64_t n = MIN(end - i, (int64_t)BLOCK);
        host_convert_serial(j->isa, sum, DT_F32, j->residual + (size_t)i * bytes, j->t, n);
        for (int64_t k = 0; k < n; k++) sum[k] += j->x[i + k];
        host_convert_serial(j->isa, j->y + (size_t)i * bytes, j->t, sum, DT_F32, n);
    }
}

static void write_y(host *h, const host_prim *p, const char *work, const void *residual, void *y) {
    if (p->add_residual) {
        add_job j = {h->caps.isa, (const float *)(const void *)work, residual, y, p->y.user};
        host_parallel(h, p->y.count, 16384, add_piece, &j);
    } else if (work != (char *)y)
        host_convert(h, y, p->y.user, work, p->y.work, p->y.count);
}

static bool execute(host *h, host_prim *p, const void *a, const void *b, const float *bias,
                    const void *residual, void *y, char *scratch) {
    char *pad = scratch + p->pad;
    bool packed = host_prim_packed(p) != 0;
    const void *wa = widened(h, &p->a, a, p->a.count, scratch);
    const void *wb = widened(h, &p->b, b, packed ? p->b_blocked_count : p->b.count, scratch);
    char *wy = p->y.user == p->y.work ? y : scratch + p->y.wide;
    char *by = p->y_out.prim ? scratch + p->y.blocked : wy;
    if (p->b_in.prim && !packed) {
        if (!run_reorder(h, &p->b_in, wb, scratch + p->b.blocked, true, pad)) return false;
        wb = scratch + p->b.blocked;
    }
    bool ok = set_handle(p->mem[M_A], wa) && set_handle(p->mem[M_B], wb) &&
              set_handle(p->mem[M_Y], by) && set_handle(p->mem[M_PAD], pad);
    if (p->mem[M_BIAS]) ok = ok && set_handle(p->mem[M_BIAS], bias);
    if (p->mem[M_RESIDUAL])
        ok = ok && set_handle(p->mem[M_RESIDUAL],
                              widened(h, &p->residual, residual, p->residual.count, scratch));
    ok = ok && dnnl_primitive_execute(p->main, h->stream, p->n_args, p->arg) == dnnl_success;
    if (ok && p->y_out.prim) ok = run_reorder(h, &p->y_out, wy, by, false, pad);
    if (ok) write_y(h, p, wy, residual, y);
    return ok;
}

static void report(host *h, const host_prim *p) {
    if (!atomic_exchange(&h->failed, true))
        log_error("oneDNN: running %s failed (memory short?); the output is zeroed", p->impl);
}

void dn_prim_run(host *h, host_prim *p, const void *a, const void *b, const float *bias,
                 const void *residual, void *y, void *scratch) {
    assert((!p->mem[M_BIAS] || bias) && (residual || (!p->mem[M_RESIDUAL] && !p->add_residual)));
    int threads = omp_get_max_threads();
    if (threads != h->caps.threads) omp_set_num_threads(h->caps.threads);
    if (!execute(h, p, p->swap ? b : a, p->swap ? a : b, bias, residual, y, scratch)) {
        memset(y, 0, (size_t)p->y.count * dtype_bytes(p->y.user));
        report(h, p);
    }
    if (threads != h->caps.threads) omp_set_num_threads(threads);
}

void host_prim_pack(host *h, host_prim *p, const void *w, void *packed, void *scratch) {
    assert(host_prim_packed(p) != 0);
    char *s = scratch;
    bool direct = p->b.user == p->b.work;
    char *blocked = direct ? packed : s + p->b.blocked;
    int threads = omp_get_max_threads();
    omp_set_num_threads(h->caps.threads);
    const void *wide = widened(h, &p->b, w, p->b.count, s);
    if (!run_reorder(h, &p->b_in, wide, blocked, true, s + p->pad)) {
        memset(packed, 0, host_prim_packed(p));
        report(h, p);
    } else if (!direct)
        host_convert(h, packed, p->b.user, blocked, p->b.work, p->b_blocked_count);
    omp_set_num_threads(threads);
}
