/* test_grid.c: what must hold of grids, on networks of random weights: nothing to make changes nothing; a fresh adapter and
 * cells that see only themselves are the base network bit for bit; canvas and batch agree; given cells of one role may be
 * exchanged; what is given has no loss; one grid is learned by heart and made again; a subject is carried over and not
 * copied; exchanged subjects are exchanged in what is made. And: keys that are kept are those of every step; pictures without a
 * grid stay as they were; files and their errors; the grids that are drawn.
 * usage: test_grid GOLDEN_DIR DEVICE
 * SPDX-License-Identifier: MIT */
#include "engine/grid_step.h"
#include "test.h"
#include <math.h>

enum { H = 8, C = 4, ONE = H * H * C, CELLS = 4, ALL = CELLS * ONE };
static const char *g_golden, *g_device;
static imago *g_im;

static void open_model(void) {
    static char path[1024];
    snprintf(path, sizeof path, "%s/pipelines/sd1", g_golden);
    if (imago_open(&IMAGO_OPEN(.model = path, .device = g_device, .precision = "f32", .threads = 1), &g_im) != IMAGO_OK) {
        printf("%s\n", imago_error_message());
        exit(77);
    }
}

static grid_options options(void) { return (grid_options){.adapter = adapter_find("lora"), .adapt = {.rank = 4}, .slots = true}; }

static float number(uint32_t stream, size_t i) { return (float)rng_normal((rng_key){{7, stream}, 0}, 0, i); }

/* An adapter that does something. */
static grid_model *made_up(const grid_options *o) {
    grid_model *m = NULL;
    params *sets[1 + GRID_BANKS];
    REQUIRE_OK(grid_model_create(g_im, o, 3, &m));
    int n = grid_model_parts(m, sets, NULL);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < sets[i]->n; k++) {
            int64_t count = shape_count(&sets[i]->p[k].s);
            float *v = mem_alloc(sizeof *v * (size_t)count);
            for (int64_t e = 0; e < count; e++) v[e] = 0.2f * number((uint32_t)(100 * i + k), (size_t)e);
            REQUIRE_OK(params_set(sets[i], sets[i]->p[k].name, v, count));
            mem_free(v);
        }
    return m;
}

/* ---- the network on one batch of two grids ---- */
enum { N = 2 * CELLS, TOKENS = 5 };
typedef struct inputs { float x[N * ONE], t[N], traits[N * GRID_TRAITS], seen[N * H * H * (C + 1)], context[N * TOKENS * 24], bank[N]; } inputs;

static void make_inputs(inputs *in, const grid_options *o, const bool made[CELLS]) {
    memset(in, 0, sizeof *in);
    for (size_t i = 0; i < ARRAY_LEN(in->x); i++) in->x[i] = number(1, i);
    for (size_t i = 0; i < ARRAY_LEN(in->seen); i++) in->seen[i] = number(2, i);
    for (size_t i = 0; i < ARRAY_LEN(in->context); i++) in->context[i] = number(3, i);
    for (int i = 0; i < N; i++) {
        in->t[i] = made[i % CELLS] ? 400 : 0;
        grid_traits(o, i % CELLS < 2 ? GRID_REF : GRID_OUT, i % CELLS, in->traits + i * GRID_TRAITS);
    }
}

static void sights(grid_sight s, const bool made[CELLS], bool sees[N * N]) {
    for (int i = 0; i < N * N; i++) {
        int a = i / N, b = i % N;
        sees[i] = a / CELLS == b / CELLS && grid_may_see(s, made[a % CELLS], made[b % CELLS], a == b);
    }
}

static void run_network(grid_model *m, const grid_rows *r, const inputs *in, float *y) {
    plan *p = NULL;
    graph *g = graph_create(g_im->dev);
    graph_output(g, grid_network(m, g, r, graph_input(g, "x", DT_F32, SHAPE(r->n, r->h, r->w, C))), "y");
    REQUIRE_OK(graph_compile(g, NULL, &p));
    REQUIRE_OK(plan_write(p, "x", in->x));
    REQUIRE_OK(plan_write(p, "t", in->t));
    REQUIRE_OK(plan_write(p, "traits", in->traits));
    REQUIRE_OK(plan_write(p, "seen", in->seen));
    REQUIRE_OK(plan_write(p, "context", in->context));
    REQUIRE_OK(grid_write_sight(m, p, r, NULL));
    for (int b = 0; m->o.banks && b < GRID_BANKS; b++) {
        char name[16];
        float on[N];
        snprintf(name, sizeof name, "bank%d", b);
        for (int i = 0; i < r->n; i++) on[i] = grid_bank_of(i % CELLS, in->t[i] > 0) == b;
        REQUIRE_OK(plan_write(p, name, on));
    }
    REQUIRE_OK(plan_run(p, NULL, NULL));
    REQUIRE_OK(plan_read(p, "y", y));
    plan_destroy(p);
}

static grid_rows rows_of(grid_geometry geometry, const bool *sees) {
    return (grid_rows){.geometry = geometry, .rows = 2, .cols = 2, .n = N, .h = H, .w = H, .tokens = TOKENS, .sees = sees, .columns = N};
}

static double furthest(const float *a, const float *b, size_t n) {
    double most = 0;
    for (size_t i = 0; i < n; i++) most = fmax(most, fabs((double)a[i] - (double)b[i]));
    return most;
}

/* The base network on the same batch. */
static void run_base(const inputs *in, float *y) {
    plan *p = NULL;
    graph *g = graph_create(g_im->dev);
    nn m = {g, &g_im->part[PART_UNET], NULL};
    tensor *x = graph_input(g, "x", DT_F32, SHAPE(N, H, H, C)), *t = graph_input(g, "t", DT_F32, SHAPE(N));
    unet_text text = {.context = graph_input(g, "context", DT_F32, SHAPE(N, TOKENS, 24))};
    graph_output(g, unet_denoise(&m, &g_im->ck->unet, x, t, &text, NULL), "y");
    REQUIRE_OK(graph_compile(g, NULL, &p));
    REQUIRE_OK(plan_write(p, "x", in->x));
    REQUIRE_OK(plan_write(p, "t", in->t));
    REQUIRE_OK(plan_write(p, "context", in->context));
    REQUIRE_OK(plan_run(p, NULL, NULL));
    REQUIRE_OK(plan_read(p, "y", y));
    plan_destroy(p);
}

static const bool g_last[CELLS] = {false, false, false, true};
static float g_a[N * ONE], g_b[N * ONE];
static inputs g_in;

/* Check 2, and that it can fail: cells that see each other give something else. */
static void test_base(void) {
    static const char *const kinds[] = {"lora", "oft", "boft"};
    bool sees[N * N];
    for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
        grid_options o = options();
        grid_model *m = NULL;
        o.adapter = adapter_find(kinds[k]);
        o.adapt = (adapter_options){.rank = k ? 0 : 4, .block = k ? 4 : 0};
        o.banks = k == 0;
        REQUIRE_OK(grid_model_create(g_im, &o, 1, &m));
        make_inputs(&g_in, &o, g_last);
        sights(GRID_SEES_NONE, g_last, sees);
        grid_rows r = rows_of(GRID_BATCH, sees);
        run_base(&g_in, g_a);
        run_network(m, &r, &g_in, g_b);
        double off = furthest(g_a, g_b, N * ONE);
        printf("fresh %-4s, cells that see themselves: off by %g from the base\n", kinds[k], off);
        REQUIRE(off <= (k ? 2e-6 : 0)); /* a turn by nothing is rounded */
        sights(GRID_SEES_ALL, g_last, sees);
        run_network(m, &r, &g_in, g_b);
        REQUIRE(furthest(g_a, g_b, N * ONE) > 1e-3);
        grid_model_destroy(m);
    }
    grid_options o = options();
    grid_model *m = made_up(&o); /* what is learned, at strength 0 */
    m->strength = 0;
    sights(GRID_SEES_NONE, g_last, sees);
    grid_rows r = rows_of(GRID_BATCH, sees);
    make_inputs(&g_in, &o, g_last);
    run_base(&g_in, g_a);
    run_network(m, &r, &g_in, g_b);
    REQUIRE(furthest(g_a, g_b, N * ONE) == 0);
    m->strength = 1;
    run_network(m, &r, &g_in, g_b);
    REQUIRE(furthest(g_a, g_b, N * ONE) > 1e-3);
    grid_model_destroy(m);
}

/* Check 3. */
static void test_geometries(void) {
    bool sees[N * N];
    grid_options o = options();
    grid_model *m = made_up(&o);
    make_inputs(&g_in, &o, g_last);
    for (int s = 0; s < GRID_SIGHT_COUNT; s++) {
        sights((grid_sight)s, g_last, sees);
        grid_rows batch = rows_of(GRID_BATCH, sees), canvas = rows_of(GRID_CANVAS, sees), wide = canvas;
        run_network(m, &batch, &g_in, g_a);
        run_network(m, &canvas, &g_in, g_b);
        double off = furthest(g_a, g_b, N * ONE), size = 0;
        for (int i = 0; i < N * ONE; i++) size = fmax(size, fabs((double)g_a[i]));
        printf("canvas and batch, sight %-5s: %.2g apart, values to %.2f\n", grid_sight_names[s], off, size);
        REQUIRE(off < 1e-5 * fmax(size, 1));
        wide.rows = 1, wide.cols = 4; /* where a cell lies on the canvas does not matter */
        run_network(m, &wide, &g_in, g_b);
        REQUIRE(furthest(g_a, g_b, N * ONE) < 1e-5 * fmax(size, 1));
    }
    grid_model_destroy(m);
}

/* The extended conv_in is a convolution of all channels joined. */
static void test_extension(void) {
    grid_options o = options();
    grid_model *m = made_up(&o);
    plan *p = NULL;
    graph *g = graph_create(g_im->dev);
    tensor *x = graph_input(g, "x", DT_F32, SHAPE(1, H, H, C)), *seen = graph_input(g, "seen", DT_F32, SHAPE(1, H, H, C + 1));
    nn net = {g, &g_im->part[PART_UNET], NULL};
    tensor *w = params_tensor(net.ps, g, "conv_in.weight", HERE), *b = params_tensor(net.ps, g, "conv_in.bias", HERE);
    tensor *more = params_tensor(&m->ps, g, "grid.conv_in.weight", HERE);
    graph_output(g, op_conv2d(g, op_concat(g, 3, x, seen), op_concat(g, 1, w, more), b, 1, 1), "joined");
    graph_output(g, nn_conv2d_add(&net, "conv_in", x, w->s.d[0], 3, 1, 1, op_conv2d(g, seen, more, NULL, 1, 1)), "added");
    REQUIRE_OK(graph_compile(g, NULL, &p));
    make_inputs(&g_in, &o, g_last);
    REQUIRE_OK(plan_write(p, "x", g_in.x));
    REQUIRE_OK(plan_write(p, "seen", g_in.seen));
    REQUIRE_OK(plan_run(p, NULL, NULL));
    REQUIRE_OK(plan_read(p, "joined", g_a));
    REQUIRE_OK(plan_read(p, "added", g_b));
    REQUIRE(furthest(g_a, g_b, (size_t)(H * H) * 8) < 1e-5);
    plan_destroy(p);
    grid_model_destroy(m);
}

/* ---- sampling ---- */
static float g_z[ALL], g_y[ALL];

static grid_fill_params wish(const bool made[CELLS]) {
    grid_fill_params p = {.rows = 2, .cols = 2, .h = H, .w = H, .steps = 4, .guidance = 3, .ref_guidance = 1.5f, .seed = 5};
    for (int i = 0; i < CELLS; i++) p.made[i] = made[i], p.role[i] = made[i] ? GRID_TARGET : GRID_REF;
    p.prompt[3] = "a red fox";
    return p;
}

static void fill(grid_model *m, const grid_fill_params *p, float *z) {
    for (int i = 0; i < ALL; i++) z[i] = number(9, (size_t)i);
    REQUIRE_OK(grid_fill(m, p, z, NULL));
}

/* Checks 1 and 4; given cells stay; both geometries, and kept keys, make the same. */
static void test_fill(void) {
    static const bool none[CELLS] = {false};
    grid_options o = options();
    grid_model *m = made_up(&o);
    grid_fill_report report;
    grid_fill_params p = wish(none);
    for (int i = 0; i < ALL; i++) g_y[i] = number(9, (size_t)i);
    fill(m, &p, g_z);
    REQUIRE(memcmp(g_z, g_y, sizeof g_z) == 0);
    p = wish(g_last);
    fill(m, &p, g_z);
    REQUIRE(memcmp(g_z, g_y, sizeof g_z / CELLS * 3) == 0 && furthest(g_z + 3 * ONE, g_y + 3 * ONE, ONE) > 0.1);
    REQUIRE_OK(grid_fill(m, &p, memcpy(g_a, g_y, sizeof g_y), &report));
    REQUIRE(memcmp(g_a, g_z, sizeof g_z) == 0); /* a seed is a picture */
    REQUIRE(report.kept && report.rows == 3 && report.rows_without == 6);
    p.geometry = GRID_CANVAS; /* computes the given cells at every step */
    fill(m, &p, g_y);
    double off = furthest(g_z, g_y, ALL);
    printf("filled on a canvas and as a batch with kept keys: %.2g apart\n", off);
    REQUIRE(off < 2e-4);
    p.geometry = GRID_BATCH;
    p.ref_guidance = 0; /* nothing of the given cells is left; words still count */
    fill(m, &p, g_a);
    p.guidance = 0;
    fill(m, &p, g_b);
    REQUIRE(furthest(g_a, g_z, ALL) > 1e-3 && furthest(g_a, g_b, ALL) > 1e-4);
    for (int i = 0; i < ONE; i++) g_y[i] = number(10, (size_t)i); /* other given cells: the same picture */
    for (int i = ONE; i < ALL; i++) g_y[i] = number(9, (size_t)i);
    REQUIRE_OK(grid_fill(m, &p, g_y, NULL));
    REQUIRE(furthest(g_y + 3 * ONE, g_b + 3 * ONE, ONE) < 1e-5);
    grid_model_destroy(m);

    o.slots = false; /* exchange two given cells of one role */
    m = made_up(&o);
    for (int slots = 0; slots < 2; slots++) {
        float other[ALL];
        REQUIRE_OK(grid_model_forget(m));
        m->o.slots = slots;
        p = wish(g_last);
        fill(m, &p, g_z);
        for (int i = 0; i < ALL; i++) other[i] = number(9, (size_t)(i < ONE ? i + ONE : i < 2 * ONE ? i - ONE : i));
        REQUIRE_OK(grid_fill(m, &p, other, NULL));
        off = furthest(g_z + 3 * ONE, other + 3 * ONE, ONE);
        printf("two given cells exchanged, places %s: %.2g apart\n", slots ? "known" : "unknown", off);
        REQUIRE(slots ? off > 1e-3 : off < 2e-4);
    }
    grid_model_destroy(m);

    for (int w = 0; w < 2; w++) { /* what cannot be kept is computed at every step, and stays on the canvas too */
        o = options();
        o.noised = w == 0, o.sight = w ? GRID_SEES_ALL : GRID_SEES_GIVEN;
        m = made_up(&o);
        p = wish(g_last);
        for (int i = 0; i < ALL; i++) g_a[i] = number(9, (size_t)i);
        REQUIRE_OK(grid_fill(m, &p, g_a, &report));
        REQUIRE(!report.kept && report.rows == (w ? 9 : 6));
        p.geometry = GRID_CANVAS;
        fill(m, &p, g_b);
        printf("%s: %.2g apart\n", w ? "given cells see all" : "given cells noised", furthest(g_a, g_b, ALL));
        REQUIRE(furthest(g_a, g_b, ALL) < 5e-4);
        grid_model_destroy(m);
    }
}

/* Banks of lora share its left factor: with one and the same right factor everywhere they are a change of the adapter's own. */
static void test_shared_factor(void) {
    grid_options o = options();
    o.adapter = adapter_find("lora"), o.adapt = (adapter_options){.rank = 4, .alpha = 4}, o.banks = true;
    grid_model *m = made_up(&o), *sum = NULL;
    o.banks = false;
    REQUIRE_OK(grid_model_create(g_im, &o, 1, &sum));
    static float a[1 << 16], b[1 << 16];
    for (int i = 0; i < m->ps.n; i++) {
        const param *p = &m->ps.p[i];
        int64_t n = shape_count(&p->s);
        REQUIRE(n <= 1 << 16);
        REQUIRE_OK(params_get(&m->ps, p->name, a, n));
        const param *q = params_find(&m->bank_ps[0], p->name);
        REQUIRE(!q || strstr(p->name, "attn1.to_q.lora_A.weight"));
        if (q) {
            REQUIRE_OK(params_get(&m->bank_ps[0], p->name, b, n));
            for (int k = 1; k < GRID_BANKS; k++) REQUIRE_OK(params_set(&m->bank_ps[k], p->name, b, n));
            for (int64_t k = 0; k < n; k++) a[k] += b[k];
        }
        REQUIRE_OK(params_set(&sum->ps, p->name, a, n));
    }
    REQUIRE(m->bank_ps[0].n > 0);
    bool sees[N * N];
    sights(GRID_SEES_GIVEN, g_last, sees);
    grid_rows r = rows_of(GRID_BATCH, sees);
    make_inputs(&g_in, &m->o, g_last);
    run_network(m, &r, &g_in, g_a);
    run_network(sum, &r, &g_in, g_b);
    double off = furthest(g_a, g_b, N * ONE);
    m->strength = 0;
    run_network(m, &r, &g_in, g_a);
    printf("query banks: %.2g from the sum, which is %.2g from the base\n", off, furthest(g_a, g_b, N * ONE));
    REQUIRE(off < 2e-5 && furthest(g_a, g_b, N * ONE) > 1e-3);
    grid_model_destroy(m);
    grid_model_destroy(sum);
}

/* A file gives back what was saved; one that is not whole is refused. */
static void test_file(void) {
    static const char path[] = "test_grid.safetensors", bad[] = "test_grid_bad.safetensors";
    grid_options o = options();
    o.adapter = adapter_find("boft"), o.adapt = (adapter_options){.block = 4, .factors = 2}, o.banks = true, o.sight = GRID_SEES_OWN;
    grid_model *m = made_up(&o), *again = NULL;
    grid_fill_params p = wish(g_last);
    safetensors *f = NULL;
    fill(m, &p, g_a);
    REQUIRE_OK(grid_model_save(m, path, NULL, 0));
    grid_model_destroy(m);
    REQUIRE_OK(grid_model_open(g_im, path, &again));
    REQUIRE(again->o.sight == GRID_SEES_OWN && again->o.banks && again->o.slots && again->o.adapt.factors == 2);
    fill(again, &p, g_b);
    REQUIRE(memcmp(g_a, g_b, sizeof *g_a * ALL) == 0);
    grid_model_destroy(again);
    REQUIRE_OK(safetensors_open(path, &f));
    for (int w = 0; w < 4; w++) {
        safetensor *t = mem_alloc(sizeof *t * (size_t)f->n);
        memcpy(t, f->tensor, sizeof *t * (size_t)f->n);
        float *nan = mem_zalloc(safetensor_bytes(&t[0]));
        nan[0] = NAN;
        if (w == 0) t[0].data = nan;
        if (w == 1) t[0].name = "adapter.other";
        if (w == 2) t[0].n_dims = 1, t[0].dim[0] = safetensor_count(&f->tensor[0]);
        safetensor_note note = f->note[0];
        if (w == 3) note.value = "{\"version\":1,\"adapter\":\"lora\",\"rank\":-3}";
        REQUIRE_OK(safetensors_write(bad, t, f->n, &note, 1));
        status st = grid_model_open(g_im, bad, &again);
        REQUIRE(st == E_FORMAT && !again);
        if (w < 3) REQUIRE(strstr(error_message(), w ? "made for another model" : "NaN"));
        mem_free(nan);
        mem_free(t);
    }
    safetensors_close(f);
    int failed = 0;
    for (int64_t n = 1;; n += n / 6 + 1) { /* whatever fails, nothing stays behind */
        int64_t live = mem_live();
        fault_arm(n);
        status st = grid_model_open(g_im, path, &again);
        fault_arm(0);
        if (st == OK) break;
        failed++;
        REQUIRE(!again && error_message()[0] && mem_live() <= live);
    }
    printf("opening a file: %d of its steps made to fail\n", failed);
    REQUIRE(failed > 10);
    grid_model_destroy(again);
    error_clear();
    REQUIRE(remove(path) == 0 && remove(bad) == 0);
}

/* Whole fills as diffusers' network makes them (make_grid.py), in both geometries. */
static void test_golden(void) {
    static const struct { const char *name; grid_sight sight; float ref, cfg; const char *prompt; int seed, steps; } cases[] = {
        {"given", GRID_SEES_GIVEN, 1.5f, 3, "a red fox", 5, 4}, {"all", GRID_SEES_ALL, 1.5f, 3, "a red fox", 5, 4},
        {"own", GRID_SEES_OWN, 1.5f, 3, "a red fox", 5, 4}, {"plain", GRID_SEES_GIVEN, 1, 0, NULL, 6, 8}};
    static const grid_role roles[CELLS] = {GRID_EX_IN, GRID_EX_OUT, GRID_QUERY, GRID_OUT};
    char path[1024], name[32];
    imago *im = NULL;
    grid_model *m = NULL;
    safetensors *f = NULL;
    snprintf(path, sizeof path, "%s/pipelines/sd2", g_golden);
    REQUIRE_OK((status)imago_open(&IMAGO_OPEN(.model = path, .device = g_device, .precision = "f32", .threads = 1), &im));
    snprintf(path, sizeof path, "%s/grid_adapter.safetensors", g_golden);
    REQUIRE_OK(grid_model_open(im, path, &m));
    snprintf(path, sizeof path, "%s/grid.safetensors", g_golden);
    REQUIRE_OK(safetensors_open(path, &f));
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        for (int geometry = 0; geometry < GRID_GEOMETRY_COUNT; geometry++) {
            grid_fill_params p = {.rows = 2, .cols = 2, .h = H, .w = H, .steps = cases[i].steps, .guidance = cases[i].cfg, .ref_guidance = cases[i].ref,
                                  .seed = (uint64_t)cases[i].seed, .geometry = (grid_geometry)geometry, .made = {[3] = true}, .prompt = {[3] = cases[i].prompt}};
            memcpy(p.role, roles, sizeof roles);
            REQUIRE_OK(grid_model_forget(m));
            m->o.sight = cases[i].sight;
            safetensor_read_f32(safetensors_find(f, "z"), g_z);
            REQUIRE_OK(grid_fill(m, &p, g_z, NULL));
            snprintf(name, sizeof name, "%s.made", cases[i].name);
            safetensor_read_f32(safetensors_find(f, name), g_y);
            double off = furthest(g_z + 3 * ONE, g_y, ONE);
            printf("golden %s, %s: off by %.2g\n", cases[i].name, geometry ? "canvas" : "batch", off);
            REQUIRE(off < 5e-5);
        }
    safetensors_close(f);
    grid_model_destroy(m);
    imago_close(im);
}

static void same_picture(const imago_picture *a, const imago_picture *b) {
    REQUIRE(a->width == b->width && memcmp(a->rgb, b->rgb, (size_t)(a->width * a->height) * 3) == 0);
}

/* Without a grid the model makes what it made. */
static void test_untouched(void) {
    imago_picture *before = NULL, *after = NULL;
    imago_generate_params g = IMAGO_GENERATE(.prompt = "a fox", .width = 64, .height = 64, .steps = 3);
    REQUIRE_OK((status)imago_generate(g_im, &g, &before));
    grid_options o = options();
    o.banks = true;
    grid_model *m = made_up(&o);
    grid_fill_params p = wish(g_last);
    fill(m, &p, g_z);
    REQUIRE_OK((status)imago_generate(g_im, &g, &after));
    same_picture(before, after);
    fill(m, &p, g_y); /* and the grid what it made */
    REQUIRE(memcmp(g_z, g_y, sizeof g_z) == 0);
    grid_model_destroy(m);
    imago_free_pictures(before, 1);
    imago_free_pictures(after, 1);
}

/* ---- training ---- */
static void batch_of(grid_model *m, int grids, grid_batch *b) {
    REQUIRE_OK(grid_batch_create(m, grids, 2, 2, H, H, TOKENS, GRID_BATCH, b));
    for (int g = 0; g < grids; g++) b->task[g] = (grid_task){.layout = grid_layout_find("recon3"), .made = {false, false, false, true}};
}

/* Check 5: and the weights are those of the formula. */
static void test_loss(void) {
    for (int noised = 0; noised < 2; noised++) {
        grid_options o = options();
        o.noised = noised;
        grid_model *m = made_up(&o);
        grid_batch b;
        plan *p = NULL;
        graph *g = graph_create(g_im->dev);
        tensor *y = NULL, *dy = NULL;
        float loss;
        batch_of(m, 2, &b);
        b.task[1].made[0] = true; /* two cells of the second grid */
        b.task[0].layout = b.task[1].layout = grid_layout_find("edit");
        b.task[1].dropped[2] = true;
        for (size_t i = 0; i < (size_t)N * ONE; i++) b.z[i] = number(4, i);
        tensor *l = grid_loss(m, g, &b.rows, &y);
        graph_backward(g, l, op_fill(g, DT_F32, SHAPE(1), 1), &y, 1, &dy, false);
        graph_output(g, l, "loss");
        graph_output(g, dy, "dy");
        graph_output(g, y, "y");
        REQUIRE_OK(graph_compile(g, NULL, &p));
        REQUIRE_OK(grid_batch_write(m, &b, p, 11, 0));
        REQUIRE_OK(plan_run(p, NULL, NULL));
        REQUIRE_OK(plan_read(p, "dy", g_a));
        REQUIRE_OK(plan_read(p, "loss", &loss));
        REQUIRE(isfinite(loss) && loss > 0);
        for (int i = 0; i < N; i++) {
            double most = 0;
            for (int k = 0; k < ONE; k++) most = fmax(most, fabs((double)g_a[i * ONE + k]));
            bool made = b.task[i / CELLS].made[i % CELLS];
            REQUIRE(made ? most > 0 : most == 0);
            REQUIRE_EQ(b.t[i] > 0, made || noised);
            REQUIRE(fabs((double)b.weight[i] - (made ? i < CELLS ? 4 : 2 : 0)) < 1e-6);
        }
        for (int i = 0; i < N; i++) /* what is made is shown the query, unless that is dropped; the rest itself */
            for (int k = 0; k < H * H; k++) {
                bool made = b.task[i / CELLS].made[i % CELLS];
                const float *seen = b.seen + (i * H * H + k) * (C + 1), *from = b.z + ((made ? i - 1 : i) * H * H + k) * C;
                bool shown = !made || i == 3;
                for (int c = 0; c < C; c++) REQUIRE(seen[c] == (shown ? from[c] : 0));
                REQUIRE(seen[C] == (made ? 1 : 0));
            }
        plan_destroy(p);
        grid_batch_destroy(&b);
        grid_model_destroy(m);
    }
}

/* What the corpus gives: the same for the same number, an answer that is never a picture given, and all that was asked for. */
static void test_data(void) {
    enum { DRAWN = 120 };
    char path[1024];
    grid_source *s = NULL;
    compose_work *w = NULL;
    grid_sample a, b;
    grid_task task;
    uint8_t *x = mem_alloc(COMPOSE_RGB_BYTES * CELLS), *y = mem_alloc(COMPOSE_RGB_BYTES * CELLS);
    int kinds[GRID_KINDS] = {0}, own = 0, blind = 0, told = 0;
    double share[GRID_KINDS];
    REQUIRE(grid_source_layouts("edit,,effect", share) == E_USAGE && grid_source_layouts("", share) == E_USAGE);
    REQUIRE_OK(grid_source_layouts("recon1,edit", share));
    REQUIRE(share[0] == 1 && share[1] == 0 && share[2] == 0 && share[3] == 1);
    snprintf(path, sizeof path, "%s/corpus", g_golden);
    grid_source_params p = {.folder = path, .seed = 3};
    REQUIRE(grid_source_open(&p, &s) == E_USAGE && !s);
    for (int i = 0; grid_layout_at(i); i++) p.weight[i] = 1;
    REQUIRE_OK(grid_source_open(&p, &s));
    REQUIRE_OK(compose_work_create(&w));
    for (uint64_t i = 0; i < DRAWN; i++) {
        REQUIRE_OK(grid_source_draw(s, i, w, x, &a));
        if (i % 10 == 0) {
            REQUIRE_OK(grid_source_draw(s, i, w, y, &b));
            REQUIRE(a.layout == b.layout && memcmp(x, y, COMPOSE_RGB_BYTES * CELLS) == 0 && strcmp(a.text[3].text, b.text[3].text) == 0);
        }
        for (int k = 0; grid_layout_at(k); k++) kinds[k] += grid_layout_at(k) == a.layout;
        for (int k = 0; k < CELLS; k++)
            for (int q = 0; q < CELLS; q++) {
                bool same = memcmp(x + COMPOSE_RGB_BYTES * (size_t)k, x + COMPOSE_RGB_BYTES * (size_t)q, COMPOSE_RGB_BYTES) == 0;
                if (q != k && a.layout->made[k] && !a.layout->made[q] && same) printf("grid %d %s: cell %d is cell %d\n", (int)i, a.layout->name, k, q);
                REQUIRE(!(q != k && a.layout->made[k] && !a.layout->made[q]) || !same);
            }
        for (int k = 0; k < CELLS; k++) REQUIRE(a.text[k].used > 5);
    }
    for (int k = 0; grid_layout_at(k); k++) REQUIRE(kinds[k] > 5);
    for (uint64_t i = 0; i < 2000; i++) {
        int n_made = 0, n_dropped = 0;
        grid_draw_task(1, i, grid_layout_find("recon3"), &task);
        for (int k = 0; k < CELLS; k++) {
            n_made += task.made[k], n_dropped += task.dropped[k];
            REQUIRE(!task.made[k] || !task.dropped[k]);
        }
        REQUIRE(n_made >= 1);
        own += n_made == 1 && task.made[3], blind += n_made < CELLS && n_dropped == CELLS - n_made, told += task.words;
    }
    REQUIRE(own > 1400 && own < 1700 && blind > 150 && blind < 320 && told > 1730 && told < 1870);
    char name[4];
    REQUIRE(grid_cell_find(2, 2, "br") == 3 && grid_cell_find(2, 3, "bm") == 4 && grid_cell_find(1, 2, "l") == 0 && grid_cell_find(1, 2, "tl") == -1 && grid_cell_find(3, 3, "tl") == -1);
    REQUIRE(strcmp(grid_cell_name(2, 3, 1, name), "tm") == 0 && strcmp(grid_cell_name(1, 3, 2, name), "r") == 0);
    compose_work_destroy(w);
    grid_source_close(s);
    mem_free(x);
    mem_free(y);
}

/* A network of its own that is trained whole, for what random weights cannot show. It tells x0. */
typedef struct learner { grid_model *m; plan *step; optimizer opt; grid_batch b; } learner;

static void learner_open(learner *l, int grids, uint32_t seed) {
    params *unet = &g_im->part[PART_UNET], *parts[2];
    grid_options o = options();
    REQUIRE_OK(engine_forget_plans(g_im));
    params_fini(unet);
    g_im->ck->unet = (unet_config){.in_channels = C, .out_channels = C, .levels = 2, .layers_per_block = 1, .block_out_channels = {32, 32},
        .attention = {true, true}, .heads = {2, 2}, .cross_attention_dim = 24, .norm_num_groups = 4, .norm_eps = 1e-5f, .use_linear_projection = true,
        .flip_sin_to_cos = true};
    g_im->ck->schedule.prediction_type = PREDICTION_SAMPLE;
    params_init(unet, g_im->dev, DT_F32);
    REQUIRE_OK(unet_declare(unet, &g_im->ck->unet, NULL));
    for (int i = 0; i < unet->n; i++) unet->p[i].trainable = true;
    REQUIRE_OK(params_allocate(unet));
    REQUIRE_OK(params_randomize(unet, seed, 0.08f));
    REQUIRE_OK(grid_model_create(g_im, &o, seed, &l->m));
    batch_of(l->m, grids, &l->b);
    graph *g = graph_create(g_im->dev);
    tensor *loss = grid_loss(l->m, g, &l->b.rows, NULL);
    parts[0] = unet, parts[1] = &l->m->ps;
    graph_output(g, loss, "loss");
    train_backward(g, loss, op_fill(g, DT_F32, SHAPE(1), 1), parts, 2, false);
    REQUIRE_OK(graph_compile(g, NULL, &l->step));
    REQUIRE_OK(optimizer_create(parts, 2, OPTIMIZER_ADAMW, false, &l->opt));
}

static void learner_close(learner *l) {
    plan_destroy(l->step);
    optimizer_destroy(&l->opt);
    grid_batch_destroy(&l->b);
    grid_model_destroy(l->m);
}

static double learn(learner *l, int64_t step, double lr) {
    float loss, norm;
    bool skipped;
    optimizer_params adam = {OPTIMIZER_DEFAULTS, .max_norm = 1, .lr = (float)lr};
    adam.weight_decay = 0;
    REQUIRE_OK(grid_batch_write(l->m, &l->b, l->step, 2, (uint64_t)(step * l->b.grids)));
    REQUIRE_OK(plan_run(l->step, NULL, NULL));
    REQUIRE_OK(plan_read(l->step, "loss", &loss));
    REQUIRE_OK(optimizer_step(&l->opt, &adam, &norm, &skipped));
    return (double)loss;
}

/* Check 6. */
static void test_by_heart(void) {
    learner l;
    double mean = 0;
    enum { STEPS = 400 };
    learner_open(&l, 4, 1);
    for (int g = 0; g < 4; g++)
        for (int i = 0; i < ALL; i++) l.b.z[g * ALL + i] = number(20, (size_t)i);
    for (int s = 0; s < STEPS; s++) {
        double loss = learn(&l, s, s < STEPS / 2 ? 4e-3 : 4e-3 * pow(0.02, (2.0 * s - STEPS) / STEPS));
        if (s >= STEPS - 20) mean += loss / 20;
        if (s % 100 == 0) printf("by heart: step %d loss %.5f\n", s, loss);
    }
    printf("by heart: loss %.6f\n", mean);
    REQUIRE(mean < 1e-3);
    grid_fill_params p = wish(g_last);
    p.prompt[3] = NULL, p.ref_guidance = 1, p.steps = 10;
    memcpy(g_z, l.b.z, sizeof g_z);
    memset(g_z + 3 * ONE, 0, sizeof *g_z * ONE);
    REQUIRE_OK(grid_fill(l.m, &p, g_z, NULL));
    double off = furthest(g_z + 3 * ONE, l.b.z + 3 * ONE, ONE);
    printf("by heart: made again, at most %.3f off\n", off);
    REQUIRE(off < 0.35); /* of values of spread 1 */
    learner_close(&l);
}

/* A subject is a colour; given cells show a patch of it somewhere, the cell to be made all of it but a patch. */
static void draw_subject(uint64_t subject, float *z) {
    rng_key key = {{5, 5}, 1};
    float colour[C];
    for (int c = 0; c < C; c++) colour[c] = rng_uniform(key, subject, (uint64_t)c) < 0.5 ? -1 : 1;
    for (int k = 0; k < CELLS; k++) {
        int x0 = (int)(rng_uniform(key, subject, (uint64_t)(10 + k)) * (H - 3)), y0 = (int)(rng_uniform(key, subject, (uint64_t)(20 + k)) * (H - 3));
        if (k == 3) x0 = y0 = 0;
        for (int i = 0; i < H * H; i++) {
            int x = i % H, y = i / H;
            bool in = x >= x0 && x < x0 + 4 && y >= y0 && y < y0 + 4;
            for (int c = 0; c < C; c++) z[k * ONE + i * C + c] = (in != (k == 3)) ? colour[c] : 0;
        }
    }
}

static double correlation(const float *a, const float *b) {
    double ab = 0, aa = 0, bb = 0;
    for (int i = 0; i < ONE; i++) ab += (double)a[i] * (double)b[i], aa += (double)a[i] * (double)a[i], bb += (double)b[i] * (double)b[i];
    return ab / sqrt(aa * bb);
}

/* Checks 7 and 8. */
static void test_subjects(void) {
    enum { STEPS = 500, GRIDS = 8, TRIALS = 12 };
    learner l;
    float a[ALL], b[ALL], made[2][ALL];
    int told = 0, copied = 0;
    double mean = 0;
    learner_open(&l, GRIDS, 2);
    for (int s = 0; s < STEPS; s++) {
        for (int g = 0; g < GRIDS; g++) draw_subject((uint64_t)(s * GRIDS + g), l.b.z + g * ALL);
        double loss = learn(&l, s, s < STEPS / 2 ? 3e-3 : 3e-3 * pow(0.05, (2.0 * s - STEPS) / STEPS));
        if (s >= STEPS - 20) mean += loss / 20;
        if (s % 100 == 0) printf("subjects: step %d loss %.4f\n", s, loss);
    }
    printf("subjects: loss %.4f\n", mean);
    grid_fill_params p = wish(g_last);
    p.prompt[3] = NULL, p.ref_guidance = 1, p.steps = 8;
    for (int k = 0, trial = 0; trial < TRIALS; k++) {
        draw_subject((uint64_t)(1000000 + 2 * k), a), draw_subject((uint64_t)(1000001 + 2 * k), b);
        if (correlation(a + 3 * ONE, b + 3 * ONE) > 0.9) continue; /* one colour */
        trial++;
        memcpy(made[0], a, sizeof a), memcpy(made[1], b, sizeof b);
        for (int i = 0; i < 2; i++) {
            const float *own = i ? b : a, *other = i ? a : b, *y = made[i] + 3 * ONE;
            memset(made[i] + 3 * ONE, 0, sizeof *a * ONE);
            REQUIRE_OK(grid_fill(l.m, &p, made[i], NULL)); /* the same noise: the given cells alone differ */
            told += correlation(y, own + 3 * ONE) > correlation(y, other + 3 * ONE) + 0.2;
            for (int r = 0; r < 3; r++) copied += correlation(y, own + r * ONE) > correlation(own + 3 * ONE, own + r * ONE) + 0.1;
        }
    }
    printf("subjects: %d of %d times the right one, %d of %d copies\n", told, 2 * TRIALS, copied, 6 * TRIALS);
    REQUIRE(told >= 2 * TRIALS - 1 && copied <= 1);
    learner_close(&l);
}

int main(int argc, char **argv) {
    REQUIRE(argc == 3);
    g_golden = argv[1], g_device = argv[2];
    setvbuf(stdout, NULL, _IOLBF, 0);
    int64_t live = mem_live();
    open_model();
    test_golden();
    test_base();
    test_geometries();
    test_extension();
    test_fill();
    test_untouched();
    test_shared_factor();
    test_file();
    test_loss();
    test_data();
    if (strcmp(g_device, "cpu") == 0) { /* training takes too long on a software driver */
        test_by_heart();
        test_subjects();
    }
    imago_close(g_im);
    REQUIRE_EQ(mem_live(), live);
    printf("grid: ok\n");
    return 0;
}
