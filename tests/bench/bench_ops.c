/* bench_ops.c: one op at a time on one device: milliseconds, GFLOP/s or GB/s, and the share of this
 * machine's limit measured in the same run: for matrix work in f32 OpenBLAS sgemm at the same m, n, k
 * (loaded if installed), in bf16 the fastest matmul of the run; for the rest memcpy.
 * Shapes: SD 1.5 at 512x512, batch 2, and a small training batch (128 channels, 16x16, batch 32).
 * usage: bench_ops [--device D] [--precision f32|f16|bf16] [--only TEXT] [--seconds S]
 * Ratios, never a pass or fail. Results worth keeping go to tests/bench/LOG.md with the command.
 * SPDX-License-Identifier: MIT */
#include "op/op.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct row {
    const char *op, *label; int64_t a[8]; /* meaning: by kind */
    enum { MATMUL, CONV, CONV_DX, CONV_DW, ATTENTION, ATTENTION_BWD, ELEMENTWISE } kind;
    tensor *(*build)(graph *g, tensor *x); bool grad;
} row;

static tensor *b_silu(graph *g, tensor *x) { return op_silu(g, x); }
static tensor *b_add(graph *g, tensor *x) { return op_add(g, x, op_scale(g, x, 2)); }
static tensor *b_geglu(graph *g, tensor *x) { return op_geglu(g, x); }
static tensor *b_softmax(graph *g, tensor *x) { return op_softmax(g, x); }
static tensor *ones(graph *g, tensor *x) { return op_fill(g, DT_F32, SHAPE(x->s.d[x->s.n - 1]), 1); }
static tensor *b_group(graph *g, tensor *x) { return op_group_norm(g, x, ones(g, x), ones(g, x), 32, 1e-5f, true); }
static tensor *b_layer(graph *g, tensor *x) { return op_layer_norm(g, x, ones(g, x), ones(g, x), 1e-5f); }
static tensor *b_upsample(graph *g, tensor *x) { return op_upsample(g, x, 2 * x->s.d[1], 2 * x->s.d[2]); }
static tensor *b_concat(graph *g, tensor *x) { return op_concat(g, 3, x, x); }
static tensor *b_transpose(graph *g, tensor *x) { return op_transpose(g, x, 0, 3, 1, 2); }

static const row rows[] = {
    /* MATMUL: m, k, n (w [n, k] as in a linear layer) */
    {"matmul", "tokens 64x64", {8192, 320, 320}, MATMUL}, {"matmul", "feed-forward 64x64", {8192, 320, 2560}, MATMUL},
    {"matmul", "tokens 32x32", {2048, 640, 640}, MATMUL}, {"matmul", "tokens 16x16", {512, 1280, 1280}, MATMUL},
    {"matmul", "text keys", {154, 768, 320}, MATMUL}, {"matmul", "4096x1280x1280", {4096, 1280, 1280}, MATMUL},
    {"matmul", "train 16x16x128", {8192, 128, 128}, MATMUL},
    /* CONV*: n, h, w, i, o, k, stride */
    {"conv2d", "3x3 64x64x320", {2, 64, 64, 320, 320, 3, 1}, CONV}, {"conv2d", "3x3 32x32x640", {2, 32, 32, 640, 640, 3, 1}, CONV},
    {"conv2d", "3x3 16x16x1280", {2, 16, 16, 1280, 1280, 3, 1}, CONV}, {"conv2d", "3x3 8x8x1280", {2, 8, 8, 1280, 1280, 3, 1}, CONV},
    {"conv2d", "1x1 64x64 640-320", {2, 64, 64, 640, 320, 1, 1}, CONV}, {"conv2d", "3x3 s2 64x64x320", {2, 64, 64, 320, 320, 3, 2}, CONV},
    {"conv2d", "train 3x3 16x16x128", {32, 16, 16, 128, 128, 3, 1}, CONV},
    {"conv2d_bwd_x", "3x3 64x64x320", {2, 64, 64, 320, 320, 3, 1}, CONV_DX}, {"conv2d_bwd_x", "train 3x3 16x16x128", {32, 16, 16, 128, 128, 3, 1}, CONV_DX},
    {"conv2d_bwd_w", "3x3 64x64x320", {2, 64, 64, 320, 320, 3, 1}, CONV_DW}, {"conv2d_bwd_w", "train 3x3 16x16x128", {32, 16, 16, 128, 128, 3, 1}, CONV_DW},
    /* ATTENTION*: n, tq, tk, heads, k */
    {"attention", "4096x4096 8x40", {1, 4096, 4096, 8, 40}, ATTENTION}, {"attention", "4096x77 8x40", {2, 4096, 77, 8, 40}, ATTENTION},
    {"attention", "1024x1024 8x80", {2, 1024, 1024, 8, 80}, ATTENTION}, {"attention", "256x256 8x160", {2, 256, 256, 8, 160}, ATTENTION},
    {"attention", "train 256x256 4x32", {32, 256, 256, 4, 32}, ATTENTION},
    {"attention_bwd", "1024x1024 8x80", {2, 1024, 1024, 8, 80}, ATTENTION_BWD}, {"attention_bwd", "train 256x256 4x32", {32, 256, 256, 4, 32}, ATTENTION_BWD},
    /* ELEMENTWISE: shape of x */
    {"unary", "silu", {2, 64, 64, 1280}, ELEMENTWISE, b_silu}, {"binary", "add", {2, 64, 64, 640}, ELEMENTWISE, b_add},
    {"geglu", "geglu", {2, 64, 64, 2560}, ELEMENTWISE, b_geglu}, {"softmax", "softmax", {2, 8, 1024, 1024}, ELEMENTWISE, b_softmax},
    {"group_norm", "group_norm + silu", {2, 64, 64, 640}, ELEMENTWISE, b_group}, {"layer_norm", "layer_norm", {2, 64, 64, 640}, ELEMENTWISE, b_layer},
    {"group_norm_bwd", "group_norm + silu", {2, 64, 64, 640}, ELEMENTWISE, b_group, true}, {"layer_norm_bwd", "layer_norm", {2, 64, 64, 640}, ELEMENTWISE, b_layer, true},
    {"upsample", "upsample x2", {2, 32, 32, 640}, ELEMENTWISE, b_upsample}, {"concat", "concat", {2, 64, 64, 320}, ELEMENTWISE, b_concat},
    {"transpose", "NHWC to NCHW", {2, 64, 64, 320}, ELEMENTWISE, b_transpose},
};

typedef void sgemm_fn(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc);

static tensor *differentiate(graph *g, tensor *y, tensor *want) {
    tensor *loss = op_reshape(g, op_sum(g, op_mul(g, y, graph_input(g, "dy", y->dtype, y->s)), DIMS_ALL), 1), *d = NULL;
    graph_backward(g, loss, op_fill(g, DT_F32, SHAPE(1), 1), &want, 1, &d, false);
    return d ? d : y;
}

static tensor *build(graph *g, const row *r, dtype t, array *w, double flops_of[3]) {
    const int64_t *a = r->a;
    if (r->kind == MATMUL) {
        flops_of[0] = (double)a[0], flops_of[1] = (double)a[2], flops_of[2] = (double)a[1];
        return op_linear(g, graph_input(g, "x", t, SHAPE(a[0], a[1])), graph_array(g, w), NULL);
    }
    if (r->kind <= CONV_DW) {
        tensor *x = graph_input(g, "x", t, SHAPE(a[0], a[1], a[2], a[3]));
        tensor *wt = r->kind == CONV_DW ? graph_input(g, "w", t, SHAPE(a[4], a[3], a[5], a[5])) : graph_array(g, w);
        tensor *y = op_conv2d(g, x, wt, NULL, (uint32_t)a[6], (uint32_t)a[5] / 2);
        flops_of[0] = (double)(a[0] * y->s.d[1] * y->s.d[2]), flops_of[1] = (double)a[4], flops_of[2] = (double)(a[3] * a[5] * a[5]);
        return r->kind == CONV ? y : differentiate(g, y, r->kind == CONV_DX ? x : wt);
    }
    if (r->kind <= ATTENTION_BWD) {
        int64_t c = a[3] * a[4];
        tensor *q = graph_input(g, "q", t, SHAPE(a[0], a[1], c)), *k = graph_input(g, "k", t, SHAPE(a[0], a[2], c)), *v = graph_input(g, "v", t, SHAPE(a[0], a[2], c));
        tensor *y = op_attention(g, .heads = (int)a[3], .q = q, .n_banks = 1, .k = {k}, .v = {v}, .n_sets = 1);
        if (r->kind == ATTENTION) return y;
        tensor *want[3] = {q, k, v}, *d[3];
        tensor *loss = op_reshape(g, op_sum(g, op_mul(g, y, graph_input(g, "dy", t, y->s)), DIMS_ALL), 1);
        graph_backward(g, loss, op_fill(g, DT_F32, SHAPE(1), 1), want, 3, d, false);
        for (int i = 0; i < 3 && d[i]; i++) graph_output(g, d[i], i ? i == 1 ? "dk" : "dv" : "dq");
        return y;
    }
    tensor *x = graph_input(g, "x", t, SHAPE(a[0], a[1], a[2], a[3])), *y = r->build(g, x);
    return r->grad ? differentiate(g, y, x) : y;
}

/* Fills every input with small values; subnormals or NaN would change the timing. */
static status fill(plan *p, const char *name, int64_t n, dtype t) {
    void *v = mem_alloc((size_t)n * dtype_bytes(t));
    if (!v) return fail(E_HOST_MEMORY, "no host memory for %s", name);
    for (int64_t i = 0; i < n; i++) dtype_store(v, t, i, (double)(i * 2654435761u % 1000) / 1000 - 0.5);
    status st = plan_write(p, name, v);
    mem_free(v);
    if (st != OK) error_clear();
    return OK;
}

static double sgemm_gflops(sgemm_fn *f, const double mnk[3], double seconds) {
    int m = (int)mnk[0], n = (int)mnk[1], k = (int)mnk[2];
    float *a = mem_zalloc((size_t)m * (size_t)k * 4), *b = mem_zalloc((size_t)n * (size_t)k * 4), *c = mem_zalloc((size_t)m * (size_t)n * 4);
    double best = 1e30, start = os_seconds();
    for (int i = 0; i < 50 && (i < 3 || os_seconds() - start < seconds); i++) {
        double t = os_seconds();
        f(101, 111, 112, m, n, k, 1, a, k, b, k, 0, c, n);
        best = MIN(best, os_seconds() - t);
    }
    mem_free(a), mem_free(b), mem_free(c);
    return 2.0 * m * n * k / best / 1e9;
}

static double memcpy_gbps(void) {
    size_t n = (size_t)256 << 20;
    char *a = mem_alloc(n), *b = mem_alloc(n);
    double best = 1e30;
    memset(a, 1, n), memset(b, 2, n);
    for (int i = 0; i < 5; i++) {
        double t = os_seconds();
#pragma omp parallel for
        for (int k = 0; k < 64; k++) memcpy(b + n / 64 * (size_t)k, a + n / 64 * (size_t)k, n / 64);
        best = MIN(best, os_seconds() - t);
    }
    mem_free(a), mem_free(b);
    return 2 * (double)n / best / 1e9;
}

static status bench(device *d, const row *r, dtype t, double seconds, sgemm_fn *sgemm, double gbps, double *best_half) {
    status st = OK;
    plan *p = NULL;
    array *w = NULL;
    double mnk[3] = {0}, best = 1e30, work = 0, bytes = 0, ms;
    const int64_t *a = r->a;
    if (r->kind == MATMUL) TRY(array_create(d, REGION_WEIGHTS, t, SHAPE(a[2], a[1]), "w", &w));
    if (r->kind == CONV || r->kind == CONV_DX) TRY(array_create(d, REGION_WEIGHTS, t, SHAPE(a[4], a[3], a[5], a[5]), "w", &w));
    graph *g = graph_create(d);
    graph_output(g, build(g, r, t, w, mnk), "y");
    TRY(graph_compile(g, NULL, &p));
    static const char *const names[] = {"x", "q", "k", "v", "dy"};
    int64_t x = r->kind == MATMUL ? a[0] * a[1] : a[0] * a[1] * a[2] * a[3];
    if (r->kind < ATTENTION || r->kind == ELEMENTWISE) TRY(fill(p, names[0], x, t));
    for (int i = 1; i < 4 && r->kind >= ATTENTION && r->kind <= ATTENTION_BWD; i++) TRY(fill(p, names[i], a[0] * a[i == 1 ? 1 : 2] * a[3] * a[4], t));
    TRY(plan_run(p, NULL, NULL));
    double start = os_seconds();
    for (int i = 0; i < 100 && (i < 3 || os_seconds() - start < seconds); i++) {
        TRY(plan_run(p, NULL, NULL));
        if (plan_op_time(p, r->op, &ms, &work, &bytes)) best = MIN(best, ms);
    }
    bool flops = r->kind != ELEMENTWISE;
    double rate = (flops ? work : bytes) / best / 1e6, limit = flops ? 0 : gbps;
    if (flops && t == DT_F32 && sgemm && mnk[0] > 0) limit = sgemm_gflops(sgemm, mnk, seconds);
    if (flops && t != DT_F32) limit = *best_half = MAX(*best_half, rate);
    printf("%-14s %-20s %-9s %-4s %10.3f ms %9.1f %s", r->op, r->label, device_id(d), dtype_name(t), best, rate, flops ? "GFLOP/s" : "GB/s   ");
    if (limit > 0) printf("  %5.1f %% of %s %.0f", 100 * rate / limit, !flops ? "memcpy" : t == DT_F32 ? "OpenBLAS sgemm" : "the fastest so far", limit);
    printf("\n");
    fflush(stdout);
out:
    plan_destroy(p);
    array_destroy(w);
    return st;
}

int main(int argc, char **argv) {
    const char *name = "cpu", *only = "";
    dtype t = DT_F32;
    double seconds = 0.5;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--device") == 0) name = argv[i + 1];
        if (strcmp(argv[i], "--only") == 0) only = argv[i + 1];
        if (strcmp(argv[i], "--seconds") == 0) seconds = atof(argv[i + 1]);
        for (int k = 0; strcmp(argv[i], "--precision") == 0 && k <= DT_BF16; k++)
            if (strcmp(argv[i + 1], dtype_name((dtype)k)) == 0) t = (dtype)k;
    }
    device *d = NULL;
    if (device_open(&op_all, &(device_params){.name = name}, &d) != OK) return printf("%s\n", error_message()), 1;
    device_set_checks(d, (device_checks){.profile = true});
    log_set_level(LOG_WARN);
    void *blas = dlopen("libopenblas.so.0", RTLD_NOW);
    sgemm_fn *sgemm = blas ? (sgemm_fn *)dlsym(blas, "cblas_sgemm") : NULL;
    double gbps = memcpy_gbps(), best_half = 0;
    printf("memcpy %.1f GB/s (read + write)%s\n", gbps, sgemm ? "" : "; OpenBLAS is not installed");
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (!strstr(rows[i].op, only) && !strstr(rows[i].label, only)) continue;
        if (bench(d, &rows[i], t, seconds, sgemm, gbps, &best_half) != OK) printf("%s %s: %s\n", rows[i].op, rows[i].label, error_message());
    }
    device_close(d);
    return 0;
}
