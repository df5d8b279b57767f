/* test_training.c: training from scratch on networks of a few thousand weights: schedules, the
 * moving average, the log, a run that is stopped and goes on against one that is not (bit by bit on
 * cpu), both stages end to end with a vocabulary of their own, pools, timesteps; and SqueezeNet
 * against its golden. usage: test_training GOLDEN_DIR ASSETS_DIR [device]     exit 77: no such
 * device SPDX-License-Identifier: MIT */
#include "engine/train.h"
#include "test.h"
#include "train/noising.h"
#include "train/pool.h"
#include <math.h>

static const char *g_golden, *g_assets, *g_name;
static device *g_dev;
static char g_dir[200];

static const char *in_dir(const char *name) {
    static char path[8][400];
    static int turn;
    turn = (turn + 1) % 8;
    snprintf(path[turn], sizeof path[0], "%s/%s", g_dir, name);
    return path[turn];
}

static bool near(double a, double b, double tol) { return fabs(a - b) <= tol; }

/* ---- schedules ---- */
static void test_schedules(void) {
    lr_schedule s = {.kind = LR_COSINE, .lr = 1, .lr_end = 0, .warmup = 10, .steps = 110};
    REQUIRE(near(lr_at(&s, 0), 0.1, 1e-12) && near(lr_at(&s, 9), 1, 1e-12));
    REQUIRE(near(lr_at(&s, 60), 0.5, 1e-12) && near(lr_at(&s, 35), 0.5 + sqrt(0.5) / 2, 1e-12) &&
            near(lr_at(&s, 110), 0, 1e-12));
    s = (lr_schedule){
        .kind = LR_LINEAR_TAIL, .lr = 2, .lr_end = 1, .warmup = 0, .steps = 100, .tail = 0.4};
    REQUIRE(lr_at(&s, 0) == 2 && lr_at(&s, 60) == 2 && near(lr_at(&s, 80), 1.5, 1e-12) &&
            near(lr_at(&s, 100), 1, 1e-12));
    s.kind = LR_CONSTANT;
    REQUIRE(lr_at(&s, 99) == 2);
    loss_scaler f16, f32;
    loss_scaler_init(&f16, DT_F16);
    loss_scaler_init(&f32, DT_BF16);
    loss_scaler_update(&f16, true);
    loss_scaler_update(&f32, true);
    REQUIRE(f16.scale == 512 && f32.scale == 1);
    for (int i = 0; i < 1000; i++) loss_scaler_update(&f16, false);
    REQUIRE(f16.scale == 1024 && f16.good == 0);
}

static void test_noising(void) {
    schedule_config c = {.num_train_timesteps = 1000,
                         .beta_start = 0.00085,
                         .beta_end = 0.012,
                         .beta_schedule = BETA_SCALED_LINEAR,
                         .prediction_type = PREDICTION_V,
                         .rescale_betas_zero_snr = true,
                         .timestep_spacing = SPACING_TRAILING};
    static double abar[1000];
    float t[64], again[64], x[64][2], v[64][2];
    REQUIRE_OK(schedule_alphas_cumprod(&c, abar));
    double mean = 0, shifted = 0;
    bool last = false;
    for (int step = 0; step < 200; step++) {
        noising_draw(&c, abar, 3, step, 1, 64, t, x, v);
        for (int i = 0; i < 64; i++) {
            mean += (double)t[i], last |= t[i] == 999;
            REQUIRE(t[i] >= 0 && t[i] <= 999 &&
                    near(x[i][0] * x[i][0] + x[i][1] * x[i][1], 1, 1e-5) && v[i][0] == -x[i][1] &&
                    v[i][1] == x[i][0]);
            REQUIRE(near(x[i][0], sqrt(abar[(int)t[i]]), 1e-6));
        }
        noising_draw(&c, abar, 3, step, 3, 64, again, x, v);
        for (int i = 0; i < 64; i++) shifted += (double)again[i];
    }
    REQUIRE(near(mean / 12800, 499.5, 1) && last);
    REQUIRE(near(shifted / 12800, 1000 * (3 * (2 - log(3.0)) / 4) - 0.5,
                 2)); /* mean of 3u / (1 + 2u) over u is 3/2 - 3/4 ln 3 */
    noising_draw(&c, abar, 3, 17, 1, 64, t, x, v);
    noising_draw(&c, abar, 3, 17, 1, 64, again, x, v);
    REQUIRE(memcmp(t, again, sizeof t) == 0);
}

/* ---- the moving average, and two parts under one norm ---- */
static void test_average(void) {
    params a, b;
    optimizer o;
    params_init(&a, g_dev, DT_F32);
    params_init(&b, g_dev, DT_F32);
    REQUIRE_OK(params_declare(&a, "w", SHAPE(3), false));
    REQUIRE_OK(params_declare(&b, "w", SHAPE(2), true));
    a.p[0].trainable = b.p[0].trainable = true;
    REQUIRE_OK(params_allocate(&a));
    REQUIRE_OK(params_allocate(&b));
    float va[3] = {1, 2, 3}, vb[2] = {-1, 1};
    REQUIRE_OK(params_set(&a, "w", va, 3));
    REQUIRE_OK(params_set(&b, "w", vb, 2));
    REQUIRE_OK(optimizer_create((params *[]){&a, &b}, 2, OPTIMIZER_ADAMW, true, &o));
    double mean[3] = {1, 2, 3};
    for (int step = 0; step < 5; step++) {
        float ga[3] = {3, 0, 0}, gb[2] = {0, 4}, norm, before_b = vb[1], before_a = va[0];
        REQUIRE_OK(array_write(a.p[0].grad, ga));
        REQUIRE_OK(array_write(b.p[0].grad, gb));
        optimizer_params p = {.lr = 0.1f,
                              OPTIMIZER_DEFAULTS,
                              .max_norm = 1,
                              .average_decay = 0.25f,
                              .lr_factor = {1, 0.5f}};
        REQUIRE_OK(optimizer_step(&o, &p, &norm, NULL));
        REQUIRE(near((double)norm, 5, 1e-5));
        REQUIRE_OK(params_get(&a, "w", va, 3));
        REQUIRE_OK(params_get(&b, "w", vb, 2));
        if (step == 0)
            REQUIRE(near((double)((before_b - vb[1]) / (before_a - va[0])), 0.5,
                         0.01)); /* Adam's first step is lr whatever the gradient */
        double d = fmin((1.0 + step) / (10.0 + step), 0.25);
        for (int i = 0; i < 3; i++) mean[i] = d * mean[i] + (1 - d) * (double)va[i];
    }
    REQUIRE_OK(optimizer_swap_average(&o));
    float seen[3];
    REQUIRE_OK(params_get(&a, "w", seen, 3));
    for (int i = 0; i < 3; i++) REQUIRE(near((double)seen[i], mean[i], 1e-5));
    REQUIRE_OK(optimizer_swap_average(&o));
    REQUIRE_OK(params_get(&a, "w", seen, 3));
    REQUIRE(memcmp(seen, va, sizeof va) == 0);
    optimizer_destroy(&o);
    params_fini(&a);
    params_fini(&b);
}

/* ---- prodigy ---- */

/* The algorithm's lines for two parts whose loss is half the squared distance to a target, in
 * double. */
typedef struct prodigy_sum {
    double p[5], start[5], m[5], v[5], s[5], d, numerator;
} prodigy_sum;

static void prodigy_by_hand(prodigy_sum *r, const double *grad, double decay) {
    double below = 0, was = r->d, b3 = sqrt(0.999);
    r->numerator *= b3;
    for (int i = 0; i < 5; i++) {
        double rate = was * (i < 3 ? 1 : 0.5);
        r->numerator += was / 1e-6 * rate * grad[i] * (r->start[i] - r->p[i]);
        r->m[i] = 0.9 * r->m[i] + was * 0.1 * grad[i];
        r->v[i] = 0.999 * r->v[i] + was * was * 0.001 * grad[i] * grad[i];
        r->s[i] = b3 * r->s[i] + was / 1e-6 * rate * grad[i];
        below += fabs(r->s[i]);
    }
    r->d = fmax(r->d, r->numerator / below);
    for (int i = 0; i < 5; i++) {
        double rate = was * (i < 3 ? 1 : 0.5);
        r->p[i] -= i < 3 ? decay * rate * r->p[i] : 0; /* the second part is a vector */
        r->p[i] -= rate * r->m[i] / (sqrt(r->v[i]) + r->d * 1e-8);
    }
}

static void test_prodigy(void) {
    static const double target[5] = {1, -2, 0.5, 3, -1};
    params a, b;
    optimizer o;
    prodigy_sum r = {.p = {0.1, 0.2, 0.3, 0.4, 0.5}, .d = 1e-6};
    float va[3], vb[2], ga[3], gb[2], norm;
    bool skipped;
    params_init(&a, g_dev, DT_F32);
    params_init(&b, g_dev, DT_F32);
    REQUIRE_OK(params_declare(&a, "w", SHAPE(3), false));
    REQUIRE_OK(params_declare(&b, "w", SHAPE(2), true));
    a.p[0].trainable = b.p[0].trainable = true;
    REQUIRE_OK(params_allocate(&a));
    REQUIRE_OK(params_allocate(&b));
    memcpy(r.start, r.p, sizeof r.p);
    for (int i = 0; i < 5; i++) *(i < 3 ? &va[i] : &vb[i - 3]) = (float)r.p[i];
    REQUIRE_OK(params_set(&a, "w", va, 3));
    REQUIRE_OK(params_set(&b, "w", vb, 2));
    REQUIRE_OK(optimizer_create((params *[]){&a, &b}, 2, OPTIMIZER_PRODIGY, true, &o));
    const optimizer_params p = {
        .lr = 1, OPTIMIZER_DEFAULTS, .average_decay = 0, .lr_factor = {1, 0.5f}};
    for (int step = 0; step < 400; step++) {
        double grad[5];
        bool bad = step == 3;
        for (int i = 0; i < 5; i++) {
            grad[i] = r.p[i] - target[i];
            *(i < 3 ? &ga[i] : &gb[i - 3]) = (float)(bad ? (double)NAN : grad[i]);
        }
        REQUIRE_OK(array_write(a.p[0].grad, ga));
        REQUIRE_OK(array_write(b.p[0].grad, gb));
        REQUIRE_OK(optimizer_step(&o, &p, &norm, &skipped));
        REQUIRE(skipped == bad);
        if (!bad) prodigy_by_hand(&r, grad, 1e-2);
        REQUIRE_OK(array_read(a.p[0].grad, ga));
        REQUIRE(ga[0] == 0 && ga[2] == 0); /* cleared, also after a bad one */
        REQUIRE(near(o.d / r.d, 1, 5e-3)); /* f32 rounds steps of 1e-6 beside 0.1 */
    }
    REQUIRE_OK(params_get(&a, "w", va, 3));
    REQUIRE_OK(params_get(&b, "w", vb, 2));
    for (int i = 0; i < 5; i++) {
        REQUIRE(near((double)(i < 3 ? va[i] : vb[i - 3]), r.p[i], 1e-2));
        REQUIRE(near(r.p[i], target[i], 0.3)); /* and it has found the way by itself */
    }
    REQUIRE(o.step == 399 && r.d > 0.05);
    optimizer_destroy(&o);
    params_fini(&a);
    params_fini(&b);
}

/* ---- the log ---- */
static void test_log(void) {
    train_log *l = NULL;
    const char *path = in_dir("log.jsonl");
    REQUIRE_OK(train_log_open(path, 0, &l));
    for (int i = 1; i <= 5; i++)
        REQUIRE_OK(train_log_add(l, 10 * i, (record_value[]){{"loss", 1.0 / i}, {"bad", NAN}}, 2));
    train_log_close(l);
    FILE *f = fopen(path, "a"); /* a run that was killed in the middle of a line */
    REQUIRE(f && fputs("{\"step\":60,\"lo", f) >= 0 && fclose(f) == 0);
    REQUIRE_OK(train_log_open(path, 30, &l));
    REQUIRE_OK(train_log_add(l, 40, (record_value[]){{"loss", 0.5}}, 1));
    REQUIRE_OK(train_log_plot(l, "loss", in_dir("curve.png")));
    train_log_close(l);
    uint8_t *data;
    size_t bytes;
    REQUIRE_OK(file_read(path, 10000, &data, &bytes));
    REQUIRE(strcmp((char *)data, "{\"step\":10,\"loss\":1,\"bad\":null}\n{\"step\":20,\"loss\":0.5,"
                                 "\"bad\":null}\n{\"step\":30,\"loss\":0.3333333,\"bad\":null}\n"
                                 "{\"step\":40,\"loss\":0.5}\n") == 0);
    mem_free(data);
    image im;
    REQUIRE_OK(image_load(in_dir("curve.png"), &im));
    REQUIRE(im.w == 960 && im.h == 540);
    int inked = 0;
    for (int i = 0; i < im.w * im.h; i++) inked += im.px[3 * i] < 100;
    REQUIRE(inked > 1500); /* axes, numbers and a curve */
    image_free(&im);
    REQUIRE(file_write_atomic(path, "hello\n", 6) == OK &&
            train_log_open(path, 30, &l) == E_FORMAT && !l);
}

/* ---- stages ---- */
enum { SIDE = 16, HELD = 5 };
static const vae_config tiny_vae = {.kind = VAE_TINY,
                                    .in_channels = 3,
                                    .out_channels = 3,
                                    .latent_channels = 4,
                                    .levels = 2,
                                    .scaling_factor = 1,
                                    .block_out_channels = {8, 8},
                                    .encoder_block_out_channels = {8, 8},
                                    .num_encoder_blocks = {0, 1},
                                    .num_decoder_blocks = {1, 0},
                                    .latent_magnitude = 3,
                                    .latent_shift = 0.5f,
                                    .upsampling_scaling_factor = 2};

/* Stops a run in the step that is fed for the at-th time; 0 = never. */
typedef struct stopper {
    int fed, at;
} stopper;
static bool stop(void *ctx) {
    stopper *s = ctx;
    return s->at && s->fed >= s->at;
}

/* A bar of some colour on white: where and which depends on the sample's number alone. */
static status pictures(void *ctx, uint64_t first, int n, uint8_t *rgb) {
    if (ctx) ((stopper *)ctx)->fed++;
    memset(rgb, 255, (size_t)n * SIDE * SIDE * 3);
    for (int i = 0; i < n; i++) {
        rng_key k = {{9, 9}, rng_stream("bars")};
        uint64_t s = first + (uint64_t)i;
        int at = (int)(rng_uniform(k, s, 0) * (SIDE - 4)), c = (int)(rng_uniform(k, s, 1) * 3);
        for (int p = at * SIDE; p < (at + 4) * SIDE; p++)
            rgb[((size_t)i * SIDE * SIDE + (size_t)p) * 3 + (size_t)c] = 20;
    }
    return OK;
}

static train_params run_params(const char *folder, stopper *s, int steps) {
    return (train_params){
        .folder = in_dir(folder),
        .batch = 4,
        .accumulate = 2,
        .seed = 5,
        .log_every = 2,
        .cancelled = stop,
        .ctx = s,
        .lr = {.kind = LR_LINEAR_TAIL, .lr = 1e-2, .warmup = 2, .steps = steps, .tail = 0.5},
        .adam = {
            .beta1 = 0.9f, .beta2 = 0.99f, .eps = 1e-8f, .max_norm = 1, .average_decay = 0.9f}};
}

static uint8_t g_held[HELD * SIDE * SIDE * 3];

static status run_vae(const char *folder, dtype type, stopper *s, int steps) {
    train_params p = run_params(folder, s, steps);
    train_vae_params v = {.vae = tiny_vae,
                          .loss = {.edges = 1, .moments = 0.1f},
                          .jitter = 0.1,
                          .side = SIDE,
                          .pictures = {pictures, s},
                          .held_out = g_held,
                          .n_held_out = HELD};
    REQUIRE_OK(pictures(NULL, 1000000, HELD, g_held));
    return train_vae(g_dev, type, &p, &v);
}

static void require_same_file(const char *a, const char *b) {
    uint8_t *x, *y;
    size_t nx, ny;
    REQUIRE_OK(file_read(in_dir(a), (size_t)1 << 30, &x, &nx));
    REQUIRE_OK(file_read(in_dir(b), (size_t)1 << 30, &y, &ny));
    REQUIRE_EQ(nx, ny);
    REQUIRE(memcmp(x, y, nx) == 0);
    mem_free(x);
    mem_free(y);
}

static double last_value(const char *path, const char *key) {
    uint8_t *data;
    size_t bytes;
    char want[64];
    snprintf(want, sizeof want, "\"%s\":", key);
    REQUIRE_OK(file_read(path, (size_t)1 << 20, &data, &bytes));
    const char *at = NULL;
    for (const char *p = (char *)data; (p = strstr(p, want)); p++) at = p;
    REQUIRE(at);
    double v = strtod(at + strlen(want), NULL);
    mem_free(data);
    return v;
}

static void test_vae(dtype type, const char *whole, const char *parts) {
    char a[64], b[64];
    stopper never = {0}, later = {0, 6}; /* two batches a step: the second of the third */
    REQUIRE_OK(run_vae(whole, type, &never, 12));
    REQUIRE(run_vae(parts, type, &later, 12) == E_CANCELLED);
    snprintf(b, sizeof b, "%s/state.safetensors", parts);
    snprintf(a, sizeof a, "%s/vae/config.json", parts);
    REQUIRE(later.fed == 6 && os_file_exists(in_dir(b)) && !os_file_exists(in_dir(a)));
    later = (stopper){0, 11}; /* the first of the step five further on */
    REQUIRE(run_vae(parts, type, &later, 12) == E_CANCELLED);
    REQUIRE_OK(run_vae(parts, type, &never, 12));
    snprintf(a, sizeof a, "%s/state.safetensors", whole);
    if (strcmp(device_id(g_dev), "cpu") == 0) require_same_file(a, b);
    snprintf(a, sizeof a, "%s/train.log", whole);
    REQUIRE(last_value(in_dir(a), "loss") < 3 && isfinite(last_value(in_dir(a), "psnr")));
}

/* Goes on with more steps until pictures come back: the stage learns, and a longer run may follow a
 * finished one. */
static void test_vae_learns(void) {
    stopper never = {0};
    double before = last_value(in_dir("whole/train.log"), "psnr");
    REQUIRE_OK(run_vae("whole", DT_F32, &never, 60));
    double after = last_value(in_dir("whole/train.log"), "psnr");
    printf("autoencoder: %.1f dB after 12 steps, %.1f after 60\n", before, after);
    REQUIRE(after > before + 2);
    train_params other = run_params("whole", &never, 130);
    other.seed = 6;
    train_vae_params v = {.vae = tiny_vae,
                          .side = SIDE,
                          .pictures = {pictures, NULL},
                          .held_out = g_held,
                          .n_held_out = HELD};
    REQUIRE(train_vae(g_dev, DT_F32, &other, &v) == E_USAGE);
}

/* With a decoder alone to train, the encoder stays what its file says, to the last bit, in half precision too. */
static void test_decoder_only(dtype type) {
    stopper never = {0};
    train_params p = run_params("polished", &never, 20);
    train_vae_params v = {.vae = tiny_vae, .decoder_only = true, .loss = {.edges = 0.25f, .squares = 5}, .side = SIDE,
                          .pictures = {pictures, &never}, .held_out = g_held, .n_held_out = HELD};
    safetensors *a = NULL, *b = NULL;
    int same = 0, moved = 0;
    REQUIRE(train_vae(g_dev, type, &p, &v) == E_USAGE);
    v.from = in_dir("whole");
    REQUIRE_OK(train_vae(g_dev, type, &p, &v));
    REQUIRE_OK(safetensors_open(in_dir("whole/vae/diffusion_pytorch_model.safetensors"), &a));
    REQUIRE_OK(safetensors_open(in_dir("polished/vae/diffusion_pytorch_model.safetensors"), &b));
    for (int64_t i = 0; i < (int64_t)a->n; i++) {
        const safetensor *x = &a->tensor[i], *y = safetensors_find(b, x->name);
        REQUIRE(y && safetensor_bytes(x) == safetensor_bytes(y));
        bool equal = memcmp(x->data, y->data, safetensor_bytes(x)) == 0;
        bool encoder = strncmp(x->name, "encoder.", 8) == 0;
        REQUIRE(equal || !encoder);
        same += encoder, moved += !equal;
    }
    REQUIRE(same > 0 && moved > 0);
    safetensors_close(a);
    safetensors_close(b);
}

static status latents(void *ctx, uint64_t first, int n, float *z, caption *text) {
    if (ctx) ((stopper *)ctx)->fed++;
    for (int i = 0; i < n; i++) {
        uint64_t s = first + (uint64_t)i;
        int what = (int)(rng_uniform((rng_key){{1, 1}, 7}, s, 0) * 3);
        text[i] = (caption){0};
        if (what < 2) caption_add(&text[i], what ? "a red bar" : "a blue fox");
        for (int k = 0; k < 8 * 8 * 4; k++) z[i * 256 + k] = what == 2 ? 0 : what ? 1.0f : -1.0f;
    }
    return OK;
}

static status run_denoiser(const char *folder, stopper *s, int steps, bool text_only, const char *text_from) {
    static const bpe_sample words[] = {{"a red bar", 9}, {"a blue fox", 9}};
    static const char *const prompts[] = {"a red bar", "a blue fox", "a red fox"};
    int learned;
    vae_opened vae;
    train_params p = run_params(folder, s, steps);
    REQUIRE_OK(bpe_train(words, 2, 530, in_dir("words"), &learned));
    REQUIRE_OK(vae_opened_open(g_dev, DT_F32, in_dir("whole"), &vae));
    REQUIRE_EQ(vae.config.num_encoder_blocks[0], 0);
    float held[3 * 256];
    caption text[3];
    REQUIRE_OK(latents(NULL, 5000, 3, held, text));
    train_base_params b = {.unet = {.in_channels = 4,
                                    .out_channels = 4,
                                    .levels = 2,
                                    .layers_per_block = 1,
                                    .block_out_channels = {8, 16},
                                    .attention = {false, true},
                                    .heads = {1, 2},
                                    .cross_attention_dim = 8,
                                    .norm_num_groups = 4,
                                    .norm_eps = 1e-5f,
                                    .use_linear_projection = true,
                                    .flip_sin_to_cos = true},
                           .text = {.vocab_size = 530,
                                    .hidden_size = 8,
                                    .intermediate_size = 16,
                                    .num_hidden_layers = 1,
                                    .num_attention_heads = 2,
                                    .max_position_embeddings = 77,
                                    .hidden_act = ACT_QUICK_GELU,
                                    .layer_norm_eps = 1e-5f},
                           .text_from = text_from ? in_dir(text_from) : NULL,
                           .schedule = {.num_train_timesteps = 1000,
                                        .beta_start = 0.00085,
                                        .beta_end = 0.012,
                                        .beta_schedule = BETA_SCALED_LINEAR,
                                        .prediction_type = PREDICTION_V,
                                        .rescale_betas_zero_snr = true,
                                        .set_alpha_to_one = true,
                                        .timestep_spacing = SPACING_TRAILING,
                                        .steps_offset = 1},
                           .h = 8,
                           .w = 8,
                           .tokenizer = in_dir("words"),
                           .shift = 1.5,
                           .shift_late = 1,
                           .text_lr = 1,
                           .latents = {latents, s},
                           .held_out = held,
                           .held_out_caption = text,
                           .n_held_out = 3,
                           .prompt = prompts,
                           .n_prompts = 3,
                           .columns = 3,
                           .sheet_steps = 3,
                           .guidance = 2,
                           .vae = &vae,
                           .side = SIDE};
    status st = (text_only ? train_text : train_base)(g_dev, DT_F32, &p, &b);
    vae_opened_close(&vae);
    return st;
}
static status run_base(const char *folder, stopper *s, int steps) {
    return run_denoiser(folder, s, steps, false, NULL);
}

/* What the words say becomes the sketch, stopping changes nothing, and a base can begin with it. */
static void test_text(void) {
    stopper never = {0}, later = {0, 8};
    REQUIRE_OK(run_denoiser("text", &never, 8, true, NULL));
    REQUIRE(run_denoiser("text2", &later, 8, true, NULL) == E_CANCELLED);
    REQUIRE_OK(run_denoiser("text2", &never, 8, true, NULL));
    if (strcmp(device_id(g_dev), "cpu") == 0)
        require_same_file("text/state.safetensors", "text2/state.safetensors");
    double first = last_value(in_dir("text/train.log"), "held_out");
    REQUIRE_OK(run_denoiser("text", &never, 200, true, NULL));
    double last = last_value(in_dir("text/train.log"), "held_out");
    printf("text: squared error of the sketches %.3f after 8 steps, %.3f after 200\n", first, last);
    REQUIRE(last < 0.3 * first);
    REQUIRE(os_file_exists(in_dir("text/tokenizer/vocab.json")));
    REQUIRE_OK(run_denoiser("base3", &never, 1, false, "text"));
    REQUIRE(run_denoiser("base4", &never, 1, false, "nothing") == E_IO);
}

static void test_base(void) {
    stopper never = {0}, later = {0, 8};
    checkpoint *c = NULL;
    REQUIRE_OK(run_base("base", &never, 8));
    REQUIRE(run_base("base2", &later, 8) == E_CANCELLED);
    REQUIRE_OK(run_base("base2", &never, 8));
    if (strcmp(device_id(g_dev), "cpu") == 0)
        require_same_file("base/state.safetensors", "base2/state.safetensors");
    REQUIRE_OK(checkpoint_open(in_dir("base"), &(checkpoint_options){0},
                               &c)); /* what was written is a model */
    REQUIRE(c->schedule.prediction_type == PREDICTION_V && c->schedule.rescale_betas_zero_snr &&
            c->vae.kind == VAE_TINY && c->text.vocab_size == 530);
    checkpoint_close(c);
    double first = last_value(in_dir("base/train.log"), "x0_500");
    REQUIRE_OK(run_base("base", &never, 60));
    double with = last_value(in_dir("base/train.log"), "x0_500"),
           x0 = last_value(in_dir("base/train.log"), "x0_900"),
           without = last_value(in_dir("base/train.log"), "x0_900_empty");
    printf("base: x0 error %.3f after 8 steps, %.3f after 60; at t 900 %.4f with captions, %.4f "
           "without\n",
           first, with, x0, without);
    REQUIRE(with < 0.85 * first && x0 < 0.6 * without);
}

/* ---- pools ---- */
static void test_pool(void) {
    static uint16_t half[3 * 2 * 2 * 4];
    for (int i = 0; i < 48; i++) half[i] = f32_to_f16((float)i);
    compose_info info[3] = {
        {.kind = COMPOSE_ONE, .n_parts = 1, .part = {{4, -1, 0, -1}}},
        {.kind = COMPOSE_PAIR, .n_parts = 2, .part = {{1, 2, 0, 3}, {0, -1, 5, -1}}},
        {.kind = COMPOSE_ONE, .n_parts = 1, .part = {{2, -1, COMPOSE_UNNAMED, -1}}}};
    pool p = {.n = 3, .h = 2, .w = 2, .channels = 4, .first = 70, .seed = 8, .latents = half},
         *q = NULL;
    corpus c = {.n_pictures = 5}, smaller = {.n_pictures = 4};
    compose_info seen;
    REQUIRE_OK(pool_write(in_dir("pool.safetensors"), &p, info));
    REQUIRE_OK(pool_open(in_dir("pool.safetensors"), &c, &q));
    REQUIRE(q->n == 3 && q->h == 2 && q->channels == 4 && q->first == 70 && q->seed == 8 &&
            memcmp(q->latents, half, sizeof half) == 0);
    pool_info(q, 1, &seen);
    REQUIRE(seen.kind == COMPOSE_PAIR && seen.n_parts == 2 &&
            memcmp(seen.part, info[1].part, 2 * sizeof seen.part[0]) == 0);
    int64_t count[3] = {0};
    for (uint64_t s = 0; s < 3000; s++) {
        int64_t at = pool_pick(q, 1, s);
        REQUIRE(at >= 0 && at < 3 && at == pool_pick(q, 1, s));
        count[at]++;
    }
    REQUIRE(count[0] > 850 && count[1] > 850 && count[2] > 850);
    pool_close(q);
    REQUIRE(pool_open(in_dir("pool.safetensors"), &smaller, &q) == E_FORMAT && !q);
}

/* ---- SqueezeNet ---- */
static void compare(plan *p, const safetensors *gold, const char *name, int every) {
    const safetensor *t = safetensors_find(gold, name);
    REQUIRE(t);
    int64_t c = t->dim[1], pixels = t->n_dims == 4 ? t->dim[2] * t->dim[3] : 1, all = c * every;
    float *seen = mem_alloc(sizeof *seen * (size_t)(all * pixels));
    REQUIRE_OK(plan_read_f32(p, name, seen));
    double worst = 0, largest = 0;
    for (int64_t k = 0; k < c; k++)
        for (int64_t i = 0; i < pixels; i++) {
            double want = safetensor_load(t, k * pixels + i);
            worst = fmax(worst, fabs((double)seen[i * all + k * every] - want));
            largest = fmax(largest, fabs(want));
        }
    if (!(worst < 1e-4 * largest)) printf("%s: off by %g of %g\n", name, worst, largest);
    REQUIRE(worst < 1e-4 * largest);
    mem_free(seen);
}

static void test_squeezenet(void) {
    char path[500];
    safetensors *gold = NULL;
    params ps;
    plan *p = NULL;
    tensor *tap[SQUEEZENET_TAPS];
    params_init(&ps, g_dev, DT_F32);
    snprintf(path, sizeof path, "%s/squeezenet/squeezenet_v1.0.safetensors", g_assets);
    REQUIRE_OK(squeezenet_load(&ps, path));
    snprintf(path, sizeof path, "%s/squeezenet.safetensors", g_golden);
    REQUIRE_OK(safetensors_open(path, &gold));
    const safetensor *pic = safetensors_find(gold, "picture_u8");
    REQUIRE(pic && pic->n_dims == 4);
    int64_t h = pic->dim[2], w = pic->dim[3];
    graph *g = graph_create(g_dev);
    nn m = {g, &ps, NULL};
    squeezenet_features(&m, graph_input(g, "x", DT_F32, SHAPE(1, h, w, 3)), tap);
    graph_output(g, tap[0], "tap0");
    graph_output(g, tap[3], "tap3");
    graph_output(g, tap[8], "tap8");
    graph_output(g, squeezenet_logits(&m, tap), "logits");
    REQUIRE_OK(graph_compile(g, NULL, &p));
    float *x = mem_alloc(sizeof *x * (size_t)(h * w * 3));
    for (int64_t i = 0; i < h * w; i++)
        for (int64_t c = 0; c < 3; c++)
            x[i * 3 + c] = (float)(safetensor_load(pic, c * h * w + i) / 127.5 - 1);
    REQUIRE_OK(plan_write(p, "x", x));
    REQUIRE_OK(plan_run(p, NULL, NULL));
    compare(p, gold, "tap0", 4);
    compare(p, gold, "tap3", 4);
    compare(p, gold, "tap8", 4);
    compare(p, gold, "logits", 1);
    mem_free(x);
    plan_destroy(p);
    params_fini(&ps);
    safetensors_close(gold);
}

int main(int argc, char **argv) {
    if (argc < 3)
        return fprintf(stderr, "usage: test_training GOLDEN_DIR ASSETS_DIR [device]\n"), 2;
    g_golden = argv[1], g_assets = argv[2], g_name = argc > 3 ? argv[3] : "cpu";
    status st = device_open(
        &op_all, &(device_params){.name = g_name, .threads = 2, .validation = TEST_VALIDATION},
        &g_dev);
    if (st != OK) return printf("skipped: %s\n", error_message()), 77;
    snprintf(g_dir, sizeof g_dir, "test_training_%.8s", g_name);
    char clean[500];
    snprintf(clean, sizeof clean, "rm -rf %s && mkdir %s", g_dir, g_dir);
    REQUIRE(system(clean) == 0);
    test_schedules();
    test_noising();
    test_average();
    test_prodigy();
    test_log();
    test_pool();
    test_squeezenet();
    test_vae(DT_F32, "whole", "parts");
    if (strcmp(device_id(g_dev), "cpu") == 0) test_vae(DT_BF16, "whole_bf16", "parts_bf16");
    test_vae_learns();
    test_decoder_only(strcmp(device_id(g_dev), "cpu") == 0 ? DT_BF16 : DT_F32);
    test_text();
    test_base();
    device_close(g_dev);
    snprintf(clean, sizeof clean, "rm -rf %s", g_dir);
    REQUIRE(system(clean) == 0);
    REQUIRE_EQ(mem_live(), 0);
    printf("ok\n");
    return 0;
}
