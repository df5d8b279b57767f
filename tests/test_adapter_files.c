/* test_adapter_files.c: adapters made by PEFT (six versions), diffusers, LyCORIS and kohya's
 * scripts, on the tiny UNet: merged and as layers of their own, the answer is that of the program
 * that made them. What is broken or ambiguous is refused. Golden: tests/golden/make_adapters.py,
 * make_train.py. Leaves what it wrote in test_adapter_files_DEVICE/, for
 * tests/golden/check_adapters.py to load with PEFT and diffusers. usage: test_adapter_files
 * GOLDEN_FOLDER [device]     exit 77: no such device SPDX-License-Identifier: MIT */
#include "adapter/adapter_file.h"
#include "adapter/adapter_write.h"
#include "family/unet.h"
#include "test.h"
#include <math.h>

enum { ANSWER = 2 * 8 * 8 * 4 };

static device *g_dev;
static safetensors *g_tiny;
static const char *g_golden;
static char g_scratch[200], g_path[700];
static const struct {
    const char *maker, *name, *dialect;
} files[] = {
    {"diffusers", "diffusers-new", "diffusers-lora"},
    {"diffusers", "diffusers-old", "diffusers-lora"},
    {"diffusers", "diffusers-processor", "diffusers-lora"},
    {"made", "made-cloneofsimo", "cloneofsimo-lora"},
    {"made", "made-full", "diff"},
    {"made", "made-diag", "lycoris-oft-diag"},
    {"kohya", "kohya-lora", "kohya-lora"},
    {"kohya", "kohya-oft", "kohya-oft"},
    {"lycoris", "lycoris-oft", "lycoris-oft"},
    {"lycoris", "lycoris-oft-limited", "lycoris-oft"},
    {"lycoris", "lycoris-boft", "lycoris-boft"},
    {"lycoris", "lycoris-lora", "kohya-lora"},
    {"lycoris", "lycoris-tucker", "kohya-lora"},
    {"lycoris", "lycoris-dora", "kohya-lora"},
    {"lycoris", "lycoris-dora-columns", "kohya-lora"},
    {"lycoris", "lycoris-norm", "diff"},
    {"peft0.13.0", "peft0.13.0-oft", "peft-oft-0.7"},
    {"peft0.13.0", "peft0.13.0-coft", "peft-oft-0.7"},
    {"peft0.13.0", "peft0.13.0-boft", "peft-boft"},
    {"peft0.13.0", "peft0.13.0-butterfly", "peft-boft"},
    {"peft0.15.2", "peft0.15.2-oft", "peft-oft-0.14"},
    {"peft0.15.2", "peft0.15.2-share", "peft-oft-0.14"},
    {"peft0.17.0", "peft0.17.0-oft", "peft-oft-0.16"},
    {"peft0.17.0", "peft0.17.0-exact", "peft-oft-exact"},
    {"peft0.18.0", "peft0.18.0-oft", "peft-oft"},
    {"peft0.18.0", "peft0.18.0-exact", "peft-oft-exact"},
    {"peft0.21.2", "peft0.21.2-lora", "peft-lora"},
    {"peft0.21.2", "peft0.21.2-rslora", "peft-lora"},
    {"peft0.21.2", "peft0.21.2-pattern", "peft-lora"},
    {"peft0.21.2", "peft0.21.2-dora", "peft-lora"},
    {"peft0.21.2", "peft0.21.2-oft", "peft-oft"},
    {"peft0.21.2", "peft0.21.2-exact", "peft-oft-exact"},
    {"peft0.21.2", "peft0.21.2-terms", "peft-oft"},
    {"peft0.21.2", "peft0.21.2-share", "peft-oft"},
    {"peft0.21.2", "peft0.21.2-coft", "peft-oft-exact"},
    {"peft0.21.2", "peft0.21.2-boft", "peft-boft"},
    {"peft0.21.2", "peft0.21.2-butterfly", "peft-boft"},
};

static void load_weights(params *ps) {
    for (int i = 0; i < ps->n; i++) {
        char name[200];
        snprintf(name, sizeof name, "w.%s", ps->p[i].name);
        const safetensor *t = safetensors_find(g_tiny, name);
        REQUIRE(t && t->dtype == DT_F32);
        REQUIRE_OK(params_set(ps, ps->p[i].name, t->data, safetensor_count(t)));
    }
}

static void open_model(params *ps, const adapter_set *a) {
    params_init(ps, g_dev, DT_F32);
    REQUIRE_OK(unet_declare(ps, &unet_tiny, a));
    REQUIRE_OK(params_allocate(ps));
    if (a) REQUIRE_OK(params_allocate(a->ps));
    load_weights(ps);
}

static void ask(params *ps, const adapter_set *a, float *y) {
    plan *p = NULL;
    graph *g = graph_create(g_dev);
    nn m = {g, ps, a};
    tensor *x = graph_input(g, "x", DT_F32, SHAPE(2, 8, 8, 4)),
           *t = graph_input(g, "t", DT_F32, SHAPE(2)),
           *context = graph_input(g, "context", DT_F32, SHAPE(2, 7, 24));
    graph_output(g, unet_denoise(&m, &unet_tiny, x, t, &(unet_text){.context = context}, NULL),
                 "y");
    REQUIRE_OK(graph_compile(g, NULL, &p));
    static const char *const names[] = {"x", "t", "context"};
    for (int i = 0; i < 3; i++)
        REQUIRE_OK(plan_write(p, names[i], safetensors_find(g_tiny, names[i])->data));
    REQUIRE_OK(plan_run(p, NULL, NULL));
    REQUIRE_OK(plan_read_f32(p, "y", y));
    plan_destroy(p);
}

static double worst(const float *a, const float *b) {
    double w = 0;
    for (int i = 0; i < ANSWER; i++) w = fmax(w, fabs((double)a[i] - (double)b[i]));
    return w;
}

static void path_of(const char *name, char path[700]) {
    snprintf(path, 700, "%s/adapters/%s", g_golden, name);
    if (!os_is_folder(path)) snprintf(path, 700, "%s/adapters/%s.safetensors", g_golden, name);
}

static void check_file(const char *maker, const char *name, const char *dialect) {
    char path[700], answers[700], text[900];
    adapter_file *f = NULL;
    safetensors *s = NULL;
    params model, stacked, own;
    float y[ANSWER], base[ANSWER];
    path_of(name, path);
    snprintf(answers, sizeof answers, "%s/adapters/answers_%s.safetensors", g_golden, maker);
    REQUIRE_OK(safetensors_open(answers, &s));
    const safetensor *want = safetensors_find(s, name);
    REQUIRE(want);
    open_model(&model, NULL);
    adapter_model m = {"unet", &model};
    status st = adapter_file_open(path, &m, 1, NULL, &f);
    CHECK(st == OK, "%s: %s\n%s", name, error_message(), error_backtrace());
    if (st == OK) {
        ask(&model, NULL, base);
        adapter_file_describe(f, text, sizeof text);
        CHECK(strcmp(f->dialect, dialect) == 0, "%s is taken for %s", name, text);
        REQUIRE_OK(adapter_file_merge(f, 0, &model, 1, false));
        ask(&model, NULL, y);
        CHECK(worst(y, want->data) < 2e-5, "%s merged: off by %g", name, worst(y, want->data));
        if (strstr(name, "dora") == NULL) {
            REQUIRE_OK(adapter_file_merge(f, 0, &model, 1, true));
            ask(&model, NULL, y);
            CHECK(worst(y, base) < 2e-5, "%s merged and taken out: off by %g", name,
                  worst(y, base));
        }
        params_init(&own, g_dev, DT_F32);
        adapter_set set = adapter_file_set(f, 0, &own);
        open_model(&stacked, &set);
        st = adapter_file_fill(f, 0, &own);
        bool deltas = f->part[0].n_deltas > 0;
        CHECK(st == (deltas ? E_UNSUPPORTED : OK), "%s as layers of its own: %s", name,
              st ? error_message() : "accepted, with biases lost");
        if (!deltas) {
            ask(&stacked, &set, y);
            CHECK(worst(y, want->data) < 2e-5, "%s as layers of its own: off by %g", name,
                  worst(y, want->data));
        }
        params_fini(&stacked);
        params_fini(&own);
    }
    adapter_file_close(f);
    params_fini(&model);
    safetensors_close(s);
}

/* ---- writing ---- */

static const char *const targets[] = {"to_q", "to_v", "to_out.0", "proj_in", "conv1", NULL};
static const char *const linear[] = {"to_q", "to_v", NULL};

static const struct written {
    const char *label, *adapter;
    adapter_options o;
    const char *const *targets;
    unsigned formats;
} written[] = {
    {"lora",
     "lora",
     {.rank = 3, .alpha = 6},
     targets,
     1u << ADAPTER_PEFT | 1u << ADAPTER_KOHYA | 1u << ADAPTER_DIFFUSERS},
    {"rslora",
     "lora",
     {.rank = 4, .alpha = 2, .rslora = true},
     targets,
     1u << ADAPTER_PEFT | 1u << ADAPTER_KOHYA | 1u << ADAPTER_DIFFUSERS},
    {"dora",
     "lora",
     {.rank = 2, .alpha = 2, .dora = true},
     targets,
     1u << ADAPTER_PEFT | 1u << ADAPTER_KOHYA},
    {"dora_columns",
     "lora",
     {.rank = 2, .alpha = 2, .dora = true, .dora_columns = true},
     targets,
     1u << ADAPTER_KOHYA},
    {"oft", "oft", {.block = 8}, targets, 1u << ADAPTER_PEFT | 1u << ADAPTER_KOHYA},
    {"oft_share",
     "oft",
     {.block = 8, .share = true},
     linear,
     1u << ADAPTER_PEFT | 1u << ADAPTER_KOHYA},
    {"oft_output",
     "oft",
     {.block = 4, .output_side = true, .row_scale = true},
     targets,
     1u << ADAPTER_KOHYA},
    {"coft", "coft", {.block = 8, .eps = 1}, targets, 1u << ADAPTER_PEFT | 1u << ADAPTER_KOHYA},
    {"neumann", "oft_neumann", {.block = 8}, targets, 1u << ADAPTER_PEFT | 1u << ADAPTER_KOHYA},
    {"neumann6", "oft_neumann", {.block = 8, .terms = 6}, targets, 1u << ADAPTER_PEFT},
    {"neumann_old", "oft_neumann", {.block = 8, .old_series = true}, targets, 0},
    {"boft",
     "boft",
     {.block = 4, .row_scale = true},
     targets,
     1u << ADAPTER_PEFT | 1u << ADAPTER_KOHYA},
    {"boft2",
     "boft",
     {.block = 4, .factors = 2},
     targets,
     1u << ADAPTER_PEFT | 1u << ADAPTER_KOHYA},
    {"diff", "diff", {0}, linear, 1u << ADAPTER_KOHYA},
};

static void set_noise(params *ps) {
    for (int i = 0; i < ps->n; i++) {
        static float v[1 << 16];
        int64_t n = shape_count(&ps->p[i].s);
        REQUIRE(n <= (int64_t)ARRAY_LEN(v));
        REQUIRE_OK(params_get(ps, ps->p[i].name, v, n));
        for (int64_t k = 0; k < n; k++)
            v[k] += 0.1f *
                    (float)rng_normal((rng_key){{3, 0}, rng_stream(ps->p[i].name)}, 0, (uint64_t)k);
        REQUIRE_OK(params_set(ps, ps->p[i].name, v, n));
    }
}

/* What path, read back, makes the network answer. */
static void ask_file(const char *path, const char *dialect, float *y) {
    params model;
    adapter_file *f = NULL;
    open_model(&model, NULL);
    adapter_model m = {"unet", &model};
    REQUIRE_OK(adapter_file_open(path, &m, 1, dialect, &f));
    REQUIRE_OK(adapter_file_merge(f, 0, &model, 1, false));
    ask(&model, NULL, y);
    adapter_file_close(f);
    params_fini(&model);
}

static void check_written(const struct written *c, const safetensor_note *about,
                          safetensor *answer) {
    static float want[ARRAY_LEN(written)][ANSWER];
    float y[ANSWER];
    params model, own;
    params_init(&own, g_dev, DT_F32);
    adapter_set set = {
        .info = adapter_find(c->adapter), .targets = c->targets, .opts = c->o, .ps = &own};
    open_model(&model, &set);
    REQUIRE_OK(adapter_init_all(&set, &model, 1));
    set_noise(&own);
    float *mine = want[c - written];
    ask(&model, &set, mine);
    *answer = (safetensor){
        .name = c->label, .dtype = DT_F32, .n_dims = 4, .dim = {2, 8, 8, 4}, .data = mine};
    adapter_source source = {"unet", &set, &model};
    adapter_write_params over = {.source = &source,
                                 .n_sources = 1,
                                 .format = ADAPTER_PEFT,
                                 .type = DT_F32}; /* a folder of the user's */
    status refused = adapter_write(g_scratch, &over, NULL);
    CHECK(refused == (c->formats >> ADAPTER_PEFT & 1u ? E_USAGE : E_UNSUPPORTED) &&
              os_is_folder(g_scratch),
          "%s written over a folder: %s", c->label, status_name(refused));
    for (int format = 0; format < ADAPTER_FORMAT_COUNT; format++) {
        char path[700];
        double kept = 0;
        bool any = format == ADAPTER_DIFF || format == ADAPTER_SVD,
             can = any || (c->formats >> format & 1u);
        snprintf(path, sizeof path, "%s/%s_%s%s", g_scratch,
                 adapter_format_name((adapter_format)format), c->label,
                 format == ADAPTER_PEFT ? "" : ".safetensors");
        adapter_write_params p = {.source = &source,
                                  .n_sources = 1,
                                  .format = (adapter_format)format,
                                  .type = DT_F32,
                                  .svd_rank = 512,
                                  .notes = about,
                                  .n_notes = 1};
        for (int twice = 0; twice < 2; twice++) { /* the second replaces the first */
            status st = adapter_write(path, &p, &kept);
            CHECK(st == (can ? OK : E_UNSUPPORTED), "%s: %s %s", path, status_name(st),
                  st ? error_message() : "written");
        }
        if (!can) continue;
        CHECK(kept > 0.9999999, "%s keeps %.9f", path, kept);
        ask_file(path, NULL, y);
        CHECK(worst(y, mine) < 2e-5, "%s read back: off by %g", path, worst(y, mine));
        if (format != ADAPTER_SVD) continue;
        double before = 1e9;
        for (p.svd_rank = 1; p.svd_rank <= 8; p.svd_rank *= 2) {
            REQUIRE_OK(adapter_write(path, &p, &kept));
            CHECK(kept > 0 && kept < 1.0000001 && (1 - kept) <= before, "%s of rank %d keeps %g",
                  path, p.svd_rank, kept);
            before = 1 - kept;
        }
    }
    params_fini(&model);
    params_fini(&own);
}

/* The best approximation of diag(5, 3, 1) in turned axes: 25/35, 34/35, 1 of the energy. */
static void check_factor(void) {
    enum { O = 20, C = 30 };
    float d[O * C] = {0}, up[O * 3], down[3 * C], u[3][O], v[3][C];
    static const float size[] = {5, 3, 1};
    for (int k = 0; k < 3; k++) {
        for (int i = 0; i < O; i++)
            u[k][i] = (float)(cos(acos(-1.0) * (i + 0.5) * (k + 1) / O) *
                              sqrt(2.0 / O)); /* orthonormal cosines */
        for (int i = 0; i < C; i++)
            v[k][i] = (float)(cos(acos(-1.0) * (i + 0.5) * (k + 2) / C) * sqrt(2.0 / C));
        for (int i = 0; i < O * C; i++) d[i] += size[k] * u[k][i / C] * v[k][i % C];
    }
    for (int r = 1; r <= 3; r++) {
        double kept = 0, off = 0;
        REQUIRE_OK(adapter_factor(O, C, r, d, up, down, &kept));
        for (int i = 0; i < O * C; i++) {
            double want = 0, got = 0;
            for (int k = 0; k < r; k++)
                want += (double)size[k] * (double)u[k][i / C] * (double)v[k][i % C],
                    got += (double)up[i / C * r + k] * (double)down[k * C + i % C];
            off = fmax(off, fabs(want - got));
        }
        static const double energy[] = {25.0 / 35, 34.0 / 35, 1};
        CHECK(off < 1e-5 && fabs(kept - energy[r - 1]) < 1e-6, "rank %d: off by %g, keeps %g", r,
              off, kept);
    }
}

static void check_writing(void) {
    char path[700];
    safetensor answer[ARRAY_LEN(written)];
    const safetensor_note about = {"modelspec.title", "a test"};
    check_factor();
    for (size_t i = 0; i < ARRAY_LEN(written); i++) check_written(&written[i], &about, &answer[i]);
    snprintf(path, sizeof path, "%s/answers.safetensors", g_scratch);
    REQUIRE_OK(safetensors_write(path, answer, ARRAY_LEN(written), NULL, 0));
    safetensors *f = NULL;
    snprintf(path, sizeof path, "%s/kohya_lora.safetensors", g_scratch);
    REQUIRE_OK(safetensors_open(path, &f));
    CHECK(strcmp(safetensors_find_note(f, "modelspec.title"), "a test") == 0 &&
              strcmp(safetensors_find_note(f, "ss_network_dim"), "3") == 0,
          "metadata are missing");
    safetensors_close(f);
}

/* ---- what must be refused ---- */

static params g_model;

static void refuse(const char *path, const char *dialect, status want, const char *says) {
    adapter_file *f = NULL;
    adapter_model m = {"unet", &g_model};
    status st = adapter_file_open(path, &m, 1, dialect, &f);
    CHECK(st == want, "%s: %s, expected %s (%s)", path, status_name(st), status_name(want),
          st ? error_message() : "accepted");
    CHECK(st == OK || strstr(error_message(), says), "%s: the message '%s' does not say '%s'", path,
          error_message(), says);
    adapter_file_close(f);
}

/* A file with these tensors. */
static const char *write_file(const char *name, const safetensor *t, int64_t n) {
    static char path[700];
    snprintf(path, sizeof path, "%s/%s.safetensors", g_scratch, name);
    REQUIRE_OK(safetensors_write(path, t, n, NULL, 0));
    return path;
}

static void check_refusals(void) {
    static float v[4096];
    static const char down[] = "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight",
                      up[] = "lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight";
    open_model(&g_model, NULL);
    for (size_t i = 0; i < ARRAY_LEN(v); i++) v[i] = 0.01f;
    safetensor pair[] = {
        {.name = down, .dtype = DT_F32, .n_dims = 4, .dim = {2, 16, 1, 1}, .data = v},
        {.name = up, .dtype = DT_F32, .n_dims = 4, .dim = {16, 2, 1, 1}, .data = v}};
    refuse(write_file("good", pair, 2), NULL, OK, "");
    refuse(write_file("half", pair, 1), NULL, E_FORMAT, "down_blocks.0.attentions.0.proj_in");
    pair[0].dim[1] = 12;
    refuse(write_file("narrow", pair, 2), NULL, E_SHAPE, "another model");
    pair[0].dim[1] = 16, pair[1].dim[1] = 3;
    refuse(write_file("ranks", pair, 2), NULL, E_SHAPE, "another model");
    pair[1].dim[1] = 2,
    pair[1].name = "lora_unet_down_blocks_7_attentions_0_proj_in.lora_up.weight";
    refuse(write_file("layer", pair, 2), NULL, E_FORMAT, "down_blocks_7");
    v[5] = NAN;
    pair[1].name = up;
    refuse(write_file("nan", pair, 2), NULL, E_FORMAT, "NaN");
    v[5] = 0.01f;
    pair[1].name = "something.else";
    refuse(write_file("other", pair, 2), NULL, E_FORMAT, "something.else");
    pair[1].name = "lora_unet_down_blocks_0_attentions_0_proj_in.hada_w1_a";
    refuse(write_file("loha", pair, 2), NULL, E_UNSUPPORTED, "LoHa");
    safetensor te[] = {{.name = "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha",
                        .dtype = DT_F32,
                        .n_dims = 0,
                        .data = v}};
    refuse(write_file("text", te, 1), NULL, E_FORMAT, "no adapter for this model");
    safetensor triangle[] = {{.name = "base_model.model.down_blocks.0.attentions.0.transformer_"
                                      "blocks.0.attn1.to_q.oft_R.weight",
                              .dtype = DT_F32,
                              .n_dims = 2,
                              .dim = {2, 28},
                              .data = v}};
    const char *path = write_file("triangle", triangle, 1);
    refuse(path, NULL, E_USAGE, "peft-oft-exact");
    refuse(path, "peft-oft", OK, "");
    refuse(path, "peft-oft-exact", OK, "");
    refuse(path, "kohya", E_USAGE, "peft-oft-exact");
    triangle[0].dim[1] = 27;
    refuse(write_file("crooked", triangle, 1), "peft-oft", E_SHAPE, "another model");
    safetensor bare[] = {{.name = "base_model.model.down_blocks.0.attentions.0.transformer_blocks."
                                  "0.attn1.to_q.lora_A.weight",
                          .dtype = DT_F32,
                          .n_dims = 2,
                          .dim = {2, 16},
                          .data = v},
                         {.name = "base_model.model.down_blocks.0.attentions.0.transformer_blocks."
                                  "0.attn1.to_q.lora_B.weight",
                          .dtype = DT_F32,
                          .n_dims = 2,
                          .dim = {16, 2},
                          .data = v}};
    path = write_file("bare", bare, 2);
    refuse(path, NULL, E_USAGE, "lora_alpha");
    refuse(path, "peft-lora", OK, "");
    safetensor blocks[] = {{.name = "lora_unet_down_blocks_0_attentions_0_proj_in.oft_blocks",
                            .dtype = DT_F32,
                            .n_dims = 4,
                            .dim = {2, 2, 4, 4},
                            .data = v}};
    refuse(write_file("blocks", blocks, 1), NULL, E_SHAPE, "another model");
    refuse("/nowhere/adapter.safetensors", NULL, E_IO, "nowhere");
    /* every allocation and read may fail */
    path_of("peft0.21.2-dora", g_path);
    for (int64_t n = 1;; n++) {
        adapter_file *f = NULL;
        adapter_model m = {"unet", &g_model};
        int64_t live = mem_live();
        fault_arm(n);
        status st = adapter_file_open(g_path, &m, 1, NULL, &f);
        bool hit = fault_count() >= n;
        fault_arm(0);
        CHECK(st == OK || hit, "step %lld: %s without a fault", (long long)n, error_message());
        adapter_file_close(f);
        CHECK(mem_live() == live, "step %lld leaks %lld blocks", (long long)n,
              (long long)(mem_live() - live));
        if (!hit) break;
    }
    params_fini(&g_model);
}

int main(int argc, char **argv) {
    const char *name = argc > 2 ? argv[2] : "cpu";
    char path[700];
    if (argc < 2) return printf("usage: test_adapter_files GOLDEN_FOLDER [device]\n"), 2;
    if (device_open(&op_all, &(device_params){.name = name, .validation = TEST_VALIDATION},
                    &g_dev) != OK)
        return printf("skipped: %s\n", error_message()), 77;
    g_golden = argv[1];
    snprintf(path, sizeof path, "%s/train_tiny.safetensors", g_golden);
    snprintf(g_scratch, sizeof g_scratch, "test_adapter_files_%s", name);
    REQUIRE_OK(os_mkdir_p(g_scratch));
    REQUIRE_OK(safetensors_open(path, &g_tiny));
    for (size_t i = 0; i < ARRAY_LEN(files); i++)
        check_file(files[i].maker, files[i].name, files[i].dialect);
    check_writing();
    check_refusals();
    safetensors_close(g_tiny);
    CHECK(device_validation_errors(g_dev) == 0, "the validation layer has complaints");
    device_close(g_dev);
    CHECK(mem_live() == 0, "%lld blocks leaked", (long long)mem_live());
    printf("%s\n", g_failures ? "failed" : "adapter files: ok");
    return g_failures ? 1 : 0;
}
