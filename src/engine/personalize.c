/* personalize.c: from a folder of pictures to an adapter file, in one line: pictures become latents
 * and captions features once, then only the UNet runs. Its weights stay as they were opened, in the
 * compute type; the adapter's are f32. The run lives in a folder beside the output (train.h), which
 * is written when all is done. SPDX-License-Identifier: MIT */
#include "engine/personalize.h"
#include "train/noising.h"
#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>

#define CONFIG_BYTES ((size_t)1 << 20)
enum { SHEET_COLUMNS = 3, SHEET_STEPS = 20 };
static const char *const targets[] = {"to_q", "to_k", "to_v", "to_out.0", NULL};

typedef struct job {
    const personalize_params *p;
    train_params run;
    imago *im;
    char folder[1024], file[1100], prompt[512];
    instance_set set;
    int side, h, c, tokens;
    float *z, *context; /* [n][2 when flipped][h, h, c]; [n_texts][tokens, hidden] */
    double *abar;
    adapter_set adapter;
    params ps;
    plan *step, *project;
    float *x, *y, *t, *weight, (*level_x)[2], (*level_v)[2];
    uint32_t *sample; /* one batch of the step's inputs */
    uint8_t *sheet;   /* [2][SHEET_COLUMNS] pictures: the base's, and those of now */
} job;

/* ---- what is wished ---- */
static status check(job *j) {
    const personalize_params *p = j->p;
    const train_params *r = &p->run;
    const adapter_options *o = &p->options;
    size_t n = strlen(p->out), tail = strlen(".safetensors");
    if (n <= tail || n > 900 || strcmp(p->out + n - tail, ".safetensors") != 0)
        return fail(E_USAGE, "output '%s': expected a name that ends with .safetensors", p->out);
    if (os_file_exists(p->out) && !p->overwrite)
        return fail(E_USAGE, "%s is there already: give another name, or --overwrite", p->out);
    if (!(j->adapter.info = adapter_find(p->adapter)))
        return fail(E_USAGE, "adapter '%s': expected lora, oft, coft, oft_neumann or boft",
                    p->adapter);
    if (r->batch < 1 || r->batch > 1024 || r->accumulate < 1 || r->accumulate > 4096 ||
        r->lr.steps < 1 || r->log_every < 1)
        return fail(E_USAGE, "batch, accumulate, steps and log-every: expected 1 or more (batch to "
                             "1024, accumulate to 4096)");
    if (!(r->lr.lr > 0 && r->lr.lr <= 1))
        return fail(E_USAGE, "learning rate %g: expected above 0, at most 1", r->lr.lr);
    if (o->rank < 0 || o->rank > 4096 || o->block < 0 || o->factors < 0 || o->factors > 16 ||
        !(o->alpha >= 0) || !(o->eps >= 0))
        return fail(E_USAGE, "rank, alpha, block, factors and eps: expected positive numbers");
    if (!(p->snr_gamma >= 0))
        return fail(E_USAGE, "min-SNR gamma %g: expected 0 (off) or more", p->snr_gamma);
    if (!*p->token || snprintf(j->prompt, sizeof j->prompt, "a photo of %s%s%s", p->token,
                               *p->class_word ? " " : "", p->class_word) >= (int)sizeof j->prompt)
        return fail(E_USAGE, "token and class: expected a word and a few words");
    if (r->folder)
        snprintf(j->folder, sizeof j->folder, "%s", r->folder);
    else
        snprintf(j->folder, sizeof j->folder, "%.*s.run", (int)(n - tail), p->out);
    snprintf(j->file, sizeof j->file, "%s/adapter.safetensors", j->folder);
    return OK;
}

static status open_model(job *j) {
    const checkpoint *c;
    status st = (status)imago_open(&j->p->open, &j->im);
    if (st != OK) return st;
    c = j->im->ck;
    int f = latent_factor(j->im);
    if (c->unet.in_channels != c->vae.latent_channels || c->unet.time_cond_proj_dim)
        return fail(E_UNSUPPORTED,
                    "%s: inpainting and distilled networks cannot be personalized: use the model "
                    "they were made from",
                    c->path);
    if (c->text.hidden_size != c->unet.cross_attention_dim)
        return fail(E_FORMAT, "%s: the text encoder is %d wide, the UNet expects %d", c->path,
                    c->text.hidden_size, c->unet.cross_attention_dim);
    j->side = j->p->side ? j->p->side : latent_side_px(j->im);
    if (j->side < f || j->side > 4096 || j->side % f)
        return fail(E_USAGE, "size %d: expected a multiple of %d from %d to 4096", j->side, f, f);
    j->h = j->side / f;
    j->c = c->vae.latent_channels;
    return OK;
}

/* ---- the run's settings, which a run that goes on must share ---- */
static bool describe(const job *j, cJSON *o) {
    const personalize_params *p = j->p;
    const train_params *r = &j->run;
    static const char *const kinds[LR_KIND_COUNT] = {"constant", "cosine", "linear tail"};
    const struct {
        const char *key;
        double value;
    } numbers[] = {{"rank", p->options.rank},
                   {"alpha", (double)p->options.alpha},
                   {"block", p->options.block},
                   {"factors", p->options.factors},
                   {"eps", (double)p->options.eps},
                   {"size", j->side},
                   {"flip", p->flip},
                   {"min_snr_gamma", p->snr_gamma},
                   {"batch", r->batch},
                   {"accumulate", r->accumulate},
                   {"learning_rate", r->lr.lr},
                   {"warmup", (double)r->lr.warmup},
                   {"ema", (double)r->adam.average_decay},
                   {"seed", r->seed}};
    bool good = cJSON_AddStringToObject(o, "model", j->im->ck->path) &&
                cJSON_AddStringToObject(o, "precision", dtype_name(j->im->type)) &&
                cJSON_AddStringToObject(o, "adapter", j->adapter.info->name) &&
                cJSON_AddStringToObject(o, "schedule", kinds[r->lr.kind]) &&
                cJSON_AddStringToObject(o, "prompt", j->prompt);
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
        good = good && cJSON_AddNumberToObject(o, numbers[i].key, numbers[i].value);
    cJSON *pictures = cJSON_AddObjectToObject(o, "pictures");
    for (int i = 0; i < j->set.n; i++)
        good = good && pictures &&
               cJSON_AddStringToObject(pictures, j->set.it[i].name, j->set.text[j->set.it[i].text]);
    return good;
}

static status settings(job *j) {
    status st = OK;
    char path[1100], state[1100];
    uint8_t *old = NULL;
    size_t bytes = 0;
    cJSON *o = cJSON_CreateObject();
    char *text = mem_alloc(CONFIG_BYTES);
    if (!o || !text || !describe(j, o) ||
        !cJSON_PrintPreallocated(o, text, (int)CONFIG_BYTES, true))
        TRY(fail(E_HOST_MEMORY, "no host memory for the run's settings"));
    snprintf(path, sizeof path, "%s/config.json", j->folder);
    snprintf(state, sizeof state, "%s/state.safetensors", j->folder);
    TRY(os_mkdir_p(j->folder));
    j->run.repeat = true;
    if (os_file_exists(state)) {
        if (os_file_exists(path)) TRY(file_read(path, CONFIG_BYTES, &old, &bytes));
        bool same = old && strcmp((char *)old, text) == 0;
        if (!same && !j->p->overwrite)
            TRY(fail(E_USAGE,
                     "%s was begun with other settings or pictures (see its config.json): give "
                     "those, another output, or --overwrite to start anew",
                     j->folder));
        j->run.anew = !same;
    }
    TRY(file_write_atomic(path, text, strlen(text)));
out:
    mem_free(old);
    mem_free(text);
    cJSON_Delete(o);
    return st;
}

/* ---- data ---- */
static size_t latent_size(const job *j) { return (size_t)(j->h * j->h * j->c); }
static size_t text_size(const job *j) {
    return (size_t)j->tokens * (size_t)j->im->ck->text.hidden_size;
}

static status encode_pictures(job *j) {
    status st = OK;
    int ways = j->p->flip ? 2 : 1;
    float *px = mem_alloc(sizeof *px * (size_t)j->side * (size_t)j->side * 3);
    j->z = mem_alloc(sizeof *j->z * latent_size(j) * (size_t)(j->set.n * ways));
    if (!px || !j->z) TRY(fail(E_HOST_MEMORY, "no host memory for %d pictures", j->set.n));
    for (int i = 0; i < j->set.n * ways; i++) {
        float *z = j->z + latent_size(j) * (size_t)i;
        TRY(instance_load(&j->set.it[i / ways], j->side, i % ways, px));
        TRY(vae_encode_pixels(j->im, px, j->side, j->side, NULL, z));
        for (size_t k = 0; k < latent_size(j); k++)
            if (!isfinite(z[k]))
                TRY(fail(E_FORMAT, "%s: the autoencoder makes NaN of it: try --precision f32",
                         j->set.it[i / ways].path));
    }
out:
    mem_free(px);
    return st;
}

static status encode_texts(job *j) {
    status st = OK;
    float *one = NULL;
    int entries = 0;
    for (int i = 0; i < j->set.n_texts; i++) {
        mem_free(one);
        TRY(text_features(j->im, &(text_params){.prompt = j->set.text[i], .plain = true}, &one,
                          &entries, &j->tokens));
        if (!j->context &&
            !(j->context = mem_alloc(sizeof *one * text_size(j) * (size_t)j->set.n_texts)))
            TRY(fail(E_HOST_MEMORY, "no host memory for %d captions", j->set.n_texts));
        memcpy(j->context + text_size(j) * (size_t)i, one, sizeof *one * text_size(j));
    }
out:
    mem_free(one);
    return st;
}

static status batch_memory(job *j) {
    size_t n = (size_t)j->run.batch;
    j->x = mem_alloc(sizeof *j->x * n * latent_size(j)),
    j->y = mem_alloc(sizeof *j->y * n * text_size(j));
    j->t = mem_alloc(sizeof *j->t * n), j->weight = mem_alloc(sizeof *j->weight * n),
    j->sample = mem_alloc(sizeof *j->sample * n);
    j->level_x = mem_alloc(sizeof *j->level_x * n), j->level_v = mem_alloc(sizeof *j->level_v * n);
    j->abar = mem_alloc(sizeof *j->abar * (size_t)j->im->ck->schedule.num_train_timesteps);
    if (!j->x || !j->y || !j->t || !j->weight || !j->sample || !j->level_x || !j->level_v ||
        !j->abar)
        return fail(E_HOST_MEMORY, "no host memory for a batch of %d", j->run.batch);
    return schedule_alphas_cumprod(&j->im->ck->schedule, j->abar);
}

/* ---- the step ---- */
static status record_step(job *j) {
    graph *g = graph_create(j->im->dev);
    if (!g) return graph_status(g);
    const checkpoint *ck = j->im->ck;
    int64_t n = j->run.batch;
    nn m = {g, &j->im->part[PART_UNET], &j->adapter};
    tensor *x0 = graph_input(g, "x0", DT_F32, SHAPE(n, j->h, j->h, j->c)),
           *t = graph_input(g, "t", DT_F32, SHAPE(n));
    tensor *level_x = graph_input(g, "level_x", DT_F32, SHAPE(n, 2)),
           *level_v = graph_input(g, "level_v", DT_F32, SHAPE(n, 2));
    tensor *context = graph_input(g, "context", DT_F32, SHAPE(n, j->tokens, ck->text.hidden_size));
    tensor *noise =
        op_randn(g, graph_input(g, "seed", DT_U32, SHAPE(2)),
                 graph_input(g, "sample", DT_U32, SHAPE(n)), rng_stream("noise"), x0->s, DT_F32);
    tensor *both[] = {x0, noise};
    tensor *x = op_cast(g, op_mix(g, both, 2, level_x, NULL, NULL), j->im->type),
           *wanted = op_mix(g, both, 2, level_v, NULL, NULL);
    tensor *y = unet_denoise(&m, &ck->unet, x, t,
                             &(unet_text){.context = op_cast(g, context, j->im->type)}, NULL);
    tensor *loss =
        op_mse(g, op_cast(g, y, DT_F32), wanted, graph_input(g, "weight", DT_F32, SHAPE(n)), NULL);
    graph_output(g, loss, "loss");
    train_backward(g, loss, graph_input(g, "scale", DT_F32, SHAPE(1)), (params *[]){&j->ps}, 1,
                   j->run.checkpointing);
    return graph_compile(g, &(plan_params){.label = "personalize"}, &j->step);
}

static status record_project(job *j) {
    if (!j->adapter.info->project) return OK;
    graph *g = graph_create(j->im->dev);
    if (!g) return graph_status(g);
    adapter_project_all(g, &j->adapter, &j->im->part[PART_UNET]);
    return graph_compile(g, &(plan_params){.label = "project"}, &j->project);
}

static status attach(job *j) {
    status st = OK;
    params *unet = &j->im->part[PART_UNET];
    j->adapter.targets = targets;
    j->adapter.opts = j->p->options;
    j->adapter.ps = &j->ps;
    TRY(unet_declare(unet, &j->im->ck->unet, &j->adapter));
    TRY(params_allocate(&j->ps));
    TRY(adapter_init_all(&j->adapter, unet, j->run.seed));
    TRY(record_step(j));
    TRY(record_project(j));
    log_info(
        "%d picture%s at %dx%d, %lld numbers to train; a step needs %.0f MB beside the weights%s",
        j->set.n, j->set.n == 1 ? "" : "s", j->side, j->side,
        (long long)adapter_effective_count(&j->adapter, unet),
        (double)plan_get_report(j->step)->activation_bytes / 1e6,
        j->run.checkpointing ? "" : " (--checkpointing: less)");
out:
    return st;
}

/* What the network is to answer, as weights of (x0, noise), and how much the sample counts. */
static float target_of(const job *j, float abar, float level_v[2]) {
    double snr = (double)abar / (1 - (double)abar), gamma = j->p->snr_gamma,
           kept = gamma > 0 ? MIN(snr, gamma) : snr;
    switch (j->im->ck->schedule.prediction_type) {
    case PREDICTION_EPSILON:
        level_v[0] = 0, level_v[1] = 1;
        return gamma > 0 && snr > 0 ? (float)(kept / snr) : 1;
    case PREDICTION_SAMPLE:
        level_v[0] = 1, level_v[1] = 0;
        return gamma > 0 ? (float)kept : 1;
    case PREDICTION_V: /* as noising_draw has it */
    case PREDICTION_COUNT:
        break;
    }
    return gamma > 0 ? (float)(kept / (snr + 1)) : 1;
}

static status write_batch(job *j) {
    status st = OK;
    uint32_t seed[2] = {j->run.seed, 0};
    TRY(plan_write(j->step, "x0", j->x));
    TRY(plan_write(j->step, "context", j->y));
    TRY(plan_write(j->step, "t", j->t));
    TRY(plan_write(j->step, "level_x", j->level_x));
    TRY(plan_write(j->step, "level_v", j->level_v));
    TRY(plan_write(j->step, "weight", j->weight));
    TRY(plan_write(j->step, "seed", seed));
    TRY(plan_write(j->step, "sample", j->sample));
out:
    return st;
}

static status feed(void *ctx, int64_t step, uint64_t first) {
    job *j = ctx;
    int n = j->run.batch, ways = j->p->flip ? 2 : 1;
    rng_key flips = {{j->run.seed, 0}, rng_stream("flips")};
    (void)step; /* the micro-batch's place is the key: accumulated batches need timesteps of their
                   own */
    noising_draw(&j->im->ck->schedule, j->abar, j->run.seed, (int64_t)(first / (uint64_t)n), 1, n,
                 j->t, j->level_x, j->level_v);
    for (int i = 0; i < n; i++) {
        uint64_t s = first + (uint64_t)i;
        int which = instance_of(j->run.seed, s, j->set.n),
            way = ways > 1 && rng_uniform(flips, s, 0) < 0.5;
        memcpy(j->x + latent_size(j) * (size_t)i,
               j->z + latent_size(j) * (size_t)(which * ways + way), sizeof *j->x * latent_size(j));
        memcpy(j->y + text_size(j) * (size_t)i,
               j->context + text_size(j) * (size_t)j->set.it[which].text,
               sizeof *j->y * text_size(j));
        j->weight[i] = target_of(j, (float)j->abar[(int64_t)j->t[i]], j->level_v[i]);
        j->sample[i] = (uint32_t)s;
    }
    return write_batch(j);
}

static status project(void *ctx) {
    job *j = ctx;
    return j->project ? plan_run(j->project, NULL, NULL) : OK;
}

/* ---- what comes out ---- */
static status save(void *ctx, const char *folder) {
    job *j = ctx;
    (void)folder;
    const train_params *r = &j->run;
    const char *name = strrchr(j->p->out, '/');
    char steps[32], rate[32], images[32], size[48], seed[32];
    snprintf(steps, sizeof steps, "%lld", (long long)r->lr.steps);
    snprintf(rate, sizeof rate, "%g", r->lr.lr);
    snprintf(images, sizeof images, "%d", j->set.n);
    snprintf(size, sizeof size, "(%d, %d)", j->side, j->side);
    snprintf(seed, sizeof seed, "%u", r->seed);
    bool two = strcmp(j->im->ck->family, "sd2") == 0;
    const safetensor_note notes[] = {{"ss_base_model_version", two ? "sd_v2" : "sd_v1"},
                                     {"ss_v2", two ? "True" : "False"},
                                     {"ss_max_train_steps", steps},
                                     {"ss_learning_rate", rate},
                                     {"ss_num_train_images", images},
                                     {"ss_resolution", size},
                                     {"ss_seed", seed},
                                     {"ss_output_name", name ? name + 1 : j->p->out},
                                     {"ss_optimizer", "AdamW"},
                                     {"modelspec.trigger_phrase", j->p->token}};
    const adapter_source source = {part_name(PART_UNET), &j->adapter, &j->im->part[PART_UNET]};
    status st = project(j); /* a mean of allowed weights may lie a little outside */
    if (st != OK) return st;
    return adapter_write(j->file,
                         &(adapter_write_params){.source = &source,
                                                 .n_sources = 1,
                                                 .format = ADAPTER_KOHYA,
                                                 .type = DT_F32,
                                                 .notes = notes,
                                                 .n_notes = ARRAY_LEN(notes)},
                         NULL);
}

static status draw_row(job *j, imago *im, int row) {
    imago_picture *pics = NULL;
    size_t one = (size_t)j->side * (size_t)j->side * 3;
    imago_generate_params g =
        IMAGO_GENERATE(.prompt = j->prompt, .plain_prompt = true, .width = j->side,
                       .height = j->side, .steps = SHEET_STEPS, .seed = j->run.seed,
                       .batch = SHEET_COLUMNS);
    status st = (status)imago_generate(im, &g, &pics);
    for (size_t i = 0; st == OK && i < SHEET_COLUMNS; i++)
        memcpy(j->sheet + one * ((size_t)(row * SHEET_COLUMNS) + i), pics[i].rgb, one);
    imago_free_pictures(pics, SHEET_COLUMNS);
    return st;
}

/* The model is opened once more with the file as it is now: what others will see of it. */
static status sheet(void *ctx, const char *path, record_value *v, int *n) {
    status st = OK;
    job *j = ctx;
    imago *im = NULL;
    imago_open_params o = j->p->open;
    (void)v, (void)n;
    o.adapters = (const char *const[]){j->file};
    o.n_adapters = 1;
    o.progress = NULL;
    TRY(save(j, j->folder));
    TRY((status)imago_open(&o, &im));
    TRY(draw_row(j, im, 1));
    TRY(sheet_save(j->sheet, 2 * SHEET_COLUMNS, j->side, SHEET_COLUMNS, path));
out:
    imago_close(im);
    return st;
}

static status base_pictures(job *j) {
    if (!j->run.sheet_every) return OK;
    if (!(j->sheet = mem_alloc(2 * SHEET_COLUMNS * (size_t)j->side * (size_t)j->side * 3)))
        return fail(E_HOST_MEMORY, "no host memory for a sheet");
    status st = draw_row(j, j->im, 0);
    latents_fini(j->im);
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

static void job_fini(job *j) {
    void *all[] = {j->z,      j->context, j->abar,    j->x,      j->y,    j->t,
                   j->weight, j->level_x, j->level_v, j->sample, j->sheet};
    plan_destroy(j->step);
    plan_destroy(j->project);
    for (size_t i = 0; i < ARRAY_LEN(all); i++) mem_free(all[i]);
    if (j->im) params_fini(&j->ps);
    imago_close(j->im);
    instances_close(&j->set);
}

status personalize(const personalize_params *p) {
    status st = OK;
    job j = {.p = p, .run = p->run};
    TRY(check(&j));
    j.run.folder = j.folder;
    TRY(instances_open(p->pictures, j.prompt, &j.set));
    if (j.set.n == 1)
        log_warn("%s: one picture: expect little else than that picture", p->pictures);
    TRY(open_model(&j));
    params_init(&j.ps, j.im->dev, DT_F32);
    TRY(settings(&j));
    TRY(encode_pictures(&j));
    TRY(encode_texts(&j));
    TRY(base_pictures(&j));
    TRY(engine_forget_plans(j.im));
    TRY(batch_memory(&j));
    TRY(attach(&j));
    TRY(train_run(&j.run, &(train_stage){.what = "personalize",
                                         .type = j.im->type,
                                         .step = j.step,
                                         .part = {&j.ps},
                                         .part_name = {"adapter"},
                                         .n_parts = 1,
                                         .show = {"loss"},
                                         .n_show = 1,
                                         .feed = feed,
                                         .after = j.project ? project : NULL,
                                         .sheet = j.run.sheet_every ? sheet : NULL,
                                         .save = save,
                                         .ctx = &j}));
    TRY(copy_result(&j));
out:
    job_fini(&j);
    return st;
}
