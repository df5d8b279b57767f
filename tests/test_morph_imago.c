/* test_morph_imago.c: the method imago against float64 runs of the whole (tests/golden/make_morph_imago.py), and by what must hold
 * whatever the network says: equal angles, steps that undo each other, ends that come back, frames that depend on their share alone
 * and not on their number.   usage: test_morph_imago GOLDEN_DIR DEVICE SQUEEZENET
 * SPDX-License-Identifier: MIT */
#include "morph_run.h"
#include "file/file.h"
#include "op/op.h"
#include <math.h>
#include <stdio.h>

static const char *g_judge;

static imago_morph_params wish(void) {
    return IMAGO_MORPH(.picture = g_picture, .n_pictures = 2, .prompt = g_prompts, .width = 48, .height = 64, .steps = 6);
}

/* ---- host mathematics ---- */
static void test_ladder(void) {
    schedule_config c = schedule_sd1;
    level at[1001];
    c.prediction_type = PREDICTION_V, c.rescale_betas_zero_snr = true;
    for (int n = 1; n <= 40; n += 13) {
        REQUIRE_OK(morph_ladder(&c, n, 0.7, at));
        REQUIRE(at[0].t == 0 && at[n].t == 699);
        double step = (acos(at[n].alpha) - acos(at[0].alpha)) / n;
        for (int i = 1; i <= n; i++) /* times are whole: the first few lie 0.08 apart in angle */
            REQUIRE(at[i].t > at[i - 1].t && fabs(acos(at[i].alpha) - acos(at[i - 1].alpha) - step) < 0.02);
    }
    REQUIRE_OK(morph_ladder(&c, 3, 1, at)); /* no signal left at the top: fine for v */
    REQUIRE(at[3].t == 999 && at[3].alpha == 0);
    REQUIRE_OK(morph_ladder(&c, 999, 1, at)); /* every time there is */
    for (int i = 0; i < 1000; i++) REQUIRE(at[i].t == i);
    REQUIRE(morph_ladder(&c, 1000, 1, at) == E_USAGE && morph_ladder(&c, 71, 0.07, at) == E_USAGE);
    c.prediction_type = PREDICTION_EPSILON;
    REQUIRE(morph_ladder(&c, 3, 1, at) == E_UNSUPPORTED);
    REQUIRE_OK(morph_ladder(&c, 3, 0.9, at));
    error_clear();
}

static void test_updates(void) {
    level low = {100, cos(0.4), sin(0.4)}, high = {300, cos(0.9), sin(0.9)};
    morph_update v = morph_down(PREDICTION_V, high, low), e = morph_down(PREDICTION_EPSILON, high, low);
    REQUIRE(v.t == 300 && fabs(v.x - cos(0.5)) < 1e-12 && fabs(v.y + sin(0.5)) < 1e-12); /* a rotation */
    /* from x0 = 2, noise = -1 that an epsilon network knows */
    double x = 2 * high.alpha - high.sigma;
    REQUIRE(fabs(e.x * x - e.y - (2 * low.alpha - low.sigma)) < 1e-12);
    for (int p = 0; p < 2; p++) { /* up, then down, with the same word of the network */
        morph_update down = p ? v : e, up = morph_up(p ? PREDICTION_V : PREDICTION_EPSILON, low, high);
        REQUIRE(up.t == 300 && fabs(down.x * (up.x * 0.7 + up.y * 0.3) + down.y * 0.3 - 0.7) < 1e-12);
    }
}

static void test_even(void) {
    double s[5];
    morph_even((double[]){1, 3}, (double[]){0, 0.5, 1}, 2, 4, s); /* quarters of 4: after 1, 2 and 3 */
    REQUIRE(s[0] == 0 && fabs(s[1] - 0.5) < 1e-12 && fabs(s[2] - 2.0 / 3) < 1e-12 && fabs(s[3] - 5.0 / 6) < 1e-12 && s[4] == 1);
    morph_even((double[]){0, 2, 0}, (double[]){0, 0.2, 0.6, 1}, 3, 2, s);
    REQUIRE(s[0] == 0 && fabs(s[1] - 0.4) < 1e-12 && s[2] == 1);
    morph_even((double[]){0, 0}, (double[]){0, 0.3, 1}, 2, 4, s);
    for (int i = 0; i < 5; i++) REQUIRE(s[i] == i / 4.0);
}

/* ---- on networks ---- */
enum { CELLS = 8 * 6 * 4, BATCH = 5, ALL = BATCH * CELLS };

/* Up until nothing changes and down again, guidance reaching only the frames between: the ends come back as they were
 * (freemorph's shrink by 5 %), and a middle frame feels its guidance. */
static void test_ends_return(imago *im) {
    static const morph_shape up = {MORPH_PLAIN, MORPH_OUTER, true, false};
    double guidance[BATCH] = {1, 2, 3, 1, 1}, share[BATCH] = {0, 0.2, 0.5, 0.7, 1}, moved = 0, off = 0;
    float x[ALL], y[ALL], z[ALL], start[ALL];
    imago_morph_params p = wish();
    level at[7];
    p.frames = BATCH, p.uneven = true; /* leaves texts of 5 frames */
    REQUIRE(imago_morph(im, &p, NULL) == IMAGO_OK);
    prediction kind = im->ck->schedule.prediction_type;
    REQUIRE_OK(morph_ladder(&im->ck->schedule, 6, 0.7, at));
    for (int i = 0; i < ALL; i++) start[i] = cosf((float)(i * 5)) + 0.5f;
    REQUIRE_OK(array_write(im->lat.x, start));
    for (int i = 0; i < 6; i++) {
        morph_update u = morph_up(kind, at[i], at[i + 1]);
        REQUIRE_OK(array_read(im->lat.x, x));
        REQUIRE_OK(array_write(im->lat.kept[0], x));
        for (int k = 0; k < 40; k++) REQUIRE_OK(morph_step(im, &up, &u, &(morph_dials){.guidance = 1}));
    }
    REQUIRE_OK(array_read(im->lat.x, x));
    for (int way = 0; way < 2; way++) {
        REQUIRE_OK(array_write(im->lat.x, x));
        for (int i = 6; i > 0; i--) {
            morph_shape down = {i == 6 ? MORPH_BLEND : i > 2 ? MORPH_FUSED : MORPH_PLAIN, MORPH_ALL, false, true};
            morph_update u = morph_down(kind, at[i], at[i - 1]);
            REQUIRE_OK(morph_step(im, &down, &u, &(morph_dials){3, guidance, share}));
        }
        REQUIRE_OK(array_read(im->lat.x, way ? z : y));
        guidance[2] = 1;
    }
    for (int i = 0; i < CELLS; i++) {
        off = fmax(off, fmax((double)fabsf(y[i] - start[i]), (double)fabsf(y[ALL - CELLS + i] - start[ALL - CELLS + i])));
        REQUIRE(fabsf(y[3 * CELLS + i] - z[3 * CELLS + i]) < 1e-4f); /* nobody looks at frame 2 */
        moved = fmax(moved, (double)fabsf(y[2 * CELLS + i] - z[2 * CELLS + i]));
    }
    printf("ends off by  %.2e; a guided frame moved by %.2e\n", off, moved);
    REQUIRE(off < 1e-2 && moved > 1e-3);
}

static void frames_of(imago *im, imago_morph_params p, int frames, imago_picture **out) {
    p.frames = frames, p.uneven = true;
    if (imago_morph(im, &p, out) != IMAGO_OK) printf("%s\n", imago_error_message());
    REQUIRE(*out);
}

static int furthest(const imago_picture *a, const imago_picture *b) {
    int most = 0;
    for (int i = 0; i < 48 * 64 * 3; i++) most = MAX(most, abs(a->rgb[i] - b->rgb[i]));
    return most;
}

/* 3, 5 and 17 frames have the half way in common, 5 and 17 the quarters; 17 come in three batches. */
static void test_shares_decide(imago *im) {
    imago_picture *three, *five, *many;
    frames_of(im, wish(), 3, &three);
    frames_of(im, wish(), 5, &five);
    frames_of(im, wish(), 17, &many);
    REQUIRE_EQ(morph_imago_batch(17), 2 + 5);
    REQUIRE(furthest(&three[1], &five[2]) <= 1);
    for (int i = 0; i < 5; i++) REQUIRE(furthest(&five[i], &many[4 * i]) <= 1);
    REQUIRE(furthest(&five[1], &five[2]) > 2); /* and shares do make a difference */
    for (int i = 0; i < 2; i++) REQUIRE(memcmp(many[16 * i].rgb, g_picture[i].rgb, 48 * 64 * 3) == 0);
    imago_free_pictures(three, 3);
    imago_free_pictures(five, 5);
    imago_free_pictures(many, 17);
}

/* The latents of all seven frames, whose places were found by pixels (sd1) or by SqueezeNet (sd2), and the pictures between. */
static void test_golden(imago *im, const char *name, const char *squeezenet) {
    enum { N = 7 * CELLS, PX = 48 * 64 * 3 };
    char path[1024], key[64];
    imago_morph_params p = wish();
    imago_picture *pics = NULL;
    safetensors *golden = NULL;
    float x[N];
    double diff = 0, norm = 0, worst = 1000;
    snprintf(path, sizeof path, "%s/morph_imago.safetensors", g_dir);
    REQUIRE_OK(safetensors_open(path, &golden));
    snprintf(key, sizeof key, "%s.latent", name);
    const safetensor *latent = safetensors_find(golden, key);
    snprintf(key, sizeof key, "%s.image", name);
    const safetensor *between = safetensors_find(golden, key);
    REQUIRE(latent && between && safetensor_count(latent) == N && safetensor_count(between) == 5 * PX);
    p.frames = 7, p.judge = squeezenet;
    if (imago_morph(im, &p, &pics) != IMAGO_OK) printf("%s\n", imago_error_message());
    REQUIRE(pics && array_count(im->lat.x) == N);
    REQUIRE_OK(array_read(im->lat.x, x));
    for (int i = 0; i < N; i++) {
        double v = safetensor_load(latent, i);
        diff += pow((double)x[i] - v, 2), norm += v * v;
    }
    for (int f = 0; f < 5; f++) worst = fmin(worst, image_psnr(pics[1 + f].rgb, (const uint8_t *)between->data + f * PX, PX));
    printf("golden %s   latents %.2e, worst picture %.1f dB\n", name, sqrt(diff / norm), worst);
    REQUIRE(sqrt(diff / norm) < 1e-3 && worst > 45);
    imago_free_pictures(pics, 7);
    safetensors_close(golden);
}

/* Every switch does something, and nothing is random. */
static void test_switches(imago *im) {
    imago_picture *base, *again, *other;
    imago_morph_params p = wish();
    frames_of(im, p, 3, &base);
    frames_of(im, p, 3, &again);
    REQUIRE(furthest(&base[1], &again[1]) == 0);
    imago_free_pictures(again, 3);
    for (int i = 0; i < 4; i++) {
        p = wish();
        if (i == 0) p.own_keys = true;
        if (i == 1) p.no_detail = true;
        if (i == 2) p.guidance = 1;
        if (i == 3) p.prompt = NULL;
        frames_of(im, p, 3, &other);
        REQUIRE(furthest(&base[1], &other[1]) > 0);
        imago_free_pictures(other, 3);
    }
    imago_free_pictures(base, 3);
}

/* Work: the ends alone on the way up (stopped early at best); the ends without an unconditional half on the way down. */
static void test_work(imago *im) {
    imago_morph_params p = wish();
    p.steps = 0;
    REQUIRE(imago_morph(im, &p, NULL) == IMAGO_OK);
    printf("work         %d evaluations\n", im->report.evaluations);
    REQUIRE(im->report.evaluations <= 1851 * 4 / 10);
    p.steps = 4, p.inner = 1, p.uneven = true;
    REQUIRE(imago_morph(im, &p, NULL) == IMAGO_OK);
    REQUIRE_EQ(im->report.evaluations, 4 * 2 + 4 * (5 + 7));
    p.guidance = 1;
    REQUIRE(imago_morph(im, &p, NULL) == IMAGO_OK);
    REQUIRE_EQ(im->report.evaluations, 4 * 2 + 4 * 7);
}

/* The loss of a picture, from the network's v itself at the times whose angles are nearest to 30, 50 and 70 degrees. */
static void test_surprise(imago *im) {
    enum { DRAWS = 4 };
    float z[CELLS], noise[DRAWS * CELLS], x[DRAWS * CELLS], px[48 * 64 * 3];
    double abar[1000], want = 0, got = 0, other = 0;
    image a = picture_image(&g_picture[0]), b = picture_image(&g_picture[1]);
    static const morph_shape plain = {MORPH_PLAIN, MORPH_ALL, false, false};
    noise_gen gen;
    REQUIRE_OK(picture_surprise(im, &b, &other));
    REQUIRE_OK(picture_surprise(im, &a, &got)); /* leaves texts of no words for four */
    REQUIRE_OK(schedule_alphas_cumprod(&im->ck->schedule, abar));
    for (int i = 0; i < 48 * 64 * 3; i++) px[i] = (float)a.px[i] / 127.5f - 1;
    REQUIRE_OK(vae_encode_pixels(im, px, 64, 48, NULL, z));
    noise_init(&gen, NOISE_CPU, DT_F32, 0);
    for (int d = 0; d < DRAWS; d++) REQUIRE_OK(latent_noise(im, &gen, 8, 6, noise + d * CELLS));
    for (int k = 0; k < 3; k++) {
        double angle = (30 + 20 * k) * 3.14159265358979 / 180, v;
        int t = 0;
        for (int i = 1; i < 1000; i++)
            if (fabs(acos(sqrt(abar[i])) - angle) < fabs(acos(sqrt(abar[t])) - angle)) t = i;
        double al = sqrt(abar[t]), si = sqrt(1 - abar[t]);
        for (int i = 0; i < DRAWS * CELLS; i++) x[i] = (float)(al * (double)z[i % CELLS] + si * (double)noise[i]);
        REQUIRE_OK(array_write(im->lat.x, x));
        text_params none = {.prompt = "", .plain = true};
        float *text = NULL;
        int entries, tokens;
        REQUIRE_OK(text_features(im, &none, &text, &entries, &tokens));
        REQUIRE_OK(text_keys(im, text, 1, tokens, 1 + DRAWS)); /* a morph's: without words, and each frame */
        mem_free(text);
        REQUIRE_OK(morph_step(im, &plain, &(morph_update){t, 0, 1}, &(morph_dials){.guidance = 1}));
        REQUIRE_OK(array_read(im->lat.x, x));
        for (int i = 0; i < DRAWS * CELLS; i++) {
            v = al * (double)noise[i] - si * (double)z[i % CELLS];
            want += pow((double)x[i] - v, 2) / (3 * DRAWS * CELLS);
        }
    }
    printf("surprise     %.6f, expected %.6f; of the other %.6f\n", got, want, other);
    REQUIRE(fabs(got - want) < 1e-4 * want && fabs(got - other) > 1e-4);
}

static bool stop_at_third(void *ctx, int index, int total, const imago_picture *p) {
    (void)total, (void)p;
    *(int *)ctx = index;
    return index < 2;
}

/* Frames come one by one, and a user who stops has those that came. */
static void test_stop(imago *im) {
    imago_picture *out = NULL;
    imago_morph_params p = wish();
    int last = -1;
    p.frames = 9, p.frame = stop_at_third, p.frame_ctx = &last;
    REQUIRE(imago_morph(im, &p, &out) == IMAGO_E_CANCELLED && !out && last == 2);
    p.judge = "no/such/weights", p.frame = NULL;
    REQUIRE(imago_morph(im, &p, &out) == IMAGO_E_IO && !out);
}

static void test_faults(imago *im) {
    imago_morph_params p = wish();
    p.frames = 3, p.steps = 2, p.inner = 1;
    morph_faults(im, &p);
}

int main(int argc, char **argv) {
    char path[1024];
    if (argc != 4) return printf("usage: test_morph_imago GOLDEN_DIR DEVICE SQUEEZENET\n"), 2;
    g_dir = argv[1], g_device = argv[2], g_judge = argv[3];
    device *d = NULL;
    if (device_open(&(op_table){0}, &(device_params){.name = g_device}, &d) != OK) return printf("skipped: %s\n", error_message()), 77;
    device_close(d);
    int64_t live = mem_live();
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/morph/%c.png", g_dir, 'a' + i);
        REQUIRE(imago_load_picture(path, &g_picture[i]) == IMAGO_OK);
    }
    test_ladder();
    test_updates();
    test_even();
    for (int i = 0; i < 2; i++) { /* epsilon, v */
        imago *im = open_model(i ? "sd2" : "sd1");
        test_golden(im, i ? "sd2" : "sd1", i ? g_judge : NULL);
        test_ends_return(im);
        if (i || strcmp(g_device, "cpu") == 0) test_shares_decide(im);
        if (i && strcmp(g_device, "cpu") == 0) {
            test_switches(im);
            test_work(im);
            test_stop(im);
            test_surprise(im);
            test_faults(im);
        }
        imago_close(im);
    }
    for (int i = 0; i < 2; i++) imago_clear_picture(&g_picture[i]);
    REQUIRE_EQ(mem_live(), live);
    printf("passed\n");
    return 0;
}
