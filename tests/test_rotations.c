/* test_rotations.c: the orthogonal adapters in numbers: those of an independent implementation,
 * forward and backward; after training, rotations are rotations still, in f32 and bf16; coft's
 * ball. usage: test_rotations [device]     exit 77: no such device SPDX-License-Identifier: MIT */
#include "adapter/rotation.h"
#include "nn/nn.h"
#include "test.h"
#include "train/train.h"
#include <math.h>

static device *g_dev;
static const char *const everything[] = {"layer", NULL};

static float noise(const char *name, int64_t i) {
    return (float)rng_normal((rng_key){{7, 0}, rng_stream(name)}, 0, (uint64_t)i);
}

static double distance(const float *a, const float *b, int64_t n, double *size) {
    double worst = 0, s = 1e-9;
    for (int64_t i = 0; i < n; i++) {
        double e = fabs((double)a[i] - (double)b[i]);
        worst = e > worst || isnan(e) ? e : worst;
        s = fmax(s, fabs((double)b[i]));
    }
    if (size) *size = s;
    return worst;
}

/* ---- the numbers of an independent implementation: W [3, 8], x [8], two blocks of 4 ---- */

static void skew4(const float v[6], float *a) {
    for (int i = 0, k = 0; i < 4; i++)
        for (int j = i + 1; j < 4; j++, k++) a[i * 4 + j] = v[k], a[j * 4 + i] = -v[k];
}

typedef struct vector {
    const char *adapter;
    adapter_options o;
    float x[8], y[3];
} vector;
static const vector vectors[] = {
    {"oft",
     {.block = 4},
     {.1507331f, .1269795f, .4785924f, .1791789f, .3212853f, 1.0426846f, .7396075f, .0506495f},
     {-.0409336f, .0709407f, -.4336564f}},
    {"oft_neumann",
     {.block = 4, .terms = 5},
     {-.1145350f, .2975644f, .1307200f, .4114281f, .0846375f, -.1190650f, .8102294f, .9571488f},
     {.6646254f, .4578673f, -.1875722f}},
    {"oft_neumann",
     {.block = 4, .terms = 5, .old_series = true},
     {-.1031700f, .2955538f, .1306900f, .4249813f, .1411250f, -.0877800f, .7931087f, 1.0091225f},
     {.6547384f, .4476221f, -.1644344f}},
    {"oft_neumann",
     {.block = 4, .terms = 4},
     {-.1429500f, .3135375f, .1053750f, .4141875f, .0300750f, -.2791750f, .8439250f, .9860875f},
     {.7445313f, .5160312f, -.1851800f}},
    {"oft_neumann",
     {.block = 4, .terms = 3},
     {-.1429500f, .3135375f, .1053750f, .4141875f, .0300750f, -.2791750f, .8439250f, .9860875f},
     {.7445313f, .5160312f, -.1851800f}},
    {"oft_neumann",
     {.block = 4, .terms = 6},
     {-.1070409f, .2987247f, .1249282f, .4286848f, .1418278f, -.1272278f, .7982277f, 1.0337900f},
     {.6742644f, .4619025f, -.1569565f}},
    {"boft",
     {.block = 4, .factors = 2, .row_scale = true},
     {-.0177855f, .4849365f, .4190232f, .3123848f, .4319437f, .4876349f, .9602974f, .4299084f},
     {.4133616f, .4665017f, -.2628902f}},
};

typedef struct tiny {
    params model, ps;
    adapter_set set;
    plan *p;
} tiny; /* one linear layer [out, in] */

/* w [out, in]; x [rows, in], dy [rows, out]; grads of sum(dy y): "dx", then "d0", "d1" */
static void tiny_open(tiny *t, const char *adapter, adapter_options o, int64_t out, int64_t in,
                      int64_t rows, const float *w, dtype type) {
    *t = (tiny){0};
    params_init(&t->model, g_dev, type);
    params_init(&t->ps, g_dev, DT_F32);
    t->set = (adapter_set){
        .info = adapter_find(adapter), .targets = everything, .opts = o, .ps = &t->ps};
    for (int pass = 0; pass < 2; pass++) {
        graph *g = graph_create(g_dev);
        t->model.declaring = t->ps.declaring = pass == 0;
        nn m = {g, &t->model, &t->set};
        tensor *x = graph_input(g, "x", DT_F32, SHAPE(rows, in)),
               *dy = graph_input(g, "dy", DT_F32, SHAPE(rows, out));
        tensor *y = op_cast(g, nn_linear(&m, "layer", op_cast(g, x, type), out, false), DT_F32);
        REQUIRE_OK(graph_status(g));
        if (pass == 0) {
            graph_destroy(g);
            REQUIRE_OK(params_allocate(&t->model));
            REQUIRE_OK(params_allocate(&t->ps));
            REQUIRE_OK(params_set(&t->model, "layer.weight", w, out * in));
            REQUIRE_OK(adapter_init_all(&t->set, &t->model, 1));
            continue;
        }
        tensor *loss = op_reshape(g, op_sum(g, op_mul(g, y, dy), DIMS_ALL), 1), *wanted[4] = {x},
               *got[4];
        int n = 1;
        for (int i = 0; i < t->ps.n; i++)
            wanted[n++] = params_tensor(&t->ps, g, t->ps.p[i].name, HERE);
        graph_backward(g, loss, op_fill(g, DT_F32, SHAPE(1), 1.0f), wanted, n, got, false);
        graph_output(g, y, "y");
        static const char *const names[] = {"dx", "d0", "d1", "d2"};
        for (int i = 0; i < n; i++) graph_output(g, got[i], names[i]);
        REQUIRE_OK(graph_compile(g, NULL, &t->p));
    }
}

static void tiny_close(tiny *t) {
    plan_destroy(t->p);
    params_fini(&t->ps);
    params_fini(&t->model);
}

static void expect(const char *what, const float *got, const float *want, int64_t n) {
    double worst = distance(got, want, n, NULL);
    CHECK(worst < 2e-6, "%s is off by %g: %g %g %g", what, worst, (double)got[0], (double)got[1],
          (double)got[2]);
}

static const float vec0[6] = {.1f, -.2f, .3f, .05f, -.15f, .25f},
                   vec1[6] = {-.3f, .1f, .2f, -.1f, .4f, -.05f};
static const float xs[8] = {.1f, .2f, .3f, .4f, .5f, .6f, .7f, .8f}, dys[3] = {1, -2, .5f};

static void spec_weight(float *w) {
    for (int i = 0; i < 24; i++) w[i] = (float)(i * 7 % 11 - 5) / 10;
}

static void boft_values(float *a, float *s) { /* a [2, 2, 4, 4] */
    for (int i = 0; i < 64; i++)
        a[i] = (float)(.2 * sin(1.0 + i % 4 + i / 4 % 4 * 4 + i / 16 % 2 * 16 + i / 32 * 32));
    for (int i = 0; s && i < 3; i++) s[i] = .9f + .1f * (float)i;
}

static void check_vectors(void) {
    float w[24], eye[64] = {0}, a[64] = {0}, s[3], got[24];
    spec_weight(w);
    for (int i = 0; i < 8; i++) eye[i * 9] = 1;
    for (size_t i = 0; i < ARRAY_LEN(vectors); i++)
        for (int whole = 0; whole < 2; whole++) {
            const vector *v = &vectors[i];
            adapter_options o = v->o;
            tiny t;
            if (whole) o.row_scale = false;
            tiny_open(&t, v->adapter, o, whole ? 8 : 3, 8, 1, whole ? eye : w, DT_F32);
            memset(a, 0, sizeof a);
            skew4(vec0, a);
            skew4(vec1, a + 16);
            if (strcmp(v->adapter, "boft") == 0) boft_values(a, s);
            REQUIRE_OK(params_set(&t.ps, "layer.oft_R", a, shape_count(&t.ps.p[0].s)));
            if (o.row_scale) REQUIRE_OK(params_set(&t.ps, "layer.oft_s", s, 3));
            REQUIRE_OK(plan_write(t.p, "x", xs));
            REQUIRE_OK(plan_write(t.p, "dy", (float[8]){1, -2, .5f}));
            REQUIRE_OK(plan_run(t.p, NULL, NULL));
            REQUIRE_OK(plan_read(t.p, "y", got));
            expect(v->adapter, got, whole ? v->x : v->y, whole ? 8 : 3);
            tiny_close(&t);
        }
}

/* The upper triangle's gradient is twice that of A where Q = (A - A^T) / 2. */
static void expect_vec(const char *what, const float *d, const float *want) {
    float got[6];
    for (int i = 0, k = 0; i < 4; i++)
        for (int j = i + 1; j < 4; j++) got[k++] = 2 * d[i * 4 + j];
    expect(what, got, want, 6);
}

static void check_vector_gradients(void) {
    static const float exact[3][8] = {
        {-.0713425f, -.1304104f, -.4361666f, .0514699f, -.4040050f, -1.0531717f},
        {-.0856392f, .6338034f, .0111554f, 1.4178093f, .1110135f, -.6369104f},
        {-.6428723f, .1263196f, -.4902656f, 1.0406240f, .0507436f, -.0399774f, -.8674264f,
         -.0299709f}};
    static const float series[3][8] = {
        {-.1843656f, -.1230100f, -.3973694f, .3525375f, .8621663f, .0392387f},
        {.0550738f, -.0194912f, .4614138f, -.2668362f, -.0054806f, 1.2941550f},
        {.5154388f, -.5332737f, .6838169f, .7703231f, -.3527213f, -.0219325f, -.7873116f,
         -.0780256f}};
    static const float ds[] = {.4592907f, -.9330034f, -.1194955f},
                       dx[] = {.4293916f,  .0346349f,  .4510045f,   .6539983f,
                               -.1015312f, -.3519884f, -1.2278955f, .0295398f};
    static const float first[] = {0, .1395276f, .1843634f, .1519497f},
                       last[] = {0, -.2854995f, .7138327f, .3045789f};
    float w[24], a[64] = {0}, s[3], got[64];
    spec_weight(w);
    skew4(vec0, a);
    skew4(vec1, a + 16);
    for (int i = 0; i < 3; i++) {
        tiny t;
        if (i == 2) boft_values(a, s);
        tiny_open(&t, vectors[i == 2 ? 6 : i].adapter, vectors[i == 2 ? 6 : i].o, 3, 8, 1, w,
                  DT_F32);
        REQUIRE_OK(params_set(&t.ps, "layer.oft_R", a, shape_count(&t.ps.p[0].s)));
        if (i == 2) REQUIRE_OK(params_set(&t.ps, "layer.oft_s", s, 3));
        REQUIRE_OK(plan_write(t.p, "x", xs));
        REQUIRE_OK(plan_write(t.p, "dy", dys));
        REQUIRE_OK(plan_run(t.p, NULL, NULL));
        REQUIRE_OK(plan_read(t.p, "dx", got));
        expect("dx", got, i == 2 ? dx : (i ? series : exact)[2], 8);
        REQUIRE_OK(plan_read(t.p, "d0", got));
        if (i == 2) {
            expect("dA[0][0]", got, first, 4);
            expect("dA[1][1]", got + 48, last, 4);
            REQUIRE_OK(plan_read(t.p, "d1", got));
            expect("ds", got, ds, 3);
        } else {
            expect_vec("vec0", got, (i ? series : exact)[0]);
            expect_vec("vec1", got + 16, (i ? series : exact)[1]);
        }
        tiny_close(&t);
    }
}

/* ---- rotations stay rotations ---- */

/* max |R^T R - I| of the rotation that set makes in compute type `type`: W = I and x = I give R. */
static double defect(const adapter_set *set, int64_t d, dtype type) {
    float *eye = mem_zalloc((size_t)(d * d) * 4), *r = mem_alloc((size_t)(d * d) * 4),
          *v = mem_alloc((size_t)(d * d) * 4);
    tiny t;
    double worst = 0;
    for (int64_t i = 0; i < d; i++) eye[i * (d + 1)] = 1;
    adapter_options o = set->opts;
    o.row_scale = false;
    tiny_open(&t, set->info->name, o, d, d, d, eye, type);
    int64_t n = shape_count(&t.ps.p[0].s);
    REQUIRE_OK(params_get(set->ps, "layer.oft_R", v, n));
    REQUIRE_OK(params_set(&t.ps, "layer.oft_R", v, n));
    REQUIRE_OK(plan_write(t.p, "x", eye));
    REQUIRE_OK(plan_run(t.p, NULL, NULL));
    REQUIRE_OK(plan_read(t.p, "y", r));
    for (int64_t i = 0; i < d; i++)
        for (int64_t j = 0; j < d; j++) {
            double sum = i == j ? -1 : 0;
            for (int64_t k = 0; k < d; k++) sum += (double)r[k * d + i] * (double)r[k * d + j];
            worst = fmax(worst, fabs(sum));
        }
    tiny_close(&t);
    mem_free(eye);
    mem_free(r);
    mem_free(v);
    return worst;
}

/* The largest eigenvalue of the blocks of the trained Q, by power iteration on Q^T Q. */
static double largest_angle(const adapter_set *set, int64_t b, int64_t blocks) {
    float *a = mem_alloc((size_t)(blocks * b * b) * 4);
    double worst = 0;
    REQUIRE(a && b <= 64);
    REQUIRE_OK(params_get(set->ps, "layer.oft_R", a, blocks * b * b));
    for (int64_t k = 0; k < blocks; k++) {
        double v[64], u[64], norm = 0;
        for (int64_t i = 0; i < b; i++) v[i] = 1 + 0.1 * (double)i;
        for (int turn = 0; turn < 400; turn++) {
            norm = 0;
            for (int64_t i = 0; i < b; i++) {
                u[i] = 0;
                for (int64_t j = 0; j < b; j++)
                    u[i] += 0.5 *
                            ((double)a[(k * b + i) * b + j] - (double)a[(k * b + j) * b + i]) *
                            v[j];
                norm += u[i] * u[i];
            }
            for (int64_t i = 0; i < b; i++)
                v[i] = u[i] / sqrt(norm); /* v was of length 1, so norm is theta^2 */
        }
        worst = fmax(worst, sqrt(norm));
    }
    mem_free(a);
    return worst;
}

/* What the merged weight must keep of W's rows. */
static void check_rows(tiny *t, const float *w, int64_t n, double most, bool norms) {
    float *v = mem_alloc((size_t)(n * n) * 4);
    double cosine = 0, length = 0;
    REQUIRE_OK(adapter_merge_all(&t->set, &t->model, 1, false));
    REQUIRE_OK(params_get(&t->model, "layer.weight", v, n * n));
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i; j++) {
            double p[2] = {0, 0}, a[2] = {0, 0}, b[2] = {0, 0};
            for (int64_t k = 0; k < n; k++)
                for (int q = 0; q < 2; q++) {
                    const float *x = q ? v : w;
                    p[q] += (double)x[i * n + k] * (double)x[j * n + k];
                    a[q] += (double)x[i * n + k] * (double)x[i * n + k];
                    b[q] += (double)x[j * n + k] * (double)x[j * n + k];
                }
            cosine = fmax(cosine, fabs(p[0] / sqrt(a[0] * b[0]) - p[1] / sqrt(a[1] * b[1])));
            length = fmax(length, fabs(sqrt(a[1] / a[0]) - 1));
        }
    CHECK(cosine <= most, "%s in %s: merging moves cosines of rows by %g", t->set.info->name,
          dtype_name(t->model.type), cosine);
    CHECK(!norms || length <= most, "%s in %s: merging changes lengths of rows by %g",
          t->set.info->name, dtype_name(t->model.type), length);
    mem_free(v);
}

enum { WIDE = 64, ROWS = 32, STEPS = 30 };

/* Trains the layer towards other outputs; the rotations must not notice. */
static void check_training(const char *adapter, adapter_options o, dtype type) {
    static float w[WIDE * WIDE], x[ROWS * WIDE], target[ROWS * WIDE];
    tiny t;
    optimizer opt = {0};
    plan *step = NULL, *project = NULL;
    float first = 0, loss = 0;
    for (int i = 0; i < WIDE * WIDE; i++) {
        w[i] = 0.2f * noise("w", i);
        if (type == DT_BF16) w[i] = bf16_to_f32(f32_to_bf16(w[i]));
    }
    for (int i = 0; i < ROWS * WIDE; i++) x[i] = noise("x", i), target[i] = noise("target", i);
    tiny_open(&t, adapter, o, WIDE, WIDE, ROWS, w, type);
    graph *g = graph_create(g_dev);
    nn m = {g, &t.model, &t.set};
    tensor *in = op_cast(g, graph_input(g, "x", DT_F32, SHAPE(ROWS, WIDE)), type),
           *want = op_cast(g, graph_input(g, "target", DT_F32, SHAPE(ROWS, WIDE)), type);
    tensor *l = op_mse(g, nn_linear(&m, "layer", in, WIDE, false), want,
                       graph_input(g, "weight", DT_F32, SHAPE(ROWS)), NULL);
    graph_output(g, l, "loss");
    params *ps[] = {&t.ps};
    train_backward(g, l, op_fill(g, DT_F32, SHAPE(1), 1.0f), ps, 1, false);
    REQUIRE_OK(graph_compile(g, NULL, &step));
    if (t.set.info->project) {
        graph *after = graph_create(g_dev);
        adapter_project_all(after, &t.set, &t.model);
        REQUIRE_OK(graph_compile(after, NULL, &project));
    }
    float ones[ROWS];
    for (int i = 0; i < ROWS; i++) ones[i] = 1;
    REQUIRE_OK(plan_write(step, "x", x));
    REQUIRE_OK(plan_write(step, "target", target));
    REQUIRE_OK(plan_write(step, "weight", ones));
    REQUIRE_OK(optimizer_create(ps, 1, OPTIMIZER_ADAMW, false, &opt));
    for (int i = 0; i < STEPS; i++) {
        REQUIRE_OK(plan_run(step, NULL, NULL));
        REQUIRE_OK(plan_read_f32(step, "loss", &loss));
        if (i == 0) first = loss;
        REQUIRE_OK(
            optimizer_step(&opt, &(optimizer_params){.lr = 1e-2f, OPTIMIZER_DEFAULTS}, NULL, NULL));
        if (project) REQUIRE_OK(plan_run(project, NULL, NULL));
    }
    double exact = defect(&t.set, WIDE, DT_F32), rounded = defect(&t.set, WIDE, type), most = 1e-6;
    if (strcmp(adapter, "oft_neumann") ==
        0) { /* six terms: R^T R = 1 + theta^10 along the largest angle */
        double theta = largest_angle(&t.set, o.block, WIDE / o.block);
        most += pow(theta, 10);
        CHECK(theta > 0.2 && exact > 0.01 * pow(theta, 10), "%s: theta is %g, max |R'R - I| %g",
              adapter, theta, exact);
    } else {
        check_rows(&t, w, WIDE, type == DT_F32 ? 1e-6 : 2e-3, !o.row_scale);
    }
    CHECK(loss < 0.9f * first, "%s in %s: loss %g -> %g", adapter, dtype_name(type), (double)first,
          (double)loss);
    CHECK(exact <= most, "%s trained in %s: max |R'R - I| is %g, at most %g", adapter,
          dtype_name(type), exact, most);
    CHECK(rounded <= most + 4 * dtype_epsilon(type), "%s used in %s: max |R'R - I| is %g", adapter,
          dtype_name(type), rounded);
    printf("%s in %s: loss %.4f -> %.4f, max |R'R - I| %.2g, in that type %.2g\n", adapter,
           dtype_name(type), (double)first, (double)loss, exact, rounded);
    for (int k = 0; project && k < WIDE / o.block; k++) {
        static float a[WIDE * WIDE];
        double norm = 0;
        REQUIRE_OK(params_get(&t.ps, "layer.oft_R", a, WIDE * o.block));
        for (int i = 0; i < o.block * o.block; i++)
            norm += pow((double)a[k * o.block * o.block + i], 2);
        CHECK(sqrt(norm) <= (double)o.eps / sqrt(WIDE / o.block) * (1 + 1e-6),
              "%s: block %d has norm %g", adapter, k, sqrt(norm));
    }
    plan_destroy(project);
    optimizer_destroy(&opt);
    plan_destroy(step);
    tiny_close(&t);
}

/* ---- projection ---- */

static void check_projection(void) {
    static const float want[6] = {.0104828f, -.0209657f, .0314485f,
                                  .0052414f, -.0157243f, .0262071f};
    float w[24], a[32] = {0}, q[32], got[6];
    plan *p = NULL;
    tiny t;
    spec_weight(w);
    skew4(vec0, a);
    skew4(vec1, a + 16);
    for (int i = 0; i < 6; i++)
        a[16 + i] *= 1e-3f; /* no longer skew; its skew part lies well within the ball */
    tiny_open(&t, "coft", (adapter_options){.block = 4, .eps = .1f}, 3, 8, 1, w, DT_F32);
    REQUIRE_OK(params_set(&t.ps, "layer.oft_R", a, 32));
    graph *g = graph_create(g_dev);
    adapter_project_all(g, &t.set, &t.model);
    REQUIRE_OK(graph_compile(g, NULL, &p));
    for (int twice = 0; twice < 2; twice++) {
        REQUIRE_OK(plan_run(p, NULL, NULL));
        REQUIRE_OK(params_get(&t.ps, "layer.oft_R", q, 32));
        for (int i = 0, k = 0; i < 4; i++)
            for (int j = i + 1; j < 4; j++) got[k++] = q[i * 4 + j];
        expect("projected vec0", got, want, 6);
    }
    CHECK(q[16 + 1] != 0 && fabsf(q[16 + 1] + q[16 + 4]) < 1e-9f,
          "a block within the ball keeps its skew part");
    plan_destroy(p);
    tiny_close(&t);
}

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "cpu";
    if (device_open(&op_all, &(device_params){.name = name, .validation = TEST_VALIDATION},
                    &g_dev) != OK)
        return printf("skipped: %s\n", error_message()), 77;
    check_vectors();
    check_vector_gradients();
    check_projection();
    for (int half = 0; half < 2; half++) {
        dtype type = half ? DT_BF16 : DT_F32;
        check_training("oft", (adapter_options){.block = 16}, type);
        check_training("coft", (adapter_options){.block = 16, .eps = 1}, type);
        check_training("boft", (adapter_options){.block = 8, .factors = 3, .row_scale = true},
                       type);
        check_training("oft_neumann", (adapter_options){.block = 16, .terms = 6}, type);
    }
    CHECK(device_validation_errors(g_dev) == 0, "the validation layer has complaints");
    device_close(g_dev);
    CHECK(mem_live() == 0, "%lld blocks leaked", (long long)mem_live());
    printf("%s\n", g_failures ? "failed" : "rotations: ok");
    return g_failures ? 1 : 0;
}
