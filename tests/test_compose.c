/* test_compose.c: composed training pictures and their captions, on an excerpt of the corpus.
 *   test_compose FOLDER [--big]     FOLDER: golden/corpus
 * SPDX-License-Identifier: MIT */
#include "test.h"
#include "train/compose.h"
#include "train/compose_words.h"
#include "train/probe.h"

#include <math.h>

static const char *folder;

/* ---- composing ---- */
typedef struct setup {
    corpus *c;
    composer *m;
    compose_work *w;
} setup;

static setup begin(const compose_params *p) {
    setup s;
    REQUIRE_OK(corpus_open(folder, &s.c));
    REQUIRE_OK(composer_create(s.c, p, &s.m));
    REQUIRE_OK(compose_work_create(&s.w));
    return s;
}

static void end(setup s) {
    compose_work_destroy(s.w);
    composer_destroy(s.m);
    corpus_close(s.c);
}

/* Sample i is the same alone, in any order, and from feeds of any number of threads. */
static void test_determinism(void) {
    enum { N = 96, FIRST = 1000 };
    compose_params p = compose_stage_b;
    p.seed[0] = 5;
    setup s = begin(&p);
    uint8_t *alone = mem_alloc(N * COMPOSE_RGB_BYTES), *fed = mem_alloc(N * COMPOSE_RGB_BYTES);
    static compose_info info[N], fed_info[N];
    for (int i = N - 1; i >= 0; i--)
        REQUIRE_OK(compose_sample(s.m, (uint64_t)(FIRST + i), s.w,
                                  alone + (size_t)i * COMPOSE_RGB_BYTES, &info[i]));
    static const struct {
        int threads, ahead, batch;
    } feeds[] = {{1, 1, 1}, {2, 7, 96}, {5, 3, 8}, {3, 200, 12}};
    for (size_t k = 0; k < ARRAY_LEN(feeds); k++) {
        compose_feed *f;
        memset(fed, 0, N * COMPOSE_RGB_BYTES);
        REQUIRE_OK(compose_feed_open(s.m, feeds[k].threads, feeds[k].ahead, FIRST, &f));
        for (int i = 0; i < N; i += feeds[k].batch)
            REQUIRE_OK(compose_feed_next(f, feeds[k].batch, fed + (size_t)i * COMPOSE_RGB_BYTES,
                                         fed_info + i));
        compose_feed_close(f);
        REQUIRE(!memcmp(alone, fed, N * COMPOSE_RGB_BYTES));
        for (int i = 0; i < N; i++) {
            caption a, b;
            compose_caption(s.m, (uint64_t)(FIRST + i), 3, &info[i], &a);
            compose_caption(s.m, (uint64_t)(FIRST + i), 3, &fed_info[i], &b);
            REQUIRE(!strcmp(a.text, b.text));
        }
    }
    end(s);
    /* another seed is another stream */
    int same = 0;
    p.seed[0] = 6;
    s = begin(&p);
    for (int i = 0; i < N; i++) {
        REQUIRE_OK(compose_sample(s.m, (uint64_t)(FIRST + i), s.w, fed, &fed_info[0]));
        same += !memcmp(fed, alone + (size_t)i * COMPOSE_RGB_BYTES, COMPOSE_RGB_BYTES);
    }
    REQUIRE(same < N / 20);
    end(s);
    mem_free(alone);
    mem_free(fed);
}

static const corpus_picture *picture_of(const corpus *c, int p) { return &c->pictures[p]; }

/* Shares within five standard deviations. */
static void require_share(const char *what, int64_t hits, int64_t of, double share) {
    double sigma = sqrt((double)of * share * (1 - share));
    if (fabs((double)hits - (double)of * share) <= 5 * sigma + 1) return;
    printf("FAIL %s: %lld of %lld, expected a share of %g\n", what, (long long)hits, (long long)of,
           share);
    exit(1);
}

static void require_parts(const corpus *k, const compose_info *info) {
    const corpus_picture *a = picture_of(k, info->part[0].picture),
                         *b = picture_of(k, info->part[1].picture);
    const corpus_picture *c = picture_of(k, info->part[2].picture),
                         *d = picture_of(k, info->part[3].picture);
    if (info->kind == COMPOSE_PAIR) REQUIRE(a->style == b->style && a->concept != b->concept);
    if (info->kind == COMPOSE_SAME_GRID) REQUIRE(a == b && b == c && c == d);
    if (info->kind == COMPOSE_STYLE_GRID)
        REQUIRE(a->concept == b->concept && c->concept == d->concept && a->concept != c->concept &&
                a->style == c->style && b->style == d->style && a->style != b->style);
}

/* Through a feed, for the sake of time; that it gives the same is tested above. */
static void test_draws(int n) {
    enum { BATCH = 50 };
    compose_params p = compose_stage_b;
    setup s = begin(&p);
    compose_feed *f;
    static compose_info batch[BATCH];
    uint8_t *rgb = mem_alloc(BATCH * COMPOSE_RGB_BYTES);
    int64_t kinds[COMPOSE_KIND_COUNT] = {0}, scenes = 0, hues = 0, people = 0, animals = 0;
    REQUIRE_OK(compose_feed_open(s.m, 4, 2 * BATCH, 0, &f));
    for (int i = 0; i < n; i++) {
        if (i % BATCH == 0) REQUIRE_OK(compose_feed_next(f, BATCH, rgb, batch));
        const compose_info info = batch[i % BATCH];
        kinds[info.kind]++;
        const int parts[COMPOSE_KIND_COUNT] = {1, 2, 4, 4};
        REQUIRE_EQ(info.n_parts, parts[info.kind]);
        for (int k = 0; k < info.n_parts; k++) {
            const compose_part *part = &info.part[k];
            REQUIRE(picture_of(s.c, part->picture)->split == SPLIT_TRAIN);
            REQUIRE(part->scene < 0 || picture_of(s.c, part->scene)->split == SPLIT_TRAIN);
            REQUIRE(s.c->concepts[picture_of(s.c, part->picture)->concept].group != CORPUS_SYMBOLS);
            REQUIRE(part->ground >= 0 && part->ground < CAPTION_COLORS);
            const char *style = s.c->styles[picture_of(s.c, part->picture)->style].name;
            if (!strcmp(style, "line"))
                REQUIRE(caption_colors[part->ground].light && part->scene < 0 && part->hue < 0);
            if (part->scene >= 0) {
                const corpus_picture *scene = picture_of(s.c, part->scene);
                REQUIRE(scene->style == picture_of(s.c, part->picture)->style);
                REQUIRE(scene->concept != picture_of(s.c, part->picture)->concept);
                scenes++;
            }
            hues += part->hue >= 0;
        }
        require_parts(s.c, &info);
        corpus_group first = s.c->concepts[picture_of(s.c, info.part[0].picture)->concept].group;
        people += first == CORPUS_PEOPLE, animals += first == CORPUS_ANIMALS;
    }
    compose_feed_close(f);
    require_share("grids of one thing", kinds[COMPOSE_SAME_GRID], n, 0.16 * 0.3);
    REQUIRE(kinds[COMPOSE_STYLE_GRID] > n * 0.16 * 0.7 * 0.5 &&
            kinds[COMPOSE_STYLE_GRID] < n * 0.16 * 0.7 * 1.1);
    REQUIRE(kinds[COMPOSE_PAIR] > n * 0.1 * 0.7 && kinds[COMPOSE_PAIR] < n * 0.1 * 1.1);
    REQUIRE(scenes > n / 20 && hues > n / 50);
    /* 5 trained pictures of people at half the weight of 12 of animals: a share by weight */
    require_share("people", people, people + animals, 5 * 0.5 / (5 * 0.5 + 12));
    end(s);
    p = compose_autoencoder;
    s = begin(&p);
    int64_t line = 0, flat = 0;
    for (int i = 0; i < n / 10; i++) {
        compose_info info;
        REQUIRE_OK(compose_sample(s.m, (uint64_t)i, s.w, rgb, &info));
        const char *style = s.c->styles[picture_of(s.c, info.part[0].picture)->style].name;
        line += !strcmp(style, "line"), flat += !strcmp(style, "flat");
    }
    require_share("line", line, line + flat, 2.0 / 3);
    end(s);
    mem_free(rgb);
}

/* ---- pixels ---- */
static int count_color(const uint8_t *rgb, const uint8_t want[3]) {
    int n = 0;
    for (int i = 0; i < COMPOSE_SIDE * COMPOSE_SIDE; i++) n += !memcmp(rgb + i * 3, want, 3);
    return n;
}

/* Aligned on white: source over white, to a rounding. */
static void test_aligned(void) {
    compose_params p = compose_stage_a;
    p.aligned = 1, p.mirror = 0, p.flat = 0;
    setup s = begin(&p);
    static uint8_t rgb[COMPOSE_RGB_BYTES], rgba[CORPUS_RGBA_BYTES];
    for (uint64_t i = 0; i < 40; i++) {
        compose_info info;
        REQUIRE_OK(compose_sample(s.m, i, s.w, rgb, &info));
        REQUIRE_OK(corpus_decode(s.c, info.part[0].picture, rgba));
        for (size_t k = 0; k < COMPOSE_RGB_BYTES; k++) {
            const uint8_t *q = rgba + k / 3 * 4;
            int want = (q[k % 3] * q[3] + 255 * (255 - q[3]) + 127) / 255;
            REQUIRE(abs(rgb[k] - want) <= 1);
        }
    }
    end(s);
}

/* Black ink on a light colour, at any scale: nothing brighter than the ground (a halo). */
static void test_no_halo(void) {
    compose_params p = compose_stage_a;
    p.flat = 1, p.aligned = 0, p.scale_min = 0.75, p.shift_px = 16, p.inside = true;
    setup s = begin(&p);
    static uint8_t rgb[COMPOSE_RGB_BYTES];
    int seen = 0;
    for (uint64_t i = 0; seen < 60; i++) {
        compose_info info;
        REQUIRE_OK(compose_sample(s.m, i, s.w, rgb, &info));
        const uint8_t *ground = caption_colors[info.part[0].ground].rgb;
        if (!strcmp(s.c->styles[picture_of(s.c, info.part[0].picture)->style].name, "line")) {
            for (size_t k = 0; k < COMPOSE_RGB_BYTES; k++) REQUIRE(rgb[k] <= ground[k % 3]);
            seen++;
        }
        if (!s.c->concepts[picture_of(s.c, info.part[0].picture)->concept].scene_phrase[0])
            REQUIRE(count_color(rgb, ground) > COMPOSE_SIDE * COMPOSE_SIDE / 20);
    }
    end(s);
}

/* The box of what differs from white by more than noise (of what is not transparent: rgba). */
typedef struct box {
    int x0, y0, x1, y1;
} box;
static box box_of(const uint8_t *px, int channels) {
    box b = {COMPOSE_SIDE, COMPOSE_SIDE, 0, 0};
    for (int y = 0; y < COMPOSE_SIDE; y++)
        for (int x = 0; x < COMPOSE_SIDE; x++) {
            const uint8_t *p = px + (y * COMPOSE_SIDE + x) * channels;
            if (channels == 4 ? p[3] < 128 : p[0] > 200 && p[1] > 200 && p[2] > 200) continue;
            b.x0 = MIN(b.x0, x), b.x1 = MAX(b.x1, x + 1), b.y0 = MIN(b.y0, y),
            b.y1 = MAX(b.y1, y + 1);
        }
    return b;
}

/* `inside`: however far a thing is shifted, it is there whole, at the scale asked for. */
static void test_inside(void) {
    compose_params p = compose_stage_a;
    p.flat = 0, p.aligned = 0, p.scale_min = p.scale_max = 0.75, p.shift_px = 128, p.inside = true;
    setup s = begin(&p);
    static uint8_t rgb[COMPOSE_RGB_BYTES], rgba[CORPUS_RGBA_BYTES];
    int corners = 0, seen = 0;
    for (uint64_t i = 0; seen < 60; i++) {
        compose_info info;
        REQUIRE_OK(compose_sample(s.m, i, s.w, rgb, &info));
        if (strcmp(s.c->styles[picture_of(s.c, info.part[0].picture)->style].name, "line"))
            continue;
        REQUIRE_OK(corpus_decode(s.c, info.part[0].picture, rgba));
        box was = box_of(rgba, 4), is = box_of(rgb, 3);
        REQUIRE(fabs((is.x1 - is.x0) - 0.75 * (was.x1 - was.x0)) <= 2);
        REQUIRE(fabs((is.y1 - is.y0) - 0.75 * (was.y1 - was.y0)) <= 2);
        corners += is.x0 < 8 || is.x1 > 120, seen++;
    }
    REQUIRE(corners > 10);
    end(s);
}

/* Enlarged one and a half times: every pixel within what its neighbourhood had, but for the cubic's
 * overshoot; and reduced: the same mean as the original and white. */
static void test_scaled(void) {
    compose_params p = compose_stage_a;
    p.flat = 0, p.aligned = 0, p.scale_min = p.scale_max = 1.5, p.shift_px = 0, p.mirror = 0,
    p.inside = false;
    setup s = begin(&p);
    static uint8_t rgb[COMPOSE_RGB_BYTES], rgba[CORPUS_RGBA_BYTES], white[COMPOSE_RGB_BYTES];
    composer *small;
    p.scale_min = p.scale_max = 0.5;
    REQUIRE_OK(composer_create(s.c, &p, &small));
    for (uint64_t i = 0; i < 40; i++) {
        compose_info info;
        REQUIRE_OK(compose_sample(s.m, i, s.w, rgb, &info));
        REQUIRE_OK(corpus_decode(s.c, info.part[0].picture, rgba));
        double mean = 0, small_mean = 0;
        for (int k = 0; k < COMPOSE_SIDE * COMPOSE_SIDE * 3; k++) {
            const uint8_t *q = rgba + k / 3 * 4;
            white[k] = (uint8_t)((q[k % 3] * q[3] + 255 * (255 - q[3]) + 127) / 255);
            mean += white[k];
        }
        for (int k = 0; k < COMPOSE_SIDE * COMPOSE_SIDE * 3; k++) {
            int x = (int)floor((k / 3 % 128 + 0.5 - 64) / 1.5 + 64),
                y = (int)floor((k / 384 + 0.5 - 64) / 1.5 + 64);
            int low = 255, high = 0;
            for (int v = y - 2; v <= y + 2; v++)
                for (int u = x - 2; u <= x + 2; u++) {
                    int c = white[(v * 128 + u) * 3 + k % 3];
                    low = MIN(low, c), high = MAX(high, c);
                }
            REQUIRE(rgb[k] >= low - 60 && rgb[k] <= high + 60);
        }
        REQUIRE_OK(compose_sample(small, i, s.w, rgb, &info));
        for (size_t k = 0; k < COMPOSE_RGB_BYTES; k++) small_mean += rgb[k];
        REQUIRE(fabs(small_mean - (0.25 * mean + 0.75 * 255 * COMPOSE_RGB_BYTES)) <
                0.5 * COMPOSE_RGB_BYTES);
    }
    composer_destroy(small);
    end(s);
}

/* The hue of a turned picture, measured on the sample, is near the word's. */
static void test_hues(void) {
    compose_params p = compose_stage_a;
    p.hue = 1, p.flat = 0;
    setup s = begin(&p);
    static uint8_t rgb[COMPOSE_RGB_BYTES];
    int seen = 0, words = 0;
    for (uint64_t i = 0; seen < 60; i++) {
        compose_info info;
        REQUIRE_OK(compose_sample(s.m, i, s.w, rgb, &info));
        if (info.part[0].hue < 0) continue;
        const caption_hue *h = &caption_hues[info.part[0].hue];
        double x = 0, y = 0;
        for (int k = 0; k < COMPOSE_SIDE * COMPOSE_SIDE; k++) {
            const uint8_t *q = rgb + k * 3;
            x += 2.0 * q[0] - q[1] - q[2], y += sqrt(3) * (q[1] - q[2]);
        }
        double off =
            fabs(remainder(atan2(y, x) * 180 / 3.14159265358979 - (double)h->degrees, 360));
        REQUIRE(off < 20);
        caption text;
        for (uint64_t visit = 0; visit < 8; visit++) {
            compose_caption(s.m, i, visit, &info, &text);
            REQUIRE(!text.used || caption_has_word(text.text, h->word));
        }
        words |= 1 << info.part[0].hue, seen++;
    }
    REQUIRE(words & (words - 1)); /* several */
    end(s);
}

/* ---- captions ---- */
static void require_english(const char *t) {
    size_t n = strlen(t);
    REQUIRE(!strstr(t, "  ") && !strstr(t, " ,") && t[0] != ' ' && (n == 0 || t[n - 1] != ' '));
    for (const char *w = t; (w = strstr(w, "a "));
         w++) /* the article "a" before a vowel, "an" before none */
        if (w == t || w[-1] == ' ') REQUIRE(!strchr("aeio", w[2]));
    for (const char *w = t; (w = strstr(w, "an ")); w++)
        if (w == t || w[-1] == ' ') REQUIRE(strchr("aeioO", w[3]));
}

static void test_captions(int n) {
    compose_params p = compose_stage_b;
    setup s = begin(&p);
    static uint8_t rgb[COMPOSE_RGB_BYTES];
    int64_t empty = 0, one = 0, styled = 0, white = 0, said = 0, extra = 0;
    enum { VISITS = 10 };
    for (int i = 0; i < n; i++) {
        compose_info info;
        caption t;
        REQUIRE_OK(compose_sample(s.m, (uint64_t)i, s.w, rgb, &info));
        const compose_part *part = &info.part[0];
        const corpus_concept *k = &s.c->concepts[picture_of(s.c, part->picture)->concept];
        const char *phrase = s.c->styles[picture_of(s.c, part->picture)->style].phrase;
        for (uint64_t v = 0; v < VISITS; v++) {
            compose_caption(s.m, (uint64_t)i, v, &info, &t);
            require_english(t.text);
            REQUIRE_EQ(t.used, strlen(t.text));
            empty += !t.used;
            if (!t.used) continue;
            REQUIRE(strstr(t.text, k->name));
            if (part->scene >= 0 && info.kind == COMPOSE_ONE)
                REQUIRE(strstr(t.text,
                               s.c->concepts[picture_of(s.c, part->scene)->concept].scene_phrase));
            if (part->ground > 0)
                REQUIRE(caption_has_word(t.text, caption_colors[part->ground].word));
            if (info.kind == COMPOSE_PAIR) {
                const char *other =
                    s.c->concepts[picture_of(s.c, info.part[1].picture)->concept].name;
                REQUIRE(strstr(t.text, " and ") && strstr(strstr(t.text, " and "), other));
            }
            if (info.kind >= COMPOSE_STYLE_GRID) {
                const char *a = strstr(t.text, "four pictures");
                REQUIRE(a && (a = strstr(a, " [TOP-LEFT] ")) && (a = strstr(a, " [TOP-RIGHT] ")) &&
                        (a = strstr(a, " [BOTTOM-LEFT] ")) && strstr(a, " [BOTTOM-RIGHT] "));
            }
            if (info.kind != COMPOSE_ONE) continue;
            one++, styled += !strncmp(t.text, phrase, strlen(phrase)),
                extra += strchr(t.text, ',') != NULL;
            if (part->ground == 0 && part->scene < 0)
                white++, said += strstr(t.text, "on a white background") != NULL;
        }
    }
    require_share("empty captions", empty, (int64_t)n * VISITS, 0.1);
    require_share("styled captions", styled, one, 0.8);
    require_share("white said", said, white, 0.3);
    require_share("keywords", extra, one, 0.3);
    end(s);
}

static void require_thing(const char *adjective, const char *name, const char *want) {
    caption c = {0};
    caption_add_thing(&c, adjective, name);
    if (!strcmp(c.text, want)) return;
    printf("FAIL caption_add_thing: \"%s\", expected \"%s\"\n", c.text, want);
    exit(1);
}

static void test_words(void) {
    require_thing(NULL, "fox", "a fox");
    require_thing("orange", "fox", "an orange fox");
    require_thing("green", "owl", "a green owl");
    require_thing(NULL, "owl", "an owl");
    require_thing(NULL, "unicorn", "a unicorn");
    require_thing(NULL, "hourglass done", "an hourglass done");
    require_thing(NULL, "one-piece swimsuit", "a one-piece swimsuit");
    require_thing(NULL, "ballet shoes", "ballet shoes");
    require_thing("red", "ballet shoes", "red ballet shoes");
    require_thing(NULL, "octopus", "an octopus");
    require_thing(NULL, "glasses", "glasses");
    require_thing(NULL, "hourglass", "an hourglass");
    require_thing(NULL, "men holding hands", "men holding hands");
    require_thing(NULL, "person lifting weights", "a person lifting weights");
    require_thing(NULL, "umbrella with rain drops", "an umbrella with rain drops");
    require_thing(NULL, "Statue of Liberty", "the Statue of Liberty");
    require_thing(NULL, "Santa Claus", "Santa Claus");
    require_thing(NULL, "woman\xe2\x80\x99s hat", "a woman's hat");
    require_thing(NULL,
                  "twelve o\xe2\x80\x99"
                  "clock",
                  "twelve o'clock");
    require_thing(NULL, "cooked rice", "cooked rice");
    REQUIRE(caption_names_color("red apple") && caption_names_color("light blue heart"));
    REQUIRE(!caption_names_color("blueberries") && !caption_names_color("fox") &&
            !caption_names_color("bored"));
    corpus_concept k = {.name = "fox", .group = CORPUS_ANIMALS, .scene_phrase = ""};
    REQUIRE(compose_words_may_mirror(&k) && compose_words_may_recolor(&k));
    k.group = CORPUS_PEOPLE;
    REQUIRE(!compose_words_may_mirror(&k) && !compose_words_may_recolor(&k));
    k.group = CORPUS_OBJECTS, k.name = "magnifying glass tilted left";
    REQUIRE(!compose_words_may_mirror(&k) && compose_words_may_recolor(&k));
    k.name = "green book";
    REQUIRE(compose_words_may_mirror(&k) && !compose_words_may_recolor(&k));
    k.name = "left-facing fist";
    REQUIRE(!compose_words_may_mirror(&k));
    corpus *c;
    caption t;
    REQUIRE_OK(corpus_open(folder, &c));
    compose_plain_caption(c, c->concepts[corpus_find_concept(c, "1fad6")].picture[0], &t);
    REQUIRE(
        !strcmp(t.text, "a glossy 3D render of a teapot")); /* held-out things have captions too */
    corpus_close(c);
}

static void test_usage(void) {
    corpus *c;
    composer *m;
    compose_feed *f;
    REQUIRE_OK(corpus_open(folder, &c));
    compose_params p = compose_stage_a;
    p.flat = 0.7, p.scene = 0.4;
    REQUIRE_EQ(composer_create(c, &p, &m), E_USAGE);
    p = compose_stage_a, p.scale_min = 0.1;
    REQUIRE_EQ(composer_create(c, &p, &m), E_USAGE);
    p = compose_stage_a, p.no_style = NAN;
    REQUIRE_EQ(composer_create(c, &p, &m), E_USAGE);
    p = compose_stage_a, p.group_weight[CORPUS_FOOD] = -1;
    REQUIRE_EQ(composer_create(c, &p, &m), E_USAGE);
    p = compose_stage_a, memset(p.group_weight, 0, sizeof p.group_weight);
    REQUIRE_EQ(composer_create(c, &p, &m), E_USAGE);
    p = compose_stage_a;
    REQUIRE_OK(composer_create(c, &p, &m));
    REQUIRE_EQ(compose_feed_open(m, 0, 4, 0, &f), E_USAGE);
    REQUIRE_EQ(compose_feed_open(m, 1, 0, 0, &f), E_USAGE);
    REQUIRE_OK(compose_feed_open(m, 2, 4, 0, &f)); /* closed unread */
    compose_feed_close(f);
    composer_destroy(m);
    corpus_close(c);
}

/* ---- every failure ---- */
static status everything(void) {
    status st = OK;
    static uint8_t rgb[4 * COMPOSE_RGB_BYTES];
    static compose_info info[4];
    corpus *c = NULL;
    composer *m = NULL;
    compose_feed *f = NULL;
    arena a = {0};
    probe *list;
    int n;
    TRY(corpus_open(folder, &c));
    TRY(composer_create(c, &compose_stage_b, &m));
    TRY(compose_feed_open(m, 2, 3, 0, &f));
    TRY(compose_feed_next(f, 4, rgb, info));
    TRY(probe_list(c, 3, 3, &a, &list, &n));
out:
    arena_fini(&a);
    compose_feed_close(f);
    composer_destroy(m);
    corpus_close(c);
    return st;
}

static void test_faults(void) {
    fault_arm(0);
    REQUIRE_OK(everything());
    int64_t steps = fault_count(), live = mem_live(), failed = 0;
    REQUIRE(steps > 20 && steps < 2000);
    for (int64_t n = 1; n <= steps + 4;
         n++) { /* threads run ahead by a different count each time */
        fault_arm(n);
        error_clear();
        status st = everything();
        fault_arm(0);
        failed += st != OK;
        REQUIRE(st == OK || ((st == E_HOST_MEMORY || st == E_IO) && error_message()[0]));
        REQUIRE_EQ(mem_live(), live);
    }
    REQUIRE(failed > steps / 2);
}

int main(int argc, char **argv) {
    bool big = argc > 2 && !strcmp(argv[2], "--big");
    if (argc < 2) return fputs("usage: test_compose FOLDER [--big]\n", stderr), 2;
    folder = argv[1];
    test_words();
    test_usage();
    test_determinism();
    test_aligned();
    test_no_halo();
    test_inside();
    test_scaled();
    test_hues();
    test_captions(big ? 500 : 200);
    test_draws(big ? 20000 : 1000);
    test_faults();
    REQUIRE_EQ(mem_live(), 0);
    puts("compose: ok");
    return 0;
}
