/* train_base.c: trains text encoder and UNet together on latents and captions.
 * SPDX-License-Identifier: MIT */
#include "engine/train_base.h"
#include "train/export.h"
#include "train/init.h"
#include "train/noising.h"
#include <math.h>
#include <stdio.h>

static status record_step(base_job *j) {
    graph *g = graph_create(j->dev);
    if (!g) return graph_status(g);
    const train_base_params *b = j->b;
    int64_t n = j->p->batch, c = b->unet.in_channels;
    nn unet = {g, &j->unet, NULL}, text = {g, &j->text, NULL};
    tensor *x0 = graph_input(g, "x0", DT_F32, SHAPE(n, b->h, b->w, c)),
           *t = graph_input(g, "t", DT_F32, SHAPE(n));
    tensor *level_x = graph_input(g, "level_x", DT_F32, SHAPE(n, 2)),
           *level_v = graph_input(g, "level_v", DT_F32, SHAPE(n, 2));
    tensor *ids = graph_input(g, "ids", DT_U32, SHAPE(n, j->tokens));
    tensor *noise =
        op_randn(g, graph_input(g, "seed", DT_U32, SHAPE(2)),
                 graph_input(g, "sample", DT_U32, SHAPE(n)), rng_stream("noise"), x0->s, DT_F32);
    tensor *both[] = {x0, noise};
    tensor *x = op_cast(g, op_mix(g, both, 2, level_x, NULL, NULL), j->type),
           *v = op_mix(g, both, 2, level_v, NULL, NULL);
    tensor *context = text_encode(&text, &b->text, ids, NULL, 0);
    tensor *y = unet_denoise(&unet, &b->unet, x, t, &(unet_text){.context = context}, NULL);
    tensor *loss = op_mse(g, op_cast(g, y, DT_F32), v, NULL, NULL);
    graph_output(g, loss, "loss");
    train_backward(g, loss, graph_input(g, "scale", DT_F32, SHAPE(1)),
                   (params *[]){&j->unet, &j->text}, 2, j->p->checkpointing);
    return graph_compile(g, &(plan_params){.label = "train base"}, &j->step);
}

static status record_ask(base_job *j) {
    graph *g = graph_create(j->dev);
    if (!g) return graph_status(g);
    const train_base_params *b = j->b;
    int64_t n = j->p->batch;
    nn unet = {g, &j->unet, NULL}, text = {g, &j->text, NULL};
    tensor *x = graph_input(g, "x", DT_F32, SHAPE(n, b->h, b->w, b->unet.in_channels)),
           *t = graph_input(g, "t", DT_F32, SHAPE(n));
    tensor *context =
        text_encode(&text, &b->text, graph_input(g, "ids", DT_U32, SHAPE(n, j->tokens)), NULL, 0);
    tensor *y = unet_denoise(&unet, &b->unet, op_cast(g, x, j->type), t,
                             &(unet_text){.context = context}, NULL);
    graph_output(g, op_cast(g, y, DT_F32), "v");
    return graph_compile(g, &(plan_params){.label = "ask base"}, &j->ask);
}

/* Ids as generation makes them: one chunk, padded to the encoder's length. */
status base_tokenize(base_job *j, const char *text, uint32_t *ids) {
    arena a = {0};
    prompt_tokens t;
    status st =
        prompt_tokenize(j->tok, text, &(prompt_options){.plain = true, .truncate = true}, &a, &t);
    if (st == OK) memcpy(ids, t.ids, sizeof *ids * (size_t)j->tokens);
    arena_fini(&a);
    return st;
}

static status feed(void *ctx, int64_t step, uint64_t first) {
    status st = OK;
    base_job *j = ctx;
    int n = j->p->batch;
    uint32_t seed[2] = {j->p->seed, 0};
    double shift = 3 * step >= 2 * j->p->lr.steps ? j->b->shift_late : j->b->shift;
    TRY(j->b->latents.next(j->b->latents.ctx, first, n, j->x, j->captions));
    for (int i = 0; i < n; i++) {
        TRY(base_tokenize(j, j->captions[i].text, j->ids + (size_t)i * (size_t)j->tokens));
        j->sample[i] = (uint32_t)(first + (uint64_t)i);
    }
    /* the micro-batch's place is the key, not the step's: accumulated batches need timesteps of
     * their own */
    noising_draw(&j->b->schedule, j->abar, j->p->seed, (int64_t)(first / (uint64_t)n), shift, n,
                 j->t, j->level_x, j->level_v);
    TRY(plan_write(j->step, "x0", j->x));
    TRY(plan_write(j->step, "t", j->t));
    TRY(plan_write(j->step, "level_x", j->level_x));
    TRY(plan_write(j->step, "level_v", j->level_v));
    TRY(plan_write(j->step, "ids", j->ids));
    TRY(plan_write(j->step, "seed", seed));
    TRY(plan_write(j->step, "sample", j->sample));
out:
    return st;
}

static status copy_file(const char *from_folder, const char *to_folder, const char *name) {
    char from[1280], to[1280];
    uint8_t *data = NULL;
    size_t bytes = 0;
    snprintf(from, sizeof from, "%s/%s", from_folder, name);
    snprintf(to, sizeof to, "%s/%s", to_folder, name);
    status st = file_read(from, (size_t)64 << 20, &data, &bytes);
    if (st == OK) st = file_write_atomic(to, data, bytes);
    mem_free(data);
    return st;
}

status base_copy_tokenizer(const char *from, const char *folder) {
    status st = OK;
    static const char *const files[] = {"vocab.json", "merges.txt", "tokenizer_config.json",
                                        "special_tokens_map.json"};
    char to[1200];
    snprintf(to, sizeof to, "%s/tokenizer", folder);
    TRY(os_mkdir_p(to));
    for (size_t i = 0; i < ARRAY_LEN(files); i++) TRY(copy_file(from, to, files[i]));
out:
    return st;
}

static status save(void *ctx, const char *folder) {
    status st = OK;
    base_job *j = ctx;
    const train_base_params *b = j->b;
    checkpoint c = {.unet = b->unet,
                    .text = b->text,
                    .vae = b->vae->config,
                    .schedule = b->schedule,
                    .sample_size = b->h,
                    .has_schedule = true,
                    .prediction_known = true};
    TRY(export_part(&j->unet, &c, PART_UNET, folder));
    TRY(export_part(&j->text, &c, PART_TEXT, folder));
    TRY(export_part(&b->vae->ps, &c, PART_VAE, folder));
    TRY(base_copy_tokenizer(b->tokenizer, folder));
    TRY(export_index(&c, folder));
out:
    return st;
}

static status memory(base_job *j) {
    size_t n = (size_t)j->p->batch,
           one = j->one;
    j->x = mem_zalloc(sizeof *j->x * n * one), j->y = mem_alloc(sizeof *j->y * n * one);
    j->t = mem_zalloc(sizeof *j->t * n), j->level_x = mem_alloc(sizeof *j->level_x * n),
    j->level_v = mem_alloc(sizeof *j->level_v * n);
    j->captions = mem_alloc(sizeof *j->captions * n), j->sample = mem_alloc(sizeof *j->sample * n);
    j->ids = mem_zalloc(sizeof *j->ids * n * (size_t)j->tokens);
    j->abar = mem_alloc(sizeof *j->abar * (size_t)j->b->schedule.num_train_timesteps);
    bool good = j->x && j->y && j->t && j->level_x && j->level_v && j->captions && j->sample &&
                j->ids && j->abar;
    return good ? OK : fail(E_HOST_MEMORY, "no host memory for a batch of %d", j->p->batch);
}

static status declare(base_job *j) {
    status st = OK;
    TRY(unet_declare(&j->unet, &j->b->unet, NULL));
    TRY(text_declare(&j->text, &j->b->text, NULL));
    for (int k = 0; k < 2; k++) {
        params *ps = k ? &j->text : &j->unet;
        for (int i = 0; i < ps->n; i++) ps->p[i].trainable = true;
        TRY(params_allocate(ps));
    }
    TRY(init_unet(&j->unet, j->p->seed));
    TRY(init_text(&j->text, j->p->seed));
    const char *text = j->b->text_from ? j->b->text_from : j->b->from;
    if (j->b->from) TRY(import_part(&j->unet, PART_UNET, j->b->from));
    if (text) TRY(import_part(&j->text, PART_TEXT, text));
out:
    return st;
}

void base_init(base_job *j, device *dev, dtype type, const train_params *p,
               const train_base_params *b) {
    *j = (base_job){.dev = dev, .type = type, .p = p, .b = b};
    j->tokens = b->text.max_position_embeddings;
    j->one = (size_t)b->h * (size_t)b->w * (size_t)b->unet.in_channels;
    params_init(&j->unet, dev, type);
    params_init(&j->text, dev, type);
}

void base_fini(base_job *j) {
    plan_destroy(j->step);
    plan_destroy(j->ask);
    params_fini(&j->unet);
    params_fini(&j->text);
    tokenizer_close(j->tok);
    mem_free(j->x), mem_free(j->y), mem_free(j->t), mem_free(j->level_x), mem_free(j->level_v);
    mem_free(j->captions), mem_free(j->sample), mem_free(j->ids), mem_free(j->abar);
}

status base_prepare(base_job *j) {
    status st = OK;
    const train_base_params *b = j->b;
    if (j->p->batch < 2 || j->p->batch > 1024)
        TRY(fail(E_USAGE, "batch %d: expected 2 to 1024", j->p->batch));
    TRY(tokenizer_open(b->tokenizer, &j->tok));
    if (tokenizer_size(j->tok) > b->text.vocab_size || tokenizer_max_length(j->tok) != j->tokens)
        TRY(fail(E_USAGE, "%s has %d ids and %d positions, the text encoder %d and %d",
                 b->tokenizer, tokenizer_size(j->tok), tokenizer_max_length(j->tok),
                 b->text.vocab_size, j->tokens));
    TRY(memory(j));
    TRY(schedule_alphas_cumprod(&b->schedule, j->abar));
out:
    return st;
}

status train_base(device *dev, dtype type, const train_params *p, const train_base_params *b) {
    status st = OK;
    base_job j;
    base_init(&j, dev, type, p, b);
    TRY(base_prepare(&j));
    TRY(declare(&j));
    TRY(record_step(&j));
    TRY(record_ask(&j));
    train_params run = *p;
    run.adam.lr_factor[1] = (float)b->text_lr;
    train_stage s = {.what = "base",
                     .type = type,
                     .step = j.step,
                     .part = {&j.unet, &j.text},
                     .part_name = {"unet", "text_encoder"},
                     .n_parts = 2,
                     .show = {"loss"},
                     .n_show = 1,
                     .feed = feed,
                     .sheet = base_sheet,
                     .save = save,
                     .ctx = &j};
    TRY(train_run(&run, &s));
out:
    base_fini(&j);
    return st;
}
