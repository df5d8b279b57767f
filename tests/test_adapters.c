/* test_adapters.c: every adapter on every kind of layer: the start changes nothing; what the layer
 * computes is what its merged weight computes, for every strength and stack; gradients against
 * differences; merging undone; rotations stay rotations; the numbers of an independent
 * implementation. usage: test_adapters [device]     exit 77: no such device
 * SPDX-License-Identifier: MIT */
#include "adapter/adapter.h"
#include "nn/nn.h"
#include "test.h"
#include <math.h>

enum { BATCH = 3, MAX_SETS = 3 };

static device *g_dev;
typedef struct layer {
    const char *name;
    int64_t in, out;
    int k, stride, pad;
    bool bias;
} layer;
static const layer layers[] = {{"linear", 16, 12, 0, 1, 0, true},
                               {"conv1x1", 16, 12, 1, 1, 0, true},
                               {"conv3x3", 8, 12, 3, 1, 1, true},
                               {"down3x3", 8, 12, 3, 2, NN_PAD_END, false}};

typedef struct variant {
    const char *label, *adapter;
    adapter_options o;
} variant;
static const variant variants[] = {
    {"lora", "lora", {.rank = 3, .alpha = 6}},
    {"lora, alpha unset", "lora", {.rank = 2}},
    {"rslora", "lora", {.rank = 4, .alpha = 2, .rslora = true}},
    {"dora", "lora", {.rank = 2, .alpha = 2, .dora = true}},
    {"dora columns", "lora", {.rank = 2, .alpha = 2, .dora = true, .dora_columns = true}},
    {"oft 4", "oft", {.block = 4}},
    {"oft whole", "oft", {.block = 999}},
    {"oft share, scale", "oft", {.block = 4, .share = true, .row_scale = true}},
    {"oft output", "oft", {.block = 3, .output_side = true}},
    {"oft output, scale", "oft", {.block = 4, .output_side = true, .row_scale = true}},
    {"coft", "coft", {.block = 4, .eps = 0.5f}},
    {"neumann 5", "oft_neumann", {.block = 4}},
    {"neumann 6", "oft_neumann", {.block = 4, .terms = 6}},
    {"neumann 2", "oft_neumann", {.block = 4, .terms = 2}},
    {"neumann 3", "oft_neumann", {.block = 4, .terms = 3, .share = true}},
    {"neumann old", "oft_neumann", {.block = 4, .terms = 5, .old_series = true}},
    {"boft 1", "boft", {.block = 4}},
    {"boft 2, scale", "boft", {.block = 4, .factors = 2, .row_scale = true}},
    {"boft 3", "boft", {.block = 2, .factors = 3}},
    {"boft output", "boft", {.block = 2, .factors = 2, .output_side = true, .ascending = true}},
    {"diff", "diff", {0}},
};

typedef struct rig {
    const layer *l;
    params model, ps[MAX_SETS];
    adapter_set set[MAX_SETS];
    int n;
    plan *p;
    int n_grads;
    int64_t x_count, y_count;
} rig;

static const char *const everything[] = {"layer", NULL};

static tensor *record_layer(nn *m, const layer *l, tensor *x) {
    if (l->k == 0) return nn_linear(m, "layer", x, l->out, l->bias);
    return nn_conv2d_(m, "layer", x, l->out, l->k, l->stride, l->pad, l->bias, NULL, HERE);
}

static shape x_shape(const layer *l) {
    return l->k == 0 ? SHAPE(BATCH, 5, l->in) : SHAPE(BATCH, 6, 5, l->in);
}

static float noise(const char *name, int64_t i) {
    return (float)rng_normal((rng_key){{7, 0}, rng_stream(name)}, 0, (uint64_t)i);
}

static void set_random(params *ps, const char *salt, float size) {
    for (int i = 0; i < ps->n; i++) {
        char name[256];
        int64_t n = shape_count(&ps->p[i].s);
        float *v = mem_alloc((size_t)n * 4);
        snprintf(name, sizeof name, "%s %s", salt, ps->p[i].name);
        REQUIRE_OK(params_get(ps, ps->p[i].name, v, n));
        for (int64_t k = 0; k < n; k++) v[k] += size * noise(name, k);
        REQUIRE_OK(params_set(ps, ps->p[i].name, v, n));
        mem_free(v);
    }
}

static void rig_open(rig *r, const layer *l, const variant *const *v, int n, dtype type) {
    *r = (rig){.l = l, .n = n};
    params_init(&r->model, g_dev, type);
    for (int i = 0; i < n; i++) {
        params_init(&r->ps[i], g_dev, DT_F32);
        r->set[i] = (adapter_set){.info = adapter_find(v[i]->adapter),
                                  .targets = everything,
                                  .opts = v[i]->o,
                                  .ps = &r->ps[i],
                                  .next = i + 1 < n ? &r->set[i + 1] : NULL};
        REQUIRE(r->set[i].info);
        r->ps[i].declaring = true;
    }
    graph *g = graph_create(g_dev);
    r->model.declaring = true;
    nn m = {g, &r->model, n ? r->set : NULL};
    record_layer(&m, l, graph_input(g, "x", type, x_shape(l)));
    REQUIRE_OK(graph_status(g));
    graph_destroy(g);
    r->model.declaring = false;
    REQUIRE_OK(params_allocate(&r->model));
    set_random(&r->model, "base", 0.3f);
    for (int i = 0; i < n; i++) {
        r->ps[i].declaring = false;
        REQUIRE_OK(params_allocate(&r->ps[i]));
        REQUIRE_OK(adapter_init_all(&r->set[i], &r->model, 5));
    }
}

static void rig_close(rig *r) {
    plan_destroy(r->p);
    for (int i = 0; i < r->n; i++) params_fini(&r->ps[i]);
    params_fini(&r->model);
}

/* y from x, with `strengths` strengths per adapter (0 = none), and the gradients of sum(c y) when
 * asked. */
static void rig_record(rig *r, int strengths, bool grads, bool dropout) {
    plan_destroy(r->p);
    r->p = NULL;
    graph *g = graph_create(g_dev);
    adapter_set own[MAX_SETS];
    tensor *x = graph_input(g, "x", r->model.type, x_shape(r->l)), *wanted[12], *got[12];
    r->n_grads = 0;
    wanted[r->n_grads++] = x;
    for (int i = 0; i < r->n; i++) {
        char name[16];
        snprintf(name, sizeof name, "s%d", i);
        own[i] = r->set[i];
        own[i].next = i + 1 < r->n ? &own[i + 1] : NULL;
        if (strengths) own[i].strength = graph_input(g, name, DT_F32, SHAPE(strengths));
        if (dropout && i == 0)
            own[i].seed = graph_input(g, "seed", DT_U32, SHAPE(2)),
            own[i].step = graph_input(g, "step", DT_U32, SHAPE(1));
        for (int k = 0; grads && k < r->ps[i].n; k++)
            wanted[r->n_grads++] = params_tensor(&r->ps[i], g, r->ps[i].p[k].name, HERE);
    }
    nn m = {g, &r->model, r->n ? own : NULL};
    tensor *y = record_layer(&m, r->l, x);
    r->x_count = tensor_count(x), r->y_count = tensor_count(y);
    graph_output(g, y, "y");
    if (grads) {
        tensor *c = graph_input(g, "c", y->dtype, y->s), *one = op_fill(g, DT_F32, SHAPE(1), 1.0f);
        tensor *loss = op_reshape(g, op_sum(g, op_mul(g, y, c), DIMS_ALL), 1);
        graph_backward(g, loss, one, wanted, r->n_grads, got, false);
        for (int k = 0; k < r->n_grads; k++) {
            char *name = graph_alloc(g, 16);
            snprintf(name, 16, "grad%d", k);
            if (got[k])
                graph_output(g, op_cast(g, got[k], DT_F32), name);
            else
                graph_output(g, op_fill(g, DT_F32, wanted[k]->s, 0.0f), name);
        }
    }
    REQUIRE_OK(graph_compile(g, &(plan_params){.label = r->l->name}, &r->p));
    float *v = mem_alloc((size_t)MAX(r->x_count, r->y_count) * 4);
    for (int64_t i = 0; i < r->x_count; i++) v[i] = noise("x", i);
    if (r->model.type == DT_F32) REQUIRE_OK(plan_write(r->p, "x", v));
    for (int64_t i = 0; i < r->y_count; i++) v[i] = noise("c", i);
    if (grads) REQUIRE_OK(plan_write(r->p, "c", v));
    mem_free(v);
}

static void rig_run(rig *r, float *y) {
    REQUIRE_OK(plan_run(r->p, NULL, NULL));
    REQUIRE_OK(plan_read_f32(r->p, "y", y));
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

static float g_y[4096], g_base[4096], g_merged[4096], g_w[4096], g_w0[4096];

/* The plain layer's output with strengths m[i] merged in, entry e of the batch only (all when e <
 * 0). */
static void merged_output(const layer *l, rig *r, const double *m, int64_t e, float *y) {
    rig plain;
    rig_open(&plain, l, NULL, 0, DT_F32);
    for (int i = 0; i < r->n; i++)
        REQUIRE_OK(adapter_merge_all(&r->set[i], &plain.model, m[i], false));
    rig_record(&plain, 0, false, false);
    rig_run(&plain, g_merged);
    int64_t per = plain.y_count / BATCH;
    for (int64_t i = 0; i < plain.y_count; i++)
        if (e < 0 || i / per == e) y[i] = g_merged[i];
    rig_close(&plain);
}

static void check_start(rig *r, const char *label) {
    double size;
    rig plain;
    rig_open(&plain, r->l, NULL, 0, DT_F32);
    rig_record(&plain, 0, false, false);
    rig_run(&plain, g_base);
    rig_record(r, 0, false, false);
    rig_run(r, g_y);
    double worst = distance(g_y, g_base, r->y_count, &size);
    CHECK(worst <= 1e-6 * size, "%s on %s: the start changes the output by %g of %g", label,
          r->l->name, worst, size);
    rig_close(&plain);
}

static void check_merge(rig *r, const char *label) {
    static const float one[] = {0.7f}, each[] = {1.0f, -0.5f, 0.3f};
    static const double full[] = {1, 1, 1};
    double size;
    for (int strengths = 0; strengths <= BATCH; strengths += strengths ? BATCH - 1 : 1) {
        float want[4096];
        rig_record(r, strengths, false, false);
        for (int i = 0; i < r->n && strengths; i++) {
            char name[16];
            snprintf(name, sizeof name, "s%d", i);
            REQUIRE_OK(plan_write(r->p, name, strengths == 1 ? one : each));
        }
        rig_run(r, g_y);
        if (strengths == 0) merged_output(r->l, r, full, -1, want);
        if (strengths == 1)
            merged_output(r->l, r, (double[]){(double)one[0], (double)one[0], (double)one[0]}, -1,
                          want);
        for (int64_t e = 0; strengths > 1 && e < BATCH; e++)
            merged_output(r->l, r, (double[]){(double)each[e], (double)each[e], (double)each[e]}, e,
                          want);
        double worst = distance(g_y, want, r->y_count, &size);
        CHECK(worst <= 1e-5 * size,
              "%s on %s, %d strengths: layer and merged weight differ by %g of %g", label,
              r->l->name, strengths, worst, size);
        if (strengths == 0)
            CHECK(distance(g_y, g_base, r->y_count, NULL) > 0.02 * size,
                  "%s on %s: the adapter does nothing", label, r->l->name);
    }
}

static void check_unmerge(rig *r, const char *label) {
    int64_t n = shape_count(&r->model.p[0].s);
    double size;
    status st = OK;
    REQUIRE_OK(params_get(&r->model, "layer.weight", g_w0, n));
    for (int i = 0; i < r->n; i++) REQUIRE_OK(adapter_merge_all(&r->set[i], &r->model, 0.8, false));
    for (int i = r->n - 1; i >= 0 && st == OK; i--)
        st = adapter_merge_all(&r->set[i], &r->model, 0.8, true);
    bool dora = false;
    for (int i = 0; i < r->n; i++) dora |= r->set[i].opts.dora;
    CHECK(st == (dora ? E_UNSUPPORTED : OK), "%s on %s: unmerging gives %s", label, r->l->name,
          status_name(st));
    REQUIRE_OK(params_get(&r->model, "layer.weight", g_w, n));
    double worst = distance(g_w, g_w0, n, &size);
    CHECK(dora || worst <= 2e-6 * size,
          "%s on %s: merged and unmerged, the weight is off by %g of %g", label, r->l->name, worst,
          size);
    REQUIRE_OK(params_set(&r->model, "layer.weight", g_w0, n));
}

/* sum(c y) after moving trainable k of set i (or x where i < 0) along a direction by h. */
static double moved(rig *r, int i, int k, double h) {
    param *p = i < 0 ? NULL : &r->ps[i].p[k];
    int64_t n = p ? shape_count(&p->s) : r->x_count;
    float *v = mem_alloc((size_t)n * 4), *old = mem_alloc((size_t)n * 4);
    if (p) REQUIRE_OK(params_get(&r->ps[i], p->name, old, n));
    for (int64_t e = 0; !p && e < n; e++) old[e] = noise("x", e);
    for (int64_t e = 0; e < n; e++) v[e] = old[e] + (float)h * noise("direction", e);
    if (p)
        REQUIRE_OK(params_set(&r->ps[i], p->name, v, n));
    else
        REQUIRE_OK(plan_write(r->p, "x", v));
    rig_run(r, g_y);
    if (p)
        REQUIRE_OK(params_set(&r->ps[i], p->name, old, n));
    else
        REQUIRE_OK(plan_write(r->p, "x", old));
    double sum = 0;
    for (int64_t e = 0; e < r->y_count; e++) sum += (double)g_y[e] * (double)noise("c", e);
    mem_free(v);
    mem_free(old);
    return sum;
}

static void check_gradients(rig *r, const char *label) {
    rig_record(r, 0, true, false);
    REQUIRE_OK(plan_run(r->p, NULL, NULL));
    int at = 0;
    for (int i = -1; i < r->n; i++)
        for (int k = 0; k < (i < 0 ? 1 : r->ps[i].n); k++, at++) {
            char name[16];
            int64_t n = i < 0 ? r->x_count : shape_count(&r->ps[i].p[k].s);
            float *d = mem_alloc((size_t)n * 4);
            double along = 0, length = 0, h = 2e-3;
            snprintf(name, sizeof name, "grad%d", at);
            REQUIRE_OK(plan_run(r->p, NULL, NULL));
            REQUIRE_OK(plan_read_f32(r->p, name, d));
            for (int64_t e = 0; e < n; e++)
                along += (double)d[e] * (double)noise("direction", e),
                    length += (double)d[e] * (double)d[e];
            double near = (moved(r, i, k, h) - moved(r, i, k, -h)) / (2 * h);
            double far = (moved(r, i, k, 2 * h) - moved(r, i, k, -2 * h)) / (4 * h),
                   want = (4 * near - far) / 3; /* Richardson */
            CHECK(fabs(along - want) <= 2e-3 * sqrt(length) + 2e-3,
                  "%s on %s: d/d%s is %g along a direction, differences give %g (length %g)", label,
                  r->l->name, i < 0 ? "x" : r->ps[i].p[k].name, along, want, sqrt(length));
            CHECK(length > 0, "%s on %s: no gradient for %s", label, r->l->name,
                  i < 0 ? "x" : r->ps[i].p[k].name);
            mem_free(d);
        }
}

static void check_variant(const layer *l, const variant *const *v, int n, const char *label) {
    rig r;
    rig_open(&r, l, v, n, DT_F32);
    check_start(&r, label);
    for (int i = 0; i < n; i++) {
        char salt[16];
        snprintf(salt, sizeof salt, "set %d", i);
        set_random(&r.ps[i], salt, 0.25f);
    }
    check_merge(&r, label);
    check_unmerge(&r, label);
    check_gradients(&r, label);
    rig_close(&r);
}

/* ---- stacks ---- */

static const variant *find_variant(const char *label) {
    for (size_t i = 0; i < ARRAY_LEN(variants); i++)
        if (strcmp(variants[i].label, label) == 0) return &variants[i];
    REQUIRE(!"no such variant");
    return NULL;
}

static void check_stacks(void) {
    static const char *const stacks[][MAX_SETS] = {
        {"oft 4", "boft 2, scale", NULL},
        {"oft 4", "lora", "neumann 5"},
        {"lora", "oft output, scale", "lora, alpha unset"},
        {"oft 4", "dora", "boft 1"},
        {"boft output", "diff", "lora"}};
    for (size_t i = 0; i < ARRAY_LEN(stacks); i++)
        for (size_t k = 0; k < ARRAY_LEN(layers); k++) {
            const variant *v[MAX_SETS];
            int n = 0;
            char label[96] = "";
            for (int q = 0; q < MAX_SETS && stacks[i][q]; q++) {
                v[n++] = find_variant(stacks[i][q]);
                strcat(strcat(label, q ? " + " : ""), stacks[i][q]);
            }
            check_variant(&layers[k], v, n, label);
        }
}

/* ---- dropout ---- */

static void check_dropout(const char *label, float p, int whole) {
    variant v = *find_variant(label);
    const variant *one[] = {&v};
    rig r;
    float kept[4096], other[4096];
    v.o.dropout = p;
    rig_open(&r, &layers[0], one, 1, DT_F32);
    set_random(&r.ps[0], "drop", 0.3f);
    rig_record(&r, 0, false, true);
    REQUIRE_OK(plan_write(r.p, "seed", (uint32_t[]){3, 4}));
    int differ = 0, dropped = 0;
    for (uint32_t step = 0; step < 20; step++) {
        REQUIRE_OK(plan_write(r.p, "step", &step));
        rig_run(&r, g_y);
        rig_run(&r, other);
        CHECK(memcmp(g_y, other, (size_t)r.y_count * 4) == 0, "%s: one step, two outputs", label);
        if (step) differ += distance(g_y, kept, r.y_count, NULL) > 1e-4;
        memcpy(kept, g_y, (size_t)r.y_count * 4);
        dropped += distance(g_y, g_base, r.y_count, NULL) < 1e-6;
    }
    if (whole == 1)
        CHECK(dropped == 20, "%s with every block dropped equals the base in %d of 20 steps", label,
              dropped);
    if (whole == 0)
        CHECK(differ >= 10, "%s: dropout hardly changes from step to step (%d of 19)", label,
              differ);
    rig_record(&r, 0, false, false);
    rig_run(&r, other);
    if (whole == 2) { /* one of two factors is gone: every step is one of two outputs, both occur,
                         neither is the whole */
        CHECK(differ > 0 && differ < 19, "%s: the dropped factor changes in %d of 19 steps", label,
              differ);
        CHECK(distance(kept, other, r.y_count, NULL) > 1e-3 && dropped == 0,
              "%s: one factor, and one only, is dropped", label);
    }
    rig_close(&r);
}

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "cpu";
    if (device_open(&op_all, &(device_params){.name = name, .validation = TEST_VALIDATION},
                    &g_dev) != OK)
        return printf("skipped: %s\n", error_message()), 77;
    for (size_t v = 0; v < ARRAY_LEN(variants); v++)
        for (size_t l = 0; l < ARRAY_LEN(layers); l++)
            check_variant(&layers[l], (const variant *[]){&variants[v]}, 1, variants[v].label);
    for (int i = 0; adapter_at(i); i++) {
        bool seen = false;
        for (size_t v = 0; v < ARRAY_LEN(variants); v++)
            seen |= strcmp(variants[v].adapter, adapter_at(i)->name) == 0;
        CHECK(seen, "adapter %s has no test", adapter_at(i)->name);
    }
    check_stacks();
    rig plain;
    rig_open(&plain, &layers[0], NULL, 0, DT_F32);
    rig_record(&plain, 0, false, false);
    rig_run(&plain, g_base);
    rig_close(&plain);
    check_dropout("oft 4", 1, 1);
    check_dropout("oft 4", 0.5f, 0);
    check_dropout("neumann 5", 0.5f, 0);
    check_dropout("boft 2, scale", 1, 2);
    CHECK(device_validation_errors(g_dev) == 0, "the validation layer has complaints");
    device_close(g_dev);
    CHECK(mem_live() == 0, "%lld blocks leaked", (long long)mem_live());
    printf("%s\n", g_failures ? "failed" : "adapters: ok");
    return g_failures ? 1 : 0;
}
