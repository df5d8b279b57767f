/* bench_host.c: the CPU room against its peers, in one run, turn by turn.
 *   f32   OpenBLAS sgemm at the same GEMM size (M = N*OH*OW, N = O, K = I*kh*kw), if
 * libopenblas.so.0 is on the machine bf16  a bare oneDNN primitive over the same NHWC data, weights
 * in the layout it likes best Best of several turns each; the ratio is ours over the peer's speed
 * (1 = as fast). usage: bench_host [seconds per row, default 1] [part of a row's name] [threads]
 * Run with OMP_WAIT_POLICY=passive: two thread teams take turns on the same cores. On a busy
 * machine compare on one thread: OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 and 1 as the third
 * argument. SPDX-License-Identifier: MIT */
#include "host/host.h"

#include <dlfcn.h>
#include <dnnl.h>
#include <stdio.h>
#include <stdlib.h>

#define MUST(call)                                                                                 \
    do {                                                                                           \
        if ((call) != 0) {                                                                         \
            printf("%s: %s failed: %s\n", HERE, #call, error_message());                           \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

typedef void sgemm_fn(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a,
                      int lda, const float *b, int ldb, float beta, float *c, int ldc);

typedef struct row {
    const char *name;
    bool conv;
    host_conv_kind kind;    /* conv */
    int64_t n, hw, i, o, k; /* conv: batch, side, channels, kernel; matmul: n = M, i = K, o = N */
    int stride;
    bool packed, trans_a, residual;
    host_act act;
} row;

/* ---- a bare oneDNN primitive, both API generations ---- */
typedef struct bare {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_t prim;
    dnnl_exec_arg_t arg[3];
} bare;

#if DNNL_VERSION_MAJOR < 3
typedef dnnl_memory_desc_t md;
typedef const dnnl_memory_desc_t *ref;
#define REF(m) (&(m))
static md md_tag(int nd, const dnnl_dims_t d, dnnl_data_type_t t, dnnl_format_tag_t tag) {
    md m;
    MUST(dnnl_memory_desc_init_by_tag(&m, nd, d, t, tag));
    return m;
}
static dnnl_primitive_desc_t matmul_pd(const bare *b, const md *x, const md *w, const md *y) {
    dnnl_matmul_desc_t d;
    dnnl_primitive_desc_t pd;
    MUST(dnnl_matmul_desc_init(&d, x, w, NULL, y));
    MUST(dnnl_primitive_desc_create(&pd, &d, NULL, b->engine, NULL));
    return pd;
}
static dnnl_primitive_desc_t conv_pd(const bare *b, host_conv_kind kind, const md *x, const md *w,
                                     const md *dw, const md *y, const dnnl_dims_t stride,
                                     const dnnl_dims_t lo, const dnnl_dims_t hi) {
    dnnl_convolution_desc_t d;
    dnnl_primitive_desc_t fwd, pd;
    MUST(dnnl_convolution_forward_desc_init(&d, dnnl_forward_training, dnnl_convolution_direct, x,
                                            w, NULL, y, stride, lo, hi));
    MUST(dnnl_primitive_desc_create(&fwd, &d, NULL, b->engine, NULL));
    if (kind == HOST_CONV_FWD) return fwd;
    if (kind == HOST_CONV_BWD_X)
        MUST(dnnl_convolution_backward_data_desc_init(&d, dnnl_convolution_direct, x, w, y, stride,
                                                      lo, hi));
    else
        MUST(dnnl_convolution_backward_weights_desc_init(&d, dnnl_convolution_direct, x, dw, NULL,
                                                         y, stride, lo, hi));
    MUST(dnnl_primitive_desc_create(&pd, &d, NULL, b->engine, fwd));
    dnnl_primitive_desc_destroy(fwd);
    return pd;
}
#else
typedef dnnl_memory_desc_t md;
typedef const_dnnl_memory_desc_t ref;
static md md_tag(int nd, const dnnl_dims_t d, dnnl_data_type_t t, dnnl_format_tag_t tag) {
    md m;
    MUST(dnnl_memory_desc_create_with_tag(&m, nd, d, t, tag));
    return m;
}
static dnnl_primitive_desc_t matmul_pd(const bare *b, const md *x, const md *w, const md *y) {
    dnnl_primitive_desc_t pd;
    MUST(dnnl_matmul_primitive_desc_create(&pd, b->engine, *x, *w, NULL, *y, NULL));
    return pd;
}
static dnnl_primitive_desc_t conv_pd(const bare *b, host_conv_kind kind, const md *x, const md *w,
                                     const md *dw, const md *y, const dnnl_dims_t stride,
                                     const dnnl_dims_t lo, const dnnl_dims_t hi) {
    dnnl_primitive_desc_t fwd, pd;
    dnnl_dims_t none = {0};
    MUST(dnnl_convolution_forward_primitive_desc_create(&fwd, b->engine, dnnl_forward_training,
                                                        dnnl_convolution_direct, *x, *w, NULL, *y,
                                                        stride, none, lo, hi, NULL));
    if (kind == HOST_CONV_FWD) return fwd;
    if (kind == HOST_CONV_BWD_X)
        MUST(dnnl_convolution_backward_data_primitive_desc_create(
            &pd, b->engine, dnnl_convolution_direct, *x, *w, *y, stride, none, lo, hi, fwd, NULL));
    else
        MUST(dnnl_convolution_backward_weights_primitive_desc_create(
            &pd, b->engine, dnnl_convolution_direct, *x, *dw, NULL, *y, stride, none, lo, hi, fwd,
            NULL));
    dnnl_primitive_desc_destroy(fwd);
    return pd;
}
#endif

static void bare_arg(bare *b, int slot, int id, dnnl_primitive_desc_t pd, dnnl_query_t what) {
    ref m = dnnl_primitive_desc_query_md(pd, what, 0);
    dnnl_memory_t mem;
    void *data = NULL;
    MUST(dnnl_memory_create(&mem, m, b->engine, DNNL_MEMORY_ALLOCATE));
    MUST(dnnl_memory_get_data_handle(mem, &data));
    memset(data, 0, dnnl_memory_desc_get_size(m));
    b->arg[slot] = (dnnl_exec_arg_t){id, mem};
}

static void bare_init(bare *b, const row *r) {
    const dnnl_data_type_t t = dnnl_bf16;
    const dnnl_format_tag_t any = dnnl_format_tag_any;
    dnnl_primitive_desc_t pd;
    int ia = DNNL_ARG_SRC, ib = DNNL_ARG_WEIGHTS, iy = DNNL_ARG_DST;
    dnnl_query_t qa = dnnl_query_src_md, qb = dnnl_query_weights_md, qy = dnnl_query_dst_md;
    MUST(dnnl_engine_create(&b->engine, dnnl_cpu, 0));
    MUST(dnnl_stream_create(&b->stream, b->engine, dnnl_stream_default_flags));
    if (!r->conv) {
        md x = md_tag(2, (dnnl_dims_t){r->n, r->i}, t, r->trans_a ? dnnl_ba : dnnl_ab);
        md w = md_tag(2, (dnnl_dims_t){r->i, r->o}, t,
                      r->packed    ? any
                      : r->trans_a ? dnnl_ab
                                   : dnnl_ba);
        md y = md_tag(2, (dnnl_dims_t){r->n, r->o}, r->trans_a ? dnnl_f32 : t, dnnl_ab);
        pd = matmul_pd(b, &x, &w, &y);
    } else {
        int64_t out = (r->hw - 1) / r->stride + 1, pad = r->k / 2;
        int64_t hi = (out - 1) * r->stride + r->k - r->hw - pad;
        dnnl_dims_t wd = {r->o, r->i, r->k, r->k};
        md x = md_tag(4, (dnnl_dims_t){r->n, r->i, r->hw, r->hw}, t, dnnl_nhwc);
        md y = md_tag(4, (dnnl_dims_t){r->n, r->o, out, out}, t, dnnl_nhwc);
        md w = md_tag(4, wd, t, any), dw = md_tag(4, wd, dnnl_f32, any);
        pd = conv_pd(b, r->kind, &x, &w, &dw, &y, (dnnl_dims_t){r->stride, r->stride},
                     (dnnl_dims_t){pad, pad}, (dnnl_dims_t){hi, hi});
        if (r->kind == HOST_CONV_BWD_X)
            ia = DNNL_ARG_DIFF_DST, iy = DNNL_ARG_DIFF_SRC, qa = dnnl_query_diff_dst_md,
            qy = dnnl_query_diff_src_md;
        if (r->kind == HOST_CONV_BWD_W)
            ib = DNNL_ARG_DIFF_DST, iy = DNNL_ARG_DIFF_WEIGHTS, qb = dnnl_query_diff_dst_md,
            qy = dnnl_query_diff_weights_md;
    }
    MUST(dnnl_primitive_create(&b->prim, pd));
    bare_arg(b, 0, ia, pd, qa);
    bare_arg(b, 1, ib, pd, qb);
    bare_arg(b, 2, iy, pd, qy);
    dnnl_primitive_desc_destroy(pd);
}

static void bare_fini(bare *b) {
    for (int i = 0; i < 3; i++) dnnl_memory_destroy(b->arg[i].memory);
    dnnl_primitive_destroy(b->prim);
    dnnl_stream_destroy(b->stream);
    dnnl_engine_destroy(b->engine);
}

/* ---- ours ---- */
typedef struct ours {
    host *h;
    host_prim *p;
    bool conv;
    void *a, *b, *y, *res, *packed, *scratch;
} ours;

static void *zeros(size_t bytes) {
    void *p = mem_zalloc(MAX(bytes, (size_t)64));
    if (!p) {
        puts("out of memory");
        exit(1);
    }
    return p;
}

static void gemm_size(const row *r, int64_t *m, int64_t *n, int64_t *k) {
    int64_t out = r->conv ? (r->hw - 1) / r->stride + 1 : 0;
    *m = r->conv ? r->n * out * out : r->n;
    *n = r->o;
    *k = r->conv ? r->i * r->k * r->k : r->i;
}

static void ours_init(ours *u, const row *r, dtype t) {
    size_t e = dtype_bytes(t);
    u->conv = r->conv;
    if (r->conv) {
        int64_t out = (r->hw - 1) / r->stride + 1, nx = r->n * r->hw * r->hw * r->i;
        int64_t ny = r->n * out * out * r->o, nw = r->o * r->i * r->k * r->k;
        int pad = (int)r->k / 2, hi = (int)((out - 1) * r->stride + r->k - r->hw - pad);
        host_conv_desc d = {.kind = r->kind,
                            .n = r->n,
                            .h = r->hw,
                            .w = r->hw,
                            .i = r->i,
                            .o = r->o,
                            .kh = r->k,
                            .kw = r->k,
                            .oh = out,
                            .ow = out,
                            .stride = r->stride,
                            .pad_t = pad,
                            .pad_l = pad,
                            .pad_b = hi,
                            .pad_r = hi,
                            .type = t,
                            .packed_w = r->packed,
                            .residual = r->residual,
                            .act = r->act};
        MUST(host_conv_create(u->h, &d, &u->p));
        u->a = zeros((size_t)(r->kind == HOST_CONV_BWD_X ? ny : nx) * e);
        u->b = zeros((size_t)(r->kind == HOST_CONV_BWD_W ? ny : nw) * e);
        u->y = zeros(r->kind == HOST_CONV_FWD     ? (size_t)ny * e
                     : r->kind == HOST_CONV_BWD_X ? (size_t)nx * e
                                                  : (size_t)nw * 4);
        u->res = zeros(r->residual ? (size_t)ny * e : 0);
    } else {
        host_matmul_desc d = {.batch = 1,
                              .m = r->n,
                              .n = r->o,
                              .k = r->i,
                              .trans_a = r->trans_a,
                              .trans_w = !r->trans_a,
                              .in = t,
                              .out = r->trans_a ? DT_F32 : t,
                              .packed_w = r->packed,
                              .residual = r->residual,
                              .act = r->act};
        MUST(host_matmul_create(u->h, &d, &u->p));
        u->a = zeros((size_t)(r->n * r->i) * e);
        u->b = zeros((size_t)(r->i * r->o) * e);
        u->y = zeros((size_t)(r->n * r->o) * 4);
        u->res = zeros((size_t)(r->n * r->o) * 4);
    }
    u->scratch = zeros(host_prim_scratch(u->p));
    if (host_prim_packed(u->p)) {
        u->packed = zeros(host_prim_packed(u->p));
        host_prim_pack(u->h, u->p, u->b, u->packed, u->scratch);
    }
}

static void ours_run(ours *u) {
    const void *w = u->packed ? u->packed : u->b;
    if (u->conv)
        host_conv_run(u->h, u->p, u->a, w, NULL, u->res, u->y, u->scratch);
    else
        host_matmul_run(u->h, u->p, u->a, w, NULL, u->res, u->y, u->scratch);
}

static void ours_fini(ours *u) {
    host_prim_destroy(u->p);
    mem_free(u->a), mem_free(u->b), mem_free(u->y), mem_free(u->res);
    mem_free(u->packed), mem_free(u->scratch);
}

static void bench(host *h, const row *r, dtype t, sgemm_fn *sgemm, double seconds) {
    int64_t m, n, k;
    gemm_size(r, &m, &n, &k);
    ours u = {.h = h};
    bare peer = {0};
    float *ga = NULL, *gb = NULL, *gc = NULL;
    ours_init(&u, r, t);
    if (t == DT_BF16)
        bare_init(&peer, r);
    else
        ga = zeros((size_t)(m * k) * 4), gb = zeros((size_t)(n * k) * 4),
        gc = zeros((size_t)(m * n) * 4);
    double best = 1e30, best_peer = 1e30, end = os_seconds() + seconds;
    for (int turn = 0; turn < 4 || os_seconds() < end; turn++) {
        for (int i = 0; i < 3; i++) {
            double t0 = os_seconds();
            ours_run(&u);
            best = MIN(best, os_seconds() - t0);
        }
        for (int i = 0; i < 3; i++) {
            double t0 = os_seconds();
            if (peer.prim) {
                MUST(dnnl_primitive_execute(peer.prim, peer.stream, 3, peer.arg));
            } else if (sgemm) /* row major; w transposed as in a linear layer */
                sgemm(101, 111, 112, (int)m, (int)n, (int)k, 1, ga, (int)k, gb, (int)k, 0, gc,
                      (int)n);
            best_peer = MIN(best_peer, os_seconds() - t0);
        }
    }
    double flop = 2.0 * (double)m * (double)n * (double)k * 1e-9;
    printf("%-34s %-4s %9.3f ms %8.1f GFLOP/s", r->name, dtype_name(t), best * 1e3, flop / best);
    if (peer.prim || sgemm) printf("  peer %8.1f  ratio %5.2f", flop / best_peer, best_peer / best);
    printf("  %s\n", host_prim_impl(u.p));
    fflush(stdout);
    ours_fini(&u);
    if (peer.prim) bare_fini(&peer);
    mem_free(ga), mem_free(gb), mem_free(gc);
}

#define CONV(label, kind_, n_, hw_, i_, o_, k_, stride_, ...)                                      \
    {                                                                                              \
        .name = label, .conv = true, .kind = HOST_CONV_##kind_, .n = n_, .hw = hw_, .i = i_,       \
        .o = o_, .k = k_, .stride = stride_, ##__VA_ARGS__                                         \
    }
#define CONV3(label, n_, hw_, i_, o_, k_, stride_)                                                 \
    CONV("conv " label " fwd packed", FWD, n_, hw_, i_, o_, k_, stride_, .packed = true),          \
        CONV("conv " label " fwd", FWD, n_, hw_, i_, o_, k_, stride_),                             \
        CONV("conv " label " bwd_x packed", BWD_X, n_, hw_, i_, o_, k_, stride_, .packed = true),  \
        CONV("conv " label " bwd_w", BWD_W, n_, hw_, i_, o_, k_, stride_)
#define MATMUL(label, m_, n_, k_, ...)                                                             \
    { .name = "matmul " label, .n = m_, .o = n_, .i = k_, ##__VA_ARGS__ }
#define MATMUL3(label, m_, n_, k_)                                                                 \
    MATMUL(label " packed", m_, n_, k_, .packed = true), MATMUL(label, m_, n_, k_),                \
        MATMUL(label " dw", n_, k_, m_, .trans_a = true)

static const row rows[] = {
    CONV3("3x3 320 64x64 b2", 2, 64, 320, 320, 3, 1),
    CONV("conv 3x3 320 64x64 b2 res", FWD, 2, 64, 320, 320, 3, 1, .packed = true, .residual = true),
    CONV("conv 3x3 320 64x64 b2 silu", FWD, 2, 64, 320, 320, 3, 1, .packed = true, .act = ACT_SILU),
    CONV3("3x3 640 32x32 b2", 2, 32, 640, 640, 3, 1),
    CONV3("3x3 1280 16x16 b2", 2, 16, 1280, 1280, 3, 1),
    CONV3("3x3 1280 8x8 b2", 2, 8, 1280, 1280, 3, 1),
    CONV3("3x3 320 64x64 b2 stride 2", 2, 64, 320, 320, 3, 2),
    CONV3("3x3 4->320 64x64 b2", 2, 64, 4, 320, 3, 1),
    CONV3("3x3 320->4 64x64 b2", 2, 64, 320, 4, 3, 1),
    CONV3("1x1 320 64x64 b2", 2, 64, 320, 320, 1, 1),
    CONV("conv 1x1 320 64x64 b2 res", FWD, 2, 64, 320, 320, 1, 1, .packed = true, .residual = true),
    CONV3("1x1 960->640 32x32 b2", 2, 32, 960, 640, 1, 1),
    CONV3("3x3 128 16x16 b32", 32, 16, 128, 128, 3, 1),
    CONV3("3x3 128->3 256x256", 1, 256, 128, 3, 3, 1),
    MATMUL3("8192x320x320", 8192, 320, 320),
    MATMUL3("8192x2560x320", 8192, 2560, 320),
    MATMUL3("4096x1280x1280", 4096, 1280, 1280),
    MATMUL("4096x1280x1280 gelu", 4096, 1280, 1280, .packed = true, .act = ACT_GELU_ERF),
    MATMUL("4096x1280x1280 res", 4096, 1280, 1280, .packed = true, .residual = true),
    MATMUL3("154x768x768", 154, 768, 768),
    MATMUL3("2x1280x1280", 2, 1280, 1280),
};

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 1;
    void *blas = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
    sgemm_fn *sgemm = NULL;
    if (blas) *(void **)&sgemm = dlsym(blas, "cblas_sgemm");
    if (!sgemm) puts("no libopenblas.so.0: f32 rows have no peer");
    host *h = NULL;
    MUST(host_open(argc > 3 ? atoi(argv[3]) : 0, &h));
    const host_caps *c = host_get_caps(h);
    printf("%s, %d threads, oneDNN %s%s\n", c->name, c->threads, c->onednn, c->amx ? ", AMX" : "");
    for (int t = 0; t < 2; t++)
        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
            if (argc > 2 && !strstr(rows[i].name, argv[2])) continue;
            if (t == 1 && !c->fast_bf16) continue;
            bench(h, &rows[i], t ? DT_BF16 : DT_F32, sgemm, seconds);
        }
    if (!c->fast_bf16) puts("no AVX512-BF16 or AMX: bf16 rows skipped");
    host_close(h);
    if (blas) dlclose(blas);
    return 0;
}
