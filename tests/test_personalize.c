/* test_personalize.c: personalizing a network of random weights: every adapter lowers the loss, and
 * its file, loaded as users load it, changes pictures; a run that is stopped and goes on gives the
 * bytes of one that is not (on cpu); the order of pictures; what is refused, and what NaN leaves
 * behind. usage: test_personalize GOLDEN_DIR DEVICE     exit 77: no such device
 * SPDX-License-Identifier: MIT */
#define DIR "test_personalize.dir"
#include "personalize_run.h"

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
    int64_t live = mem_live();
    int code = begin(argc, argv);
    if (code) return code;
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
    REQUIRE(system("rm -rf " DIR) == 0);
    REQUIRE_EQ(mem_live(), live);
    printf("passed\n");
    return 0;
}
