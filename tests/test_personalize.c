/* test_personalize.c: personalizing a network of random weights: every adapter lowers the loss, and
 * its file, loaded as users load it, changes pictures; a run that is stopped and goes on gives the
 * bytes of one that is not (on cpu); the order of pictures; what is refused, and what NaN leaves
 * behind. usage: test_personalize GOLDEN_DIR DEVICE     exit 77: no such device
 * SPDX-License-Identifier: MIT */
#include "engine/personalize.h"
#include "test.h"
#include <math.h>

static const char *g_golden, *g_device;
static char g_model[1024]; /* one thread: these networks are too small for more */
#define DIR "test_personalize.dir"

static void write_text(const char *path, const char *text) {
    REQUIRE_OK(file_write_atomic(path, text, strlen(text)));
}

/* A disc of some colour, not square. */
static void draw(const char *path, int w, int h, int red) {
    image im;
    REQUIRE_OK(image_create(w, h, 3, &im));
    for (int i = 0; i < w * h; i++) {
        int x = i % w - w / 2, y = i / w - h / 2;
        bool in = x * x + y * y < h * h / 9;
        im.px[3 * i] = (uint8_t)(in ? red : 240), im.px[3 * i + 1] = (uint8_t)(in ? 60 : 240),
                  im.px[3 * i + 2] = (uint8_t)(x + 100);
    }
    REQUIRE_OK(image_save_png(path, &im, NULL, 0));
    image_free(&im);
}

static void make_pictures(void) {
    char path[1100];
    uint8_t *data;
    size_t bytes;
    REQUIRE_OK(os_mkdir_p(DIR "/photos"));
    snprintf(path, sizeof path, "%s/pipelines/init.png", g_golden);
    REQUIRE_OK(file_read(path, (size_t)1 << 24, &data, &bytes));
    REQUIRE_OK(file_write_atomic(DIR "/photos/a.PNG", data, bytes));
    mem_free(data);
    draw(DIR "/photos/b.png", 80, 48, 200);
    draw(DIR "/photos/c.png", 40, 70, 20);
    write_text(DIR "/photos/b.txt", "  a sks disc\nin red \n");
}

static bool never(void *ctx) {
    (void)ctx;
    return false;
}

static personalize_params wish(const char *adapter, const char *out) {
    return (personalize_params){
        .open = {.model = g_model, .device = g_device, .precision = "f32", .threads = 1},
        .pictures = DIR "/photos",
        .token = "sks",
        .class_word = "disc",
        .adapter = adapter,
        .options = {.rank = strcmp(adapter, "lora") ? 0 : 4,
                    .block = 4,
                    .factors = strcmp(adapter, "boft") ? 0 : 2},
        .out = out,
        .side = 32,
        .flip = true,
        .run = {.batch = 4,
                .accumulate = 2,
                .seed = 3,
                .log_every = 1,
                .cancelled = never,
                .lr = {.kind = LR_CONSTANT, .lr = 1e-2, .steps = 6},
                .adam = {OPTIMIZER_DEFAULTS, .max_norm = 1}}};
}

/* Mean of "loss" over lines [from, to) of a log. */
static double mean_loss(const char *path, int from, int to) {
    uint8_t *data;
    size_t bytes;
    double sum = 0;
    int line = 0;
    REQUIRE_OK(file_read(path, (size_t)1 << 22, &data, &bytes));
    for (const char *p = (const char *)data; (p = strstr(p, "\"loss\":")); p++, line++)
        if (line >= from && line < to) sum += strtod(p + 7, NULL);
    REQUIRE(line >= to);
    mem_free(data);
    return sum / (to - from);
}

static void picture_of_model(const char *adapter, uint8_t rgb[32 * 32 * 3]) {
    imago *im = NULL;
    imago_picture *pic = NULL;
    REQUIRE_OK((status)imago_open(&IMAGO_OPEN(.model = g_model, .device = g_device,
                                              .precision = "f32", .threads = 1,
                                              .adapters = &adapter, .n_adapters = adapter ? 1 : 0),
                                  &im));
    REQUIRE_OK((status)imago_generate(
        im, &IMAGO_GENERATE(.prompt = "a photo of sks disc", .width = 32, .height = 32, .steps = 4),
        &pic));
    memcpy(rgb, pic->rgb, 32 * 32 * 3);
    imago_free_pictures(pic, 1);
    imago_close(im);
}

static int differing(const uint8_t *a, const uint8_t *b) {
    int n = 0;
    for (int i = 0; i < 32 * 32 * 3; i++) n += abs(a[i] - b[i]) > 1;
    return n;
}

static void learns(const char *model, const char *adapter, double fall) {
    enum { STEPS = 50 };
    static uint8_t plain[32 * 32 * 3], adapted[32 * 32 * 3], undone[32 * 32 * 3];
    char out[200], log[200], with[220];
    snprintf(g_model, sizeof g_model, "%s/pipelines/%s", g_golden, model);
    snprintf(out, sizeof out, DIR "/%s-%s.safetensors", model, adapter);
    snprintf(log, sizeof log, DIR "/%s-%s.run/train.log", model, adapter);
    personalize_params p = wish(adapter, out);
    p.run.lr.steps = STEPS;
    p.run.log_every = 10; /* a line is the mean of ten */
    p.run.batch = 8;
    REQUIRE_OK(personalize(&p));
    double first = mean_loss(log, 0, 1), last = mean_loss(log, STEPS / 10 - 1, STEPS / 10);
    picture_of_model(NULL, plain);
    picture_of_model(out, adapted);
    snprintf(with, sizeof with, "%s:0", out);
    picture_of_model(with, undone);
    printf("%s %-6s loss %.4f -> %.4f, %d values of the picture change\n", model, adapter, first,
           last, differing(plain, adapted));
    REQUIRE(last < fall * first);
    REQUIRE(differing(plain, adapted) > 100 && differing(plain, undone) == 0);
}

/* ---- stopping ---- */
static int g_lines; /* stop once the log has so many; 0 = never */
static bool stop(void *ctx) {
    uint8_t *data;
    size_t bytes;
    int n = 0;
    if (!g_lines || !os_file_exists(ctx) || file_read(ctx, (size_t)1 << 20, &data, &bytes) != OK)
        return false;
    for (size_t i = 0; i < bytes; i++) n += data[i] == '\n';
    mem_free(data);
    return n >= g_lines;
}

static void same_file(const char *a, const char *b) {
    uint8_t *x, *y;
    size_t nx, ny;
    REQUIRE_OK(file_read(a, (size_t)1 << 26, &x, &nx));
    REQUIRE_OK(file_read(b, (size_t)1 << 26, &y, &ny));
    REQUIRE_EQ(nx, ny);
    REQUIRE(memcmp(x, y, nx) == 0);
    mem_free(x);
    mem_free(y);
}

static void resumes(const char *adapter) {
    personalize_params p = wish(adapter, DIR "/whole/x.safetensors");
    p.run.adam.average_decay = 0.5f;
    p.run.checkpointing = true;
    p.snr_gamma = 5;
    REQUIRE_OK(os_mkdir_p(DIR "/whole"));
    REQUIRE_OK(os_mkdir_p(DIR "/parts"));
    p.overwrite = true; /* of the adapter before: another run */
    REQUIRE_OK(personalize(&p));
    p.overwrite = strcmp(adapter, "lora") != 0;
    p.out = DIR "/parts/x.safetensors";
    p.run.cancelled = stop;
    p.run.ctx = DIR "/parts/x.run/train.log";
    for (g_lines = 2; g_lines <= 4; g_lines += 2) {
        REQUIRE(personalize(&p) == E_CANCELLED);
        REQUIRE(os_file_exists(DIR "/parts/x.run/state.safetensors"));
    }
    g_lines = 0;
    REQUIRE_OK(personalize(&p));
    REQUIRE(mean_loss(DIR "/parts/x.run/train.log", 5, 6) > 0); /* six lines, none twice */
    if (strcmp(g_device, "cpu") == 0) {
        same_file(DIR "/whole/x.safetensors", DIR "/parts/x.safetensors");
        same_file(DIR "/whole/x.run/state.safetensors", DIR "/parts/x.run/state.safetensors");
    }
}

static void starts_anew(void) {
    personalize_params p = wish("lora", DIR "/whole/x.safetensors");
    uint8_t *before, *data;
    size_t bytes;
    REQUIRE(personalize(&p) == E_USAGE && strstr(error_message(), "--overwrite"));
    p.out = DIR "/again.safetensors";
    REQUIRE_OK(personalize(&p));
    REQUIRE_OK(file_read(p.out, (size_t)1 << 26, &before, &bytes));
    p.overwrite = true; /* done already: all of it again, with the same result */
    REQUIRE_OK(personalize(&p));
    REQUIRE_OK(file_read(p.out, (size_t)1 << 26, &data, &bytes));
    if (strcmp(g_device, "cpu") == 0) REQUIRE(memcmp(before, data, bytes) == 0);
    mem_free(before);
    mem_free(data);
    REQUIRE(remove(p.out) == 0);
    p.overwrite = false;
    p.run.seed = 4;
    REQUIRE(personalize(&p) == E_USAGE && strstr(error_message(), "other settings"));
    p.overwrite = true;
    REQUIRE_OK(personalize(&p));
}

static void sheets_and_half(void) {
    personalize_params p = wish("coft", DIR "/half.safetensors");
    image im;
    p.open.precision = "bf16";
    p.options.eps = 0.1f;
    p.run.sheet_every = 4;
    REQUIRE_OK(personalize(&p));
    REQUIRE_OK(image_load(DIR "/half.run/sheet-0000004.png", &im));
    REQUIRE(im.w == 3 * 34 - 2 && im.h == 2 * 34 - 2);
    image_free(&im);
    REQUIRE(os_file_exists(DIR "/half.run/curve.png") &&
            os_file_exists(DIR "/half.run/sheet-0000006.png"));
}

/* An eps network: a gamma above every SNR changes no weight; below every SNR the loss is
 * proportional to it. */
static void min_snr(void) {
    static const double gamma[] = {0, 1e9, 1e-4, 2e-4};
    double loss[4];
    for (int i = 0; i < 4; i++) {
        char out[64], log[64];
        snprintf(out, sizeof out, DIR "/gamma%d.safetensors", i);
        snprintf(log, sizeof log, DIR "/gamma%d.run/train.log", i);
        personalize_params p = wish("lora", out);
        p.snr_gamma = gamma[i];
        p.run.lr.steps = 1;
        REQUIRE_OK(personalize(&p));
        loss[i] = mean_loss(log, 0, 1); /* before any update */
    }
    REQUIRE(loss[0] > 0 && loss[0] == loss[1] && loss[2] < 0.5 * loss[0]);
    REQUIRE(fabs(loss[3] / loss[2] - 2) < 1e-4);
}

/* The first loss of one sample, put together here from its parts: eps for sd1, v for sd2. */
static double first_loss(const char *picture, uint32_t seed) {
    enum { SIDE = 32, MOST = 16 * 16 * 8 };
    static float px[SIDE * SIDE * 3], x0[MOST], x[MOST], noise[MOST], y[MOST];
    imago *im = NULL;
    float *context = NULL, t;
    int entries, tokens;
    plan *p = NULL;
    REQUIRE_OK((status)imago_open(
        &IMAGO_OPEN(.model = g_model, .device = g_device, .precision = "f32", .threads = 1), &im));
    int h = SIDE / latent_factor(im), c = im->ck->vae.latent_channels, n = h * h * c;
    REQUIRE(n <= MOST);
    REQUIRE_OK(instance_load(&(instance){.path = picture}, SIDE, SIDE, false, px));
    REQUIRE_OK(vae_encode_pixels(im, px, SIDE, SIDE, NULL, x0));
    REQUIRE_OK(text_features(im, &(text_params){.prompt = "a photo of sks disc", .plain = true},
                             &context, &entries, &tokens));
    t = (float)floor(1000 * rng_uniform((rng_key){{seed, 0}, rng_stream("timesteps")}, 0, 0));
    double *abar = mem_alloc(1000 * sizeof *abar);
    REQUIRE_OK(schedule_alphas_cumprod(&im->ck->schedule, abar));
    double alpha = sqrt(abar[(int)t]), sigma = sqrt(1 - abar[(int)t]), sum = 0;
    for (int i = 0; i < n; i++) {
        noise[i] = (float)rng_normal((rng_key){{seed, 0}, rng_stream("noise")}, 0, (uint64_t)i);
        x[i] = (float)(alpha * (double)x0[i] + sigma * (double)noise[i]);
    }
    graph *g = graph_create(im->dev);
    nn m = {g, &im->part[PART_UNET], NULL};
    unet_text text = {
        .context = graph_input(g, "context", DT_F32, SHAPE(1, tokens, im->ck->text.hidden_size))};
    graph_output(g,
                 unet_denoise(&m, &im->ck->unet, graph_input(g, "x", DT_F32, SHAPE(1, h, h, c)),
                              graph_input(g, "t", DT_F32, SHAPE(1)), &text, NULL),
                 "y");
    REQUIRE_OK(graph_compile(g, NULL, &p));
    REQUIRE_OK(plan_write(p, "context", context));
    REQUIRE_OK(plan_write(p, "x", x));
    REQUIRE_OK(plan_write(p, "t", &t));
    REQUIRE_OK(plan_run(p, NULL, NULL));
    REQUIRE_OK(plan_read(p, "y", y));
    bool v = im->ck->schedule.prediction_type == PREDICTION_V;
    for (int i = 0; i < n; i++)
        sum += pow((double)y[i] -
                       (v ? alpha * (double)noise[i] - sigma * (double)x0[i] : (double)noise[i]),
                   2);
    plan_destroy(p);
    mem_free(abar);
    mem_free(context);
    imago_close(im);
    return sum / n;
}

static void targets(const char *model) {
    char out[64], log[64];
    snprintf(g_model, sizeof g_model, "%s/pipelines/%s", g_golden, model);
    snprintf(out, sizeof out, DIR "/target-%s.safetensors", model);
    snprintf(log, sizeof log, DIR "/target-%s.run/train.log", model);
    personalize_params p = wish("lora", out);
    REQUIRE_OK(os_mkdir_p(DIR "/one"));
    draw(DIR "/one/a.png", 32, 32, 90);
    p.pictures = DIR "/one", p.flip = false, p.run.batch = p.run.accumulate = 1, p.run.lr.steps = 1;
    REQUIRE_OK(personalize(&p));
    double want = first_loss(DIR "/one/a.png", p.run.seed), seen = mean_loss(log, 0, 1);
    printf("%s first loss %.6f, expected %.6f\n", model, seen, want);
    REQUIRE(fabs(seen - want) < 1e-4 * want);
}

static void order(void) {
    int seen[3][7] = {{0}}, same = 0;
    for (uint64_t s = 0; s < 21; s++) seen[s / 7][instance_of(9, s, 7)]++;
    for (int i = 0; i < 21; i++) REQUIRE_EQ(seen[i / 7][i % 7], 1);
    for (uint64_t s = 0; s < 7; s++) same += instance_of(9, s, 7) == instance_of(9, s + 7, 7);
    REQUIRE(same < 7);
}

/* ---- masks, classes, words, shapes ---- */

/* A mask of one value scales the loss by it, and half a mask counts only its half. */
static void masks(void) {
    double loss[3];
    personalize_params p = wish("lora", DIR "/mask.safetensors");
    REQUIRE_OK(os_mkdir_p(DIR "/masked"));
    draw(DIR "/masked/a.png", 32, 32, 90);
    p.pictures = DIR "/masked", p.flip = false, p.run.lr.steps = 1, p.overwrite = true;
    for (int i = 0; i < 3; i++) {
        image im;
        REQUIRE_OK(image_create(32, 32, 1, &im));
        for (int k = 0; k < 32 * 32; k++)
            im.px[k] = (uint8_t)(i == 0 ? 255 : i == 1 ? 51 : k % 32 < 16 ? 255 : 0);
        REQUIRE_OK(image_save_png(DIR "/masked/a.mask.png", &im, NULL, 0));
        image_free(&im);
        REQUIRE_OK(personalize(&p));
        loss[i] = mean_loss(DIR "/mask.run/train.log", 0, 1);
    }
    REQUIRE(remove(DIR "/masked/a.mask.png") == 0);
    REQUIRE_OK(personalize(&p)); /* none: as all white */
    REQUIRE(mean_loss(DIR "/mask.run/train.log", 0, 1) == loss[0]);
    REQUIRE(fabs(loss[1] / loss[0] - 0.2) < 1e-3 && loss[2] > 0.2 * loss[0] &&
            loss[2] < 0.8 * loss[0]);
}

static void no_picture_is_a_mask(void) {
    instance_set s;
    float m[4];
    REQUIRE_OK(os_mkdir_p(DIR "/m"));
    draw(DIR "/m/x.png", 40, 20, 1);
    draw(DIR "/m/x.mask.png", 40, 20, 255);
    REQUIRE_OK(instances_open(DIR "/m", "p", &s));
    REQUIRE(s.n == 1 && strcmp(s.it[0].name, "x.png") == 0 && strstr(s.it[0].mask, "x.mask.png"));
    REQUIRE_OK(instance_load_mask(&s.it[0], 2, 2, false, m));
    instances_close(&s);
    draw(DIR "/m/x.mask.png", 20, 40, 255);
    REQUIRE_OK(instances_open(DIR "/m", "p", &s));
    REQUIRE(instance_load_mask(&s.it[0], 2, 2, false, m) == E_SHAPE &&
            strstr(error_message(), "20x40"));
    instances_close(&s);
    draw(DIR "/m/y.mask.png", 40, 20, 1);
    REQUIRE(instances_open(DIR "/m", "p", &s) == E_FORMAT &&
            strstr(error_message(), "without a picture"));
}

static double file_sum(const char *path) {
    uint8_t *data;
    size_t bytes;
    double sum = 0;
    REQUIRE_OK(file_read(path, (size_t)1 << 24, &data, &bytes));
    for (size_t i = 0; i < bytes; i++) sum = fmod(sum * 31 + data[i], 1e9 + 7);
    mem_free(data);
    return sum;
}

/* The class's pictures are drawn once and used again; without weight they change no loss of the
 * subject, with weight they add theirs. */
static void classes(void) {
    static const char one[] = DIR "/class.run/class/class-0002.png";
    personalize_params p = wish("lora", DIR "/class.safetensors");
    double loss[3];
    p.run.lr.steps = 1, p.overwrite = true, p.run.accumulate = 1;
    REQUIRE_OK(personalize(&p));
    loss[0] = mean_loss(DIR "/class.run/train.log", 0, 1);
    p.class_images = 5;
    for (int i = 1; i < 3; i++) {
        p.prior_weight = i - 1;
        REQUIRE_OK(personalize(&p));
        loss[i] = mean_loss(DIR "/class.run/train.log", 0, 1);
    }
    REQUIRE(fabs(loss[1] / loss[0] - 1) < 1e-5 && loss[2] > 1.1 * loss[1]);
    double drawn = file_sum(one);
    draw(one, 32, 32, 77); /* kept as it is: it was made with the same words */
    double ours = file_sum(one);
    REQUIRE_OK(personalize(&p));
    REQUIRE(file_sum(one) == ours && ours != drawn);
    p.class_word = "square"; /* other words: drawn anew */
    REQUIRE_OK(personalize(&p));
    REQUIRE(file_sum(one) != ours && file_sum(one) != drawn);
    p.class_word = "", p.out = DIR "/classless.safetensors";
    REQUIRE(personalize(&p) == E_USAGE && strstr(error_message(), "--class"));
}

/* Everything at once, stopped and gone on, gives the bytes of a run that was not. */
static personalize_params wish_all(const char *out) {
    personalize_params p = wish("lora", out);
    p.token = "<disc>", p.init_word = "cat", p.vectors = 2, p.embedding_lr = 1e-2;
    p.train_text = true, p.class_images = 3, p.prior_weight = 0.5, p.noise_offset = 0.1;
    p.buckets = true, p.run.batch = 2, p.run.probe_every = 2, p.run.keep_every = 3;
    p.run.adam.average_decay = 0.5f;
    p.run.adam.kind = OPTIMIZER_PRODIGY, p.run.lr.lr = 1, p.run.adam.weight_decay = 0;
    p.text_lr = 1, p.embedding_lr = 1, p.run.lr.steps = 24;
    return p;
}

static void all_of_it(void) {
    imago *im = NULL;
    static uint8_t plain[32 * 32 * 3], adapted[32 * 32 * 3];
    REQUIRE_OK(os_mkdir_p(DIR "/all"));
    REQUIRE_OK(os_mkdir_p(DIR "/all2"));
    personalize_params p = wish_all(DIR "/all/x.safetensors");
    REQUIRE_OK(personalize(&p));
    p.out = DIR "/all2/x.safetensors", p.run.cancelled = stop,
    p.run.ctx = DIR "/all2/x.run/train.log";
    g_lines = 20; /* probes write lines too */
    REQUIRE(personalize(&p) == E_CANCELLED);
    g_lines = 0;
    REQUIRE_OK(personalize(&p));
    if (strcmp(g_device, "cpu") == 0) {
        same_file(DIR "/all/x.safetensors", DIR "/all2/x.safetensors");
        same_file(DIR "/all/x_emb.safetensors", DIR "/all2/x_emb.safetensors");
        same_file(DIR "/all/x.run/state.safetensors", DIR "/all2/x.run/state.safetensors");
    }
    REQUIRE(os_file_exists(DIR "/all/x.run/adapter-0000003.safetensors"));
    REQUIRE(os_file_exists(DIR "/all/x.run/embedding-0000024.safetensors"));
    picture_of_model(NULL, plain);
    picture_of_model(DIR "/all/x.safetensors", adapted);
    REQUIRE(differing(plain, adapted) > 100);
    const char *word = DIR "/all/x_emb.safetensors"; /* named as the token */
    REQUIRE_OK((status)imago_open(&IMAGO_OPEN(.model = g_model, .device = g_device, .threads = 1,
                                              .embeddings = &word, .n_embeddings = 1),
                                  &im));
    REQUIRE_EQ(im->n_extra, 2);
    arena a = {0};
    uint32_t *ids;
    int n;
    REQUIRE_OK(tokenizer_encode(im->tok, "<disc>", 6, &a, &ids, &n));
    REQUIRE(n == 2 && ids[0] + 1 == ids[1]);
    arena_fini(&a);
    imago_close(im);
}

/* The word alone: its vectors move away from where they began, and nothing else is there. */
static void word_alone(void) {
    personalize_params p = wish("none", DIR "/word.safetensors");
    safetensors *f = NULL;
    p.token = "<disc>", p.init_word = "cat", p.vectors = 1, p.run.lr.steps = 20;
    REQUIRE_OK(personalize(&p));
    REQUIRE(mean_loss(DIR "/word.run/train.log", 10, 20) <
            mean_loss(DIR "/word.run/train.log", 0, 10) * 1.2);
    REQUIRE_OK(safetensors_open(p.out, &f));
    REQUIRE(f->n == 1 && strcmp(f->tensor[0].name, "<disc>") == 0 && f->tensor[0].dim[0] == 1);
    safetensors_close(f);
    REQUIRE(!os_file_exists(DIR "/word.run/adapter.safetensors"));
    p.vectors = 0, p.out = DIR "/nothing.safetensors";
    REQUIRE(personalize(&p) == E_USAGE && strstr(error_message(), "new word"));
}

/* 80x48, 40x70 and a square: three shapes, of about the area of 32x32. */
static void shapes(void) {
    personalize_params p = wish("lora", DIR "/shapes.safetensors");
    p.buckets = true, p.side = 64, p.run.lr.steps = 20;
    REQUIRE_OK(personalize(&p));
    REQUIRE(mean_loss(DIR "/shapes.run/train.log", 15, 20) > 0);
}

static void formats(void) {
    static uint8_t want[32 * 32 * 3], got[32 * 32 * 3];
    static const struct {
        personalize_format f;
        const char *out;
        int most;
    } all[] = {{OUT_PEFT, DIR "/f/peft", 0},
               {OUT_DIFFUSERS, DIR "/f/diffusers.safetensors", 0},
               {OUT_DIFF, DIR "/f/diff.safetensors", 0},
               {OUT_SVD_LORA, DIR "/f/svd.safetensors", 60}};
    REQUIRE_OK(os_mkdir_p(DIR "/f"));
    personalize_params p = wish("lora", DIR "/f/kohya.safetensors");
    REQUIRE_OK(personalize(&p));
    picture_of_model(p.out, want);
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        p.format = all[i].f, p.out = all[i].out, p.svd_rank = 4;
        REQUIRE_OK(personalize(&p));
        picture_of_model(p.out, got);
        if (differing(want, got) > all[i].most)
            printf("%s: %d values differ\n", p.out, differing(want, got));
        REQUIRE(differing(want, got) <= all[i].most);
    }
    p.format = OUT_MERGED, p.out = DIR "/f/merged";
    REQUIRE_OK(personalize(&p));
    const char *model = g_model;
    char was[1024];
    snprintf(was, sizeof was, "%s", model);
    snprintf(g_model, sizeof g_model, "%s", p.out);
    picture_of_model(NULL, got);
    snprintf(g_model, sizeof g_model, "%s", was);
    REQUIRE(differing(want, got) == 0);
    p = wish("boft", DIR "/f/never.safetensors"), p.format = OUT_DIFFUSERS;
    REQUIRE(personalize(&p) == E_UNSUPPORTED && strstr(error_message(), "LoRA only"));
    p = wish("lora", DIR "/f/never.safetensors"), p.format = OUT_PEFT;
    REQUIRE(personalize(&p) == E_USAGE && strstr(error_message(), "folders"));
}

/* ---- refusals ---- */
static void refused(const personalize_params *p, status want, const char *says) {
    status st = personalize(p);
    if (st != want || !strstr(error_message(), says))
        printf("status %s: '%s' does not say '%s'\n", status_name(st), error_message(), says);
    REQUIRE(st == want && strstr(error_message(), says) && !strchr(error_message(), '\n'));
    REQUIRE(!os_file_exists(p->out));
}

static void refusals(void) {
    personalize_params good = wish("lora", DIR "/never.safetensors"), p = good;
    REQUIRE_OK(os_mkdir_p(DIR "/bad"));
    p.pictures = DIR "/nowhere", refused(&p, E_IO, "nowhere");
    p.pictures = DIR "/bad", refused(&p, E_FORMAT, "no pictures");
    write_text(DIR "/bad/one.txt", "a disc");
    refused(&p, E_FORMAT, "no pictures");
    draw(DIR "/bad/two.png", 40, 40, 9);
    refused(&p, E_FORMAT, "without a picture");
    REQUIRE(remove(DIR "/bad/one.txt") == 0);
    write_text(DIR "/bad/two.txt", " \n");
    refused(&p, E_FORMAT, "empty caption");
    write_text(DIR "/bad/two.txt", "a disc");
    write_text(DIR "/bad/notes.pdf", "x");
    refused(&p, E_FORMAT, "notes.pdf");
    REQUIRE(remove(DIR "/bad/notes.pdf") == 0);
    write_text(DIR "/bad/two.jpg", "x");
    refused(&p, E_FORMAT, "share a caption");
    REQUIRE(remove(DIR "/bad/two.jpg") == 0);
    write_text(DIR "/bad/three.jpg", "this is no picture");
    refused(&p, E_FORMAT, "three.jpg");
    p = good, p.adapter = "lokr", refused(&p, E_USAGE, "'lokr'");
    p = good, p.out = DIR "/never.bin", refused(&p, E_USAGE, ".safetensors");
    p = good, p.side = 33, refused(&p, E_USAGE, "size 33");
    p = good, p.run.lr.lr = 0, refused(&p, E_USAGE, "learning rate");
    p = good, p.token = "", refused(&p, E_USAGE, "token");
    char inpaint[1024];
    snprintf(inpaint, sizeof inpaint, "%s/pipelines/inpaint", g_golden);
    p = good, p.open.model = inpaint, refused(&p, E_UNSUPPORTED, "inpainting");
}

/* A run that was stopped goes on from a state with an infinity in it: it stops, and leaves that
 * state alone. */
static void not_finite(void) {
    personalize_params p = wish("lora", DIR "/nan.safetensors");
    static const char state[] = DIR "/nan.run/state.safetensors";
    safetensors *f = NULL;
    uint8_t *before, *after;
    size_t bytes, now;
    p.run.ctx = DIR "/nan.run/train.log", p.run.cancelled = stop, g_lines = 2;
    REQUIRE(personalize(&p) == E_CANCELLED);
    g_lines = 0;
    REQUIRE_OK(safetensors_open(state, &f));
    float *v = mem_alloc(safetensor_bytes(&f->tensor[0]));
    safetensor_read_f32(&f->tensor[0], v);
    for (int64_t i = 0; i < safetensor_count(&f->tensor[0]); i++) v[i] = INFINITY;
    for (int64_t i = 0; i < f->n; i++)
        if (strncmp(f->tensor[i].name, "adapter/", 8) == 0 &&
            safetensor_count(&f->tensor[i]) == safetensor_count(&f->tensor[0]))
            f->tensor[i].data = v;
    REQUIRE_OK(safetensors_write(state, f->tensor, f->n, f->note, f->n_notes));
    safetensors_close(f);
    mem_free(v);
    REQUIRE_OK(file_read(state, (size_t)1 << 26, &before, &bytes));
    refused(&p, E_FORMAT, "step 3: the loss");
    REQUIRE_OK(file_read(state, (size_t)1 << 26, &after, &now));
    REQUIRE(now == bytes && memcmp(before, after, bytes) == 0);
    REQUIRE(!os_file_exists(DIR "/nan.run/adapter.safetensors"));
    mem_free(before);
    mem_free(after);
    p = wish("lora", DIR "/nan.safetensors"); /* not done, and now with other settings */
    p.run.seed = 5;
    refused(&p, E_USAGE, "other settings");
    p.overwrite = true;
    REQUIRE_OK(personalize(&p));
    p = wish("lora", DIR "/large.safetensors");
    p.options.alpha = 1e30f; /* gradients beyond f32 */
    refused(&p, E_FORMAT, "--lr");
}

int main(int argc, char **argv) {
    if (argc != 3) return printf("usage: test_personalize GOLDEN_DIR DEVICE\n"), 2;
    g_golden = argv[1], g_device = argv[2];
    device *d = NULL;
    if (device_open(&(op_table){0}, &(device_params){.name = g_device}, &d) != OK)
        return printf("skipped: %s\n", error_message()), 77;
    device_close(d);
    int64_t live = mem_live();
    snprintf(g_model, sizeof g_model, "%s/pipelines/sd1", g_golden);
    REQUIRE(system("rm -rf " DIR " && mkdir " DIR) == 0);
    make_pictures();
    order();
    refusals();
    not_finite();
    min_snr();
    targets("sd2");
    targets("sd1");
    learns("sd2", "lora", 0.9); /* v */
    learns("sd1", "lora", 0.9);
    learns("sd1", "oft", 0.9);
    learns("sd1", "boft", 0.9);
    resumes("lora");
    resumes("oft");
    starts_anew();
    sheets_and_half();
    masks();
    no_picture_is_a_mask();
    classes();
    all_of_it();
    word_alone();
    shapes();
    formats();
    REQUIRE(system("rm -rf " DIR) == 0);
    REQUIRE_EQ(mem_live(), live);
    printf("passed\n");
    return 0;
}
