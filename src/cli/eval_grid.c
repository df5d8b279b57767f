/* eval_grid.c: imago eval grid: tasks of style with a right answer: an exemplar in two styles and a query in the first of
 * them; the answer is the query in the second, and no training saw it. What was filled is compared with the answer,
 * beside what costs nothing: the query itself, the training picture most like it, the base model told in words; and beside the
 * answer after the autoencoder, which is the ceiling.
 * SPDX-License-Identifier: MIT */
#include "cli/cli.h"
#include "cli/eval.h"
#include "engine/grid.h"
#include "eval/eval.h"
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>

enum { GALLERY = 200, SMALL = 64, MAX_TASKS = 1000, SHOWN = 32 }; /* SMALL: px at which many pictures are compared */
enum { FILLED, QUERY, NEAREST, WORDS, CEILING, METHODS }; /* of making the picture */
static const char *const method_names[METHODS] = {"filled", "the query", "nearest in training", "base model, words", "answer, decoded (ceiling)"};

typedef struct task { int from, to, ref, query; } task; /* styles, concepts */
typedef struct score { double pixels, features; int right, style, leaked; } score;

typedef struct evaluation {
    imago_open_params open;
    const char *adapter, *data, *tasks, *judge, *out;
    float ref_strength;
    int steps, seed, limit;
    bool json, overwrite, caption;
    corpus *c; task *task; int n; arena mem;
    imago *im; grid_model *m; judge *j; extractor *eyes; int side;
    int gallery_style, gallery[GALLERY], n_gallery; float *feature[GALLERY];
    score sum[METHODS]; double diversity, seconds; int n_diverse;
    uint8_t *sheet;                        /* [SHOWN][7] pictures */
} evaluation;

/* ---- tasks ---- */
static char *field(char **line) {
    char *begin = *line, *tab = strchr(begin, '\t');
    if (tab) *tab = 0, *line = tab + 1;
    else *line = begin + strlen(begin);
    return begin;
}

static status read_task(evaluation *e, char *line, int number) {
    char *all = line, *from = field(&line), *to = field(&line), *ref = field(&line);
    field(&line);
    char *query = field(&line);
    task t = {corpus_find_style(e->c, from), corpus_find_style(e->c, to), corpus_find_concept(e->c, ref), corpus_find_concept(e->c, query)};
    if (t.from < 0 || t.to < 0 || t.ref < 0 || t.query < 0) return fail(E_FORMAT, "%s:%d: '%.60s': a style or a key that the corpus has not", e->tasks, number, all);
    const corpus_concept *r = &e->c->concepts[t.ref], *q = &e->c->concepts[t.query];
    if (r->picture[t.from] < 0 || r->picture[t.to] < 0 || q->picture[t.from] < 0 || q->picture[t.to] < 0)
        return fail(E_FORMAT, "%s:%d: a picture that the corpus has not", e->tasks, number);
    if (e->n == MAX_TASKS) return fail(E_UNSUPPORTED, "%s: more than %d tasks", e->tasks, MAX_TASKS);
    e->task[e->n++] = t;
    return OK;
}

static int by_style(const void *a, const void *b) {
    const task *x = a, *y = b;
    return x->to != y->to ? x->to - y->to : x->from != y->from ? x->from - y->from : x->query - y->query;
}

static status read_tasks(evaluation *e) {
    status st = OK;
    char path[1200];
    uint8_t *text = NULL;
    size_t bytes = 0;
    int number = 1;
    if (!e->tasks) {
        snprintf(path, sizeof path, "%.1000s/style_grids.tsv", e->data);
        e->tasks = arena_printf(&e->mem, "%s", path);
    }
    if (!(e->task = arena_new(&e->mem, task, MAX_TASKS)) || !e->tasks) TRY(fail(E_HOST_MEMORY, "no host memory for tasks"));
    TRY(file_read(e->tasks, (size_t)1 << 22, &text, &bytes));
    char *line = (char *)text, *end = strchr(line, '\n');
    while (end && end[1]) { /* the first line names the columns */
        line = end + 1, end = strchr(line, '\n');
        if (end) *end = 0;
        TRY(read_task(e, line, ++number));
    }
    if (!e->n) TRY(fail(E_FORMAT, "%s: no tasks in it", e->tasks));
    if (e->limit) e->n = MIN(e->n, e->limit);
    qsort(e->task, (size_t)e->n, sizeof *e->task, by_style);
out:
    mem_free(text);
    return st;
}

/* ---- pictures ---- */
static status features(evaluation *e, const image *im, float **out) {
    status st = OK;
    image small = {0};
    TRY(image_resize(im, SMALL, SMALL, &small));
    if (!(*out = mem_alloc(EXTRACTOR_FLOATS * sizeof **out))) TRY(fail(E_HOST_MEMORY, "no host memory for a picture"));
    st = extractor_read(e->eyes, 1, small.px, *out);
out:
    if (st != OK) mem_free(*out), *out = NULL;
    image_free(&small);
    return st;
}

static void empty_gallery(evaluation *e) {
    for (int i = 0; i < e->n_gallery; i++) mem_free(e->feature[i]);
    e->n_gallery = 0;
}

/* Training pictures of a style, spread evenly; with the answer they are GALLERY. */
static status fill_gallery(evaluation *e, int style) {
    status st = OK;
    image im = {0};
    int n = 0, seen = 0;
    if (e->n_gallery && e->gallery_style == style) return OK;
    empty_gallery(e);
    e->gallery_style = style;
    for (int i = 0; i < e->c->n_pictures; i++) n += e->c->pictures[i].style == style && e->c->pictures[i].split == SPLIT_TRAIN;
    int wanted = MIN(n, GALLERY - 1);
    for (int i = 0; i < e->c->n_pictures && e->n_gallery < wanted; i++) {
        if (e->c->pictures[i].style != style || e->c->pictures[i].split != SPLIT_TRAIN) continue;
        if ((int64_t)seen++ * wanted / n < e->n_gallery) continue;
        image_free(&im);
        TRY(cli_corpus_picture(e->c, i, e->side, &im));
        TRY(features(e, &im, &e->feature[e->n_gallery]));
        e->gallery[e->n_gallery++] = i;
    }
out:
    image_free(&im);
    return st;
}

static int nearest(const evaluation *e, const float *f, double *d) {
    int best = 0;
    *d = 1e30;
    for (int i = 0; i < e->n_gallery; i++) {
        double a = features_distance(f, e->feature[i]);
        if (a < *d) *d = a, best = i;
    }
    return best;
}

/* ---- one task ---- */
static image view(const imago_picture *p) { return (image){p->width, p->height, 3, p->rgb}; }

static status through_autoencoder(evaluation *e, const image *im, image *out) {
    status st = OK;
    int h = e->side / latent_factor(e->im);
    size_t px = (size_t)e->side * (size_t)e->side * 3;
    float *x = mem_alloc(sizeof *x * px), *z = mem_alloc(sizeof *z * (size_t)(h * h * e->im->ck->vae.latent_channels));
    if (!x || !z) TRY(fail(E_HOST_MEMORY, "no host memory for a picture"));
    for (size_t i = 0; i < px; i++) x[i] = image_unit(im->px[i]);
    TRY(vae_encode_pixels(e->im, x, e->side, e->side, NULL, z));
    TRY(vae_decode_picture(e->im, z, h, h, false, out));
out:
    mem_free(x);
    mem_free(z);
    return st;
}

static status in_words(evaluation *e, const task *t, image *out) {
    caption text;
    imago_picture *pic = NULL;
    compose_plain_caption(e->c, e->c->concepts[t->query].picture[t->to], &text);
    imago_generate_params g = IMAGO_GENERATE(.prompt = text.text, .plain_prompt = true, .width = e->side, .height = e->side, .steps = e->steps, .guidance = 4,
                                             .sampler = "ddim", .schedule = "trailing", .seed = (uint64_t)e->seed);
    status st = (status)imago_generate(e->im, &g, &pic);
    if (st == OK) *out = view(pic), pic->rgb = NULL;
    imago_free_pictures(pic, 1);
    return st;
}

static status fill_grid(evaluation *e, const task *t, const image given[3], uint64_t seed, image *out) {
    imago_picture cell[3], *pic = NULL;
    caption text;
    imago_grid_params g = IMAGO_GRID(.adapter = e->adapter, .layout = "edit", .width = e->side, .height = e->side, .steps = e->steps, .seed = seed);
    grid_fill_report r = {0};
    g.ref_strength = e->ref_strength;
    for (int i = 0; i < 3; i++) cell[i] = (imago_picture){.width = given[i].w, .height = given[i].h, .rgb = given[i].px}, g.cell[i] = &cell[i];
    compose_plain_caption(e->c, e->c->concepts[t->query].picture[t->to], &text);
    if (e->caption) g.prompt[3] = text.text;
    status st = grid_pictures(e->m, &g, &pic, &r);
    e->seconds += r.seconds;
    if (st == OK) *out = view(&pic[3]), pic[3].rgb = NULL;
    imago_free_pictures(pic, 4);
    return st;
}

/* Adds what one method's picture scores. leak: the exemplar in the style asked for. */
static status add_score(evaluation *e, const task *t, const image *im, const image *truth, const float *answer, const float *exemplar, score *s) {
    status st = OK;
    float *f = NULL, *other = NULL;
    image one = {0};
    double d, others, best = 1e30;
    int style = -1;
    TRY(judge_distance(e->j, im, truth, &d));
    s->pixels += pixel_distance(im, truth), s->features += d;
    TRY(features(e, im, &f));
    double own = features_distance(f, answer);
    nearest(e, f, &others);
    s->right += own < others;
    s->leaked += features_distance(f, exemplar) < own;
    for (int k = 0; k < e->c->n_styles; k++) {
        int p = e->c->concepts[t->query].picture[k];
        if (p < 0) continue;
        image_free(&one);
        mem_free(other);
        other = NULL;
        TRY(cli_corpus_picture(e->c, p, e->side, &one));
        TRY(features(e, &one, &other));
        d = features_distance(f, other);
        if (d < best) best = d, style = k;
    }
    s->style += style == t->to;
out:
    image_free(&one);
    mem_free(f);
    mem_free(other);
    return st;
}

static status run_task(evaluation *e, int index) {
    status st = OK;
    const task *t = &e->task[index];
    const corpus_concept *ref = &e->c->concepts[t->ref], *query = &e->c->concepts[t->query];
    image given[3] = {{0}}, truth = {0}, made[METHODS] = {{0}}, again = {0};
    float *answer = NULL, *exemplar = NULL, *asked = NULL;
    double d;
    TRY(fill_gallery(e, t->to));
    TRY(cli_corpus_picture(e->c, ref->picture[t->from], e->side, &given[0]));
    TRY(cli_corpus_picture(e->c, ref->picture[t->to], e->side, &given[1]));
    TRY(cli_corpus_picture(e->c, query->picture[t->from], e->side, &given[2]));
    TRY(cli_corpus_picture(e->c, query->picture[t->to], e->side, &truth));
    TRY(features(e, &truth, &answer));
    TRY(features(e, &given[1], &exemplar));
    TRY(features(e, &given[2], &asked));
    TRY(fill_grid(e, t, given, (uint64_t)e->seed, &made[FILLED]));
    TRY(cli_corpus_picture(e->c, query->picture[t->from], e->side, &made[QUERY]));
    TRY(cli_corpus_picture(e->c, e->gallery[nearest(e, asked, &d)], e->side, &made[NEAREST]));
    TRY(in_words(e, t, &made[WORDS]));
    TRY(through_autoencoder(e, &truth, &made[CEILING]));
    for (int k = 0; k < METHODS; k++) TRY(add_score(e, t, &made[k], &truth, answer, exemplar, &e->sum[k]));
    if (index % 4 == 0) { /* how much the noise decides */
        TRY(fill_grid(e, t, given, (uint64_t)e->seed + 1000, &again));
        TRY(judge_distance(e->j, &made[FILLED], &again, &d));
        e->diversity += d, e->n_diverse++;
    }
    int step = MAX(e->n / SHOWN, 1);
    if (index % step == 0 && index / step < SHOWN) {
        const image *row[7] = {&given[0], &given[1], &given[2], &made[FILLED], &truth, &made[NEAREST], &made[WORDS]};
        size_t one = (size_t)e->side * (size_t)e->side * 3;
        for (int k = 0; k < 7; k++) memcpy(e->sheet + one * (size_t)(index / step * 7 + k), row[k]->px, one);
    }
out:
    for (int k = 0; k < METHODS; k++) image_free(&made[k]);
    for (int k = 0; k < 3; k++) image_free(&given[k]);
    image_free(&truth);
    image_free(&again);
    mem_free(answer);
    mem_free(exemplar);
    mem_free(asked);
    return st;
}

/* ---- report ---- */
static void print_table(const evaluation *e) {
    printf("%-26s %8s %9s %10s %10s %12s\n", "", "pixels", "features", "right thing", "right style", "like exemplar");
    for (int k = 0; k < METHODS; k++)
        printf("%-26s %8.4f %9.4f %10.1f%% %10.1f%% %11.1f%%\n", method_names[k], e->sum[k].pixels / e->n, e->sum[k].features / e->n,
               100.0 * e->sum[k].right / e->n, 100.0 * e->sum[k].style / e->n, 100.0 * e->sum[k].leaked / e->n);
    printf("%d tasks, %.2f s a grid; two seeds are %.4f apart in features\n", e->n, e->seconds / (e->n + e->n_diverse), e->diversity / MAX(e->n_diverse, 1));
    printf("right thing: the answer is nearer than %d training pictures of its style. right style: nearer than the same thing in other styles.\n"
           "like exemplar: the exemplar's row is nearer than the answer. Feature distances compare with each other only.\n", GALLERY - 1);
}

static status report(const evaluation *e) {
    status st = OK;
    char path[1200], *text = NULL;
    cJSON *o = cJSON_CreateObject();
    bool good = o && cJSON_AddNumberToObject(o, "tasks", e->n) && cJSON_AddNumberToObject(o, "seconds", e->seconds / (e->n + e->n_diverse)) &&
                cJSON_AddNumberToObject(o, "diversity", e->diversity / MAX(e->n_diverse, 1));
    for (int k = 0; good && k < METHODS; k++) {
        cJSON *m = cJSON_AddObjectToObject(o, method_names[k]);
        good = m && cJSON_AddNumberToObject(m, "pixels", e->sum[k].pixels / e->n) && cJSON_AddNumberToObject(m, "features", e->sum[k].features / e->n) &&
               cJSON_AddNumberToObject(m, "right", (double)e->sum[k].right / e->n) && cJSON_AddNumberToObject(m, "style", (double)e->sum[k].style / e->n) &&
               cJSON_AddNumberToObject(m, "leaked", (double)e->sum[k].leaked / e->n);
    }
    text = good ? cJSON_Print(o) : NULL;
    if (!text) TRY(fail(E_HOST_MEMORY, "no host memory for the report"));
    if (e->json) printf("%s\n", text);
    else print_table(e);
    if (!e->out) goto out;
    snprintf(path, sizeof path, "%.1000s/eval.json", e->out);
    TRY(file_write_atomic(path, text, strlen(text)));
    snprintf(path, sizeof path, "%.1000s/tasks.png", e->out);
    TRY(sheet_save(e->sheet, MIN(e->n, SHOWN) * 7, e->side, 7, path));
out:
    cJSON_free(text);
    cJSON_Delete(o);
    return st;
}

static status check(const evaluation *e) {
    char path[1200];
    status st = cli_need_model(e->open.model);
    if (st != OK) return st;
    if (!e->adapter) return fail(E_USAGE, "no grid adapter: give --grid with a file that imago train-grid made");
    if (!e->data) return fail(E_USAGE, "no data: give --data with the folder that examples/corpus makes");
    if ((st = cli_need_judge(e->judge)) != OK) return st;
    if (e->limit < 0 || e->seed < 0 || e->steps < 1) return fail(E_USAGE, "--tasks-max and --seed from 0 on, --steps from 1 on");
    if (!e->out) return OK;
    if (!e->out[0] || strlen(e->out) > 1000) return fail(E_USAGE, "output '%.60s': expected the name of a folder", e->out);
    snprintf(path, sizeof path, "%s/eval.json", e->out);
    if (os_file_exists(path) && !e->overwrite) return fail(E_USAGE, "%s is there already: choose another --output, or give --overwrite", path);
    return os_mkdir_p(e->out);
}

static status run(evaluation *e) {
    status st = OK;
    progress bar;
    TRY(check(e));
    TRY(corpus_open(e->data, &e->c));
    TRY(read_tasks(e));
    st = (status)imago_open(&e->open, &e->im);
    if (st != OK) return st;
    e->side = latent_side_px(e->im);
    TRY(grid_model_open(e->im, e->adapter, &e->m));
    TRY(judge_open(e->im->dev, e->judge, &e->j));
    TRY(extractor_open(e->im->dev, e->judge, SMALL, 1, &e->eyes));
    if (!(e->sheet = mem_zalloc((size_t)e->side * (size_t)e->side * 3 * SHOWN * 7))) TRY(fail(E_HOST_MEMORY, "no host memory for a sheet"));
    progress_begin(&bar, "tasks", e->n);
    for (int i = 0; i < e->n; i++) {
        if (os_cancelled()) st = fail(E_CANCELLED, "stopped after %d of %d tasks: nothing was written", i, e->n);
        if (st == OK) st = run_task(e, i);
        if (st != OK) break;
        progress_step(&bar, i + 1, NULL);
    }
    progress_end(&bar);
    TRY(st);
    TRY(report(e));
out:
    return st;
}

int cmd_eval_grid(int argc, char **argv) {
    static const command self = {"eval grid", "Measures a grid adapter on tasks of style whose answers are known and were never trained on.", NULL};
    evaluation *e = mem_zalloc(sizeof *e);
    bool help = false;
    char cache[512], model[1200], judge_path[1200];
    if (!e) return cli_fail(fail(E_HOST_MEMORY, "no host memory to begin"));
    e->open.model = cli_default_model(model), e->judge = cli_asset(CLI_JUDGE, judge_path);
    e->ref_strength = 1.5f, e->steps = 20;
    const option table[] = {
        {"model", OPT_STRING, &e->open.model, "diffusers folder, .safetensors or .gguf (the bundled one)", "m"},
        {"grid", OPT_STRING, &e->adapter, "the grid adapter: a file that imago train-grid made", "g"},
        {"data", OPT_STRING, &e->data, "the corpus: a folder that examples/corpus makes", NULL},
        {"tasks", OPT_STRING, &e->tasks, "table of tasks (style_grids.tsv of the corpus)", NULL},
        {"tasks-max", OPT_INT, &e->limit, "only the first so many (all)", NULL},
        {"caption", OPT_FLAG, &e->caption, "tell the cell that is made its caption", NULL},
        {"ref-strength", OPT_FLOAT, &e->ref_strength, "of the given cells (1.5)", NULL},
        {"steps", OPT_INT, &e->steps, "sampling steps (20)", NULL},
        {"seed", OPT_INT, &e->seed, "of the noise (0)", "s"},
        {"json", OPT_FLAG, &e->json, "print JSON instead of a table", NULL},
        {"output", OPT_STRING, &e->out, "folder for eval.json and tasks.png: given cells, filled, answer, nearest, words", "o"},
        {"judge", OPT_STRING, &e->judge, "SqueezeNet's weights (the bundled ones)", NULL},
        {"device", OPT_STRING, &e->open.device, "auto, cpu, vulkan or vulkan:N", NULL},
        {"precision", OPT_STRING, &e->open.precision, "auto, f32, f16, bf16", "type"},
        {"threads", OPT_INT, &e->open.threads, "cpu threads (all cores)", "t"},
        {"overwrite", OPT_FLAG, &e->overwrite, "replace existing files", NULL}};
    status st = cli_parse(&self, argc, argv, table, ARRAY_LEN(table), NULL, &help);
    e->open.cache_dir = cli_cache_dir(cache);
    e->open.cancelled = cli_cancelled;
    if (st == OK && !help) st = run(e);
    int code = st == OK ? 0 : cli_fail(st);
    empty_gallery(e);
    judge_close(e->j);
    extractor_close(e->eyes);
    grid_model_destroy(e->m);
    imago_close(e->im);
    corpus_close(e->c);
    arena_fini(&e->mem);
    mem_free(e->sheet);
    mem_free(e);
    return code;
}
