/* test_personalize_options.c: what else a run of personalizing can do: masks, pictures of the
 * class, shapes, text that learns, a new word, prodigy, every format; and all of it at once,
 * stopped and gone on. usage: test_personalize_options GOLDEN_DIR DEVICE     exit 77: no such
 * device SPDX-License-Identifier: MIT */
#define DIR "test_personalize_options.dir"
#include "personalize_run.h"

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

/* Memory or a file fails somewhere, ever later: an error, and nothing left behind. */
static void short_memory(void) {
    int runs = 0;
    bool hit = true;
    log_set_level(LOG_ERROR);
    for (int64_t n = 1; hit; n += 1 + n / 8, runs++) {
        personalize_params p = wish_all(DIR "/short.safetensors");
        p.run.lr.steps = 2, p.overwrite = true, p.flip = false;
        int64_t live = mem_live();
        fault_arm(n);
        status st = personalize(&p);
        hit = fault_count() >= n;
        fault_arm(0);
        if (st == OK && hit && strcmp(g_device, "cpu") == 0)
            printf("fault %lld: %s '%s'\n", (long long)n, status_name(st), error_message());
        REQUIRE(hit || st == OK);
        REQUIRE(!hit || st != OK || strcmp(g_device, "cpu") != 0); /* a GPU does without its caches */
        REQUIRE_EQ(mem_live(), live);
    }
    log_set_level(LOG_INFO);
    printf("%d runs that failed\n", runs - 1);
    REQUIRE(runs > 30);
}

int main(int argc, char **argv) {
    int64_t live = mem_live();
    int code = begin(argc, argv);
    if (code) return code;
    masks();
    no_picture_is_a_mask();
    classes();
    all_of_it();
    word_alone();
    shapes();
    formats();
    short_memory();
    REQUIRE(system("rm -rf " DIR) == 0);
    REQUIRE_EQ(mem_live(), live);
    printf("passed\n");
    return 0;
}
