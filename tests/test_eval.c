/* test_eval.c: `imago eval morph`: evenness against values worked out by hand, distances against
 * the features themselves, sequences whose answer is known, the command as a user runs it, bad
 * folders, short memory.   usage: test_eval ASSETS_DIR PATH_OF_IMAGO CORPUS [device]
 * SPDX-License-Identifier: MIT */
#include "eval/eval.h"
#include "family/squeezenet.h"
#include "cli_run.h"
#include "train/corpus.h"
#include <cjson/cJSON.h>
#include <math.h>

enum { FRAMES = 7, SIDE = 32 };
static char g_dir[] = "test_eval.XXXXXX", g_weights[1000];
static const char *g_exe, *g_corpus;
static device *g_dev;

static bool near(double a, double b, double tol) { return fabs(a - b) <= tol; }

static const char *in_dir(const char *name) {
    static char path[4][400];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[0], "%s/%s", g_dir, name);
    return path[turn];
}

/* ---- evenness, by hand ---- */
static void test_gaps(void) {
    gap_measures m = gaps_measure((double[]){1, 1, 1, 1}, 4); /* 5 frames: e = 1/3 */
    REQUIRE(m.path == 4 && near(m.ppl, 36, 1e-12) && m.largest == 1 && m.gini == 0);
    REQUIRE(m.first == 1 && m.last == 1);
    /* pairs differ by 1 1 1 2 2 3 = 10, twice; 20 / (2 * 16 * 2.5) */
    m = gaps_measure((double[]){1, 4, 3, 2}, 4);
    REQUIRE(near(m.gini, 0.25, 1e-12) && near(m.largest, 1.6, 1e-12));
    REQUIRE(near(m.first, 0.4, 1e-12) && near(m.last, 0.8, 1e-12));
    m = gaps_measure((double[]){0, 0, 6}, 3);
    REQUIRE(near(m.gini, 2.0 / 3, 1e-12) && near(m.largest, 3, 1e-12) && m.first == 0);
    REQUIRE(near(m.last, 3, 1e-12));
    m = gaps_measure((double[]){.1, .2, .1, .2, .1, .2}, 6); /* as in FreeMorph: 7 frames, 25 */
    REQUIRE(near(m.ppl, 25 * 0.9, 1e-12) && near(m.gini, 1.0 / 6, 1e-12));
    m = gaps_measure((double[]){5}, 1);
    REQUIRE(m.path == 5 && m.ppl == 5 && m.largest == 1 && m.gini == 0);
    m = gaps_measure((double[]){0, 0, 0}, 3);
    REQUIRE(m.path == 0 && m.ppl == 0 && m.largest == 1 && m.gini == 0 && m.first == 1);
}

/* ---- pictures ---- */
static image flat(int w, int h, int r, int g, int b) {
    image im = {0};
    REQUIRE_OK(image_create(w, h, 3, &im));
    for (int i = 0; i < w * h; i++)
        im.px[3 * i] = (uint8_t)r, im.px[3 * i + 1] = (uint8_t)g, im.px[3 * i + 2] = (uint8_t)b;
    return im;
}

static void fill_pattern(uint8_t *px, int n, int seed) {
    for (int i = 0; i < n; i++) px[i] = (uint8_t)((i / 7 * (seed + 3) + i % 3 * 90) % 251);
}

static image pattern(int w, int h, int seed) {
    image im = flat(w, h, 0, 0, 0);
    fill_pattern(im.px, 3 * w * h, seed);
    return im;
}

static void save_frame(const char *folder, int frame, image im) {
    char path[400];
    snprintf(path, sizeof path, "%s/%s", g_dir, folder);
    REQUIRE_OK(os_mkdir_p(path));
    snprintf(path, sizeof path, "%s/%s/frame-%04d.png", g_dir, folder, frame + 1);
    REQUIRE_OK(image_save_png(path, &im, NULL, 0));
    image_free(&im);
}

static image grey(int v) { return flat(SIDE, SIDE, v, v, v); }

static void save_sequences(void) {
    for (int i = 0; i < FRAMES; i++) {
        save_frame("same", i, pattern(SIDE, SIDE, 5));
        save_frame("ramp", i, grey(40 * i));
        save_frame("jump", i, i < 2 ? pattern(SIDE, SIDE, 1) : pattern(SIDE, SIDE, 9));
    }
    save_frame("tail", 0, grey(9)), save_frame("tail", 1, grey(90));
    save_frame("one", 0, grey(9));
    save_frame("hole", 0, grey(9)), save_frame("hole", 1, grey(9)), save_frame("hole", 3, grey(9));
    save_frame("sizes", 0, grey(9)), save_frame("sizes", 1, flat(SIDE, SIDE + 8, 9, 9, 9));
    save_frame("tiny", 0, flat(30, 64, 1, 1, 1)), save_frame("tiny", 1, flat(30, 64, 1, 1, 1));
    save_frame("corrupt", 0, grey(9));
    REQUIRE_OK(file_write_atomic(in_dir("corrupt/frame-0002.png"), "\x89PNG\r\n\x1a\nno more", 15));
    image a = flat(2 * SIDE, SIDE, 230, 230, 230);
    REQUIRE_OK(image_save_png(in_dir("b.png"), &a, NULL, 0));
    image_free(&a);
    a = grey(0);
    REQUIRE_OK(image_save_png(in_dir("a.png"), &a, NULL, 0));
    image_free(&a);
}

/* ---- distances ---- */
static void test_pixels(void) {
    image black = grey(0), white = grey(255), red = flat(SIDE, SIDE, 255, 0, 0);
    REQUIRE(pixel_distance(&black, &black) == 0);
    REQUIRE(near(pixel_distance(&black, &white), 1, 1e-12));
    REQUIRE(near(pixel_distance(&black, &red), sqrt(1.0 / 3), 1e-12));
    image_free(&black), image_free(&white), image_free(&red);
}

/* All taps of one picture, one after the other; channels[i] and count[i] of each. */
static float *taps_of(params *net, const image *im, int64_t channels[], int64_t count[]) {
    tensor *tap[SQUEEZENET_TAPS];
    plan *p = NULL;
    char name[SQUEEZENET_TAPS][8];
    int64_t all = 0;
    graph *g = graph_create(g_dev);
    nn m = {g, net, NULL};
    squeezenet_features(&m, graph_input(g, "x", DT_F32, SHAPE(1, im->h, im->w, 3)), tap);
    for (int i = 0; i < SQUEEZENET_TAPS; i++) {
        snprintf(name[i], sizeof name[i], "tap%d", i);
        graph_output(g, tap[i], name[i]);
        channels[i] = tap[i]->s.d[3], count[i] = tensor_count(tap[i]), all += count[i];
    }
    REQUIRE_OK(graph_compile(g, NULL, &p));
    float *x = mem_alloc(sizeof *x * 3 * (size_t)(im->w * im->h)),
          *f = mem_alloc(sizeof *f * (size_t)all);
    for (int i = 0; i < 3 * im->w * im->h; i++) x[i] = (float)(im->px[i] / 127.5 - 1);
    REQUIRE_OK(plan_write(p, "x", x));
    REQUIRE_OK(plan_run(p, NULL, NULL));
    all = 0;
    for (int i = 0; i < SQUEEZENET_TAPS; all += count[i++])
        REQUIRE_OK(plan_read_f32(p, name[i], f + all));
    mem_free(x);
    plan_destroy(p);
    return f;
}

/* 2 - 2 cos where both speak, 1 where one does, 0 where none does */
static double position_distance(const float *u, const float *v, int64_t n) {
    double uu = 0, vv = 0, uv = 0;
    for (int64_t c = 0; c < n; c++) {
        uu += (double)u[c] * (double)u[c], vv += (double)v[c] * (double)v[c];
        uv += (double)u[c] * (double)v[c];
    }
    if (uu == 0 || vv == 0) return (uu > 0) + (vv > 0);
    return 2 - 2 * uv / sqrt(uu * vv);
}

static double expected(params *net, const image *a, const image *b) {
    int64_t channels[SQUEEZENET_TAPS], count[SQUEEZENET_TAPS], at = 0;
    float *u = taps_of(net, a, channels, count), *v = taps_of(net, b, channels, count);
    double sum = 0;
    for (int i = 0; i < SQUEEZENET_TAPS; at += count[i++]) {
        double tap = 0;
        for (int64_t k = 0; k < count[i]; k += channels[i])
            tap += position_distance(u + at + k, v + at + k, channels[i]);
        sum += tap / (double)(count[i] / channels[i]);
    }
    mem_free(u), mem_free(v);
    return sum / SQUEEZENET_TAPS;
}

static void test_features(judge *j) {
    static const int size[][2] = {{SIDE, SIDE}, {31, 47}, {64, 40}};
    params net;
    params_init(&net, g_dev, DT_F32);
    REQUIRE_OK(squeezenet_load(&net, g_weights));
    for (size_t i = 0; i < ARRAY_LEN(size); i++) {
        image a = pattern(size[i][0], size[i][1], 1), b = pattern(size[i][0], size[i][1], 8);
        double d = -1, back = -1, none = -1, want = expected(&net, &a, &b);
        REQUIRE_OK(judge_distance(j, &a, &b, &d));
        REQUIRE_OK(judge_distance(j, &b, &a, &back));
        REQUIRE_OK(judge_distance(j, &a, &a, &none));
        if (!near(d, want, 2e-5 * want)) printf("distance %.9g, expected %.9g\n", d, want);
        REQUIRE(want > 0.05 && want < 2 && near(d, want, 2e-5 * want) && near(d, back, 1e-6));
        REQUIRE(none == 0);
        image_free(&a), image_free(&b);
    }
    params_fini(&net);
}

/* Sums of one tap [side, side, n] over a quarter by a quarter of the picture. */
static void cell_sums(const float *f, int64_t side, int64_t n, int64_t cell, float *sum) {
    for (int64_t c = 0; c < n; c++) sum[c] = 0;
    for (int64_t i = 0; i < side * side; i++)
        if (i / side * 4 / side == cell / 4 && i % side * 4 / side == cell % 4)
            for (int64_t c = 0; c < n; c++) sum[c] += f[i * n + c];
}

static double expected_cells(params *net, const image *a, const image *b) {
    int64_t channels[SQUEEZENET_TAPS], count[SQUEEZENET_TAPS], at = 0;
    float *u = taps_of(net, a, channels, count), *v = taps_of(net, b, channels, count), x[512], y[512];
    double sum = 0;
    for (int i = 0; i < SQUEEZENET_TAPS; at += count[i++])
        for (int64_t cell = 0; cell < 16; cell++) {
            int64_t side = lround(sqrt((double)(count[i] / channels[i])));
            cell_sums(u + at, side, channels[i], cell, x);
            cell_sums(v + at, side, channels[i], cell, y);
            sum += position_distance(x, y, channels[i]);
        }
    mem_free(u), mem_free(v);
    return sum / (16 * SQUEEZENET_TAPS);
}

/* Three pictures in runs of two, a small one whose last taps are a single position. */
static void test_vectors(void) {
    params net;
    params_init(&net, g_dev, DT_F32);
    REQUIRE_OK(squeezenet_load(&net, g_weights));
    for (int side = SIDE; side <= 64; side += 32) {
        extractor *e = NULL;
        size_t one = (size_t)(side * side * 3);
        image a = pattern(side, side, 1), b = pattern(side, side, 8);
        uint8_t *rgb = mem_alloc(3 * one);
        float *v = mem_alloc(3 * EXTRACTOR_FLOATS * sizeof *v);
        memcpy(rgb, a.px, one), memcpy(rgb + one, b.px, one), memcpy(rgb + 2 * one, a.px, one);
        REQUIRE_OK(extractor_open(g_dev, g_weights, side, 2, &e));
        REQUIRE_OK(extractor_read(e, 3, rgb, v));
        double d = features_distance(v, v + EXTRACTOR_FLOATS), want = expected_cells(&net, &a, &b);
        if (!near(d, want, 2e-5 * want)) printf("%d px: %.9g, expected %.9g\n", side, d, want);
        REQUIRE(want > 0.01 && near(d, want, 2e-5 * want));
        REQUIRE(features_distance(v, v + 2 * EXTRACTOR_FLOATS) < 1e-9);
        extractor_close(e);
        mem_free(rgb), mem_free(v);
        image_free(&a), image_free(&b);
    }
    extractor *e = NULL;
    REQUIRE(extractor_open(g_dev, g_weights, 30, 1, &e) == E_UNSUPPORTED && !e);
    params_fini(&net);
}

/* ---- the nearest of many ---- */
/* What a picture shows, from the features: per tap from fire5 on the mean over positions, of length 1. */
static double expected_likeness(params *net, const image *a, const image *b) {
    int64_t channels[SQUEEZENET_TAPS], count[SQUEEZENET_TAPS], at = 0;
    float *u = taps_of(net, a, channels, count), *v = taps_of(net, b, channels, count), x[512], y[512];
    double sum = 0;
    for (int i = 0; i < SQUEEZENET_TAPS; at += count[i++]) {
        double xx = 0, yy = 0, xy = 0;
        if (i < 4) continue;
        for (int64_t c = 0; c < channels[i]; c++) {
            x[c] = y[c] = 0;
            for (int64_t k = c; k < count[i]; k += channels[i]) x[c] += u[at + k], y[c] += v[at + k];
            xx += (double)x[c] * (double)x[c], yy += (double)y[c] * (double)y[c];
            xy += (double)x[c] * (double)y[c];
        }
        sum += xy / sqrt(xx * yy) / 5;
    }
    mem_free(u), mem_free(v);
    return sum;
}

typedef struct patterns { int asked, least; } patterns; /* fails below the least number */

static status give_pattern(void *ctx, int i, uint8_t *rgb) {
    patterns *p = ctx;
    p->asked++;
    if (i < p->least) return fail(E_IO, "no such picture");
    fill_pattern(rgb, 3 * SIDE * SIDE, 3 * i);
    return OK;
}

static void test_nearest(judge *j) {
    params net;
    patterns given = {0};
    gallery_source s = {4, SIDE, give_pattern, &given};
    gallery *g = NULL;
    double d = -1, other = -1, want = 2;
    int which = -1;
    params_init(&net, g_dev, DT_F32);
    REQUIRE_OK(squeezenet_load(&net, g_weights));
    REQUIRE_OK(gallery_open(j, &s, in_dir("seen"), "1", &g));
    REQUIRE_EQ(given.asked, 4);
    image one = pattern(SIDE, SIDE, 6), strange = flat(SIDE, SIDE, 200, 30, 60);
    REQUIRE_OK(gallery_nearest(g, &one, &d, &which));
    REQUIRE(which == 2 && d < 1e-4); /* kept in halves */
    REQUIRE_OK(gallery_nearest(g, &strange, &d, &which));
    for (int i = 0; i < 4; i++) {
        image p = pattern(SIDE, SIDE, 3 * i);
        double away = 1 - expected_likeness(&net, &strange, &p);
        if (away < want) want = away, other = i;
        image_free(&p);
    }
    REQUIRE(want > 0.01 && near(d, want, 1e-4) && which == (int)other);
    /* a picture of the gallery, passed over: the nearest of the others; a strange one is nobody there */
    REQUIRE_OK(gallery_pass_over(g, &one, &strange));
    want = 2;
    for (int i = 0; i < 4; i++) {
        image p = pattern(SIDE, SIDE, 3 * i);
        if (i != 2) want = fmin(want, 1 - expected_likeness(&net, &one, &p));
        image_free(&p);
    }
    REQUIRE_OK(gallery_nearest(g, &one, &d, &which));
    REQUIRE(which != 2 && want > 1e-3 && near(d, want, 1e-4));
    REQUIRE_OK(gallery_pass_over(g, &strange, &strange));
    REQUIRE_OK(gallery_nearest(g, &one, &d, &which));
    REQUIRE(which == 2 && d < 1e-4);
    /* another shape stands on white */
    image low = flat(SIDE, SIDE / 2, 200, 30, 60), on_white = flat(SIDE, SIDE, 255, 255, 255);
    memcpy(on_white.px + 3 * SIDE * SIDE / 4, low.px, 3 * SIDE * SIDE / 2);
    REQUIRE_OK(gallery_nearest(g, &low, &d, &which));
    REQUIRE_OK(gallery_nearest(g, &on_white, &other, &which));
    REQUIRE(d == other);
    gallery_close(g);
    /* kept: nobody is asked; another key, a damaged file: asked again, and a failure is told */
    REQUIRE_OK(gallery_open(j, &s, in_dir("seen"), "1", &g));
    REQUIRE_EQ(given.asked, 4);
    REQUIRE_OK(gallery_nearest(g, &on_white, &d, &which));
    REQUIRE(d == other);
    gallery_close(g);
    given.least = 1;
    REQUIRE(gallery_open(j, &s, in_dir("seen"), "2", &g) == E_IO && !g && given.asked == 5);
    given.least = 0;
    REQUIRE_OK(file_write_atomic(in_dir("seen"), "no features", 11));
    REQUIRE_OK(gallery_open(j, &s, in_dir("seen"), "1", &g));
    REQUIRE_EQ(given.asked, 9);
    gallery_close(g);
    REQUIRE_OK(gallery_open(j, &s, in_dir("no/such/folder"), "1", &g)); /* not kept: no failure */
    gallery_close(g);
    for (int64_t n = 1, live = mem_live(), hit = 1; hit; n++) {
        fault_arm(n);
        status st = gallery_open(j, &s, NULL, "1", &g);
        if (st == OK) st = gallery_nearest(g, &low, &d, &which);
        hit = fault_count() >= n;
        fault_arm(0);
        REQUIRE((st != OK) == hit);
        gallery_close(g);
        g = NULL;
        REQUIRE_EQ(mem_live(), live);
    }
    image_free(&one), image_free(&strange), image_free(&low), image_free(&on_white);
    params_fini(&net);
}

/* ---- sequences ---- */
/* Stands for a model: ramp's frames are grey, 40 lighter each, so losses are known. */
static status brightness(void *ctx, const image *frame, double *loss) {
    ++*(int *)ctx;
    *loss = frame->px[0];
    return OK;
}

static void test_sequences(judge *j) {
    morph_measures m[3];
    arena mem = {0};
    morph_inputs none = {0}, both = {in_dir("a.png"), in_dir("b.png"), FIT_CROP};
    int asked = 0;
    frame_score scores[EVAL_SCORES] = {[BY_LOSS] = {brightness, NULL, &asked}};
    REQUIRE_OK(morph_measure(j, in_dir("same"), &none, NULL, &mem, &m[0]));
    REQUIRE(m[0].frames == FRAMES && m[0].w == SIDE && m[0].h == SIDE);
    for (int k = 0; k < EVAL_KINDS; k++) {
        const sequence_measures *s = &m[0].by[k];
        REQUIRE(s->of.path == 0 && s->of.ppl == 0 && s->of.largest == 1 && s->of.gini == 0);
        REQUIRE(isnan(s->to_first) && isnan(s->to_last));
    }
    REQUIRE_OK(morph_measure(j, in_dir("ramp"), &both, scores, &mem, &m[1]));
    const sequence_measures *ramp = m[1].by;
    REQUIRE(near(ramp[BY_PIXELS].of.path, 240.0 / 255, 1e-12));
    REQUIRE(asked == FRAMES && near(m[1].score[BY_LOSS].between, m[1].score[BY_LOSS].ends, 1e-12)); /* a straight line */
    REQUIRE(isnan(m[0].score[BY_LOSS].between) && isnan(m[1].score[BY_NEAREST].ends) && isnan(naturalness_mean(m, 2)));
    REQUIRE(near(naturalness_mean(m + 1, 1), 1, 1e-12));
    REQUIRE(near(ramp[BY_PIXELS].of.largest, 1, 1e-9) && near(ramp[BY_PIXELS].of.gini, 0, 1e-9));
    REQUIRE(ramp[BY_FEATURES].of.path > 0 && ramp[BY_FEATURES].of.largest < 5);
    REQUIRE(ramp[BY_PIXELS].to_first == 0 && ramp[BY_FEATURES].to_first == 0);
    REQUIRE(near(ramp[BY_PIXELS].to_last, 10.0 / 255, 1e-12) && ramp[BY_FEATURES].to_last > 0);
    REQUIRE_OK(morph_measure(j, in_dir("jump"), &none, NULL, &mem, &m[2]));
    for (int k = 0; k < EVAL_KINDS; k++) {
        const sequence_measures *s = &m[2].by[k];
        REQUIRE(near(s->of.largest, 6, 1e-9) && near(s->of.gini, 5.0 / 6, 1e-9));
        REQUIRE(s->of.first == 0 && s->of.last == 0 && s->gap[1] == s->of.path &&
                s->of.path > 0.05);
    }
    sequence_measures mean = sequences_mean(m, 3, BY_PIXELS);
    REQUIRE(near(mean.of.largest, 8.0 / 3, 1e-9) && isnan(mean.to_first));
    arena_fini(&mem);
}

/* ---- the command ---- */
static int run(const char *args) {
    char head[2600];
    snprintf(head, sizeof head, "cd %s && XDG_CACHE_HOME=\"$PWD/cache\" '%s' eval --device cpu --threads 2 --judge '%s'", g_dir, g_exe, g_weights);
    return cli_run(head, args, "", NULL);
}

static void complains(const char *args, int code, const char *text) {
    REQUIRE_EQ(run(args), code);
    REQUIRE(says(text) && one_line());
}

static double number(const json *j, const char *a, const char *b) {
    const cJSON *v = cJSON_GetObjectItem(cJSON_GetObjectItem(j, a), b);
    REQUIRE(cJSON_IsNumber(v));
    return v->valuedouble;
}

static void test_command(void) {
    json *root = NULL;
    uint8_t *kept = NULL;
    size_t bytes = 0;
    image chart = {0};
    REQUIRE_EQ(run("morph ramp jump --first a.png --last b.png"), 0);
    REQUIRE(says("Gini") && says("mean of all") && says("0.9412") && says("0.0392") &&
            says("6.00"));
    REQUIRE_EQ(run("morph jump ramp --json -o report"), 0);
    REQUIRE_OK(json_parse(out, strlen(out), "the output", &root));
    const json *list = cJSON_GetObjectItem(root, "morphs"), *jump = cJSON_GetArrayItem(list, 0);
    REQUIRE_EQ(cJSON_GetArraySize(list), 2);
    REQUIRE(near(number(jump, "features", "largest_over_mean"), 6, 1e-9));
    REQUIRE(near(number(cJSON_GetArrayItem(list, 1), "pixels", "path"), 240.0 / 255, 1e-12));
    REQUIRE(near(number(cJSON_GetObjectItem(root, "mean"), "pixels", "gini"), 5.0 / 12, 1e-9));
    const cJSON *features = cJSON_GetObjectItem(jump, "features");
    REQUIRE_EQ(cJSON_GetArraySize(cJSON_GetObjectItem(features, "gaps")), FRAMES - 1);
    REQUIRE(!cJSON_GetObjectItem(features, "to_first_input"));
    json_free(root);
    REQUIRE_OK(file_read(in_dir("report/eval.json"), 1 << 20, &kept, &bytes));
    REQUIRE(bytes + 1 == strlen(out) && memcmp(kept, out, bytes) == 0);
    mem_free(kept);
    /* the first panel has one bar, the second of six */
    REQUIRE_OK(image_load(in_dir("report/gaps.png"), &chart));
    int half = chart.h / 4, bar = chart.w / (FRAMES - 1);
    for (int i = 0; i < FRAMES - 1; i++) {
        const uint8_t *p = chart.px + 3 * (half * chart.w + i * bar + bar / 2);
        REQUIRE((p[0] == 255 && p[2] == 255) == (i != 1));
    }
    image_free(&chart);
    complains("morph jump -o report", 2, "--overwrite");
    REQUIRE_EQ(run("morph jump -o report --overwrite"), 0);
}

/* The 3D pictures of two things, and their mean between them. */
static void save_real(void) {
    corpus *c = NULL;
    uint8_t *rgba = mem_alloc(CORPUS_RGBA_BYTES);
    image two[2];
    REQUIRE_OK(corpus_open(g_corpus, &c));
    for (int i = 0; i < 2; i++) {
        const corpus_concept *thing = &c->concepts[corpus_find_concept(c, i ? "1f431" : "1f98a")];
        two[i] = flat(CORPUS_SIDE, CORPUS_SIDE, 0, 0, 0);
        REQUIRE_OK(corpus_decode(c, thing->picture[corpus_find_style(c, "3d")], rgba));
        corpus_on_white(rgba, two[i].px);
    }
    image fade = flat(CORPUS_SIDE, CORPUS_SIDE, 0, 0, 0);
    for (int i = 0; i < 3 * CORPUS_SIDE * CORPUS_SIDE; i++)
        fade.px[i] = (uint8_t)((two[0].px[i] + two[1].px[i]) / 2);
    save_frame("real", 0, two[0]), save_frame("real", 1, fade), save_frame("real", 2, two[1]);
    corpus_close(c);
    mem_free(rgba);
}

static void test_corpus(void) {
    json *root = NULL;
    char args[1200];
    save_real();
    snprintf(args, sizeof args, "morph real --data '%s'", g_corpus);
    REQUIRE_EQ(run(args), 0);
    REQUIRE(says("looking at the corpus") && says("nearest to frames between") && says("  real"));
    snprintf(args, sizeof args, "morph real same --data '%s' --json -o near", g_corpus);
    REQUIRE_EQ(run(args), 0); /* kept: nothing is looked at, so there is nothing but the JSON */
    REQUIRE_OK(json_parse(out, strlen(out), "the output", &root));
    const json *list = cJSON_GetObjectItem(root, "morphs"), *real = cJSON_GetArrayItem(list, 0);
    double ends = cJSON_GetObjectItem(real, "nearest_ends")->valuedouble;
    double between = cJSON_GetObjectItem(real, "nearest_between")->valuedouble;
    double still = cJSON_GetObjectItem(cJSON_GetArrayItem(list, 1), "nearest_between")->valuedouble;
    REQUIRE(ends > 0.005 && between > ends && still > between); /* none is itself; no picture is as strange as stripes */
    double mean = cJSON_GetObjectItem(cJSON_GetObjectItem(root, "mean"), "nearest_between")->valuedouble;
    REQUIRE(near(mean, (between + still) / 2, 1e-9));
    json_free(root);
    complains("morph real --data nowhere", 1, "nowhere");
}

static void test_bad(void) {
    complains("morph nowhere", 1, "nowhere: no such folder");
    complains("morph one", 1, "one frame");
    complains("morph report", 1, "no frame");
    complains("morph hole", 1, "frame-0003.png is missing");
    complains("morph sizes", 1, "one size");
    complains("morph tiny", 1, "tiny/frame-0001.png is 30 x 64");
    complains("morph corrupt", 1, "frame-0002.png");
    complains("morph ramp --first missing.png", 1, "missing.png");
    complains("morph ramp --last corrupt/frame-0002.png", 1, "frame-0002.png");
    complains("morph ramp --judge nowhere.safetensors", 1, "give --judge");
    complains("morph ramp --judge a.png", 1, "a.png");
    complains("morph ramp --fit wide", 2, "wide");
    complains("grid ramp", 2, "grid");
    complains("morph", 2, "usage");
}

/* Every allocation and file operation fails once: a status, nothing lost. The plan is there
 * already; its failures are the graph's. */
static void test_memory(judge *j) {
    morph_inputs both = {in_dir("a.png"), in_dir("b.png"), FIT_CROP};
    const char *folder = in_dir("tail");
    int64_t n = 1, live = mem_live();
    for (bool hit = true; hit; n++) {
        arena mem = {0};
        morph_measures m;
        char *text = NULL;
        image chart = {0};
        fault_arm(n);
        status st = morph_measure(j, folder, &both, NULL, &mem, &m);
        if (st == OK) st = morphs_json(&m, 1, &text);
        if (st == OK) st = morphs_chart(&m, 1, &chart);
        hit = fault_count() >= n;
        fault_arm(0);
        REQUIRE((st != OK) == hit);
        mem_free(text);
        image_free(&chart);
        arena_fini(&mem);
        REQUIRE_EQ(mem_live(), live);
    }
    REQUIRE(n > 20);
}

int main(int argc, char **argv) {
    if (argc < 4) return fprintf(stderr, "usage: test_eval ASSETS_DIR PATH_OF_IMAGO CORPUS [device]\n"), 2;
    judge *j = NULL;
    char clean[100];
    const char *name = argc > 4 ? argv[4] : "cpu";
    g_exe = argv[2], g_corpus = argv[3];
    snprintf(g_weights, sizeof g_weights, "%s/squeezenet/squeezenet_v1.0.safetensors", argv[1]);
    status st = device_open(
        &op_all, &(device_params){.name = name, .threads = 2, .validation = TEST_VALIDATION},
        &g_dev);
    if (st != OK) return printf("skipped: %s\n", error_message()), 77;
    REQUIRE(mkdtemp(g_dir));
    save_sequences();
    test_gaps();
    test_pixels();
    REQUIRE_OK(judge_open(g_dev, g_weights, &j));
    test_features(j);
    test_vectors();
    test_nearest(j);
    test_sequences(j);
    test_memory(j);
    judge_close(j);
    test_command();
    test_corpus();
    test_bad();
    device_close(g_dev);
    snprintf(clean, sizeof clean, "rm -rf %s", g_dir);
    REQUIRE(system(clean) == 0);
    REQUIRE_EQ(mem_live(), 0);
    printf("ok\n");
    return 0;
}
