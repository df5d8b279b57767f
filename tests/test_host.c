/* test_host.c: the CPU room except attention: matmul and the three convolutions against plain loops
 * in double, over odd shapes, types, activations, residuals, packed and not; conversions; the team.
 * Runs itself once per instruction-set level, since oneDNN reads the cap once per process.
 * usage: test_host [random cases of each kind, default 300]
 * SPDX-License-Identifier: MIT */
#include "test.h"
#include "host/host.h"

#include <math.h>
#include <sys/wait.h>
#include <unistd.h>

enum { GUARD = 4096, GUARD_BYTE = 0xa5 };

static uint64_t seed_state = 1;
static uint32_t rnd(uint32_t n) {
    seed_state = seed_state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(seed_state >> 33) % n;
}

/* ---- arrays with guard zones ---- */
typedef struct array {
    void *base;
    char *data;
    dtype t;
    int64_t n;
} array;
static array array_new(dtype t, int64_t n, bool fill) {
    size_t bytes = (size_t)n * dtype_bytes(t);
    array a = {mem_alloc(bytes + 2 * GUARD), NULL, t, n};
    REQUIRE(a.base);
    memset(a.base, GUARD_BYTE, bytes + 2 * GUARD);
    a.data = (char *)a.base + GUARD;
    memset(a.data, 0xff, bytes); /* NaN in every float type */
    for (int64_t i = 0; fill && i < n; i++) dtype_store(a.data, t, i, (rnd(2000001) - 1e6) * 1e-6);
    return a;
}
static void array_free(array *a) {
    if (!a->base) return;
    const unsigned char *p = a->base;
    size_t end = GUARD + (size_t)a->n * dtype_bytes(a->t);
    for (size_t i = 0; i < GUARD; i++) REQUIRE(p[i] == GUARD_BYTE && p[end + i] == GUARD_BYTE);
    mem_free(a->base);
    a->base = NULL;
}
static double at(const array *a, int64_t i) { return dtype_load(a->data, a->t, i); }

static double act_of(double x, host_act act) {
    switch (act) {
    case ACT_SILU:
        return x / (1 + exp(-x));
    case ACT_GELU_ERF:
        return 0.5 * x * (1 + erf(x / sqrt(2)));
    case ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case ACT_QUICK_GELU:
        return x / (1 + exp(-1.702 * x));
    case ACT_RELU:
        return x > 0 ? x : 0;
    case ACT_NONE:
    case ACT_COUNT:
        break;
    }
    return x;
}

/* Largest difference over largest value, against what the types allow. */
static void compare(const array *got, const double *want, const char *what) {
    double most = 0, worst = 0;
    int64_t where = 0;
    for (int64_t i = 0; i < got->n; i++) most = fmax(most, fabs(want[i]));
    for (int64_t i = 0; i < got->n; i++) {
        double e = fabs(at(got, i) - want[i]);
        if (!(e <= worst)) worst = e, where = i;
        if (isnan(e)) break;
    }
    double tol =
        (2e-5 + (dtype_is_half(got->t) ? 1.01 * dtype_epsilon(got->t) : 0)) * (most + 1e-3);
    if (!(worst <= tol)) {
        printf("FAIL %s: element %lld is %g, expected %g (tolerance %g)\n", what, (long long)where,
               at(got, where), want[where], tol);
        exit(1);
    }
}

/* Runs p twice (packing if it asks for it): the same bits both times, scratch and y within bounds.
 */
typedef void run_fn(host *, host_prim *, const void *, const void *, const float *, const void *,
                    void *, void *);
static void run_checked(host *h, host_prim *p, run_fn *run, const array *a, const array *b,
                        const array *bias, const array *res, array *y) {
    array scratch = array_new(DT_F32, (int64_t)div_up((int64_t)host_prim_scratch(p), 4), false);
    array packed = array_new(DT_F32, (int64_t)div_up((int64_t)host_prim_packed(p), 4), false);
    array again = array_new(y->t, y->n, false);
    const void *w = b->data;
    if (host_prim_packed(p)) host_prim_pack(h, p, w, packed.data, scratch.data), w = packed.data;
    const float *bias_data = bias->base ? (const float *)(const void *)bias->data : NULL;
    run(h, p, a->data, w, bias_data, res->base ? res->data : NULL, y->data, scratch.data);
    memset(scratch.data, 0xff, host_prim_scratch(p));
    run(h, p, a->data, w, bias_data, res->base ? res->data : NULL, again.data, scratch.data);
    REQUIRE(!memcmp(y->data, again.data, (size_t)y->n * dtype_bytes(y->t)));
    REQUIRE(!host_failed(h));
    array_free(&scratch), array_free(&packed), array_free(&again);
    host_prim_destroy(p);
}

/* ---- matmul ---- */
static void test_matmul(host *h, const host_matmul_desc *d) {
    char what[256];
    int64_t wb = d->w_shared ? 1 : d->batch, ny = d->batch * d->m * d->n;
    array a = array_new(d->in, d->batch * d->m * d->k, true);
    array w = array_new(d->in, wb * d->k * d->n, true), y = array_new(d->out, ny, false);
    array bias = {0}, res = {0};
    if (d->bias) bias = array_new(DT_F32, d->n, true);
    if (d->residual) res = array_new(d->out, ny, true);
    host_prim *p = NULL;
    REQUIRE_OK(host_matmul_create(h, d, &p));
    snprintf(what, sizeof what,
             "matmul batch %lld m %lld n %lld k %lld trans %d %d shared %d %s->%s bias %d residual "
             "%d packed %d act %d [%s]",
             (long long)d->batch, (long long)d->m, (long long)d->n, (long long)d->k, d->trans_a,
             d->trans_w, d->w_shared, dtype_name(d->in), dtype_name(d->out), d->bias, d->residual,
             d->packed_w, d->act, host_prim_impl(p));
    run_checked(h, p, host_matmul_run, &a, &w, &bias, &res, &y);
    double *want = mem_alloc((size_t)ny * sizeof *want);
    REQUIRE(want);
    for (int64_t b = 0; b < d->batch; b++)
        for (int64_t i = 0; i < d->m; i++)
            for (int64_t j = 0; j < d->n; j++) {
                double s = d->bias ? at(&bias, j) : 0;
                for (int64_t k = 0; k < d->k; k++)
                    s += at(&a, b * d->m * d->k + (d->trans_a ? k * d->m + i : i * d->k + k)) *
                         at(&w, (d->w_shared ? 0 : b) * d->k * d->n +
                                    (d->trans_w ? j * d->k + k : k * d->n + j));
                int64_t o = (b * d->m + i) * d->n + j;
                want[o] = act_of(s, d->act) + (d->residual ? at(&res, o) : 0);
            }
    compare(&y, want, what);
    mem_free(want);
    array_free(&a), array_free(&w), array_free(&y), array_free(&bias), array_free(&res);
}

static void test_matmuls(host *h, int count) {
    static const int64_t sides[] = {1, 2, 3, 5, 7, 8, 13, 16, 17, 31, 33, 64, 65, 100};
    static const dtype types[] = {DT_F32, DT_F16, DT_BF16};
    /* every combination of sides of length 1 and of transposes */
    for (int v = 0; v < 32; v++)
        for (int t = 0; t < 3; t++)
            test_matmul(h, &(host_matmul_desc){.batch = 1 + v % 2 * 2,
                                               .m = v & 2 ? 1 : 5,
                                               .n = v & 4 ? 1 : 9,
                                               .k = v & 8 ? 1 : 6,
                                               .trans_a = v & 16,
                                               .trans_w = (v + t) & 1,
                                               .w_shared = t == 1,
                                               .in = types[t],
                                               .out = v & 4 ? DT_F32 : types[t],
                                               .bias = t & 1,
                                               .packed_w = v & 1});
    for (int i = 0; i < count; i++) {
        dtype in = types[rnd(3)];
        test_matmul(h, &(host_matmul_desc){.batch = 1 + rnd(2) * rnd(4),
                                           .m = sides[rnd(14)],
                                           .n = sides[rnd(14)],
                                           .k = sides[rnd(14)],
                                           .trans_a = rnd(2),
                                           .trans_w = rnd(2),
                                           .w_shared = rnd(2),
                                           .in = in,
                                           .out = rnd(3) ? in : types[rnd(3)],
                                           .bias = rnd(2),
                                           .residual = rnd(3) == 0,
                                           .packed_w = rnd(2),
                                           .act = (host_act)(rnd(2) * rnd(ACT_COUNT))});
    }
}

/* ---- convolution ---- */
static int64_t x_at(const host_conv_desc *d, int64_t n, int64_t r, int64_t c, int64_t i) {
    return r < 0 || r >= d->h || c < 0 || c >= d->w ? -1 : ((n * d->h + r) * d->w + c) * d->i + i;
}

/* One pass over all (output, tap) pairs serves the three kinds: y += x w, dx += dy w, dw += x dy.
 */
static void conv_ref(const host_conv_desc *d, const array *a, const array *b, double *out) {
    for (int64_t n = 0; n < d->n; n++)
        for (int64_t r = 0; r < d->oh; r++)
            for (int64_t c = 0; c < d->ow; c++)
                for (int64_t o = 0; o < d->o; o++)
                    for (int64_t u = 0; u < d->kh; u++)
                        for (int64_t v = 0; v < d->kw; v++)
                            for (int64_t i = 0; i < d->i; i++) {
                                int64_t x = x_at(d, n, r * d->stride + u - d->pad_t,
                                                 c * d->stride + v - d->pad_l, i);
                                int64_t y = ((n * d->oh + r) * d->ow + c) * d->o + o;
                                int64_t w = ((o * d->i + i) * d->kh + u) * d->kw + v;
                                if (x < 0) continue;
                                if (d->kind == HOST_CONV_FWD)
                                    out[y] += at(a, x) * at(b, w);
                                else if (d->kind == HOST_CONV_BWD_X)
                                    out[x] += at(a, y) * at(b, w);
                                else
                                    out[w] += at(a, x) * at(b, y);
                            }
}

static void test_conv(host *h, host_conv_desc d) {
    char what[320];
    d.oh = (d.h + d.pad_t + d.pad_b - d.kh) / d.stride + 1;
    d.ow = (d.w + d.pad_l + d.pad_r - d.kw) / d.stride + 1;
    int64_t nx = d.n * d.h * d.w * d.i, nw = d.o * d.i * d.kh * d.kw, ny = d.n * d.oh * d.ow * d.o;
    int64_t na = d.kind == HOST_CONV_BWD_X ? ny : nx, nb = d.kind == HOST_CONV_BWD_W ? ny : nw;
    int64_t nout = d.kind == HOST_CONV_FWD ? ny : d.kind == HOST_CONV_BWD_X ? nx : nw;
    array a = array_new(d.type, na, true), b = array_new(d.type, nb, true);
    array y = array_new(d.kind == HOST_CONV_BWD_W ? DT_F32 : d.type, nout, false);
    array bias = {0}, res = {0};
    if (d.bias) bias = array_new(DT_F32, d.o, true);
    if (d.residual) res = array_new(d.type, ny, true);
    host_prim *p = NULL;
    REQUIRE_OK(host_conv_create(h, &d, &p));
    snprintf(what, sizeof what,
             "conv kind %d x [%lld,%lld,%lld,%lld] w [%lld,%lld,%lld,%lld] stride %d pad %d %d %d "
             "%d %s bias %d residual %d packed %d act %d [%s]",
             d.kind, (long long)d.n, (long long)d.h, (long long)d.w, (long long)d.i, (long long)d.o,
             (long long)d.i, (long long)d.kh, (long long)d.kw, d.stride, d.pad_t, d.pad_l, d.pad_b,
             d.pad_r, dtype_name(d.type), d.bias, d.residual, d.packed_w, d.act, host_prim_impl(p));
    run_checked(h, p, host_conv_run, &a, &b, &bias, &res, &y);
    double *want = mem_zalloc((size_t)nout * sizeof *want);
    REQUIRE(want);
    conv_ref(&d, &a, &b, want);
    for (int64_t i = 0; i < nout && d.kind == HOST_CONV_FWD; i++)
        want[i] = act_of(want[i] + (d.bias ? at(&bias, i % d.o) : 0), d.act) +
                  (d.residual ? at(&res, i) : 0);
    compare(&y, want, what);
    mem_free(want);
    array_free(&a), array_free(&b), array_free(&y), array_free(&bias), array_free(&res);
}

static void test_convs(host *h, int count) {
    static const int kernels[] = {1, 3, 2, 7, 3, 5};
    static const int64_t channels[] = {1, 3, 4, 5, 8, 16, 17, 32, 35};
    static const dtype types[] = {DT_F32, DT_F16, DT_BF16};
    for (int i = 0; i < count; i++) {
        host_conv_desc d = {.kind = (host_conv_kind)rnd(3),
                            .n = 1 + rnd(3),
                            .h = 1 + rnd(11),
                            .w = 1 + rnd(11),
                            .i = channels[rnd(9)],
                            .o = channels[rnd(9)],
                            .kh = kernels[i % 6],
                            .stride = 1 + (int)rnd(2),
                            .type = types[rnd(3)],
                            .packed_w = rnd(2)};
        d.kw = rnd(4) ? d.kh : kernels[rnd(6)];
        bool same = rnd(2); /* half of the cases: the padding of a "same" convolution */
        d.pad_t = same ? (int)d.kh / 2 : (int)rnd((uint32_t)d.kh);
        d.pad_l = same ? (int)d.kw / 2 : (int)rnd((uint32_t)d.kw);
        d.pad_b = same ? d.pad_t : (int)rnd((uint32_t)d.kh);
        d.pad_r = same ? d.pad_l : (int)rnd((uint32_t)d.kw);
        d.h = MAX(d.h, d.kh - d.pad_t - d.pad_b);
        d.w = MAX(d.w, d.kw - d.pad_l - d.pad_r);
        if (d.kind == HOST_CONV_FWD) {
            d.bias = rnd(2), d.residual = rnd(3) == 0;
            d.act = (host_act)(rnd(2) * rnd(ACT_COUNT));
        }
        test_conv(h, d);
    }
}

static void test_refusals(host *h) {
    host_prim *p = NULL;
    host_matmul_desc m = {.batch = 1, .m = 0, .n = 1, .k = 1};
    REQUIRE_EQ(host_matmul_create(h, &m, &p), E_SHAPE);
    host_conv_desc c = {
        .n = 1, .h = 4, .w = 4, .i = 1, .o = 1, .kh = 3, .kw = 3, .oh = 4, .ow = 2, .stride = 1};
    REQUIRE_EQ(host_conv_create(h, &c, &p), E_SHAPE);
    REQUIRE(strstr(error_message(), "not 4x2"));
    c.kh = 5;
    REQUIRE_EQ(host_conv_create(h, &c, &p), E_SHAPE);
    REQUIRE(!p);
    error_clear();
}

/* Out of memory at any of our own steps: a clean status, nothing left behind. */
static void test_faults(host *h) {
    host_matmul_desc m = {.batch = 1, .m = 4, .n = 4, .k = 4};
    int64_t live = mem_live();
    for (int64_t nth = 1; nth < 4; nth++) {
        host_prim *p = NULL;
        host *other = NULL;
        fault_arm(nth);
        status st = host_open(1, &other);
        if (st == OK) st = host_matmul_create(h, &m, &p);
        fault_arm(0);
        REQUIRE(st == OK || st == E_HOST_MEMORY);
        host_prim_destroy(p);
        host_close(other);
        REQUIRE_EQ(mem_live(), live);
    }
    error_clear();
}

/* ---- team and conversions ---- */
typedef struct marks {
    int count[1000];
    int64_t least;
} marks;
static void mark(void *ctx, int64_t begin, int64_t end) {
    marks *m = ctx;
    for (int64_t i = begin; i < end; i++) m->count[i]++;
    if (end - begin < m->least) abort();
}
static void test_team(host *h) {
    REQUIRE(host_threads(h) >= 1 && host_get_caps(h)->name[0] && host_get_caps(h)->onednn[0]);
    for (int64_t n = 0; n < 1000; n = n * 2 + 1)
        for (int64_t grain = 1; grain < 300; grain *= 3) {
            marks m = {.least = MIN(n, grain)};
            host_parallel(h, n, grain, mark, &m);
            for (int64_t i = 0; i < 1000; i++) REQUIRE_EQ(m.count[i], i < n);
        }
}

static void test_convert(host *h) {
    int64_t n = 1 << 20;
    float *f = mem_alloc((size_t)n * 4), *back = mem_alloc((size_t)n * 4);
    uint16_t *q = mem_alloc((size_t)n * 2), *r = mem_alloc((size_t)n * 2);
    REQUIRE(f && q && back && r);
    for (int64_t i = 0; i < n; i++) {
        uint32_t u = (uint32_t)i << 12 | rnd(4096);
        memcpy(&f[i], &u, 4);
        q[i] = (uint16_t)i;
    }
    for (int k = 0; k < 2; k++) {
        dtype t = k ? DT_BF16 : DT_F16, other = k ? DT_F16 : DT_BF16;
        host_convert(h, r, t, f, DT_F32, n);
        for (int64_t i = 0; i < n; i++) REQUIRE_EQ(r[i], k ? f32_to_bf16(f[i]) : f32_to_f16(f[i]));
        host_convert(h, back, DT_F32, q, t, n);
        for (int64_t i = 0; i < n; i++) {
            float want = k ? bf16_to_f32(q[i]) : f16_to_f32(q[i]);
            REQUIRE(!memcmp(&back[i], &want, 4) || (isnan(back[i]) && isnan(want)));
        }
        host_convert(h, r, other, q, t, n - 1);
        for (int64_t i = 0; i < n - 1; i++) {
            float x = k ? bf16_to_f32(q[i]) : f16_to_f32(q[i]);
            if (!isnan(x)) REQUIRE_EQ(r[i], k ? f32_to_f16(x) : f32_to_bf16(x));
        }
    }
    mem_free(f), mem_free(q), mem_free(back), mem_free(r);
}

static int suite(const char *cap, int count) {
    host *h = NULL;
    int64_t live = mem_live();
    REQUIRE_OK(host_open(0, &h));
    const host_caps *c = host_get_caps(h);
    static const char *const names[] = {"base", "avx2", "avx512", "avx512_bf16", "amx"};
    printf("%s: %s, oneDNN %s, %d threads, isa %s%s\n", cap, c->name, c->onednn, c->threads,
           names[c->isa], c->fast_bf16 ? ", bf16" : "");
    if (!strcmp(cap, "AVX2")) REQUIRE(c->isa <= ISA_AVX2 && !c->fast_bf16);
    if (!strcmp(cap, "SSE41")) REQUIRE(c->isa == ISA_BASE);
    test_team(h);
    test_convert(h);
    test_refusals(h);
    test_faults(h);
    test_matmuls(h, count);
    test_convs(h, count);
    host_close(h);
    REQUIRE_EQ(mem_live(), live);
    return 0;
}

int main(int argc, char **argv) {
    int count = argc > 1 ? atoi(argv[1]) : 300;
    if (argc > 2) return suite(argv[2], count);
    static const char *const caps[] = {"ALL", "AVX512_CORE", "AVX2", "SSE41"};
    for (size_t i = 0; i < ARRAY_LEN(caps); i++) {
        fflush(stdout);
        pid_t child = fork();
        REQUIRE(child >= 0);
        if (child == 0) {
            char n[16];
            snprintf(n, sizeof n, "%d", count);
            setenv("ONEDNN_MAX_CPU_ISA", caps[i], 1); /* read when the libraries are loaded */
            setenv("OMP_WAIT_POLICY", "passive", 1);  /* many small teams; tests run side by side */
            execv(argv[0], (char *[]){argv[0], n, (char *)(uintptr_t)caps[i], NULL});
            _exit(127);
        }
        int state = 0;
        REQUIRE(waitpid(child, &state, 0) == child && WIFEXITED(state));
        if (WEXITSTATUS(state)) return WEXITSTATUS(state);
    }
    return 0;
}
