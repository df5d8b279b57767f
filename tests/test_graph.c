/* test_graph.c: the graph itself: footguns (replay overwrites, scalars change results, aliasing), sticky
 * failures, liveness and checkpointing, refusals, cancel, the plan cache, and the fault ring.
 * usage: test_graph [device]     exit 77: no such device
 * SPDX-License-Identifier: MIT */
#include "op/op.h"
#include "test.h"
#include <math.h>
#include <stdlib.h>

static device *dev;

static plan *must_compile(graph *g) {
    plan *p = NULL;
    status st = graph_compile(g, NULL, &p);
    if (st != OK) printf("compile: %s\n%s", error_message(), error_backtrace());
    REQUIRE(st == OK);
    return p;
}

/* A chain long enough that the planner must reuse memory: x -> 2x -> ... */
static tensor *chain(graph *g, tensor *x, int n) {
    for (int i = 0; i < n; i++) x = op_scale(g, x, i % 2 ? 0.5f : 2.0f);
    return x;
}

static void test_replay_overwrites(void) {
    graph *g = graph_create(dev);
    tensor *x = graph_input(g, "x", DT_F32, SHAPE(4));
    graph_output(g, op_scale(g, x, 3), "y");
    plan *p = must_compile(g);
    float a[4] = {1, 2, 3, 4}, b[4] = {5, 6, 7, 8}, y[4];
    REQUIRE_OK(plan_write(p, "x", a));
    REQUIRE_OK(plan_run(p, NULL, NULL));
    REQUIRE_OK(plan_write(p, "x", b));
    REQUIRE_OK(plan_read(p, "y", y));
    REQUIRE(y[0] == 3);               /* not run yet: still the old result */
    REQUIRE_OK(plan_run(p, NULL, NULL));
    REQUIRE_OK(plan_read(p, "y", y));
    REQUIRE(y[0] == 15 && y[3] == 24); /* the same output memory, overwritten */
    REQUIRE(plan_write(p, "nonsense", a) == E_USAGE);
    plan_destroy(p);
}

/* What changes between replays is an input: other scalars, other results, without a new plan. */
static void test_scalars_change(void) {
    graph *g = graph_create(dev);
    tensor *x = graph_input(g, "x", DT_F32, SHAPE(1, 3)), *w = graph_input(g, "w", DT_F32, SHAPE(1, 2));
    tensor *xs[2] = {x, op_square(g, x)};
    graph_output(g, op_mix(g, xs, 2, w, NULL, NULL), "y");
    plan *p = must_compile(g);
    float y[3];
    for (int k = 1; k < 4; k++) {
        REQUIRE_OK(plan_write(p, "x", (float[]){1, 2, 3}));
        REQUIRE_OK(plan_write(p, "w", (float[]){(float)k, 10}));
        REQUIRE_OK(plan_run(p, NULL, NULL));
        REQUIRE_OK(plan_read(p, "y", y));
        REQUIRE(fabsf(y[1] - (2.0f * (float)k + 40)) < 1e-4f);
    }
    plan_destroy(p);
}

static void test_aliasing(void) {
    float got[2][1000], in[1000];
    uint64_t bytes[2];
    for (int i = 0; i < 1000; i++) in[i] = (float)i;
    for (int k = 0; k < 2; k++) {
        graph *g = graph_create(dev);
        tensor *x = graph_input(g, "x", DT_F32, SHAPE(1000)), *a = chain(g, x, 7), *b = chain(g, a, 6);
        graph_output(g, op_add(g, op_add(g, a, b), x), "y");
        plan *p = NULL;
        REQUIRE_OK(graph_compile(g, &(plan_params){.no_alias = k}, &p));
        REQUIRE_OK(plan_write(p, "x", in));
        for (int rep = 0; rep < 3; rep++) REQUIRE_OK(plan_run(p, NULL, NULL));
        REQUIRE_OK(plan_read(p, "y", got[k]));
        bytes[k] = plan_get_report(p)->activation_bytes;
        plan_destroy(p);
    }
    REQUIRE(memcmp(got[0], got[1], sizeof got[0]) == 0);
    REQUIRE(bytes[0] * 3 < bytes[1]);  /* 14 tensors of 4 KB live three at a time */
    REQUIRE(got[0][999] == 999 * 2 + 999 * 2 + 999);
}

static void test_sticky(void) {
    graph *g = graph_create(dev);
    tensor *x = graph_input(g, "x", DT_F32, SHAPE(2, 3)), *w = graph_input(g, "w", DT_F32, SHAPE(5, 4));
    tensor *y = op_silu(g, op_matmul(g, x, w)); /* 3 against 5 */
    y = op_add(g, y, y);
    REQUIRE(y->poison);
    plan *p = NULL;
    REQUIRE(graph_compile(g, NULL, &p) == E_SHAPE);
    const char *m = error_message();
    REQUIRE(strstr(m, "test_graph.c:") && strstr(m, "matmul") && strstr(m, "[2, 3]") && strstr(m, "[5, 4]"));
    REQUIRE(p == NULL);
}

static double checkpoint_run(bool checkpoint, uint64_t *bytes, float *grad) {
    graph *g = graph_create(dev);
    tensor *x = graph_input(g, "x", DT_F32, SHAPE(64, 64)), *h = x;
    for (int s = 0; s < 6; s++) {
        char name[16];
        snprintf(name, sizeof name, "s%d", s);
        graph_segment(g, name);
        for (int i = 0; i < 5; i++) h = op_tanh(g, op_scale(g, h, 1.1f));
    }
    graph_segment(g, NULL);
    tensor *loss = op_reshape(g, op_sum(g, op_square(g, h), DIMS_ALL), 1), *dx = NULL;
    graph_backward(g, loss, op_fill(g, DT_F32, SHAPE(1), 1), &x, 1, &dx, checkpoint);
    graph_output(g, loss, "loss");
    graph_output(g, op_scale(g, dx, 1), "dx");
    plan *p = must_compile(g);
    float in[64 * 64], value;
    for (int i = 0; i < 64 * 64; i++) in[i] = (float)(i % 17) / 8 - 1;
    REQUIRE_OK(plan_write(p, "x", in));
    REQUIRE_OK(plan_run(p, NULL, NULL));
    REQUIRE_OK(plan_read(p, "loss", &value));
    REQUIRE_OK(plan_read(p, "dx", grad));
    *bytes = plan_get_report(p)->activation_bytes;
    plan_destroy(p);
    return (double)value;
}

static void test_checkpointing(void) {
    static float a[64 * 64], b[64 * 64];
    uint64_t plain, less;
    double la = checkpoint_run(false, &plain, a), lb = checkpoint_run(true, &less, b);
    REQUIRE(la == lb);
    REQUIRE(memcmp(a, b, sizeof a) == 0);
    REQUIRE(less * 2 < plain);
}

static void test_refuses_when_short(void) {
    graph *g = graph_create(dev);
    tensor *x = graph_input(g, "x", DT_F32, SHAPE(8));
    tensor *y = op_fill(g, DT_F32, SHAPE(1 << 20, 1 << 16), 1.0f); /* 275 GB */
    graph_output(g, op_add(g, op_reshape(g, op_sum(g, y, DIMS_ALL), 1), op_slice(g, x, 0, 0, 1)), "y");
    plan *p = NULL;
    status st = graph_compile(g, NULL, &p);
    REQUIRE(st == E_HOST_MEMORY || st == E_GPU_MEMORY);
    REQUIRE(strstr(error_message(), "zeros") || strstr(error_message(), "MB"));
}

/* A limit refuses before anything runs, and says what is too large, how large, and what to do. */
static void test_memory_limit(const char *name) {
    device *small = NULL;
    REQUIRE_OK(device_open(&op_all, &(device_params){.name = name, .memory_limit_bytes = 3 << 20}, &small));
    graph *g = graph_create(small);
    tensor *y = op_fill(g, DT_F32, SHAPE(4096, 320), 1);
    y = op_silu(g, op_add(g, y, graph_input(g, "x", DT_F32, SHAPE(320))));
    graph_output(g, op_sum(g, y, DIMS_ALL), "y");
    plan *p = NULL;
    status st = graph_compile(g, NULL, &p);
    REQUIRE(st == E_HOST_MEMORY || st == E_GPU_MEMORY);
    const char *m = error_message();
    REQUIRE(strstr(m, "[4096, 320]") && strstr(m, "test_graph.c:") && strstr(m, "10.5 MB") && strstr(m, "use a smaller"));
    array *a = NULL;
    st = array_create(small, REGION_STATE, DT_F32, SHAPE(4096, 320), "wide", &a);
    REQUIRE(st == E_HOST_MEMORY || st == E_GPU_MEMORY);
    m = error_message();
    REQUIRE(strstr(m, "wide [4096, 320]") && strstr(m, "5.2 MB") && strstr(m, "3.1 MB are free"));
    device_close(small);
}

static bool cancel_now(void *ctx) { return ++*(int *)ctx > 0; }

static void test_cancel(void) {
    graph *g = graph_create(dev);
    graph_output(g, chain(g, graph_input(g, "x", DT_F32, SHAPE(100)), 20), "y");
    plan *p = must_compile(g);
    int asked = 0;
    REQUIRE(plan_run(p, cancel_now, &asked) == E_CANCELLED);
    REQUIRE(asked == 1);
    REQUIRE_OK(plan_run(p, NULL, NULL)); /* usable afterwards */
    plan_destroy(p);
}

/* State updated in place by one plan is seen by another; packed copies of a frozen weight follow a rewrite. */
static void test_arrays(void) {
    array *state = NULL, *w = NULL;
    REQUIRE_OK(array_create(dev, REGION_STATE, DT_F32, SHAPE(3), "state", &state));
    REQUIRE_OK(array_create(dev, REGION_WEIGHTS, DT_F32, SHAPE(4, 4), "w", &w));
    graph *g = graph_create(dev);
    tensor *s = graph_array(g, state);
    REQUIRE(s == graph_array(g, state));
    op_accumulate(g, s, op_fill(g, DT_F32, SHAPE(3), 2));
    plan *add = must_compile(g);
    for (int i = 0; i < 5; i++) REQUIRE_OK(plan_run(add, NULL, NULL));
    float v[3];
    REQUIRE_OK(array_read(state, v));
    REQUIRE(v[0] == 10 && v[2] == 10);
    plan_destroy(add);
    g = graph_create(dev);
    graph_output(g, op_linear(g, graph_input(g, "x", DT_F32, SHAPE(1, 4)), graph_array(g, w), NULL), "y");
    plan *p = must_compile(g);
    float m[16] = {0}, y[4];
    for (int k = 1; k < 3; k++) {
        for (int i = 0; i < 16; i++) m[i] = i % 5 ? 0 : (float)k;
        REQUIRE_OK(array_write(w, m));
        REQUIRE_OK(plan_write(p, "x", (float[]){1, 2, 3, 4}));
        REQUIRE_OK(plan_run(p, NULL, NULL));
        REQUIRE_OK(plan_read(p, "y", y));
        REQUIRE(fabsf(y[3] - 4 * (float)k) < 1e-5f);
    }
    plan_destroy(p);
    array_destroy(w);
    array_destroy(state);
}

static void test_cache(void) {
    plan_cache *c = plan_cache_create(2);
    for (int i = 0; i < 3; i++) {
        char key[8];
        graph *g = graph_create(dev);
        graph_output(g, chain(g, graph_input(g, "x", DT_F32, SHAPE(4)), 2), "y");
        snprintf(key, sizeof key, "p%d", i);
        REQUIRE_OK(plan_cache_put(c, key, must_compile(g)));
        if (i == 1) REQUIRE(plan_cache_get(c, "p0") != NULL); /* p1 is now the oldest */
    }
    REQUIRE(plan_cache_get(c, "p1") == NULL && plan_cache_get(c, "p0") && plan_cache_get(c, "p2"));
    plan_cache_destroy(c);
}

static status small_job(void) {
    status st = OK;
    array *w = NULL;
    plan *p = NULL;
    graph *g = NULL;
    TRY(array_create(dev, REGION_WEIGHTS, DT_F32, SHAPE(4, 8), "w", &w));
    g = graph_create(dev);
    if (!g) TRY(graph_status(g));
    tensor *x = graph_input(g, "x", DT_F32, SHAPE(3, 8)), *y = op_linear(g, x, graph_array(g, w), NULL), *dx = NULL;
    tensor *loss = op_reshape(g, op_sum(g, op_softmax(g, y), DIMS_ALL), 1);
    graph_backward(g, loss, op_fill(g, DT_F32, SHAPE(1), 1), &x, 1, &dx, false);
    if (dx) graph_output(g, dx, "dx");
    TRY(graph_compile(g, NULL, &p));
    float in[24] = {0};
    TRY(plan_write(p, "x", in));
    TRY(plan_run(p, NULL, NULL));
out:
    plan_destroy(p);
    array_destroy(w);
    return st;
}

/* The n-th allocation fails, for every n: a clean status and nothing leaked. */
static void test_fault_ring(void) {
    REQUIRE_OK(small_job()); /* chunks of the device are made once */
    int64_t before = mem_live(), n = 1;
    for (;; n++) {
        fault_arm(n);
        status st = small_job();
        bool reached = fault_count() >= n;
        fault_arm(0);
        if (!reached) break;
        REQUIRE(st == E_HOST_MEMORY || st == E_GPU_MEMORY || st == E_IO);
        REQUIRE(mem_live() == before);
        REQUIRE(error_message()[0]);
    }
    REQUIRE(n > 10);
    REQUIRE_OK(small_job());
}

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "cpu";
    status st = device_open(&op_all, &(device_params){.name = name, .validation = TEST_VALIDATION}, &dev);
    if (st != OK) return printf("skipped: %s\n", error_message()), st == E_UNSUPPORTED ? 77 : 1;
    test_replay_overwrites();
    test_scalars_change();
    test_aliasing();
    test_sticky();
    test_checkpointing();
    test_refuses_when_short();
    test_memory_limit(name);
    test_cancel();
    test_arrays();
    test_cache();
    test_fault_ring();
    REQUIRE_EQ(device_validation_errors(dev), 0);
    device_close(dev);
    REQUIRE(mem_live() == 0);
    printf("test_graph on %s: passed\n", name);
    return 0;
}
