/* test_adamw8bit.c: AdamW with moments of 8 bits: against NumPy in float64
 * (tests/golden/make_adamw8bit.py), what it takes of memory, a run that is saved and goes on
 * against one that is not, and whether it learns as AdamW does. usage: test_adamw8bit GOLDEN_DIR
 * cpu|vulkan      exit 77: no such device SPDX-License-Identifier: MIT */
#include "file/file.h"
#include "test.h"
#include "train/train.h"
#include <math.h>

enum { N = 4270, STEPS = 6, ROWS = 96, COLUMNS = 64 };
static device *g_dev;
static const char *g_golden;

static const optimizer_params asked = {.lr = 1e-2f, OPTIMIZER_DEFAULTS};

/* A matrix and a small vector. */
static void begin(params *ps, shape matrix, optimizer_kind kind, optimizer *o) {
    params_init(ps, g_dev, DT_F32);
    REQUIRE_OK(params_declare(ps, "w", matrix, false));
    REQUIRE_OK(params_declare(ps, "b", SHAPE(ROWS), true));
    ps->p[0].trainable = ps->p[1].trainable = true;
    REQUIRE_OK(params_allocate(ps));
    REQUIRE_OK(optimizer_create(&ps, 1, kind, false, o));
}

static void end(params *ps, optimizer *o) {
    optimizer_destroy(o);
    params_fini(ps);
}

static const safetensor *find(const safetensors *f, const char *name, int64_t count) {
    const safetensor *t = safetensors_find(f, name);
    REQUIRE(t && safetensor_count(t) == count);
    return t;
}

/* f32 may fall on the other side of the middle between two levels where float64 does not, rarely.
 */
static void test_oracle(void) {
    enum { BLOCKS = (N + 255) / 256 };
    static float start[N], grad[STEPS * N], want[N], got[N], zero[ROWS], scale[2 * BLOCKS];
    static uint8_t codes[512 * BLOCKS];
    char path[1100];
    safetensors *f;
    params ps;
    optimizer o;
    int off = 0, turned = 0;
    snprintf(path, sizeof path, "%s/adamw8bit.safetensors", g_golden);
    REQUIRE_OK(safetensors_open(path, &f));
    safetensor_read_f32(find(f, "start", N), start);
    safetensor_read_f32(find(f, "grad", STEPS * N), grad);
    safetensor_read_f32(find(f, "p", N), want);
    begin(&ps, SHAPE(N), OPTIMIZER_ADAMW8BIT, &o);
    REQUIRE_OK(params_set(&ps, "w", start, N));
    for (int i = 0; i < STEPS; i++) {
        REQUIRE_OK(array_write(ps.p[0].grad, grad + N * i));
        REQUIRE_OK(array_write(ps.p[1].grad, zero));
        REQUIRE_OK(optimizer_step(&o, &asked, NULL, NULL));
    }
    REQUIRE_OK(params_get(&ps, "w", got, N));
    REQUIRE_OK(array_read(o.own[0][0].codes, codes));
    REQUIRE_OK(array_read(o.own[0][0].scale, scale));
    const uint8_t *code = find(f, "codes", (int64_t)sizeof codes)->data;
    const float *s = find(f, "scale", 2 * BLOCKS)->data;
    for (int i = 0; i < N; i++) off += fabs((double)got[i] - (double)want[i]) > 2e-6;
    for (size_t i = 0; i < sizeof codes; i++) turned += codes[i] != code[i];
    for (int i = 0; i < 2 * BLOCKS; i++) REQUIRE(fabsf(scale[i] - s[i]) <= 1e-5f * s[i]);
    CHECK(off <= N / 200 && turned <= N / 200, "%d weights and %d codes of %d are not NumPy's", off,
          turned, N);
    printf("oracle: %d weights, %d codes differ\n", off, turned);
    end(&ps, &o);
    safetensors_close(f);
}

/* ---- a task: find a matrix from noisy products ---- */
static double target(int r, int c) {
    return sin(0.7 * r + 1.3 * c) * pow(10, -(double)(c % 4)); /* columns of unlike sizes */
}

/* Gradients of 4 samples of step `step`; returns how far the matrix is from the target. */
static double fill(params *ps, int step) {
    static float w[ROWS * COLUMNS], b[ROWS], gw[ROWS * COLUMNS], gb[ROWS];
    rng_key key = {{5, 0}, rng_stream("task")};
    double far = 0;
    REQUIRE_OK(params_get(ps, "w", w, ROWS * COLUMNS));
    REQUIRE_OK(params_get(ps, "b", b, ROWS));
    memset(gw, 0, sizeof gw), memset(gb, 0, sizeof gb);
    for (int k = 0; k < 4; k++) {
        double x[COLUMNS];
        for (int c = 0; c < COLUMNS; c++)
            x[c] = rng_normal(key, (uint64_t)(step * 4 + k), (uint64_t)c);
        for (int r = 0; r < ROWS; r++) {
            double e = (double)b[r];
            for (int c = 0; c < COLUMNS; c++)
                e += ((double)w[r * COLUMNS + c] - target(r, c)) * x[c];
            for (int c = 0; c < COLUMNS; c++) gw[r * COLUMNS + c] += (float)(e * x[c] / 4);
            gb[r] += (float)(e / 4);
        }
    }
    for (int i = 0; i < ROWS * COLUMNS; i++) {
        double d = (double)w[i] - target(i / COLUMNS, i % COLUMNS);
        far += d * d;
    }
    REQUIRE_OK(array_write(ps->p[0].grad, gw));
    REQUIRE_OK(array_write(ps->p[1].grad, gb));
    return far / (ROWS * COLUMNS);
}

static double learn(params *ps, optimizer *o, int from, int to) {
    optimizer_params p = asked;
    double far = 0;
    for (int i = from; i < to; i++) {
        p.lr = 1e-2f * (1 - (float)i / 600);
        far = fill(ps, i);
        REQUIRE_OK(optimizer_step(o, &p, NULL, NULL));
    }
    return far;
}

static void test_learns(void) {
    double far[2];
    const optimizer_kind kinds[2] = {OPTIMIZER_ADAMW, OPTIMIZER_ADAMW8BIT};
    for (int k = 0; k < 2; k++) {
        params ps;
        optimizer o;
        begin(&ps, SHAPE(ROWS, COLUMNS), kinds[k], &o);
        double first = learn(&ps, &o, 0, 1);
        far[k] = learn(&ps, &o, 1, 500);
        REQUIRE(far[k] < 0.01 * first);
        end(&ps, &o);
    }
    printf("distance after 500 steps: adamw %.3g, adamw8bit %.3g\n", far[0], far[1]);
    CHECK(far[1] < 1.1 * far[0], "adamw8bit arrives at %g, adamw at %g", far[1], far[0]);
}

static void test_goes_on(void) {
    static float whole[ROWS * COLUMNS], parts[ROWS * COLUMNS];
    const char *path = "test_adamw8bit.safetensors", *name[] = {"net"};
    params ps;
    optimizer o;
    train_note note = {"step", 0};
    begin(&ps, SHAPE(ROWS, COLUMNS), OPTIMIZER_ADAMW8BIT, &o);
    learn(&ps, &o, 0, 20);
    note.value = o.step;
    REQUIRE_OK(train_state_save(path, &o, name, &note, 1));
    learn(&ps, &o, 20, 30);
    REQUIRE_OK(params_get(&ps, "w", whole, ROWS * COLUMNS));
    end(&ps, &o);
    begin(&ps, SHAPE(ROWS, COLUMNS), OPTIMIZER_ADAMW8BIT, &o);
    note.value = 0;
    REQUIRE_OK(train_state_load(path, &o, name, &note, 1));
    REQUIRE_EQ(note.value, 20);
    o.step = note.value;
    learn(&ps, &o, 20, 30);
    REQUIRE_OK(params_get(&ps, "w", parts, ROWS * COLUMNS));
    REQUIRE(memcmp(whole, parts, sizeof whole) == 0);
    end(&ps, &o);
    begin(&ps, SHAPE(ROWS, COLUMNS), OPTIMIZER_ADAMW, &o); /* the state of another optimiser */
    REQUIRE(train_state_load(path, &o, name, &note, 1) == E_FORMAT);
    end(&ps, &o);
    REQUIRE_OK(os_file_remove(path));
}

/* What is said to be taken is what is taken, up to the rounding of allocations. */
static void test_memory(void) {
    enum { BIG = 1 << 20 };
    double said[2];
    const optimizer_kind kinds[2] = {OPTIMIZER_ADAMW, OPTIMIZER_ADAMW8BIT};
    for (int k = 0; k < 2; k++) {
        params ps, *part = &ps;
        optimizer o;
        uint64_t before, after, unused;
        begin(&ps, SHAPE(BIG), kinds[k], &o);
        optimizer_destroy(&o);
        device_memory_use(g_dev, &before, &unused);
        REQUIRE_OK(optimizer_create(&part, 1, kinds[k], true, &o));
        device_memory_use(g_dev, &after, &unused);
        said[k] = (double)optimizer_bytes(&part, 1, kinds[k], true);
        printf("%s: %.0f bytes said, %lld taken\n", optimizer_name(kinds[k]), said[k],
               (long long)(after - before));
        REQUIRE(fabs((double)(after - before) - said[k]) < 8192);
        end(&ps, &o);
    }
    double average = 4.0 * (BIG + ROWS);
    REQUIRE((said[1] - average) / (said[0] - average) < 0.26);
}

int main(int argc, char **argv) {
    if (argc != 3) return printf("usage: test_adamw8bit GOLDEN_DIR cpu|vulkan\n"), 2;
    g_golden = argv[1];
    status st = device_open(
        &op_all, &(device_params){.name = argv[2], .threads = 1, .validation = TEST_VALIDATION},
        &g_dev);
    if (st != OK) return printf("skipped: %s\n", error_message()), 77;
    test_oracle();
    test_memory();
    test_goes_on();
    test_learns();
    device_close(g_dev);
    REQUIRE_EQ(mem_live(), 0);
    return g_failures != 0;
}
