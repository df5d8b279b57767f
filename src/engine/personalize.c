/* personalize.c: from a folder of pictures to an adapter file, in one line. The run lives in a
 * folder beside the output (train.h); the output is written after the last step.
 * SPDX-License-Identifier: MIT */
#include "engine/personalize_job.h"
#include <cjson/cJSON.h>
#include <stdio.h>

#define CONFIG_BYTES ((size_t)1 << 20)

/* ---- what is wished ---- */
static status check_numbers(const personalize_params *p) {
    const train_params *r = &p->run;
    const adapter_options *o = &p->options;
    if (r->batch < 1 || r->batch > 1024 || r->accumulate < 1 || r->accumulate > 4096 ||
        r->lr.steps < 1 || r->log_every < 1)
        return fail(E_USAGE, "batch, accumulate, steps and log-every: expected 1 or more (batch to "
                             "1024, accumulate to 4096)");
    if (!(r->lr.lr > 0 && r->lr.lr <= 1))
        return fail(E_USAGE, "learning rate %g: expected above 0, at most 1", r->lr.lr);
    if (!(p->text_lr >= 0 && p->text_lr <= 1 && p->embedding_lr >= 0 && p->embedding_lr <= 1))
        return fail(E_USAGE, "learning rates of text: expected 0 (the default) to 1");
    if (o->rank < 0 || o->rank > 4096 || o->block < 0 || o->factors < 0 || o->factors > 16 ||
        !(o->alpha >= 0) || !(o->eps >= 0))
        return fail(E_USAGE, "rank, alpha, block, factors and eps: expected positive numbers");
    if (!(p->snr_gamma >= 0))
        return fail(E_USAGE, "min-SNR gamma %g: expected 0 (off) or more", p->snr_gamma);
    if (!(p->noise_offset >= 0 && p->noise_offset <= 1))
        return fail(E_USAGE, "noise offset %g: expected 0 (none) to 1", p->noise_offset);
    if (p->class_images < 0 || p->class_images > 10000 || !(p->prior_weight >= 0))
        return fail(E_USAGE, "class pictures and the weight of their loss: expected 0 or more");
    if (p->vectors < 0 || p->vectors > 75)
        return fail(E_USAGE, "%d vectors of a new word: expected 0 (none) to 75", p->vectors);
    return OK;
}

static status check_words(job *j) {
    const personalize_params *p = j->p;
    bool fits = true;
    if (p->instance_prompt)
        fits =
            snprintf(j->prompt, sizeof j->prompt, "%s", p->instance_prompt) < (int)sizeof j->prompt;
    else
        fits = snprintf(j->prompt, sizeof j->prompt, "a photo of %s%s%s", p->token,
                        *p->class_word ? " " : "", p->class_word) < (int)sizeof j->prompt;
    if (p->class_prompt)
        fits &= snprintf(j->class_prompt, sizeof j->class_prompt, "%s", p->class_prompt) <
                (int)sizeof j->class_prompt;
    else if (*p->class_word)
        fits &= snprintf(j->class_prompt, sizeof j->class_prompt, "a photo of %s", p->class_word) <
                (int)sizeof j->class_prompt;
    if (!*p->token || !fits)
        return fail(E_USAGE, "token and class: expected a word and a few words");
    if (p->class_images && !*j->class_prompt)
        return fail(E_USAGE, "class pictures of what? Give --class, or --class-prompt");
    return OK;
}

static status check(job *j) {
    const personalize_params *p = j->p;
    bool none = strcmp(p->adapter, "none") == 0;
    status st = OK;
    j->unet.info = adapter_find(p->adapter);
    if ((!j->unet.info && !none) || strcmp(p->adapter, "diff") == 0)
        return fail(E_USAGE, "adapter '%s': expected lora, oft, coft, oft_neumann, boft or none",
                    p->adapter);
    if (none && (!p->vectors || p->train_text || p->format != OUT_KOHYA))
        return fail(E_USAGE, "no adapter: then only a new word can be learned (--train-embedding), "
                             "and nothing else");
    TRY(check_numbers(p));
    TRY(check_words(j));
    TRY(save_check(j));
out:
    return st;
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
    if (j->p->format == OUT_MERGED && c->vae.kind != VAE_KL && save_is_file(j->p->out))
        return fail(E_UNSUPPORTED,
                    "%s: the original layout has no tiny autoencoder: merge into a "
                    "folder (a name without an ending)",
                    j->p->out);
    j->side = j->p->side ? j->p->side : latent_side_px(j->im);
    if (j->side < f || j->side > 4096 || j->side % f)
        return fail(E_USAGE, "size %d: expected a multiple of %d from %d to 4096", j->side, f, f);
    j->c = c->vae.latent_channels;
    j->reads = j->p->train_text || j->p->vectors;
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
                   {"rslora", p->options.rslora},
                   {"dora", p->options.dora},
                   {"block", p->options.block},
                   {"factors", p->options.factors},
                   {"eps", (double)p->options.eps},
                   {"size", j->side},
                   {"buckets", p->buckets},
                   {"flip", p->flip},
                   {"min_snr_gamma", p->snr_gamma},
                   {"noise_offset", p->noise_offset},
                   {"class_images", p->class_images},
                   {"prior_loss_weight", p->prior_weight},
                   {"train_text_encoder", p->train_text},
                   {"text_encoder_lr", p->text_lr},
                   {"vectors", p->vectors},
                   {"embedding_lr", p->embedding_lr},
                   {"batch", r->batch},
                   {"accumulate", r->accumulate},
                   {"learning_rate", r->lr.lr},
                   {"warmup", (double)r->lr.warmup},
                   {"ema", (double)r->adam.average_decay},
                   {"seed", r->seed}};
    const struct {
        const char *key, *value;
    } words[] = {{"model", j->im->ck->path},        {"precision", dtype_name(j->im->type)},
                 {"adapter", p->adapter},           {"optimizer", optimizer_name(r->adam.kind)},
                 {"schedule", kinds[r->lr.kind]},   {"prompt", j->prompt},
                 {"class_prompt", j->class_prompt}, {"init_word", p->vectors ? p->init_word : ""}};
    bool good = true;
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        good = good && cJSON_AddStringToObject(o, words[i].key, words[i].value);
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
        good = good && cJSON_AddNumberToObject(o, numbers[i].key, numbers[i].value);
    cJSON *pictures = cJSON_AddObjectToObject(o, "pictures"),
          *masks = cJSON_AddArrayToObject(o, "masks");
    for (int i = 0; i < j->set.n; i++) {
        const instance *it = &j->set.it[i];
        good = good && pictures && masks &&
               cJSON_AddStringToObject(pictures, it->name, j->set.text[it->text]);
        if (good && it->mask)
            good = cJSON_AddItemToArray(masks, cJSON_CreateString(strrchr(it->mask, '/') + 1));
    }
    return good;
}

static status settings(job *j) {
    status st = OK;
    cJSON *o = cJSON_CreateObject();
    if (!o || !describe(j, o)) TRY(fail(E_HOST_MEMORY, "no host memory for the run's settings"));
    j->run.repeat = true;
    TRY(train_settle(&j->run, o, CONFIG_BYTES, "settings or pictures", j->p->overwrite));
out:
    cJSON_Delete(o);
    return st;
}

static void job_fini(job *j) {
    void *all[] = {j->context, j->ids,     j->abar,   j->x,       j->y,
                   j->m,       j->t,       j->weight, j->level_x, j->level_v,
                   j->sample,  j->row_ids, j->pick,   j->sheet,   j->base};
    for (int i = 0; i < j->n_buckets; i++) {
        bucket *b = &j->bucket[i];
        plan_destroy(b->step);
        plan_destroy(b->look);
        mem_free(b->z), mem_free(b->mask), mem_free(b->prior);
    }
    plan_destroy(j->project);
    for (size_t i = 0; i < ARRAY_LEN(all); i++) mem_free(all[i]);
    if (j->im) {
        params_fini(&j->unet_ps);
        params_fini(&j->text_ps);
        params_fini(&j->word_ps);
    }
    imago_close(j->im);
    instances_close(&j->set);
    arena_fini(&j->mem);
}

/* Pictures that the model draws as it is, then everything that is read once. */
static status prepare(job *j) {
    status st = OK;
    uint32_t first;
    TRY(feed_buckets(j));
    TRY(save_base_pictures(j));
    TRY(feed_class_pictures(j));
    if (j->p->vectors) TRY(tokenizer_add(j->im->tok, j->p->token, j->p->vectors, &first));
    TRY(feed_encode(j));
    TRY(engine_forget_plans(j->im));
    TRY(feed_batch_memory(j));
    TRY(step_attach(j));
    TRY(probe_begin(j));
out:
    return st;
}

/* The rates of text beside the adapter's. */
static void rates(job *j) {
    const personalize_params *p = j->p;
    float *factor = j->run.adam.lr_factor;
    double lr = j->run.lr.lr;
    int n = 0;
    if (j->unet.info) factor[n++] = 1;
    if (p->train_text) factor[n++] = (float)(p->text_lr > 0 ? p->text_lr / lr : 0.5);
    if (p->vectors) factor[n++] = (float)(p->embedding_lr > 0 ? p->embedding_lr / lr : 1);
}

static status train(job *j) {
    train_stage s = {.what = "personalize",
                     .type = j->im->type,
                     .step = j->bucket[0].step,
                     .which = feed_plan,
                     .show = {"loss"},
                     .n_show = 1,
                     .feed = feed_step,
                     .after = j->project ? step_project : NULL,
                     .sheet = j->run.sheet_every ? save_sheet : NULL,
                     .save = save_now,
                     .keep = save_keep,
                     .probe = probe_run,
                     .ctx = j};
    s.n_parts = step_parts(j, s.part, s.part_name);
    rates(j);
    status st = train_run(&j->run, &s);
    if (st == OK) probe_advise(j);
    return st;
}

status personalize(const personalize_params *p) {
    status st = OK;
    job j = {.p = p, .run = p->run};
    TRY(check(&j));
    j.run.folder = j.folder;
    TRY(instances_open(p->pictures, j.prompt, &j.set));
    TRY(instances_add_text(&j.set, j.class_prompt, &j.class_text));
    if (j.set.n == 1)
        log_warn("%s: one picture: expect little else than that picture", p->pictures);
    TRY(open_model(&j));
    params_init(&j.unet_ps, j.im->dev, DT_F32);
    params_init(&j.text_ps, j.im->dev, DT_F32);
    params_init(&j.word_ps, j.im->dev, DT_F32);
    TRY(settings(&j));
    TRY(prepare(&j));
    TRY(train(&j));
out:
    job_fini(&j);
    return st;
}
