/* eval_base.c: imago eval base: how good a model trained on the corpus is. Its autoencoder, on
 * pictures never trained on; its words, by asking for things in styles they were never seen in and
 * looking which picture of the corpus the answer is nearest to; and sheets for the eye.
 * SPDX-License-Identifier: MIT */
#include "cli/cli.h"
#include "cli/eval.h"
#include "engine/train.h"
#include "eval/eval.h"
#include "imago.h"
#include "op/op.h"
#include "train/record.h"
#include <cjson/cJSON.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>

enum { SIDE = CORPUS_SIDE, CANDIDATES = 200, MOST_ASKED = 1000, SHEET = 64 };
#define RGB ((size_t)SIDE * SIDE * 3)

/* One question: a held-out picture, what was generated for its caption, and the answers. */
typedef struct answer {
    bool thing, style; /* right? */
} answer;
typedef struct question {
    int picture;
    bool has_sibling;
    answer made, truth, sibling; /* truth: the picture itself; sibling: the thing in another style */
} question;

typedef struct base_eval {
    const char *model, *data, *judge, *out, *device, *precision, *sampler;
    int count, steps, threads, seed;
    float guidance;
    bool json, overwrite;
    device *dev;
    imago *im;
    corpus_source *source;
    const corpus *c;
    vae_opened vae;
    extractor *eyes;
    /* candidates: pictures by style, with their features */
    int *candidate, n_candidates, *first_of; /* first_of [styles + 1] */
    float *seen;                             /* [n_candidates, EXTRACTOR_FLOATS] */
    question q[MOST_ASKED];
    int n_asked;
    uint8_t *made;                           /* [n_asked, side, side, 3] */
    double psnr[CORPUS_MAX_STYLES], seconds; /* of a generated picture */
    int measured[CORPUS_MAX_STYLES];
} base_eval;

static const corpus_concept *concept_of(const base_eval *e, int picture) {
    return &e->c->concepts[e->c->pictures[picture].concept];
}

static status on_white(const base_eval *e, int picture, uint8_t *rgb) {
    status st = OK;
    uint8_t *rgba = mem_alloc(CORPUS_RGBA_BYTES);
    if (!rgba) return fail(E_HOST_MEMORY, "no host memory for a picture");
    TRY(corpus_decode(e->c, picture, rgba));
    corpus_on_white(rgba, rgb);
out:
    mem_free(rgba);
    return st;
}

/* ---- the autoencoder ---- */
static status through_vae(base_eval *e, int n, const uint8_t *rgb, uint8_t *back) {
    status st = OK;
    int f = vae_factor(&e->vae.config);
    size_t one = (size_t)(SIDE / f) * (size_t)(SIDE / f) * (size_t)e->vae.config.latent_channels;
    float *z = mem_alloc(one * (size_t)n * sizeof *z);
    if (!z) return fail(E_HOST_MEMORY, "no host memory for %d latents", n);
    TRY(vae_opened_encode(&e->vae, SIDE, n, rgb, z));
    TRY(vae_opened_decode(&e->vae, SIDE, n, z, back));
out:
    mem_free(z);
    return st;
}

static status save_pairs(const base_eval *e, const uint8_t *above, const uint8_t *below, int n,
                         const char *name) {
    status st = OK;
    enum { COLUMNS = 16 };
    char path[1200];
    int rows = MIN(n, SHEET) / COLUMNS;
    uint8_t *sheet = mem_alloc(RGB * COLUMNS * (size_t)MAX(2 * rows, 1));
    if (!sheet) TRY(fail(E_HOST_MEMORY, "no host memory for a sheet"));
    for (int r = 0; r < rows; r++) {
        size_t row = RGB * COLUMNS;
        memcpy(sheet + row * (size_t)(2 * r), above + row * (size_t)r, row);
        memcpy(sheet + row * (size_t)(2 * r + 1), below + row * (size_t)r, row);
    }
    snprintf(path, sizeof path, "%.1000s/%s", e->out, name);
    if (rows) TRY(sheet_save(sheet, 2 * rows * COLUMNS, SIDE, COLUMNS, path));
out:
    mem_free(sheet);
    return st;
}

static status measure_vae(base_eval *e) {
    status st = OK;
    int n = 256, *picture = NULL;
    uint8_t *rgb = NULL, *back = NULL;
    TRY(corpus_source_held_out(e->source, false, &n, &rgb, &picture));
    back = mem_alloc(RGB * (size_t)n);
    if (!back) TRY(fail(E_HOST_MEMORY, "no host memory for %d pictures", n));
    TRY(through_vae(e, n, rgb, back));
    for (int i = 0; i < n; i++) {
        int style = e->c->pictures[picture[i]].style;
        e->psnr[style] += image_psnr(rgb + RGB * (size_t)i, back + RGB * (size_t)i, RGB);
        e->measured[style]++;
    }
    for (int s = 0; s < e->c->n_styles; s++) e->psnr[s] /= MAX(e->measured[s], 1);
    if (e->out) TRY(save_pairs(e, rgb, back, n, "vae.png"));
out:
    mem_free(rgb);
    mem_free(back);
    mem_free(picture);
    return st;
}

/* ---- what is asked, and what the answer may be ---- */
static bool may_ask(const base_eval *e, int i) {
    return e->c->pictures[i].split == SPLIT_PAIR_HOLDOUT &&
           concept_of(e, i)->group != CORPUS_SYMBOLS;
}

/* `count` questions, spread evenly over all there are. */
static void choose_questions(base_eval *e) {
    int64_t all = 0, seen = 0;
    for (int i = 0; i < e->c->n_pictures; i++) all += may_ask(e, i);
    int want = (int)MIN(all, e->count);
    for (int i = 0; i < e->c->n_pictures && e->n_asked < want; i++)
        if (may_ask(e, i) && seen++ * want / all >= e->n_asked)
            e->q[e->n_asked++] = (question){.picture = i};
}

static bool is_asked(const base_eval *e, int picture) {
    for (int i = 0; i < e->n_asked; i++)
        if (e->q[i].picture == picture) return true;
    return false;
}

/* Per style: the pictures asked for, then others that are spread over the style, no Symbols. */
static status choose_candidates(base_eval *e) {
    int styles = e->c->n_styles;
    e->candidate = mem_alloc(sizeof(int) * (size_t)styles * (CANDIDATES + MOST_ASKED));
    e->first_of = mem_alloc(sizeof(int) * (size_t)(styles + 1));
    if (!e->candidate || !e->first_of) return fail(E_HOST_MEMORY, "no host memory to choose");
    for (int s = 0; s < styles; s++) {
        int64_t others = 0, seen = 0, taken = 0;
        e->first_of[s] = e->n_candidates;
        for (int i = 0; i < e->n_asked; i++)
            if (e->c->pictures[e->q[i].picture].style == s)
                e->candidate[e->n_candidates++] = e->q[i].picture;
        int64_t want = CANDIDATES - (e->n_candidates - e->first_of[s]);
        for (int pass = 0; pass < 2; pass++)
            for (int i = 0; i < e->c->n_pictures; i++) {
                if (e->c->pictures[i].style != s || concept_of(e, i)->group == CORPUS_SYMBOLS ||
                    is_asked(e, i))
                    continue;
                if (pass == 0) {
                    others++;
                } else if (taken < want && seen++ * want / others >= taken) {
                    e->candidate[e->n_candidates++] = i;
                    taken++;
                }
            }
    }
    e->first_of[styles] = e->n_candidates;
    return OK;
}

/* In portions: SqueezeNet looks at some pictures at once. */
static status look_at_candidates(base_eval *e) {
    enum { AT_ONCE = 64 };
    status st = OK;
    uint8_t *rgb = mem_alloc(RGB * AT_ONCE);
    progress bar;
    progress_begin(&bar, "candidates", e->n_candidates);
    e->seen = mem_alloc((size_t)e->n_candidates * EXTRACTOR_FLOATS * sizeof *e->seen);
    if (!rgb || !e->seen)
        TRY(fail(E_HOST_MEMORY, "no host memory for %d pictures", e->n_candidates));
    for (int at = 0; at < e->n_candidates; at += AT_ONCE) {
        int n = MIN(AT_ONCE, e->n_candidates - at);
        if (os_cancelled()) TRY(fail(E_CANCELLED, "stopped"));
        for (int i = 0; i < n; i++) TRY(on_white(e, e->candidate[at + i], rgb + RGB * (size_t)i));
        TRY(extractor_read(e->eyes, n, rgb, e->seen + (size_t)at * EXTRACTOR_FLOATS));
        progress_step(&bar, at + n, NULL);
    }
out:
    progress_end(&bar);
    mem_free(rgb);
    return st;
}

/* The nearest candidate of [first, last), things other than `not` only (-1: all). */
static int nearest(const base_eval *e, const float *v, int first, int last, int not) {
    int best = -1;
    double least = INFINITY;
    for (int i = first; i < last; i++) {
        if (e->c->pictures[e->candidate[i]].concept == not) continue;
        double d = features_distance(v, e->seen + (size_t)i * EXTRACTOR_FLOATS);
        if (d < least) least = d, best = e->candidate[i];
    }
    return best;
}

/* Right thing: nearest among the candidates of the style. Right style: that of the nearest picture
 * of any other thing, all styles together. */
static answer judge_answer(const base_eval *e, const float *v, int picture) {
    const corpus_picture *asked = &e->c->pictures[picture];
    int in_style = nearest(e, v, e->first_of[asked->style], e->first_of[asked->style + 1], -1),
        any = nearest(e, v, 0, e->n_candidates, asked->concept);
    return (answer){in_style >= 0 && e->c->pictures[in_style].concept == asked->concept,
                    any >= 0 && e->c->pictures[any].style == asked->style};
}

/* The answers that rgb [n_asked, side, side, 3] gives to the questions. */
static status judge_all(base_eval *e, const uint8_t *rgb, size_t at) {
    status st = OK;
    float *v = mem_alloc((size_t)e->n_asked * EXTRACTOR_FLOATS * sizeof *v);
    if (!v) TRY(fail(E_HOST_MEMORY, "no host memory for %d pictures", e->n_asked));
    TRY(extractor_read(e->eyes, e->n_asked, rgb, v));
    for (int i = 0; i < e->n_asked; i++) {
        answer a = judge_answer(e, v + (size_t)i * EXTRACTOR_FLOATS, e->q[i].picture);
        memcpy((char *)&e->q[i] + at, &a, sizeof a);
    }
out:
    mem_free(v);
    return st;
}

static int sibling_of(const base_eval *e, int picture) {
    const corpus_picture *p = &e->c->pictures[picture];
    int sibling = -1;
    for (int s = 0; s < e->c->n_styles && sibling < 0; s++)
        if (s != p->style) sibling = corpus_trained(e->c, p->concept, s);
    return sibling;
}

/* What the same test says of the true pictures, through the autoencoder, and of the things in
 * another style. */
static status judge_ceilings(base_eval *e) {
    status st = OK;
    size_t n = (size_t)MAX(e->n_asked, 1);
    uint8_t *rgb = mem_zalloc(RGB * n), *back = mem_alloc(RGB * n);
    if (!rgb || !back) TRY(fail(E_HOST_MEMORY, "no host memory for %d pictures", e->n_asked));
    for (int i = 0; i < e->n_asked; i++)
        TRY(on_white(e, e->q[i].picture, rgb + RGB * (size_t)i));
    TRY(through_vae(e, e->n_asked, rgb, back));
    TRY(judge_all(e, back, offsetof(question, truth)));
    for (int i = 0; i < e->n_asked; i++) {
        int sibling = sibling_of(e, e->q[i].picture);
        e->q[i].has_sibling = sibling >= 0;
        if (sibling >= 0) TRY(on_white(e, sibling, rgb + RGB * (size_t)i));
    }
    TRY(judge_all(e, rgb, offsetof(question, sibling)));
out:
    mem_free(rgb);
    mem_free(back);
    return st;
}

/* ---- generating ---- */
static status generate(base_eval *e, const char *prompt, int number, uint8_t *rgb) {
    imago_picture *pic = NULL;
    imago_status st = imago_generate(e->im,
                                     &IMAGO_GENERATE(.prompt = prompt, .plain_prompt = true,
                                                     .steps = e->steps, .guidance = e->guidance,
                                                     .sampler = e->sampler, .width = SIDE,
                                                     .height = SIDE,
                                                     .seed = (uint64_t)(e->seed + number)),
                                     &pic);
    if (st != IMAGO_OK) return (status)st;
    memcpy(rgb, pic->rgb, RGB);
    imago_free_pictures(pic, 1);
    return OK;
}

static status ask_all(base_eval *e) {
    status st = OK;
    progress bar;
    progress_begin(&bar, "asking", e->n_asked);
    double start = os_seconds();
    e->made = mem_alloc(RGB * (size_t)MAX(e->n_asked, 1));
    if (!e->made) TRY(fail(E_HOST_MEMORY, "no host memory for %d pictures", e->n_asked));
    for (int i = 0; i < e->n_asked; i++) {
        caption text;
        compose_plain_caption(e->c, e->q[i].picture, &text);
        TRY(generate(e, text.text, i, e->made + RGB * (size_t)i));
        e->seconds = (os_seconds() - start) / (i + 1);
        progress_step(&bar, i + 1, NULL);
    }
    TRY(judge_all(e, e->made, offsetof(question, made)));
    TRY(judge_ceilings(e));
out:
    progress_end(&bar);
    return st;
}

/* The n-th of a keyed order of the things that are trained and no Symbols. */
static int some_thing(const base_eval *e, uint64_t n, const char *purpose) {
    rng_key key = {{(uint32_t)e->seed, 0}, rng_stream(purpose)};
    for (uint64_t k = 0;; k++) {
        int i = (int)(rng_uniform(key, n, k) * e->c->n_concepts);
        const corpus_concept *c = &e->c->concepts[i];
        if (c->split == SPLIT_TRAIN && c->group != CORPUS_SYMBOLS && c->group != CORPUS_PEOPLE)
            return i;
    }
}

/* A row a style: things drawn by lot, in that style for most; or, novel: in a style they were never
 * drawn in, on a scene, turned to a colour. Prompts go to a text file beside the sheet. */
static status sheet_of(base_eval *e, bool novel, const char *name) {
    static const char *const scenes[] = {"on the beach", "in the desert"},
                      *const colors[] = {"green", "purple"};
    status st = OK;
    char path[1200];
    caption all = {0};
    uint8_t *rgb = mem_alloc(RGB * SHEET);
    char *list = mem_zalloc(SHEET * 256);
    size_t used = 0;
    if (!rgb || !list) TRY(fail(E_HOST_MEMORY, "no host memory for a sheet"));
    for (int i = 0; i < SHEET; i++) {
        int style = i / 8 % e->c->n_styles, thing = -1;
        bool undrawn = novel && i % 8 < 4;
        for (uint64_t k = 0; thing < 0 && k < 500; k++) {
            int t = some_thing(e, (uint64_t)i * 500 + k, name);
            if ((e->c->concepts[t].picture[style] < 0) == undrawn) thing = t;
        }
        if (thing < 0) thing = some_thing(e, (uint64_t)i, name);
        all = (caption){0};
        caption_add(&all, e->c->styles[style].phrase);
        caption_add(&all, " of ");
        caption_add_thing(&all, novel && i % 8 >= 6 ? colors[i % 2] : NULL,
                          e->c->concepts[thing].name);
        if (novel && (i % 8 == 4 || i % 8 == 5)) {
            caption_add(&all, " ");
            caption_add(&all, scenes[i % 2]);
        }
        TRY(generate(e, all.text, 10000 + i, rgb + RGB * (size_t)i));
        used += (size_t)snprintf(list + used, SHEET * 256 - used, "%.250s\n", all.text);
    }
    snprintf(path, sizeof path, "%.1000s/%s.png", e->out, name);
    TRY(sheet_save(rgb, SHEET, SIDE, 8, path));
    snprintf(path, sizeof path, "%.1000s/%s.txt", e->out, name);
    TRY(file_write_atomic(path, list, strlen(list)));
out:
    mem_free(rgb);
    mem_free(list);
    return st;
}

/* The generated pictures below the true ones. */
static status sheet_of_answers(base_eval *e) {
    status st = OK;
    uint8_t *truth = mem_alloc(RGB * SHEET);
    if (!truth) TRY(fail(E_HOST_MEMORY, "no host memory for a sheet"));
    for (int i = 0; i < MIN(SHEET, e->n_asked); i++)
        TRY(on_white(e, e->q[i * e->n_asked / MIN(SHEET, e->n_asked)].picture,
                     truth + RGB * (size_t)i));
    uint8_t *made = mem_alloc(RGB * SHEET);
    if (!made) TRY(fail(E_HOST_MEMORY, "no host memory for a sheet"));
    for (int i = 0; i < MIN(SHEET, e->n_asked); i++)
        memcpy(made + RGB * (size_t)i,
               e->made + RGB * (size_t)(i * e->n_asked / MIN(SHEET, e->n_asked)), RGB);
    st = save_pairs(e, truth, made, MIN(SHEET, e->n_asked), "answers.png");
    mem_free(made);
out:
    mem_free(truth);
    return st;
}

/* ---- report ---- */
typedef struct scores {
    int thing, style, true_thing, true_style, sibling, siblings;
    double colored; /* mean PSNR over the styles but `line` */
} scores;

static scores add_up(const base_eval *e) {
    scores s = {0};
    int styles = 0;
    for (int i = 0; i < e->n_asked; i++) {
        const question *q = &e->q[i];
        s.thing += q->made.thing, s.style += q->made.style;
        s.true_thing += q->truth.thing, s.true_style += q->truth.style;
        s.sibling += q->has_sibling && q->sibling.thing, s.siblings += q->has_sibling;
    }
    for (int i = 0; i < e->c->n_styles; i++)
        if (e->measured[i] && strcmp(e->c->styles[i].name, "line") != 0)
            s.colored += e->psnr[i], styles++;
    s.colored /= MAX(styles, 1);
    return s;
}

static void print_scores(const base_eval *e, const scores *s) {
    printf("autoencoder, held-out pictures on white, PSNR in dB:");
    for (int i = 0; i < e->c->n_styles; i++)
        if (e->measured[i]) printf(" %s %.2f", e->c->styles[i].name, e->psnr[i]);
    printf("\n  mean over the styles but line %.2f\n", s->colored);
    printf("words, %d things in a style they were never trained in, %d candidates a style:\n",
           e->n_asked, CANDIDATES);
    printf("                      right thing   right style\n");
    printf("  generated           %11d   %11d\n", s->thing, s->style);
    printf("  the true picture    %11d   %11d\n", s->true_thing, s->true_style);
    printf("  a sibling style     %7d/%3d\n", s->sibling, s->siblings);
    printf("  of the true picture's   %6.0f%%   %10.0f%%\n",
           100.0 * s->thing / MAX(s->true_thing, 1), 100.0 * s->style / MAX(s->true_style, 1));
    printf("%.2f s a picture (%d steps, guidance %g, %s)\n", e->seconds, e->steps,
           (double)e->guidance, e->sampler);
}

static status scores_json(const base_eval *e, const scores *s, char **text) {
    cJSON *o = cJSON_CreateObject(), *psnr = cJSON_AddObjectToObject(o, "psnr");
    for (int i = 0; i < e->c->n_styles; i++)
        if (e->measured[i])
            cJSON_AddNumberToObject(psnr, e->c->styles[i].name, e->psnr[i]);
    const struct {
        const char *name;
        double v;
    } rows[] = {{"psnr_without_line", s->colored},
                {"asked", e->n_asked},
                {"candidates", CANDIDATES},
                {"thing", s->thing},
                {"style", s->style},
                {"true_thing", s->true_thing},
                {"true_style", s->true_style},
                {"sibling_thing", s->sibling},
                {"siblings", s->siblings},
                {"steps", e->steps},
                {"guidance", (double)e->guidance},
                {"seconds_a_picture", e->seconds}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        cJSON_AddNumberToObject(o, rows[i].name, rows[i].v);
    cJSON_AddStringToObject(o, "sampler", e->sampler);
    *text = cJSON_Print(o);
    cJSON_Delete(o);
    return *text ? OK : fail(E_HOST_MEMORY, "no host memory for a report");
}

static status report(base_eval *e) {
    status st = OK;
    char *text = NULL, path[1200];
    scores s = add_up(e);
    TRY(scores_json(e, &s, &text));
    if (e->json)
        printf("%s\n", text);
    else
        print_scores(e, &s);
    if (!e->out) goto out;
    snprintf(path, sizeof path, "%.1000s/eval.json", e->out);
    TRY(file_write_atomic(path, text, strlen(text)));
    TRY(sheet_of_answers(e));
    TRY(sheet_of(e, false, "sheet"));
    TRY(sheet_of(e, true, "novel"));
out:
    cJSON_free(text);
    return st;
}

static status open_all(base_eval *e, const char *cache) {
    status st = OK;
    char path[1200];
    if (e->out) {
        snprintf(path, sizeof path, "%.1000s/eval.json", e->out);
        if (!e->overwrite && os_file_exists(path))
            TRY(fail(E_USAGE, "%s is there already: choose another --output, or give --overwrite",
                     path));
        TRY(os_mkdir_p(e->out));
    }
    TRY(device_open(&op_all,
                    &(device_params){
                        .name = e->device, .cache_dir = cache, .threads = e->threads},
                    &e->dev));
    TRY(corpus_source_open(e->data, &compose_stage_a, 0, 1, &e->source));
    e->c = corpus_source_corpus(e->source);
    TRY(vae_opened_open(e->dev, DT_F32, e->model, &e->vae));
    TRY(extractor_open(e->dev, e->judge, SIDE, 16, &e->eyes));
    st = (status)imago_open(&IMAGO_OPEN(.model = e->model, .device = e->device,
                                        .precision = e->precision, .cache_dir = cache,
                                        .threads = e->threads, .cancelled = cli_cancelled),
                            &e->im);
out:
    return st;
}

static status run(base_eval *e) {
    status st = OK;
    char cache[512];
    TRY(open_all(e, cli_cache_dir(cache)));
    TRY(measure_vae(e));
    choose_questions(e);
    TRY(choose_candidates(e));
    TRY(look_at_candidates(e));
    TRY(ask_all(e));
    TRY(report(e));
out:
    imago_close(e->im);
    vae_opened_close(&e->vae);
    extractor_close(e->eyes);
    corpus_source_close(e->source);
    device_close(e->dev);
    mem_free(e->candidate);
    mem_free(e->first_of);
    mem_free(e->seen);
    mem_free(e->made);
    return st;
}

int cmd_eval_base(int argc, char **argv) {
    static const command self = {"eval base",
                                 "Measures a model that was trained on the corpus: its "
                                 "autoencoder, and what it knows of words.",
                                 NULL};
    char model[1200], judge_path[1200];
    base_eval *e = mem_zalloc(sizeof *e);
    if (!e) return cli_fail(fail(E_HOST_MEMORY, "no host memory to begin"));
    e->judge = cli_asset(CLI_JUDGE, judge_path), e->model = cli_default_model(model);
    e->device = e->precision = "auto", e->sampler = "ddim";
    e->count = 200, e->steps = 20, e->guidance = 4;
    bool help = false;
    const option table[] = {
        {"model", OPT_STRING, &e->model, "diffusers folder (the bundled one)", "m"},
        {"data", OPT_STRING, &e->data, "the corpus: a folder that examples/corpus makes", NULL},
        {"output", OPT_STRING, &e->out, "folder for eval.json and sheets", "o"},
        {"count", OPT_INT, &e->count, "things asked for (200)", NULL},
        {"steps", OPT_INT, &e->steps, "sampling steps (20)", NULL},
        {"cfg", OPT_FLOAT, &e->guidance, "guidance scale (4)", "cfg-scale guidance-scale"},
        {"sampler", OPT_STRING, &e->sampler, "as in imago generate (ddim)", NULL},
        {"seed", OPT_INT, &e->seed, "of the first picture (0)", "s"},
        {"judge", OPT_STRING, &e->judge, "SqueezeNet's weights (the bundled ones)", NULL},
        {"device", OPT_STRING, &e->device, "auto, cpu, vulkan or vulkan:N", NULL},
        {"precision", OPT_STRING, &e->precision, "of the pictures: auto, f32, f16, bf16", NULL},
        {"threads", OPT_INT, &e->threads, "on cpu (all cores)", "t"},
        {"json", OPT_FLAG, &e->json, "print JSON instead of a table", NULL},
        {"overwrite", OPT_FLAG, &e->overwrite, "replace existing files", NULL}};
    status st = cli_parse(&self, argc, argv, table, ARRAY_LEN(table), NULL, &help);
    if (st == OK && !help && (!e->data || !e->model))
        st = fail(E_USAGE, "eval base needs --data, the corpus, and --model, a diffusers folder");
    if (st == OK && !help && (e->count < 1 || e->count > MOST_ASKED || e->steps < 1 || e->seed < 0))
        st = fail(E_USAGE, "--count wants 1 to %d, --steps 1 or more, --seed 0 or more", MOST_ASKED);
    if (st == OK && !help) st = run(e);
    int code = st == OK ? 0 : cli_fail(st);
    mem_free(e);
    return code;
}
