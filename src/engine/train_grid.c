/* train_grid.c: from the corpus to a grid adapter: grids are drawn as they are needed, their cells encoded one by one, and
 * only what is beside the model is trained. The run lives in a folder beside the output (train.h); the sheets show
 * grids that are never trained on, beside the truth.
 * SPDX-License-Identifier: MIT */
#include "engine/grid_step.h"
#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>

#define CONFIG_BYTES ((size_t)1 << 16)
#define UNSEEN       ((uint64_t)1 << 40) /* samples from here on are for looking at */
enum { SHOWN = 6, SHEET_STEPS = 20, ROWS = 2, COLS = 2, CELLS = ROWS * COLS };

typedef struct job {
    const train_grid_params *p;
    train_params run;
    imago *im; grid_model *m; grid_source *source; compose_work *work;
    char folder[1024], file[1100];
    int side, h, tokens;
    grid_batch batch; plan *step;
    uint8_t *rgb;                          /* [CELLS] composed cells */
    float *px;                             /* one cell at the size of training, [-1, 1] */
    float *no_words;
} job;

/* ---- what is wished ---- */
static status check(job *j) {
    const train_grid_params *p = j->p;
    const train_params *r = &p->run;
    const adapter_options *o = &p->o.adapt;
    size_t n = strlen(p->out), tail = strlen(".safetensors");
    if (n <= tail || n > 900 || strcmp(p->out + n - tail, ".safetensors") != 0)
        return fail(E_USAGE, "output '%s': expected a name that ends with .safetensors", p->out);
    if (os_file_exists(p->out) && !p->overwrite) return fail(E_USAGE, "%s is there already: give another name, or --overwrite", p->out);
    if (p->o.adapter->project) return fail(E_USAGE, "adapter '%s': expected lora, oft, oft_neumann or boft", p->o.adapter->name);
    if (r->batch < 1 || r->batch > GRID_BATCH_MAX || r->accumulate < 1 || r->accumulate > 4096 || r->lr.steps < 1 || r->log_every < 1)
        return fail(E_USAGE, "batch, accumulate, steps and log-every: expected 1 or more (batch to %d, accumulate to 4096)", GRID_BATCH_MAX);
    if (!(r->lr.lr > 0 && r->lr.lr <= 1)) return fail(E_USAGE, "learning rate %g: expected above 0, at most 1", r->lr.lr);
    if (o->rank < 0 || o->rank > 4096 || o->block < 0 || o->factors < 0 || o->factors > 16 || !(o->alpha >= 0))
        return fail(E_USAGE, "rank, alpha, block and factors: expected positive numbers");
    if (p->o.banks && p->geometry == GRID_CANVAS) return fail(E_USAGE, "--query-banks needs --geometry batch");
    if (r->folder) snprintf(j->folder, sizeof j->folder, "%s", r->folder);
    else snprintf(j->folder, sizeof j->folder, "%.*s.run", (int)(n - tail), p->out);
    snprintf(j->file, sizeof j->file, "%s/adapter.safetensors", j->folder);
    return OK;
}

static bool describe(const job *j, cJSON *o) {
    const train_grid_params *p = j->p;
    const train_params *r = &j->run;
    const struct { const char *key; double value; } numbers[] = {
        {"rank", p->o.adapt.rank}, {"alpha", (double)p->o.adapt.alpha}, {"block", p->o.adapt.block}, {"factors", p->o.adapt.factors},
        {"noised", p->o.noised}, {"slots", p->o.slots}, {"banks", p->o.banks}, {"canvas", p->geometry == GRID_CANVAS}, {"size", j->side},
        {"batch", r->batch}, {"accumulate", r->accumulate}, {"learning_rate", r->lr.lr}, {"warmup", (double)r->lr.warmup},
        {"ema", (double)r->adam.average_decay}, {"seed", r->seed}};
    bool good = cJSON_AddStringToObject(o, "model", j->im->ck->path) && cJSON_AddStringToObject(o, "precision", dtype_name(j->im->type)) &&
                cJSON_AddStringToObject(o, "adapter", p->o.adapter->name) && cJSON_AddStringToObject(o, "sight", grid_sight_names[p->o.sight]) &&
                cJSON_AddStringToObject(o, "data", p->data.folder);
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) good = good && cJSON_AddNumberToObject(o, numbers[i].key, numbers[i].value);
    for (int i = 0; good && grid_layout_at(i); i++) good = cJSON_AddNumberToObject(o, grid_layout_at(i)->name, p->data.weight[i]) != NULL;
    return good;
}

/* A run that goes on must have been begun with the same settings. */
static status settings(job *j) {
    status st = OK;
    cJSON *o = cJSON_CreateObject();
    if (!o || !describe(j, o)) TRY(fail(E_HOST_MEMORY, "no host memory for the run's settings"));
    TRY(train_settle(&j->run, o, CONFIG_BYTES, "settings", j->p->overwrite));
out:
    cJSON_Delete(o);
    return st;
}

/* ---- data ---- */
static status encode_cell(job *j, const uint8_t *rgb, float *z) {
    status st = OK;
    image whole = {COMPOSE_SIDE, COMPOSE_SIDE, 3, (uint8_t *)rgb}, small = {0};
    const uint8_t *from = rgb;
    if (j->side != COMPOSE_SIDE) {
        TRY(image_resize(&whole, j->side, j->side, &small));
        from = small.px;
    }
    for (int i = 0; i < j->side * j->side * 3; i++) j->px[i] = image_unit(from[i]);
    TRY(vae_encode_pixels(j->im, j->px, j->side, j->side, NULL, z));
out:
    image_free(&small);
    return st;
}

static status read_words(job *j, const char *text, float *to) {
    float *y = NULL;
    int entries, tokens;
    status st = text_features(j->im, &(text_params){.prompt = text, .plain = true}, &y, &entries, &tokens);
    if (st == OK) memcpy(to, y, sizeof *to * j->batch.text);
    mem_free(y);
    return st;
}

/* Grid `at` of the batch. Given cells are told nothing: who fills a grid has pictures, not captions of them. */
static status add_grid(job *j, uint64_t sample, int at) {
    status st = OK;
    grid_sample s;
    grid_batch *b = &j->batch;
    TRY(grid_source_draw(j->source, sample, j->work, j->rgb, &s));
    grid_draw_task(j->run.seed, sample, s.layout, &b->task[at]);
    for (int k = 0; k < CELLS; k++) {
        size_t cell = (size_t)(at * CELLS + k);
        float *words = b->context + cell * b->text;
        TRY(encode_cell(j, j->rgb + COMPOSE_RGB_BYTES * (size_t)k, b->z + cell * b->one));
        if (b->task[at].made[k] && b->task[at].words) TRY(read_words(j, s.text[k].text, words));
        else memcpy(words, j->no_words, sizeof *words * b->text);
    }
out:
    return st;
}

static status feed(void *ctx, int64_t step, uint64_t first) {
    status st = OK;
    job *j = ctx;
    (void)step;
    for (int i = 0; i < j->run.batch; i++) TRY(add_grid(j, first + (uint64_t)i, i));
    TRY(grid_batch_write(j->m, &j->batch, j->step, j->run.seed, first));
out:
    return st;
}

/* ---- what comes out ---- */
static status save(void *ctx, const char *folder) {
    job *j = ctx;
    char steps[32], layouts[256] = "", size[32];
    (void)folder;
    snprintf(steps, sizeof steps, "%lld", (long long)j->run.lr.steps);
    snprintf(size, sizeof size, "%d", j->side);
    for (int i = 0; grid_layout_at(i); i++)
        if (j->p->data.weight[i] > 0) {
            size_t used = strlen(layouts);
            snprintf(layouts + used, sizeof layouts - used, "%s%s", used ? "," : "", grid_layout_at(i)->name);
        }
    const safetensor_note notes[] = {{"imago.grid.steps", steps}, {"imago.grid.layouts", layouts}, {"imago.grid.size", size}};
    return grid_model_save(j->m, j->file, notes, ARRAY_LEN(notes));
}

static status decode_cell(job *j, const float *z, uint8_t *rgb) {
    image im = {0};
    status st = vae_decode_picture(j->im, z, j->h, j->h, false, &im);
    if (st == OK) memcpy(rgb, im.px, (size_t)j->side * (size_t)j->side * 3);
    image_free(&im);
    return st;
}

/* One row of the sheet: the given cells, black where one is made; what was made of the last of those; the truth. */
static status draw_row(job *j, uint64_t sample, uint8_t *row, double *error) {
    status st = OK;
    grid_sample s;
    size_t one = (size_t)j->side * (size_t)j->side * 3, lat = j->batch.one;
    float *z = mem_zalloc(sizeof *z * lat * CELLS), *truth = mem_zalloc(sizeof *z * lat);
    if (!z || !truth) TRY(fail(E_HOST_MEMORY, "no host memory for a sheet"));
    TRY(grid_source_draw(j->source, sample, j->work, j->rgb, &s));
    grid_fill_params p = {.rows = ROWS, .cols = COLS, .h = j->h, .w = j->h, .steps = SHEET_STEPS, .guidance = 2, .ref_guidance = 1.5f, .seed = sample, .geometry = j->p->geometry};
    int last = 0;
    memset(row, 0, one * CELLS);
    for (int k = 0; k < CELLS; k++) {
        p.role[k] = s.layout->role[k], p.made[k] = s.layout->made[k];
        if (s.layout->role[0] != GRID_EX_IN) p.prompt[k] = p.made[k] ? s.text[k].text : NULL;
        TRY(encode_cell(j, j->rgb + COMPOSE_RGB_BYTES * (size_t)k, z + lat * (size_t)k));
        if (p.made[k]) last = k;
        else TRY(decode_cell(j, z + lat * (size_t)k, row + one * (size_t)k));
    }
    memcpy(truth, z + lat * (size_t)last, sizeof *z * lat);
    TRY(grid_fill(j->m, &p, z, NULL));
    TRY(decode_cell(j, z + lat * (size_t)last, row + one * CELLS));
    TRY(decode_cell(j, truth, row + one * (CELLS + 1)));
    for (size_t i = 0; i < one; i++) {
        double d = ((double)row[one * CELLS + i] - (double)row[one * (CELLS + 1) + i]) / 255;
        *error += d * d / (double)one;
    }
out:
    mem_free(z);
    mem_free(truth);
    return st;
}

static status sheet(void *ctx, const char *path, record_value *v, int *n) {
    status st = OK;
    job *j = ctx;
    double error = 0;
    size_t row = (size_t)j->side * (size_t)j->side * 3 * (CELLS + 2);
    uint8_t *all = mem_alloc(row * SHOWN);
    if (!all) return fail(E_HOST_MEMORY, "no host memory for a sheet");
    for (int i = 0; i < SHOWN; i++) TRY(draw_row(j, UNSEEN + (uint64_t)i, all + row * (size_t)i, &error));
    v[(*n)++] = (record_value){"pixel_error", sqrt(error / SHOWN)};
    TRY(sheet_save(all, SHOWN * (CELLS + 2), j->side, CELLS + 2, path));
out:
    mem_free(all);
    return st;
}

/* ---- the run ---- */
static status prepare(job *j) {
    status st = OK;
    float *y = NULL;
    int entries;
    params *sets[1 + GRID_BANKS];
    int f = latent_factor(j->im), levels = j->im->ck->unet.levels;
    j->side = j->p->side ? j->p->side : latent_side_px(j->im);
    if (j->side < f || j->side > 4096 || j->side % f) TRY(fail(E_USAGE, "size %d: expected a multiple of %d from %d to 4096", j->side, f, f));
    j->h = j->side / f;
    if (j->p->geometry == GRID_CANVAS && j->h % (1 << (levels - 1)))
        TRY(fail(E_USAGE, "size %d: on a canvas expected a multiple of %d", j->side, f << (levels - 1)));
    TRY(text_features(j->im, &(text_params){.prompt = "", .plain = true}, &y, &entries, &j->tokens));
    j->no_words = y;
    j->rgb = mem_alloc(COMPOSE_RGB_BYTES * CELLS);
    j->px = mem_alloc(sizeof *j->px * (size_t)j->side * (size_t)j->side * 3);
    if (!j->rgb || !j->px) TRY(fail(E_HOST_MEMORY, "no host memory for a grid"));
    TRY(compose_work_create(&j->work));
    TRY(grid_model_create(j->im, &j->p->o, j->run.seed, &j->m));
    TRY(grid_batch_create(j->m, j->run.batch, ROWS, COLS, j->h, j->h, j->tokens, j->p->geometry, &j->batch));
    graph *g = graph_create(j->im->dev);
    if (!g) return graph_status(g);
    tensor *loss = grid_loss(j->m, g, &j->batch.rows, NULL);
    graph_output(g, loss, "loss");
    int n = grid_model_parts(j->m, sets, NULL);
    train_backward(g, loss, graph_input(g, "scale", DT_F32, SHAPE(1)), sets, n, j->run.checkpointing);
    TRY(graph_compile(g, &(plan_params){.label = "train-grid"}, &j->step));
    int64_t count = 0;
    for (int i = 0; i < n; i++) count += params_count(sets[i], true);
    log_info("%lld numbers to train; a step needs %.0f MB beside the weights", (long long)count, (double)plan_get_report(j->step)->activation_bytes / 1e6);
out:
    return st;
}

static status copy_result(const job *j) {
    uint8_t *data = NULL;
    size_t bytes = 0;
    status st = file_read(j->file, (size_t)1 << 34, &data, &bytes);
    if (st == OK) st = file_write_atomic(j->p->out, data, bytes);
    mem_free(data);
    return st;
}

status train_grid(const train_grid_params *p) {
    status st = OK;
    job j = {.p = p, .run = p->run};
    TRY(check(&j));
    j.run.folder = j.folder;
    j.run.repeat = true;
    TRY(grid_source_open(&p->data, &j.source));
    TRY((status)imago_open(&p->open, &j.im));
    TRY(prepare(&j));
    TRY(settings(&j));
    train_stage s = {.what = "train-grid", .type = j.im->type, .step = j.step, .show = {"loss"}, .n_show = 1, .feed = feed, .sheet = sheet, .save = save, .ctx = &j};
    s.n_parts = grid_model_parts(j.m, s.part, s.part_name);
    TRY(train_run(&j.run, &s));
    TRY(copy_result(&j));
out:
    plan_destroy(j.step);
    grid_batch_destroy(&j.batch);
    grid_model_destroy(j.m);
    compose_work_destroy(j.work);
    grid_source_close(j.source);
    imago_close(j.im);
    mem_free(j.rgb);
    mem_free(j.px);
    mem_free(j.no_words);
    return st;
}
