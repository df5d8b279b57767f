/* prim.c: one prepared primitive (host_prim) from a dn_spec: reorders, scratch, running.
 *
 * Everything is decided at create: memory objects exist, only their handles change at run. Types
 * the CPU has no fast arithmetic for (f16; bf16 without AVX512-BF16) are converted to f32 in
 * scratch, computed, and converted back; packed weights stay in the caller's type, so that half
 * precision halves their memory, and are widened at run. SPDX-License-Identifier: MIT */
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
    int64_t count;  /* elements in the caller's layout */
    size_t wide;    /* scratch offset of the copy in the work type, caller's layout */
    size_t blocked; /* scratch offset of the reordered copy */
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
    uint64_t b_layout;   /* of b in oneDNN's layout, and where its elements come from */
    size_t pad, scratch; /* offset of oneDNN's own scratchpad; all bytes */
    char impl[48];
};

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

/* f16 and bf16 are computed in f32 unless the CPU multiplies bf16. y of a bf16 product is written
 * by oneDNN as f32 or bf16. */
static void choose_types(const host *h, const dn_spec *s, host_prim *p) {
    bool bf16 = h->caps.fast_bf16 && !s->wide && s->a.type == DT_BF16 && s->b.type == DT_BF16;
    dtype work = bf16 ? DT_BF16 : DT_F32;
    p->a = (operand){.user = s->a.type, .work = work, .count = layout_count(&s->a)};
    p->b = (operand){.user = s->b.type, .work = work, .count = layout_count(&s->b)};
    p->y = (operand){.user = s->y.type,
                     .work = bf16 && s->y.type == DT_BF16 ? DT_BF16 : DT_F32,
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

typedef struct arg_ids {
    int a, b, y;
    dnnl_query_t qa, qb, qy;
} arg_ids;
static arg_ids ids_of(dn_kind k) {
    switch (k) {
    case DN_CONV_BWD_X:
        return (arg_ids){DNNL_ARG_DIFF_DST,      DNNL_ARG_WEIGHTS,      DNNL_ARG_DIFF_SRC,
                         dnnl_query_diff_dst_md, dnnl_query_weights_md, dnnl_query_diff_src_md};
    case DN_CONV_BWD_W:
        return (arg_ids){DNNL_ARG_SRC,      DNNL_ARG_DIFF_DST,      DNNL_ARG_DIFF_WEIGHTS,
                         dnnl_query_src_md, dnnl_query_diff_dst_md, dnnl_query_diff_weights_md};
    case DN_MATMUL:
    case DN_CONV_FWD:
        break;
    }
    return (arg_ids){DNNL_ARG_SRC,      DNNL_ARG_WEIGHTS,      DNNL_ARG_DST,
                     dnnl_query_src_md, dnnl_query_weights_md, dnnl_query_dst_md};
}

/* From a primitive descriptor to something that runs. */
static status finish(host *h, const dn_spec *s, host_prim *p, const dn_mds *m,
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
    if (s->bias.nd) TRY(add_arg(h, p, M_BIAS, DNNL_ARG_BIAS, DN_REF(m->bias)));
    if (s->residual) TRY(add_arg(h, p, M_RESIDUAL, residual_at, DN_REF(m->residual)));
    DN(dn_md_init(&b_plain, &s->b, p->b.work, false));
    DN(dn_md_init(&y_plain, &s->y, p->y.work, false));
    TRY(make_reorder(h, DN_REF(b_plain), b, true, &p->b_in, &pad_bytes));
    TRY(make_reorder(h, DN_REF(y_plain), y, false, &p->y_out, &pad_bytes));
    p->b_blocked_count = (int64_t)(dnnl_memory_desc_get_size(b) / dtype_bytes(p->b.work));
    p->y_blocked_bytes = dnnl_memory_desc_get_size(y);
    p->b_layout = dn_md_hash(b) * 31 + dn_md_hash(DN_REF(b_plain));
    snprintf(p->impl, sizeof p->impl, "%s", dn_impl_name(pd));
    DN(dnnl_primitive_create(&p->main, pd));
    lay_out_scratch(p, s->residual, pad_bytes);
out:
    dn_md_fini(&b_plain), dn_md_fini(&y_plain);
    return st;
}

static dn_work work_of(const host_prim *p) { return (dn_work){p->a.work, p->b.work, p->y.work}; }

status dn_prim_create(host *h, const dn_spec *s, host_prim **out) {
    status st = OK;
    dn_mds m = {0};
    dnnl_primitive_desc_t pd = NULL;
    int threads = omp_get_max_threads();
    *out = NULL;
    host_prim *p = mem_zalloc(sizeof *p);
    if (!p) return fail(E_HOST_MEMORY, "oneDNN: no memory for a primitive");
    omp_set_num_threads(h->caps.threads); /* kernels split their work when they are made */
    choose_types(h, s, p);
    TRY(dn_pd_create(h, s, work_of(p), &m, &pd));
    dn_spec t = *s;
    if (s->residual && (strstr(dn_impl_name(pd), "gemm") || strstr(dn_impl_name(pd), "ref"))) {
        /* These add a second operand slowly, and for convolutions of version 2.6.3 wrongly. */
        dnnl_primitive_desc_destroy(pd);
        pd = NULL;
        dn_mds_fini(&m);
        memset(&m, 0, sizeof m);
        t.residual = false;
        p->add_residual = true;
        p->y.work = DT_F32; /* so that the sum is rounded once */
        TRY(dn_pd_create(h, &t, work_of(p), &m, &pd));
    }
    TRY(finish(h, &t, p, &m, pd));
    *out = p;
    p = NULL;
out:
    omp_set_num_threads(threads);
    if (pd) dnnl_primitive_desc_destroy(pd);
    dn_mds_fini(&m);
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
uint64_t host_prim_layout(const host_prim *p) { return p->b_layout; }
size_t host_prim_packed(const host_prim *p) {
    return p->b_in.prim && p->packed_b ? (size_t)p->b_blocked_count * dtype_bytes(p->b.user) : 0;
}

/* ---- running ---- */
static bool set_handle(dnnl_memory_t m, const void *data) {
    /* oneDNN takes one pointer type for inputs and outputs; inputs are not written. */
    return dnnl_memory_set_data_handle(m, (void *)(uintptr_t)data) == dnnl_success;
}

/* Waits, since some builds of oneDNN (SYCL) run asynchronously; OpenMP builds have finished anyway.
 */
static bool execute_now(host *h, dnnl_primitive_t prim, int n, const dnnl_exec_arg_t *arg) {
    return dnnl_primitive_execute(prim, h->stream, n, arg) == dnnl_success &&
           dnnl_stream_wait(h->stream) == dnnl_success;
}

static bool run_reorder(host *h, const reorder *r, const void *plain, const void *blocked, bool in,
                        void *pad) {
    dnnl_exec_arg_t arg[] = {{DNNL_ARG_FROM, in ? r->plain : r->blocked},
                             {DNNL_ARG_TO, in ? r->blocked : r->plain},
                             {DNNL_ARG_SCRATCHPAD, r->pad}};
    return set_handle(r->plain, plain) && set_handle(r->blocked, blocked) &&
           set_handle(r->pad, pad) && execute_now(h, r->prim, 3, arg);
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
    ok = ok && execute_now(h, p->main, p->n_args, p->arg);
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
