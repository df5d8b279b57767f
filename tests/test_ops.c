/* test_ops.c: every op of ops.def x its cases x types, on one device:
 *   1. the recorded backward, run in double by ref, against central differences of ref;
 *   2. the device's outputs, and the device's run of the backward graph, against ref in double;
 *   3. guard zones around every tensor intact, fresh memory filled with NaN before the run.
 * usage: test_ops [--device cpu|vulkan] [--big] [--list] [op ...]       exit 77: no such device
 * SPDX-License-Identifier: MIT */
#include "op/op.h"
#include "test.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_INPUTS 12
#define DIFF_SAMPLES 10
#define DIFF_MOST_ELEMS 20000 /* a larger case runs ref too often; a smaller one of the same op checks the formula */

typedef struct input_spec {
    bool absent, is_u32, always_f32, no_grad, frozen;
    uint32_t below; double lo, hi; shape s; double *value; /* quantised to the type under test */
} input_spec;

typedef struct run_case {
    const op_info *op; const op_case *c; int index; dtype type;
    input_spec in[MAX_INPUTS]; int n_in;
} run_case;

static int g_checks;

static void report(const run_case *r, const char *dev, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void report(const run_case *r, const char *dev, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    g_failures++;
    printf("FAIL %s case %d '%s' %s %s: ", r->op->name, r->index, r->c->in, dtype_name(r->type), dev);
    vprintf(fmt, ap);
    printf("\n");
    va_end(ap);
}

static bool parse_spec(const char *text, run_case *r) {
    const char *p = text;
    while (*p == ' ') p++;
    while (*p) {
        if (r->n_in == MAX_INPUTS) return false;
        input_spec *in = &r->in[r->n_in++];
        *in = (input_spec){.lo = -1, .hi = 1};
        if (*p == '-') in->absent = true, p++;
        if (strncmp(p, "f32", 3) == 0) in->always_f32 = true, p += 3;
        if (strncmp(p, "u32", 3) == 0) {
            in->is_u32 = true;
            p += 3;
            if (*p == '<') in->below = (uint32_t)strtoul(p + 1, (char **)&p, 10);
        }
        if (*p == '[') {
            p++;
            while (*p && *p != ']') {
                if (in->s.n == MAX_DIMS) return false;
                in->s.d[in->s.n++] = strtoll(p, (char **)&p, 10);
                if (*p == ',') p++;
            }
            if (*p++ != ']') return false;
        } else if (!in->absent) {
            return false;
        }
        for (;; ) {
            if (*p == '<') in->below = (uint32_t)strtoul(p + 1, (char **)&p, 10);
            else if (*p == '!') in->no_grad = true, p++;
            else if (*p == '@') in->frozen = in->no_grad = true, p++;
            else if (*p == '=') {
                in->lo = strtod(p + 1, (char **)&p);
                if (*p++ != ':') return false;
                in->hi = strtod(p, (char **)&p);
            } else break;
        }
        while (*p == ' ') p++;
    }
    return true;
}

static dtype input_type(const input_spec *in, dtype type) {
    if (in->is_u32) return DT_U32;
    if (type == DT_F64) return DT_F64;
    return in->always_f32 ? DT_F32 : type;
}

/* Values drawn by counter, then rounded to the type under test, so that ref and device see the same. */
static void fill_inputs(run_case *r) {
    for (int k = 0; k < r->n_in; k++) {
        input_spec *in = &r->in[k];
        if (in->absent) continue;
        int64_t n = shape_count(&in->s);
        dtype t = input_type(in, r->type);
        in->value = mem_alloc((size_t)n * sizeof(double));
        rng_key key = {{7, (uint32_t)r->index}, rng_stream(r->op->name)};
        for (int64_t i = 0; i < n; i++) {
            double u = rng_uniform(key, (uint64_t)k, (uint64_t)i);
            double v = in->is_u32 ? floor(u * (in->below ? in->below : 1000)) : in->lo + u * (in->hi - in->lo);
            uint64_t cell = 0;
            dtype_store(&cell, t, 0, v);
            in->value[i] = dtype_load(&cell, t, 0);
        }
    }
}

static void free_inputs(run_case *r) {
    for (int k = 0; k < r->n_in; k++) mem_free(r->in[k].value);
}

/* One recorded case on one device. */
typedef struct bench {
    plan *p; device *d; tensor *in[MAX_INPUTS]; array *arr[MAX_INPUTS];
    int n_out; dtype out_type[MAX_OUT + MAX_INPUTS]; int64_t out_count[MAX_OUT + MAX_INPUTS];
    bool grads; int n_grad; int grad_of[MAX_INPUTS];
} bench;

static void *pack_values(const input_spec *in, dtype t) {
    int64_t n = shape_count(&in->s);
    void *data = mem_alloc(align_up((size_t)n * dtype_bytes(t), 8));
    for (int64_t i = 0; i < n; i++) dtype_store(data, t, i, in->value[i]);
    return data;
}

static status make_inputs(bench *b, graph *g, const run_case *r, dtype type) {
    status st = OK;
    for (int k = 0; k < r->n_in; k++) {
        const input_spec *in = &r->in[k];
        char name[16];
        if (in->absent) continue;
        snprintf(name, sizeof name, "in%d", k);
        dtype t = input_type(in, type);
        if (r->op->writes || in->frozen) {
            TRY(array_create(b->d, in->frozen ? REGION_WEIGHTS : REGION_STATE, t, in->s, name, &b->arr[k]));
            b->in[k] = graph_array(g, b->arr[k]);
        } else {
            b->in[k] = graph_input(g, name, t, in->s);
        }
    }
out:
    return st;
}

static tensor *case_build(graph *g, bench *b, const run_case *r) {
    tensor *(*build)(graph *, tensor **, const op_case *) = r->c->build ? r->c->build : r->op->build;
    return build(g, b->in, r->c);
}

/* loss = sum(y * r), with r an input: its gradient is r pulled back through the op. */
static void add_gradients(bench *b, graph *g, const run_case *r, tensor *y, dtype type) {
    tensor *rr = graph_input(g, "r", y->dtype, y->s), *seed = graph_input(g, "seed", dtype_acc(type), SHAPE(1));
    tensor *loss = op_reshape(g, op_sum(g, op_mul(g, y, rr), DIMS_ALL), 1);
    tensor *want[MAX_INPUTS], *grad[MAX_INPUTS];
    for (int k = 0; k < r->n_in; k++) {
        const input_spec *in = &r->in[k];
        if (in->absent || in->is_u32 || in->no_grad) continue;
        b->grad_of[b->n_grad] = k;
        want[b->n_grad++] = b->in[k];
    }
    graph_output(g, loss, "loss");
    graph_backward(g, loss, seed, want, b->n_grad, grad, false);
    for (int k = 0; k < b->n_grad; k++) {
        char name[16];
        snprintf(name, sizeof name, "g%d", k);
        if (!grad[k]) graph_fail(g, HERE, E_FORMAT, "no gradient to input %d", b->grad_of[k]);
        else graph_output(g, op_reshape_(g, op_scale(g, grad[k], 1.0f), grad[k]->s, HERE), name);
    }
}

static void bench_close(bench *b) {
    plan_destroy(b->p);
    for (int k = 0; k < MAX_INPUTS; k++) array_destroy(b->arr[k]);
    *b = (bench){0};
}

/* type DT_F64 = the double run by ref. */
static status bench_open(bench *b, device *d, const run_case *r, dtype type, bool grads, int64_t ref_step) {
    status st = OK;
    *b = (bench){.d = d, .grads = grads};
    graph *g = graph_create(d);
    st = make_inputs(b, g, r, type);
    if (st != OK) {
        graph_destroy(g);
        goto out;
    }
    tensor *y = case_build(g, b, r);
    if (graph_status(g) == OK && !y->poison && y->by) {
        for (int k = 0; k < y->by->n_out && !grads; k++) {
            tensor *o = y->by->out[k];
            char name[16];
            snprintf(name, sizeof name, "o%d", k);
            o->ref_step = ref_step;
            graph_output(g, o, name);
            b->out_type[b->n_out] = o->dtype;
            b->out_count[b->n_out++] = tensor_count(o);
        }
        if (grads) add_gradients(b, g, r, y, type);
    }
    TRY(graph_compile(g, NULL, &b->p));
    for (int k = 0; k < r->n_in; k++) {
        const input_spec *in = &r->in[k];
        char name[16];
        if (in->absent) continue;
        snprintf(name, sizeof name, "in%d", k);
        void *data = pack_values(in, input_type(in, type));
        if (b->arr[k]) st = array_write(b->arr[k], data);
        else st = plan_write(b->p, name, data);
        mem_free(data);
        TRY(st);
    }
out:
    if (st != OK) bench_close(b);
    return st;
}

static double *read_output(bench *b, const char *name, dtype t, int64_t n, status *st) {
    void *raw = mem_alloc(align_up((size_t)n * dtype_bytes(t), 8));
    double *v = mem_alloc((size_t)n * sizeof(double));
    *st = plan_read(b->p, name, raw);
    for (int64_t i = 0; i < n; i++) v[i] = *st == OK ? dtype_load(raw, t, i) : NAN;
    mem_free(raw);
    return v;
}

static double *read_array(array *a, status *st) {
    int64_t n = array_count(a);
    dtype t = array_dtype(a);
    void *raw = mem_alloc(align_up((size_t)n * dtype_bytes(t), 8));
    double *v = mem_alloc((size_t)n * sizeof(double));
    *st = array_read(a, raw);
    for (int64_t i = 0; i < n; i++) v[i] = *st == OK ? dtype_load(raw, t, i) : NAN;
    mem_free(raw);
    return v;
}

static void compare(const run_case *r, const char *dev, const char *what, const double *got, const double *want,
                    int64_t n, int64_t step, dtype out, double slack) {
    double worst = 0, size = 0;
    int64_t at = 0;
    for (int64_t i = 0; i < n; i += step) {
        if (got[i] == want[i]) continue;
        double e = isnan(got[i]) || isnan(want[i]) || isinf(got[i]) || isinf(want[i]) ? INFINITY : fabs(got[i] - want[i]);
        if (!(e <= worst)) worst = e, at = i;
    }
    for (int64_t i = 0; i < n; i += step)
        if (isfinite(want[i])) size = fmax(size, fabs(want[i]));
    double tol = (r->c->tol > 0 ? r->c->tol : 2e-5) * slack;
    if (out == DT_U32) tol = 0;
    else if (dtype_is_half(r->type)) tol += 4 * dtype_epsilon(r->type) * slack;
    g_checks++;
    if (worst > tol * fmax(size, 1e-3))
        report(r, dev, "%s[%lld] = %.9g, expected %.9g; error %.3g of size %.3g, allowed %.3g", what, (long long)at, got[at], want[at], worst, size, tol * fmax(size, 1e-3));
}

static void check_forward(run_case *r, device *ref, device *dev) {
    status st;
    bench a, b;
    int64_t step = 1;
    if (bench_open(&b, dev, r, r->type, false, 0) != OK || plan_run(b.p, NULL, NULL) != OK) {
        report(r, device_id(dev), "%s", error_message());
        bench_close(&b);
        return;
    }
    if (r->c->big && b.out_count[0] > 1000) step = b.out_count[0] / 1000 | 1;
    if (bench_open(&a, ref, r, DT_F64, false, step > 1 ? step : 0) != OK || plan_run(a.p, NULL, NULL) != OK) {
        report(r, "ref", "%s", error_message());
        bench_close(&a);
        bench_close(&b);
        return;
    }
    for (int k = 0; k < a.n_out; k++) {
        char name[16];
        snprintf(name, sizeof name, "o%d", k);
        double *want = read_output(&a, name, a.out_type[k], a.out_count[k], &st), *got = read_output(&b, name, b.out_type[k], b.out_count[k], &st);
        if (k == 0 || step == 1) compare(r, device_id(dev), name, got, want, a.out_count[k], step, b.out_type[k], 1);
        mem_free(want);
        mem_free(got);
    }
    for (int k = 0; k < r->n_in && r->op->writes; k++) {
        if (!a.arr[k]) continue;
        char name[24];
        snprintf(name, sizeof name, "state in%d", k);
        double *want = read_array(a.arr[k], &st), *got = read_array(b.arr[k], &st);
        compare(r, device_id(dev), name, got, want, array_count(a.arr[k]), 1, array_dtype(b.arr[k]), 1);
        mem_free(want);
        mem_free(got);
    }
    bench_close(&a);
    bench_close(&b);
}

static status write_probe(bench *b, const run_case *r, int k, int64_t at, double value) {
    const input_spec *in = &r->in[k];
    char name[16];
    snprintf(name, sizeof name, "in%d", k);
    double saved = in->value[at];
    in->value[at] = value;
    void *data = pack_values(in, input_type(in, DT_F64));
    in->value[at] = saved;
    status st = plan_write(b->p, name, data);
    mem_free(data);
    return st;
}

static status write_seeds(bench *b, const run_case *r, dtype type, double **r_value) {
    status st = OK;
    uint64_t cell = 0;
    dtype_store(&cell, dtype_acc(type), 0, 1);
    TRY(plan_write(b->p, "seed", &cell));
    /* r: the same numbers for both runs, quantised to the type under test */
    input_spec rs = {.lo = -1, .hi = 1};
    rs.s = (shape){1, {b->out_count[0]}};
    rs.value = mem_alloc((size_t)b->out_count[0] * sizeof(double));
    for (int64_t i = 0; i < b->out_count[0]; i++) {
        uint64_t q = 0;
        dtype_store(&q, r->type, 0, 2 * rng_uniform((rng_key){{3, 4}, 5}, 0, (uint64_t)i) - 1);
        rs.value[i] = dtype_load(&q, r->type, 0);
    }
    void *data = pack_values(&rs, b->out_type[0]);
    st = plan_write(b->p, "r", data);
    mem_free(data);
    *r_value = rs.value;
out:
    return st;
}

/* Central differences of the double loss at a few elements of each wanted input. */
static void check_differences(run_case *r, bench *a, double **grad) {
    status st;
    for (int q = 0; q < a->n_grad; q++) {
        int k = a->grad_of[q];
        const input_spec *in = &r->in[k];
        int64_t n = shape_count(&in->s);
        double size = 1e-3;
        for (int64_t i = 0; i < n; i++) size = fmax(size, fabs(grad[q][i]));
        for (int s = 0; s < MIN(n, DIFF_SAMPLES); s++) {
            int64_t at = n <= DIFF_SAMPLES ? s : (int64_t)(rng_uniform((rng_key){{9, 9}, (uint32_t)q}, 0, (uint64_t)s) * (double)n);
            double x = in->value[at], h = 1e-5 * fmax(1, fabs(x)), up, down;
            if (write_probe(a, r, k, at, x + h) != OK || plan_run(a->p, NULL, NULL) != OK) return report(r, "ref", "%s", error_message());
            double *v = read_output(a, "loss", DT_F64, 1, &st);
            up = v[0];
            mem_free(v);
            if (write_probe(a, r, k, at, x - h) != OK || plan_run(a->p, NULL, NULL) != OK) return report(r, "ref", "%s", error_message());
            v = read_output(a, "loss", DT_F64, 1, &st);
            down = v[0];
            mem_free(v);
            double num = (up - down) / (2 * h);
            g_checks++;
            if (!(fabs(num - grad[q][at]) <= 2e-5 * size + 1e-7 * fabs(up)))
                report(r, "ref", "gradient of input %d at %lld is %.9g, differences give %.9g", k, (long long)at, grad[q][at], num);
        }
        if (write_probe(a, r, k, 0, in->value[0]) != OK) return report(r, "ref", "%s", error_message());
    }
}

static void grad_shapes(bench *b, device *d, run_case *r, dtype type) {
    bench probe;
    if (bench_open(&probe, d, r, type, false, 0) != OK) return;
    b->out_count[0] = probe.out_count[0];
    b->out_type[0] = probe.out_type[0];
    bench_close(&probe);
}

static int64_t input_elems(const run_case *r) {
    int64_t n = 0;
    for (int k = 0; k < r->n_in; k++) n += r->in[k].absent ? 0 : shape_count(&r->in[k].s);
    return n;
}

static void check_gradients(run_case *r, device *ref, device *dev) {
    status st;
    bench a = {0}, b = {0};
    double *ra = NULL, *rb = NULL, *want[MAX_INPUTS] = {0};
    int n = 0;
    if (bench_open(&a, ref, r, DT_F64, true, 0) != OK) {
        report(r, "ref", "gradient graph: %s", error_message());
        goto out;
    }
    grad_shapes(&a, ref, r, DT_F64);
    if (write_seeds(&a, r, DT_F64, &ra) != OK || plan_run(a.p, NULL, NULL) != OK) {
        report(r, "ref", "%s", error_message());
        goto out;
    }
    for (n = 0; n < a.n_grad; n++) {
        char name[16];
        snprintf(name, sizeof name, "g%d", n);
        want[n] = read_output(&a, name, DT_F64, shape_count(&r->in[a.grad_of[n]].s), &st);
    }
    if (r->type == DT_F32 && input_elems(r) <= DIFF_MOST_ELEMS) check_differences(r, &a, want);
    if (bench_open(&b, dev, r, r->type, true, 0) != OK) {
        report(r, device_id(dev), "gradient graph: %s", error_message());
        goto out;
    }
    grad_shapes(&b, dev, r, r->type);
    if (write_seeds(&b, r, r->type, &rb) != OK || plan_run(b.p, NULL, NULL) != OK) {
        report(r, device_id(dev), "%s", error_message());
        goto out;
    }
    for (int k = 0; k < b.n_grad; k++) {
        char name[16];
        snprintf(name, sizeof name, "g%d", k);
        int64_t count = shape_count(&r->in[b.grad_of[k]].s);
        float *v = mem_alloc((size_t)count * 4);
        double *got = mem_alloc((size_t)count * 8);
        st = plan_read_f32(b.p, name, v);
        for (int64_t i = 0; i < count; i++) got[i] = st == OK ? (double)v[i] : NAN;
        compare(r, device_id(dev), name, got, want[k], count, 1, DT_F32, 4);
        mem_free(v);
        mem_free(got);
    }
out:
    for (int k = 0; k < n; k++) mem_free(want[k]);
    mem_free(ra);
    mem_free(rb);
    bench_close(&a);
    bench_close(&b);
}

static void run_op(const op_info *op, device *ref, device *dev, bool big) {
    static const dtype types[] = {DT_F32, DT_F16, DT_BF16};
    int before = g_failures, checks = g_checks, cases = 0;
    double start = os_seconds();
    for (int i = 0; i < op->n_cases; i++) {
        for (size_t t = 0; t < ARRAY_LEN(types); t++) {
            run_case r = {.op = op, .c = &op->cases[i], .index = i, .type = types[t]};
            if (!(op->types & 1u << types[t]) || (r.c->big && !big)) continue;
            if (!parse_spec(r.c->in, &r)) {
                report(&r, "-", "the case's input spec is not readable");
                continue;
            }
            cases++;
            fill_inputs(&r);
            check_forward(&r, ref, dev);
            if (op->backward && !r.c->no_grad && !r.c->big && !op->writes) check_gradients(&r, ref, dev);
            free_inputs(&r);
        }
    }
    if (!op->n_cases && op->infer) {
        printf("FAIL %s has no cases\n", op->name);
        g_failures++;
    }
    printf("%-4s %-16s %-9s %3d cases %5d checks %6.2f s\n", g_failures > before ? "FAIL" : "ok", op->name, device_id(dev),
           cases, g_checks - checks, os_seconds() - start);
    fflush(stdout);
}

static bool chosen(const char *name, int argc, char **argv) {
    bool any = false;
    for (int i = 1; i < argc; i++) {
        if (argv[i][0] == '-') {
            if (strcmp(argv[i], "--device") == 0) i++;
            continue;
        }
        any = true;
        if (strcmp(argv[i], name) == 0) return true;
    }
    return !any;
}

int main(int argc, char **argv) {
    const char *name = "cpu";
    bool big = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--device") == 0 && i + 1 < argc) name = argv[i + 1];
        if (strcmp(argv[i], "--big") == 0) big = true;
    }
    device *ref = NULL, *dev = NULL;
    status st = device_open(&op_all, &(device_params){.name = "ref"}, &ref);
    if (st == OK) st = device_open(&op_all, &(device_params){.name = name, .validation = TEST_VALIDATION}, &dev);
    if (st != OK) {
        printf("skipped: %s\n", error_message());
        device_close(ref);
        return st == E_UNSUPPORTED ? 77 : 1;
    }
    device_set_checks(dev, (device_checks){.guard = true});
    for (int i = 0; i < op_all.n; i++)
        if (op_all.info[i] && chosen(op_all.info[i]->name, argc, argv)) run_op(op_all.info[i], ref, dev, big);
    if (device_validation_errors(dev)) {
        printf("FAIL %d messages of the validation layer\n", device_validation_errors(dev));
        g_failures++;
    }
    device_close(dev);
    device_close(ref);
    printf("%d checks, %d failures on %s\n", g_checks, g_failures, name);
    if (mem_live()) {
        printf("FAIL %lld blocks of memory leaked\n", (long long)mem_live());
        g_failures++;
    }
    return g_failures ? 1 : 0;
}
