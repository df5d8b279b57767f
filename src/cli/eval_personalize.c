/* eval_personalize.c: imago eval personalize: how well adapters know a subject, and what it cost.
 * Every adapter, and the model without one (with the token left out), draws the captions of the
 * subject's target pictures and prompts that have nothing to do with it; the pictures are compared
 * by SqueezeNet's features. SPDX-License-Identifier: MIT */
#include "cli/eval_personal.h"
#include "op/op.h"
#include <math.h>
#include <stdio.h>

static const char *const default_unrelated[] = {
    "a glossy 3D render of a red apple on a white background",
    "a flat illustration of a car on a blue background",
    "a simple clip art of a house on a green background",
    "a black ink drawing of a key on a white background",
    "a glossy 3D render of a smiling face on a yellow background",
    "a detailed clip art of a heart on a white background"};

static double likeness(const float *a, const float *b) {
    double sum = 0;
    for (int i = 0; i < JUDGE_EMBED; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

/* ---- pictures ---- */
static status album_room(personal_eval *e, int n, album *a) {
    *a = (album){arena_new(&e->mem, picture, MAX(n, 1)), 0};
    return a->it ? OK : fail(E_HOST_MEMORY, "no host memory for %d pictures", n);
}

static void album_free(album *a) {
    for (int i = 0; i < a->n; i++) image_free(&a->it[i].im);
    a->n = 0;
}

static status load_picture(personal_eval *e, const char *path, picture *p) {
    static const uint8_t white[3] = {255, 255, 255};
    status st = OK;
    image im = {0};
    TRY(image_load(path, &im));
    TRY(image_flatten(&im, white));
    TRY(image_fit_to(&im, e->side, e->side, FIT_CROP, white, &p->im));
    TRY(judge_embed(e->j, &p->im, p->v));
out:
    image_free(&im);
    return st;
}

static status load_album(personal_eval *e, const char *folder, instance_set *set, album *a) {
    status st = OK;
    char prompt[300];
    snprintf(prompt, sizeof prompt, "a photo of %.100s%s%.100s", e->token,
             *e->class_word ? " " : "", e->class_word);
    TRY(instances_open(folder, prompt, set));
    TRY(album_room(e, set->n, a));
    for (int i = 0; i < set->n; i++) {
        TRY(load_picture(e, set->it[i].path, &a->it[i]));
        a->n++;
    }
out:
    return st;
}

/* Every folder in e->among is a subject with pictures in it. */
static status load_subjects(personal_eval *e) {
    status st = OK;
    const char **name;
    int n;
    instance_set set = {0};
    picture p = {0};
    if (!e->among) return OK;
    TRY(os_folder_list(e->among, &e->mem, &name, &n));
    if (!(e->subject = arena_new(&e->mem, subject, MOST_AMONG)))
        TRY(fail(E_HOST_MEMORY, "no host memory for subjects"));
    for (int i = 0; i < n; i++) {
        char path[1200];
        snprintf(path, sizeof path, "%.600s/%.500s", e->among, name[i]);
        if (!os_is_folder(path)) continue;
        if (e->n_subjects == MOST_AMONG)
            TRY(fail(E_USAGE, "%s: more than %d subjects", e->among, MOST_AMONG));
        subject *s = &e->subject[e->n_subjects++];
        s->name = name[i];
        TRY(instances_open(path, "", &set));
        for (int k = 0; k < set.n; k++) {
            TRY(load_picture(e, set.it[k].path, &p));
            for (int c = 0; c < JUDGE_EMBED; c++) s->v[c] += p.v[c] / (float)set.n;
            image_free(&p.im);
        }
        instances_close(&set);
    }
out:
    image_free(&p.im);
    instances_close(&set);
    return st;
}

/* ---- drawing ---- */

/* With an output folder every picture is kept there under a hash of all that it was made with, so a
 * run that was cut off, or one with more adapters, draws only what is missing. */
static uint64_t mix(uint64_t h, const void *data, size_t n) {
    const uint8_t *at = data;
    for (size_t i = 0; i < n; i++) h = (h ^ at[i]) * 0x100000001b3u; /* FNV-1a */
    return h;
}

static uint64_t mix_text(uint64_t h, const char *s) {
    return mix(h, s ? s : "", s ? strlen(s) + 1 : 1);
}

/* "path", "path:0.8", "name=path" or a PEFT folder: the words and the file behind them. */
static uint64_t mix_file(uint64_t h, const char *spec) {
    char path[1200];
    file_map m = {0};
    const char *eq = strchr(spec, '='), *colon = strrchr(spec, ':');
    h = mix_text(h, spec);
    snprintf(path, sizeof path, "%s", spec);
    if (!os_file_exists(path) && colon)
        snprintf(path, sizeof path, "%.*s", (int)(colon - spec), spec);
    if (!os_file_exists(path) && eq) snprintf(path, sizeof path, "%s", eq + 1);
    if (os_is_folder(path))
        strncat(path, "/adapter_model.safetensors", sizeof path - strlen(path) - 1);
    if (file_map_open(path, &m) != OK) return h; /* opening the adapter will say it */
    h = mix(h, m.data, m.bytes);
    file_map_close(&m);
    return h;
}

static uint64_t row_hash(const personal_eval *e, const char *adapter) {
    const double numbers[] = {e->side, e->steps, (double)e->guidance, e->seed};
    uint64_t h = mix(0xcbf29ce484222325u, numbers, sizeof numbers);
    h = mix_text(mix_text(mix_text(h, e->open.model), e->open.precision), e->open.device);
    if (!adapter) return h;
    for (int i = 0; i < e->embeddings.n; i++) h = mix_file(h, e->embeddings.value[i]);
    return mix_file(h, adapter);
}

/* The model, opened when the first picture is missing. */
typedef struct drawer {
    imago *im;
    const char *adapter; /* NULL = none */
    uint64_t hash;
} drawer;

static status generate(personal_eval *e, drawer *d, const char *prompt, int n,
                       imago_picture **out) {
    status st = OK;
    imago_open_params o = e->open;
    o.adapters = &d->adapter, o.n_adapters = d->adapter ? 1 : 0;
    o.embeddings = e->embeddings.value, o.n_embeddings = d->adapter ? e->embeddings.n : 0;
    if (!d->im) TRY((status)imago_open(&o, &d->im));
    TRY((status)imago_generate(d->im,
                               &IMAGO_GENERATE(.prompt = prompt, .plain_prompt = true,
                                               .width = e->side, .height = e->side,
                                               .steps = e->steps, .guidance = e->guidance,
                                               .seed = (uint64_t)e->seed, .batch = n),
                               out));
out:
    return st;
}

static void picture_path(const personal_eval *e, const drawer *d, const char *prompt, int i,
                         char path[1200]) {
    snprintf(path, 1200, "%.1000s/pictures/%016llx.png", e->out,
             (unsigned long long)mix(mix_text(d->hash, prompt), &i, sizeof i));
}

static status draw(personal_eval *e, drawer *d, const char *prompt, int n, album *to) {
    status st = OK;
    imago_picture *pics = NULL;
    char path[1200];
    bool kept = e->out && !e->overwrite;
    for (int i = 0; kept && i < n; i++) {
        picture_path(e, d, prompt, i, path);
        kept = os_file_exists(path);
    }
    if (!kept) TRY(generate(e, d, prompt, n, &pics));
    for (int i = 0; i < n; i++) {
        picture *p = &to->it[to->n];
        if (e->out) picture_path(e, d, prompt, i, path);
        if (pics && e->out) TRY((status)imago_save_picture(&pics[i], path));
        if (pics) {
            TRY(image_create(e->side, e->side, 3, &p->im));
            memcpy(p->im.px, pics[i].rgb, (size_t)(e->side * e->side * 3));
            to->n++;
            TRY(judge_embed(e->j, &p->im, p->v));
        } else {
            TRY(load_picture(e, path, p));
            to->n++;
        }
    }
out:
    imago_free_pictures(pics, n);
    return st;
}

/* The caption without the token and the blank behind it. */
static const char *without_token(personal_eval *e, const char *text) {
    const char *at = strstr(text, e->token);
    if (!at) return text;
    const char *rest = at + strlen(e->token);
    return arena_printf(&e->mem, "%.*s%s", (int)(at - text), text, *rest == ' ' ? rest + 1 : rest);
}

const char *personal_unrelated(const personal_eval *e, int i) {
    if (e->unrelated.n) return e->unrelated.value[i];
    return e->words ? words_thing(e->words, i) : default_unrelated[i];
}

int personal_unrelated_count(const personal_eval *e) {
    if (e->unrelated.n) return e->unrelated.n;
    return e->words ? words_asked(e->words) : (int)ARRAY_LEN(default_unrelated);
}

static int styles(const personal_eval *e) { return e->words ? words_styles(e->words) : 0; }

/* The model itself goes without the token, and draws what has nothing to do with it once. */
static status draw_row(personal_eval *e, int which, const char *adapter, progress *bar) {
    status st = OK;
    row *r = &e->row[which];
    bool bare = which == MODEL_ITSELF;
    drawer d = {NULL, adapter, row_hash(e, adapter)};
    TRY(album_room(e, e->target.n * e->batch, &r->seen));
    TRY(album_room(e, personal_unrelated_count(e), &r->unrelated));
    TRY(album_room(e, styles(e), &r->styled));
    for (int i = 0; i < e->target.n; i++) {
        const char *text = e->target_set.text[e->target_set.it[i].text];
        if (bare) text = without_token(e, text);
        if (!text) TRY(fail(E_HOST_MEMORY, "no host memory for captions"));
        TRY(draw(e, &d, text, e->batch, &r->seen));
        progress_step(bar, bar->done + 1, r->name);
    }
    for (int i = 0; which != UNTRAINED && i < personal_unrelated_count(e); i++) {
        TRY(draw(e, &d, personal_unrelated(e, i), 1, &r->unrelated));
        progress_step(bar, bar->done + 1, r->name);
    }
    for (int i = 0; i < styles(e); i++) {
        TRY(draw(e, &d, words_style(e->words, i, bare), 1, &r->styled));
        progress_step(bar, bar->done + 1, r->name);
    }
out:
    imago_close(d.im);
    return st;
}

/* ---- measuring ---- */
static double mean_likeness(const album *a, const album *b) {
    double sum = 0;
    for (int i = 0; i < a->n; i++)
        for (int k = 0; k < b->n; k++) sum += likeness(a->it[i].v, b->it[k].v);
    return sum / MAX(a->n * b->n, 1);
}

/* Is a picture nearer to the target of its own caption than to all others, and how near? */
static status measure_fidelity(personal_eval *e, row *r) {
    status st = OK;
    int right = 0;
    for (int i = 0; i < r->seen.n; i++) {
        double least = INFINITY, d;
        int at = -1;
        for (int k = 0; k < e->target.n; k++) {
            TRY(judge_distance(e->j, &r->seen.it[i].im, &e->target.it[k].im, &d));
            if (d < least) least = d, at = k;
            if (k == i / e->batch) r->distance += d / r->seen.n;
        }
        right += at == i / e->batch;
    }
    r->fidelity = (double)right / MAX(r->seen.n, 1);
out:
    return st;
}

static status measure_drift(personal_eval *e, row *r) {
    status st = OK;
    double d;
    for (int i = 0; i < r->unrelated.n; i++) {
        TRY(judge_distance(e->j, &r->unrelated.it[i].im, &e->row[MODEL_ITSELF].unrelated.it[i].im, &d));
        r->drift += d / r->unrelated.n;
    }
out:
    return st;
}

/* Whose pictures the row's are most like, all seen from the mean of the subjects: what they share
 * tells nothing. */
static void find_nearest(personal_eval *e, row *r) {
    float middle[JUDGE_EMBED] = {0}, mine[JUDGE_EMBED] = {0}, other[JUDGE_EMBED];
    double best = -INFINITY;
    for (int s = 0; s < e->n_subjects; s++)
        for (int c = 0; c < JUDGE_EMBED; c++)
            middle[c] += e->subject[s].v[c] / (float)e->n_subjects;
    for (int c = 0; c < JUDGE_EMBED; c++) {
        for (int i = 0; i < r->seen.n; i++) mine[c] += r->seen.it[i].v[c] / (float)r->seen.n;
        mine[c] -= middle[c];
    }
    for (int s = 0; s < e->n_subjects; s++) {
        for (int c = 0; c < JUDGE_EMBED; c++) other[c] = e->subject[s].v[c] - middle[c];
        double like = likeness(mine, other) / sqrt(MAX(likeness(other, other), 1e-30));
        if (like > best) best = like, r->nearest = e->subject[s].name;
    }
}

static status measure(personal_eval *e, row *r) {
    status st = OK;
    int pairs = 0;
    r->references = mean_likeness(&r->seen, &e->ref);
    for (int i = 0; i < r->seen.n; i++) {
        r->targets += likeness(r->seen.it[i].v, e->target.it[i / e->batch].v) / r->seen.n;
        for (int k = i / e->batch * e->batch; k < i; k++, pairs++)
            r->diversity += 1 - likeness(r->seen.it[i].v, r->seen.it[k].v);
    }
    r->diversity = pairs ? r->diversity / pairs : NAN;
    TRY(measure_fidelity(e, r));
    TRY(measure_drift(e, r));
    TRY(words_measure(e, r));
    if (e->n_subjects) find_nearest(e, r);
out:
    return st;
}

/* ---- the line ---- */
static status prepare(personal_eval *e) {
    status st = OK;
    imago *im = NULL;
    char path[1200];
    if (!e->references || !e->targets)
        return fail(E_USAGE, "give --references and --targets: folders of pictures of the subject");
    if (e->data && !*e->class_word)
        return fail(E_USAGE, "--data asks for the subject in the corpus' styles: give --class too");
    if (e->batch < 1 || e->batch > 64 || e->steps < 1 || e->seed < 0 || !*e->token)
        return fail(E_USAGE, "--batch, --steps, --seed and --token: expected 1 to 64, from 1 on, "
                             "from 0 on, and a word");
    if (e->out) {
        snprintf(path, sizeof path, "%.1000s/eval.json", e->out);
        if (os_file_exists(path) && !e->overwrite)
            return fail(E_USAGE, "%s is there already: another --output, or --overwrite", path);
        snprintf(path, sizeof path, "%.1000s/pictures", e->out);
        TRY(os_mkdir_p(path));
    }
    TRY((status)imago_open(&e->open, &im));
    if (!e->side) e->side = latent_side_px(im);
    TRY(latent_check_size(im, e->side, e->side));
    if (e->side < JUDGE_MIN_SIDE)
        TRY(fail(E_UNSUPPORTED, "size %d: pictures below %d pixels cannot be judged", e->side,
                 JUDGE_MIN_SIDE));
    TRY(device_open(&op_all,
                    &(device_params){.name = e->open.device,
                                     .cache_dir = e->open.cache_dir,
                                     .threads = e->open.threads},
                    &e->dev));
    TRY(judge_open(e->dev, e->judge_path, &e->j));
    TRY(load_album(e, e->references, &e->ref_set, &e->ref));
    TRY(load_album(e, e->targets, &e->target_set, &e->target));
    TRY(load_subjects(e));
    if (e->data) TRY(words_open(e));
out:
    imago_close(im);
    return st;
}

static void name_curve(row *r) {
    char path[1200];
    snprintf(path, sizeof path, "%s", r->name);
    char *slash = strrchr(path, '/'), *end = slash ? strstr(path, ".run/") : NULL;
    const char *from = slash ? slash + 1 : path;
    if (end && end + 4 == slash && strncmp(from, "adapter-", 8) == 0) {
        *end = 0;
        slash = strrchr(path, '/');
        from = slash ? slash + 1 : path;
    } else if ((end = strstr(from, ".safetensors"))) {
        *end = 0;
    }
    snprintf(r->curve, sizeof r->curve, "%.60s", from);
}

static status run(personal_eval *e) {
    status st = OK;
    progress bar = {0};
    TRY(prepare(e));
    if (!(e->row = arena_new(&e->mem, row, e->n + ADAPTERS)))
        TRY(fail(E_HOST_MEMORY, "no host memory for a table"));
    e->n_rows = e->n + ADAPTERS;
    progress_begin(&bar, "drawing",
                   e->n_rows * (e->target.n + styles(e)) +
                       (e->n_rows - 1) * personal_unrelated_count(e));
    for (int i = 0; st == OK && i < e->n_rows; i++) {
        const char *adapter = i < ADAPTERS ? NULL : e->adapter[i - ADAPTERS];
        e->row[i].name = adapter            ? adapter
                         : i == UNTRAINED ? "(the model itself, with the token)"
                                          : "(the model itself)";
        if (adapter) name_curve(&e->row[i]);
        st = draw_row(e, i, adapter, &bar);
        if (st == OK) st = measure(e, &e->row[i]);
        if (i == UNTRAINED) e->row[i].thing = e->row[MODEL_ITSELF].thing;
    }
    progress_end(&bar);
    TRY(st);
    TRY(personal_report(e));
out:
    for (int i = 0; i < e->n_rows; i++) {
        album_free(&e->row[i].seen), album_free(&e->row[i].unrelated);
        album_free(&e->row[i].styled);
    }
    words_close(e);
    album_free(&e->ref), album_free(&e->target);
    instances_close(&e->ref_set), instances_close(&e->target_set);
    judge_close(e->j);
    device_close(e->dev);
    arena_fini(&e->mem);
    return st;
}

int cmd_eval_personalize(int argc, char **argv) {
    static const command self = {
        "eval personalize",
        "Measures adapters that were taught a subject: likeness to its pictures, whether prompts "
        "are followed, and how far the rest of the model drifted.",
        NULL};
    personal_eval e = {
        .token = "sks", .class_word = "", .batch = 2, .steps = 20, .guidance = 7};
    char cache[512], model[1200], weights_path[1200];
    bool help = false;
    positionals args = {"ADAPTER|REPORT [...]", e.adapter, 1, MOST_ADAPTERS, 0};
    const option table[] = {
        {"model", OPT_STRING, &e.open.model, "diffusers folder, .safetensors or .gguf (the bundled one)", "m"},
        {"references", OPT_STRING, &e.references, "folder of the pictures that were learned", NULL},
        {"targets", OPT_STRING, &e.targets,
         "folder of others of the subject, NAME.txt with the prompt to draw beside NAME.png (else \"a photo of TOKEN CLASS\")", NULL},
        {"among", OPT_STRING, &e.among, "folder of subjects, a folder each: whose is nearest?",
         NULL},
        {"data", OPT_STRING, &e.data,
         "corpus: are the right thing and the right style drawn? Its things are the unrelated prompts then", NULL},
        {"class", OPT_STRING, &e.class_word, "what the subject is: lion, backpack; for --data", NULL},
        {"subject", OPT_STRING, &e.subject_name, "its name among the subjects, for --summary", NULL},
        {"summary", OPT_FLAG, &e.summary,
         "the arguments are output folders of earlier calls, a subject each: their means, and drift at equal likeness", NULL},
        {"token", OPT_STRING, &e.token, "the subject's word (sks): the base model goes without",
         NULL},
        {"embedding", OPT_LIST, &e.embeddings, "textual inversion file for the adapters", NULL},
        {"unrelated", OPT_LIST, &e.unrelated, "a prompt without the subject; may be repeated",
         NULL},
        {"output", OPT_STRING, &e.out,
         "folder for eval.json, sheet.png, curves.png and the pictures, which a run that goes on uses again",
         "o"},
        {"batch", OPT_INT, &e.batch, "pictures of every caption (2)", "b"},
        {"steps", OPT_INT, &e.steps, "of the sampler (20)", NULL},
        {"cfg", OPT_FLOAT, &e.guidance, "guidance (7)", "guidance-scale"},
        {"seed", OPT_INT, &e.seed, "of the first picture (0)", NULL},
        {"size", OPT_INT, &e.side, "side in pixels (the model's own)", NULL},
        {"judge", OPT_STRING, &e.judge_path,
         "SqueezeNet's weights (the bundled ones)", NULL},
        {"json", OPT_FLAG, &e.json, "print JSON instead of a table", NULL},
        {"device", OPT_STRING, &e.open.device, "auto, cpu, vulkan, vulkan:N", NULL},
        {"precision", OPT_STRING, &e.open.precision, "auto, f32, f16, bf16", NULL},
        {"threads", OPT_INT, &e.open.threads, "cpu threads (all cores)", "t"},
        {"overwrite", OPT_FLAG, &e.overwrite, "replace existing files, draw everything anew",
         NULL}};
    e.judge_path = cli_asset(CLI_JUDGE, weights_path);
    e.open.model = cli_default_model(model);
    e.open.cache_dir = cli_cache_dir(cache);
    e.open.cancelled = cli_cancelled;
    status st = cli_parse(&self, argc, argv, table, ARRAY_LEN(table), &args, &help);
    if (st == OK && help) return 0;
    e.n = args.n;
    if (st == OK && e.summary)
        st = personal_summary(e.adapter, e.n, e.out, e.json, e.overwrite);
    else if (st == OK)
        st = run(&e);
    return st == OK ? 0 : cli_fail(st);
}
