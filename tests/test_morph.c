/* test_morph.c: imago_morph against float64 runs of the whole method (tests/golden/make_morph.py), its modes of attention one
 * by one, what must hold exactly, and wrong wishes. FreeMorph's table of rotations is checked in test_sampler.c, CUDA's
 * random numbers in test_noise.c.   usage: test_morph GOLDEN_DIR DEVICE
 * SPDX-License-Identifier: MIT */
#include "morph_run.h"
#include "file/file.h"
#include <math.h>

static safetensors *g_golden;

static imago_morph_params wish(void) {
    return IMAGO_MORPH(.picture = g_picture, .n_pictures = 2, .prompt = g_prompts, .width = 48, .height = 64, .method = "freemorph", .steps = 12, .strength = 0.84f);
}

/* ---- host mathematics ---- */
static void test_slerp(void) {
    const float a[2] = {3, 4}, b[2] = {4, -3}, zero[2] = {0};
    float out[2];
    morph_slerp(a, b, 1.0 / 6, 1, 2, 1, out);
    REQUIRE(fabs((double)out[0] - 3.933054) < 1e-5 && fabs((double)out[1] - 3.087246) < 1e-5);
    morph_slerp(a, zero, 0.25, 1, 2, 1, out); /* no angle: a straight line */
    REQUIRE(fabs((double)out[0] - 2.25) < 1e-6 && fabs((double)out[1] - 3) < 1e-6);
    /* channels last: an angle per row and channel, here the same two rows in channel 1 */
    const float a2[4] = {9, 3, 9, 4}, b2[4] = {9, 4, 9, -3};
    float out2[4];
    morph_slerp(a2, b2, 1.0 / 6, 1, 2, 2, out2);
    REQUIRE(fabs((double)out2[0] - 9) < 1e-5 && fabs((double)out2[1] - 3.933054) < 1e-5 && fabs((double)out2[3] - 3.087246) < 1e-5);
}

static void test_blend(void) {
    static const double seven[] = {0, 0.4234937, 0.4657748, 0.5, 0.5342252, 0.5765063, 1};
    static const double nine[] = {0, .4092494, .4464971, .4746677, .5, .5253323, .5535029, .5907506, 1};
    for (int j = 0; j < 7; j++) REQUIRE(fabs(morph_blend(j / 6.0) - seven[j]) < 1e-7);
    for (int j = 0; j < 9; j++) REQUIRE(fabs(morph_blend(j / 8.0) - nine[j]) < 1e-7);
}

static void test_modes_of_steps(void) {
    static const char up[] = "PPPPPPPPPPPPPPPPMMMMMMMMMMMMMMPEEEEEEEEE", down[] = "BBBBBBBBFFFFFFFFFFFFFFFFPPPPPPPPPPPPPPPP", letter[] = "PMEBF";
    for (int i = 0; i < 40; i++) {
        REQUIRE_EQ(letter[morph_mode_up(i, 50)], up[i]);
        REQUIRE_EQ(letter[morph_mode_down(i, 40)], down[i]);
    }
}

/* The share of the spectrum's cells that injection keeps, from what it does to noise: exact, for the filter is linear. */
static double kept_share(int h, int w, double keep) {
    double trace = 0;
    float *x = mem_zalloc(sizeof *x * (size_t)(h * w)), *zero = mem_zalloc(sizeof *x * (size_t)(h * w));
    REQUIRE(x && zero);
    x[0] = 1; /* an impulse: all frequencies alike, so what stays of it is the share */
    REQUIRE_OK(morph_inject(x, zero, keep, h, w, 1));
    trace = (double)x[0];
    mem_free(x);
    mem_free(zero);
    return trace;
}

static void test_injection(void) {
    enum { H = 7, W = 10, C = 2, N = H * W * C };
    float x[N], same[N], g[N], flat[N];
    for (int i = 0; i < N; i++) x[i] = same[i] = sinf((float)(i * i)), g[i] = cosf((float)(3 * i * i)), flat[i] = 5;
    REQUIRE_OK(morph_inject(same, g, 1, H, W, C)); /* keep all */
    for (int i = 0; i < N; i++) REQUIRE(fabsf(x[i] - same[i]) < 1e-5f);
    REQUIRE_OK(morph_inject(same, x, 0.5, H, W, C)); /* its own noise */
    for (int i = 0; i < N; i++) REQUIRE(fabsf(x[i] - same[i]) < 1e-5f);
    REQUIRE_OK(morph_inject(flat, g, 0.5, H, W, C)); /* the mean is of the lowest frequency */
    double mean = 0, other = 0;
    for (int i = 0; i < N; i++) mean += (double)flat[i] / N, other += fabs((double)flat[i] - 5);
    REQUIRE(fabs(mean - 5) < 1e-5 && other > 1);
    REQUIRE_EQ(morph_cut(96, 44.0 / 48), 44);
    REQUIRE_EQ(morph_cut(96, 42.0 / 48), 42);
    REQUIRE_EQ(morph_cut(16, 44.0 / 48), 7);
    REQUIRE_EQ(morph_cut(96, 1), 48);
    REQUIRE(morph_cut(8, 44.0 / 48) < 4 && morph_cut(1, 0.5) == 0);
    /* the published shares: a square of 2T of 96 on either axis; 0.5 on the border but 0 at two corners does not change the sum */
    REQUIRE(fabs(kept_share(96, 96, 44.0 / 48) - 0.8403) < 1e-4);
    REQUIRE(fabs(kept_share(96, 96, 42.0 / 48) - 0.7656) < 1e-4);
    static const double seven[] = {48, 44, 42, 42, 42, 42, 48}, nine[] = {48, 44, 42, 42, 42, 42, 42, 44, 48};
    for (int j = 0; j < 7; j++) REQUIRE(fabs(morph_keep(j, 7) * 48 - seven[j]) < 1e-9);
    for (int j = 0; j < 9; j++) REQUIRE(fabs(morph_keep(j, 9) * 48 - nine[j]) < 1e-9);
}

/* ---- against float64 ---- */
static double distance(const float *x, const char *name, bool inner_only) {
    const safetensor *t = safetensors_find(g_golden, name);
    if (!t) printf("the golden file has no %s\n", name);
    REQUIRE(t);
    int64_t n = safetensor_count(t), edge = inner_only ? n / 7 : 0;
    double diff = 0, norm = 0;
    for (int64_t i = edge; i < n - edge; i++) {
        double v = safetensor_load(t, i);
        diff += ((double)x[i] - v) * ((double)x[i] - v), norm += v * v;
    }
    return sqrt(diff / norm);
}

static double picture_distance(const imago_picture *pics, int n, const char *name) {
    const safetensor *t = safetensors_find(g_golden, name);
    REQUIRE(t);
    int64_t count = safetensor_count(t) / n;
    double square = 0;
    for (int i = 0; i < n; i++) {
        REQUIRE_EQ((int64_t)pics[i].width * pics[i].height * 3, count);
        for (int64_t k = 0; k < count; k++) square += pow((double)pics[i].rgb[k] - safetensor_load(t, i * count + k), 2);
    }
    return 10 * log10(255.0 * 255.0 * (double)(n * count) / (square + 1e-9));
}

/* The ends are left out of the latents: once nobody looks at them they stay where they are. */
static void compare_run(imago *im, const char *name, imago_morph_params p) {
    imago_picture *pics = NULL;
    char key[64];
    if (imago_morph(im, &p, &pics) != IMAGO_OK) printf("%s: %s\n%s", name, imago_error_message(), error_backtrace());
    REQUIRE(pics);
    float *x = mem_alloc(sizeof *x * 7 * 8 * 6 * 4);
    REQUIRE_EQ(array_count(im->lat.x), 7 * 8 * 6 * 4);
    REQUIRE_OK(array_read(im->lat.x, x));
    snprintf(key, sizeof key, "%s.latent", name);
    double rel = distance(x, key, true);
    snprintf(key, sizeof key, "%s.image", name);
    double db = picture_distance(pics, 7, key);
    printf("%-12s latent %.2e  pictures %.1f dB  %d evaluations\n", name, rel, db, im->report.evaluations);
    REQUIRE(rel < 1e-3 && db > 45);
    for (int i = 0; i < 2; i++) REQUIRE(memcmp(pics[i ? 6 : 0].rgb, g_picture[i].rgb, 48 * 64 * 3) == 0);
    imago_free_pictures(pics, 7);
    mem_free(x);
}

/* A call after which x is the network's output at t = 400. */
static morph_update bare_update(const imago *im) {
    sampler_call call = {.at = {400, 0.6, 0.8}};
    double wx, wp;
    prediction_to_x0(im->ck->schedule.prediction_type, call.at, &wx, &wp);
    call.mix.x0 = 1 / wp, call.mix.x = -wx / wp;
    return morph_update_of(im, &call);
}

enum { CELLS = 8 * 6 * 4, ALL = 7 * CELLS };

static void outputs(imago *im, const float *x, morph_mode mode, float guidance, float *y) {
    morph_shape s = {mode, MORPH_ALL, false, false};
    morph_update u = bare_update(im);
    REQUIRE_OK(array_write(im->lat.x, x));
    REQUIRE_OK(morph_step(im, &s, &u, &(morph_dials){.guidance = guidance}));
    REQUIRE_OK(array_read(im->lat.x, y));
}

/* im has the texts of the last morph: 7 frames between the two prompts. */
static void compare_modes(imago *im, const char *name) {
    char key[64];
    float x[ALL], y[ALL], plain[ALL];
    snprintf(key, sizeof key, "%s.mode.x", name);
    const safetensor *t = safetensors_find(g_golden, key);
    REQUIRE(t && safetensor_count(t) == ALL);
    for (int i = 0; i < ALL; i++) x[i] = (float)safetensor_load(t, i);
    for (int mode = 0; mode < MORPH_MODE_COUNT; mode++) {
        outputs(im, x, (morph_mode)mode, 1, y);
        if (mode == MORPH_PLAIN) memcpy(plain, y, sizeof y);
        snprintf(key, sizeof key, "%s.mode.%c", name, "PMEBF"[mode]);
        double rel = distance(y, key, false);
        printf("%-12s %.2e\n", key, rel);
        REQUIRE(rel < 1e-4);
        if (mode != MORPH_BLEND && mode != MORPH_FUSED) continue;
        for (int i = 0; i < CELLS; i++) REQUIRE(fabsf(y[i] - plain[i]) < 1e-4f && fabsf(y[6 * CELLS + i] - plain[6 * CELLS + i]) < 1e-4f);
    }
}

/* ---- what must hold exactly ---- */

/* Equal frames with equal texts: every mode is plain. With guidance, too. */
static void test_identities(imago *im) {
    float x[ALL], plain[ALL], y[ALL];
    imago_morph_params p = wish();
    p.prompt = NULL, p.steps = 2, p.strength = 1, p.inner = 1;
    REQUIRE(imago_morph(im, &p, NULL) == IMAGO_OK); /* texts of 7 frames, all empty */
    for (int i = 0; i < ALL; i++) x[i] = sinf((float)(i % CELLS * 7));
    for (int guided = 0; guided < 2; guided++)
        for (int mode = 0; mode < MORPH_MODE_COUNT; mode++) {
            if (guided && mode == MORPH_MEAN) continue;
            outputs(im, x, (morph_mode)mode, guided ? 3 : 1, mode ? y : plain);
            for (int i = 0; mode && i < ALL; i++) REQUIRE(fabsf(y[i] - plain[i]) < 2e-4f);
        }
}

/* Up and down again, plain and without guidance: the idle steps change nothing, and what comes back is the start shrunk by
 * the product of cos^2, for a rotation is not undone by the step it is solved with. */
static void test_round_trip(imago *im) {
    static const morph_shape up = {MORPH_PLAIN, MORPH_OUTER, true, false}, down = {MORPH_PLAIN, MORPH_OUTER, false, false};
    sampler_params sp = {.steps = 50, .eta = -1, .strength = 0.8, .spacing = SPACING_LEADING};
    schedule_config c = im->ck->schedule;
    sampler_plan climb, fall;
    float x[ALL], y[ALL], start[ALL];
    double shrink = 1, diff = 0, norm = 0;
    c.steps_offset = 0, c.set_alpha_to_one = false;
    REQUIRE_OK(sampler_expand_inversion(&c, &sp, &climb));
    REQUIRE_OK(sampler_expand(sampler_find("ddim"), &c, &sp, &fall));
    REQUIRE(climb.n_calls == 40 && fall.n_calls == 40 && morph_idle(&climb.call[0]) && morph_idle(&fall.call[39]));
    for (int i = 0; i < ALL; i++) start[i] = y[i] = cosf((float)(i * 5)) + 0.5f;
    REQUIRE_OK(array_write(im->lat.x, start));
    for (int i = 0; i < 40; i++) {
        const sampler_call *call = &climb.call[i];
        double wx, wp;
        prediction_to_x0(c.prediction_type, call->at, &wx, &wp);
        shrink *= pow(call->mix.x + call->mix.x0 * wx, 2);
        REQUIRE_OK(array_read(im->lat.x, x));
        REQUIRE_OK(array_write(im->lat.kept[0], x));
        morph_update u = morph_update_of(im, call);
        for (int k = 0; k < 5; k++) REQUIRE_OK(morph_step(im, &up, &u, &(morph_dials){.guidance = 1}));
        if (i > 0) continue;
        REQUIRE_OK(array_read(im->lat.x, y));
        for (int n = 0; n < ALL; n++) REQUIRE(fabsf(y[n] - start[n]) < 1e-5f);
    }
    for (int i = 0; i < 40; i++) {
        morph_update u = morph_update_of(im, &fall.call[i]);
        REQUIRE_OK(morph_step(im, &down, &u, &(morph_dials){.guidance = 1}));
    }
    REQUIRE_OK(array_read(im->lat.x, y));
    for (int i = 0; i < ALL; i++) {
        bool outer = i < CELLS || i >= ALL - CELLS;
        if (!outer) REQUIRE(y[i] == start[i]); /* the others have not moved */
        if (outer) diff += pow((double)y[i] - shrink * (double)start[i], 2), norm += pow((double)start[i], 2);
    }
    printf("round trip   %.4f of it, and %.2e\n", shrink, sqrt(diff / norm));
    REQUIRE(shrink > 0.9 && shrink < 0.97 && sqrt(diff / norm) < 0.07);
    sampler_plan_fini(&climb);
    sampler_plan_fini(&fall);
}

/* The released method needs 1960 evaluations of one frame; the exact savings leave 1851. */
static void test_work(imago *im) {
    imago_morph_params p = wish();
    p.steps = 0, p.strength = 0;
    REQUIRE(imago_morph(im, &p, NULL) == IMAGO_OK);
    REQUIRE_EQ(im->report.evaluations, 1851);
}

/* ---- chains, progress, refusals ---- */
typedef struct seen { int frames, total, stop; bool ordered; } seen;
static bool on_frame(void *ctx, int index, int total, const imago_picture *p) {
    seen *s = ctx;
    s->ordered = index == s->frames && (s->total == 0 || s->total == total) && p->width == 48 && p->height == 64;
    s->total = total;
    return s->ordered && ++s->frames != s->stop;
}

static void test_chain(imago *im) {
    imago_picture three[3] = {g_picture[0], g_picture[1], g_picture[0]}, *out = NULL;
    seen s = {0};
    imago_morph_params p = wish();
    p.picture = three, p.n_pictures = 3, p.prompt = NULL, p.frames = 3, p.steps = 4, p.strength = 1, p.inner = 1, p.frame = on_frame, p.frame_ctx = &s;
    REQUIRE_EQ(imago_morph_count(&p), 5);
    REQUIRE(imago_morph(im, &p, &out) == IMAGO_OK);
    REQUIRE(s.ordered && s.frames == 5 && s.total == 5);
    for (int i = 0; i < 3; i++) REQUIRE(memcmp(out[2 * i].rgb, three[i].rgb, 48 * 64 * 3) == 0);
    imago_free_pictures(out, 5);
    p.loop = true, s = (seen){0}, p.n_pictures = 2;
    REQUIRE_EQ(imago_morph_count(&p), 4);
    REQUIRE(imago_morph(im, &p, NULL) == IMAGO_OK && s.frames == 4);
    p.loop = false, s = (seen){.stop = 2};
    REQUIRE(imago_morph(im, &p, &out) == IMAGO_E_CANCELLED && !out && s.frames == 2);
    p.frames = 2, s = (seen){0}; /* nothing between */
    REQUIRE(imago_morph(im, &p, &out) == IMAGO_OK && s.frames == 2 && im->report.evaluations == 0);
    REQUIRE(memcmp(out[1].rgb, three[1].rgb, 48 * 64 * 3) == 0);
    imago_free_pictures(out, 2);
    p.frames = 3, p.picture = three + 1, three[2] = three[1], s = (seen){0}; /* the same picture twice */
    REQUIRE(imago_morph(im, &p, NULL) == IMAGO_OK && s.frames == 3);
    uint8_t dot[3] = {7, 8, 9};
    three[2] = (imago_picture){.width = 1, .height = 1, .rgb = dot}, s = (seen){0};
    REQUIRE(imago_morph(im, &p, NULL) == IMAGO_OK && s.frames == 3);
}

static void test_faults(imago *im) {
    imago_morph_params p = wish();
    p.frames = 3, p.steps = 3, p.strength = 1, p.inner = 1;
    morph_faults(im, &p);
}

static void test_refusals(imago *im) {
    imago_picture *out = NULL, empty[2] = {g_picture[0]};
    imago_morph_params p[9];
    static const char *const says[9] = {"1 pictures", "1 frames", "strength", "guidance", "steps", "inner", "'magic'", "60x64", "picture 2"};
    for (int i = 0; i < 9; i++) p[i] = wish();
    p[0].n_pictures = 1, p[1].frames = 1, p[2].strength = 2, p[3].guidance = -1, p[4].steps = -4, p[5].inner = 1000;
    p[6].method = "magic", p[7].width = 60, p[8].picture = empty;
    for (int i = 0; i < 9; i++) {
        REQUIRE(imago_morph(im, &p[i], &out) == IMAGO_E_USAGE && !out);
        if (!strstr(imago_error_message(), says[i])) printf("'%s' does not say '%s'\n", imago_error_message(), says[i]);
        REQUIRE(strstr(imago_error_message(), says[i]));
    }
    REQUIRE_EQ(imago_morph_count(&p[0]), 0);
    imago *paint = open_model("inpaint");
    p[0] = wish();
    REQUIRE(imago_morph(paint, &p[0], &out) == IMAGO_E_UNSUPPORTED && !out);
    imago_close(paint);
}

int main(int argc, char **argv) {
    char path[1024];
    if (argc != 3) return printf("usage: test_morph GOLDEN_DIR DEVICE\n"), 2;
    g_dir = argv[1], g_device = argv[2];
    device *d = NULL;
    if (device_open(&(op_table){0}, &(device_params){.name = g_device}, &d) != OK) return printf("skipped: %s\n", error_message()), 77;
    device_close(d);
    int64_t live = mem_live();
    bool fast = strcmp(g_device, "cpu") == 0;
    snprintf(path, sizeof path, "%s/morph.safetensors", g_dir);
    REQUIRE_OK(safetensors_open(path, &g_golden));
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/morph/%c.png", g_dir, 'a' + i);
        REQUIRE(imago_load_picture(path, &g_picture[i]) == IMAGO_OK);
    }
    test_slerp();
    test_blend();
    test_modes_of_steps();
    test_injection();
    for (int i = 0; i < 2; i++) {
        const char *name = i ? "sd2" : "sd1";
        char baseline[32];
        imago *im = open_model(name);
        imago_morph_params p = wish();
        compare_run(im, name, p);
        compare_modes(im, name);
        snprintf(baseline, sizeof baseline, "%s.slerp", name);
        p.method = "slerp", p.guidance = 3;
        compare_run(im, baseline, p);
        test_identities(im);
        if (i) test_round_trip(im);
        if (i && fast) test_work(im);
        if (i && fast) test_chain(im);
        if (i && fast) test_refusals(im);
        if (i && fast) test_faults(im);
        imago_close(im);
    }
    for (int i = 0; i < 2; i++) imago_clear_picture(&g_picture[i]);
    safetensors_close(g_golden);
    REQUIRE_EQ(mem_live(), live);
    printf("passed\n");
    return 0;
}
