/* personalize_save.c: what a run leaves: the adapter in kohya's format in the run's folder, from
 * which it is shown and can be used at any time; the result in the format asked for; sheets.
 * SPDX-License-Identifier: MIT */
#include "engine/personalize_job.h"
#include <stdio.h>

enum { SHEET_COLUMNS = 3, SHEET_STEPS = 20, MOST_NOTES = 24 };

const char *const personalize_format_names[OUT_FORMAT_COUNT] = {"kohya", "peft",     "diffusers",
                                                                "diff",  "svd-lora", "merged"};

bool save_is_file(const char *path) {
    size_t n = strlen(path), tail = strlen(".safetensors");
    return n > tail && strcmp(path + n - tail, ".safetensors") == 0;
}

/* "dog.safetensors" -> "dog" */
static int stem_of(const char *path) {
    return (int)(strlen(path) - (save_is_file(path) ? strlen(".safetensors") : 0));
}

static void word_path(const job *j, char path[1200]) {
    if (!j->unet.info)
        snprintf(path, 1200, "%s", j->p->out);
    else
        snprintf(path, 1200, "%.*s_emb.safetensors", stem_of(j->p->out), j->p->out);
}

status save_check(job *j) {
    const personalize_params *p = j->p;
    char word[1200];
    bool file = save_is_file(p->out), folder = p->format == OUT_PEFT || p->format == OUT_MERGED;
    if (strlen(p->out) > 900 || !*p->out || (!file && (!folder || !j->unet.info)))
        return fail(E_USAGE, "output '%s': expected a name that ends with .safetensors", p->out);
    if (file && p->format == OUT_PEFT)
        return fail(E_USAGE, "output '%s': PEFT's adapters are folders: a name without an ending",
                    p->out);
    if (p->format == OUT_DIFFUSERS && (strcmp(p->adapter, "lora") != 0 || p->options.dora))
        return fail(E_UNSUPPORTED, "diffusers loads LoRA only: --format peft, svd-lora or merged "
                                   "serve it with other adapters");
    if (p->format == OUT_SVD_LORA && (p->svd_rank < 1 || p->svd_rank > 4096))
        return fail(E_USAGE, "rank of svd-lora %d: expected 1 to 4096", p->svd_rank);
    if (os_file_exists(p->out) && !p->overwrite)
        return fail(E_USAGE, "%s is there already: give another name, or --overwrite", p->out);
    if (j->run.folder)
        snprintf(j->folder, sizeof j->folder, "%s", j->run.folder);
    else
        snprintf(j->folder, sizeof j->folder, "%.*s.run", stem_of(p->out), p->out);
    snprintf(j->file, sizeof j->file, "%s/adapter.safetensors", j->folder);
    snprintf(j->word_file, sizeof j->word_file, "%s/embedding.safetensors", j->folder);
    word_path(j, word);
    if (p->vectors && os_file_exists(word) && !p->overwrite)
        return fail(E_USAGE, "%s is there already: give another name, or --overwrite", word);
    return OK;
}

/* ---- the files ---- */
static int notes(const job *j, safetensor_note *n, char text[MOST_NOTES][48]) {
    const personalize_params *p = j->p;
    const train_params *r = &j->run;
    const char *name = strrchr(p->out, '/');
    bool two = strcmp(j->im->ck->family, "sd2") == 0;
    int k = 0;
    const struct {
        const char *key;
        double value;
        bool said;
    } numbers[] = {{"ss_max_train_steps", (double)r->lr.steps, true},
                   {"ss_learning_rate", r->lr.lr, true},
                   {"ss_num_train_images", j->set.n, true},
                   {"ss_num_reg_images", p->class_images, true},
                   {"ss_prior_loss_weight", p->prior_weight, p->class_images > 0},
                   {"ss_noise_offset", p->noise_offset, p->noise_offset > 0},
                   {"ss_min_snr_gamma", p->snr_gamma, p->snr_gamma > 0},
                   {"ss_text_encoder_lr", p->text_lr, p->train_text},
                   {"ss_seed", r->seed, true}};
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        if (!numbers[i].said) continue;
        snprintf(text[k], 48, "%.9g", numbers[i].value);
        n[k] = (safetensor_note){numbers[i].key, text[k]};
        k++;
    }
    snprintf(text[k], 48, "(%d, %d)", j->side, j->side);
    n[k] = (safetensor_note){"ss_resolution", text[k]};
    k++;
    const safetensor_note words[] = {{"ss_base_model_version", two ? "sd_v2" : "sd_v1"},
                                     {"ss_v2", two ? "True" : "False"},
                                     {"ss_enable_bucket", p->buckets ? "True" : "False"},
                                     {"ss_output_name", name ? name + 1 : p->out},
                                     {"ss_optimizer", optimizer_name(r->adam.kind)},
                                     {"modelspec.trigger_phrase", p->token}};
    memcpy(n + k, words, sizeof words);
    return k + (int)ARRAY_LEN(words);
}

/* path: a file, or for PEFT a folder. */
static status write_as(job *j, adapter_format format, dtype type, const char *path) {
    status st = OK;
    safetensor_note note[MOST_NOTES];
    char text[MOST_NOTES][48], sub[1200];
    double kept = 1;
    const adapter_source source[2] = {{part_name(PART_UNET), &j->unet, &j->im->part[PART_UNET]},
                                      {part_name(PART_TEXT), &j->text, &j->im->part[PART_TEXT]}};
    int n = j->p->train_text ? 2 : 1;
    adapter_write_params w = {.source = source,
                              .n_sources = n,
                              .format = format,
                              .type = type,
                              .svd_rank = j->p->svd_rank,
                              .base = j->im->ck->path,
                              .notes = note,
                              .n_notes = notes(j, note, text)};
    if (format != ADAPTER_PEFT || n == 1) TRY(adapter_write(path, &w, &kept));
    if (format == ADAPTER_SVD)
        log_info("%s: LoRA of rank %d holds %.1f %% of the change", path, j->p->svd_rank,
                 100 * kept);
    if (format != ADAPTER_PEFT || n == 1) return OK;
    TRY(os_mkdir_p(path)); /* as PEFT's DreamBooth script: a folder each */
    for (int i = 0; i < n; i++) {
        w.source = &source[i], w.n_sources = 1;
        snprintf(sub, sizeof sub, "%s/%s", path, source[i].part);
        TRY(adapter_write(sub, &w, &kept));
    }
out:
    return st;
}

static status write_word(job *j, const char *path) {
    status st = OK;
    const param *p = &j->word_ps.p[0];
    int64_t n = shape_count(&p->s);
    float *v = mem_alloc(sizeof *v * (size_t)n);
    if (!v) return fail(E_HOST_MEMORY, "no host memory to write %s", path);
    TRY(params_get(&j->word_ps, p->name, v, n));
    const safetensor t = {.name = j->p->token,
                          .dtype = DT_F32,
                          .n_dims = 2,
                          .dim = {p->s.d[0], p->s.d[1]},
                          .data = v};
    TRY(safetensors_write(path, &t, 1, NULL, 0));
out:
    mem_free(v);
    return st;
}

static status write_run_files(job *j) {
    status st = OK;
    TRY(step_project(j)); /* a mean of allowed weights may lie a little outside */
    if (j->unet.info) TRY(write_as(j, ADAPTER_KOHYA, DT_F32, j->file));
    if (j->p->vectors) TRY(write_word(j, j->word_file));
out:
    return st;
}

/* The model with the run's files, as others will open it. */
static status open_adapted(job *j, bool word, imago **im) {
    imago_open_params o = j->p->open;
    char spec[1200];
    const char *adapter = j->file, *embedding = spec;
    snprintf(spec, sizeof spec, "%s=%s", j->p->token, j->word_file);
    o.progress = NULL;
    o.adapters = &adapter, o.n_adapters = j->unet.info ? 1 : 0;
    o.embeddings = &embedding, o.n_embeddings = word && j->p->vectors ? 1 : 0;
    return (status)imago_open(&o, im);
}

static status write_merged(job *j) {
    imago *im = NULL;
    status st = open_adapted(j, false, &im);
    if (st == OK)
        st = adapters_write_merged(im, save_is_file(j->p->out) ? LAYOUT_SINGLE : LAYOUT_DIFFUSERS,
                                   j->p->save_type, j->p->out);
    imago_close(im);
    return st;
}

static status write_result(job *j) {
    static const adapter_format as[OUT_FORMAT_COUNT] = {
        ADAPTER_KOHYA, ADAPTER_PEFT, ADAPTER_DIFFUSERS, ADAPTER_DIFF, ADAPTER_SVD};
    status st = OK;
    char word[1200];
    if (j->p->vectors) {
        word_path(j, word);
        TRY(write_word(j, word));
    }
    if (!j->unet.info) return OK;
    st = j->p->format == OUT_MERGED ? write_merged(j)
                                    : write_as(j, as[j->p->format], j->p->save_type, j->p->out);
    if (st != OK) log_warn("the adapter itself is not lost: %s", j->file);
out:
    return st;
}

/* Called with the averaged weights, which the job itself has no longer when the run is over: so the
 * result is written here after the last step. */
status save_now(void *ctx, const char *folder) {
    job *j = ctx;
    (void)folder;
    status st = write_run_files(j);
    return st == OK && j->last ? write_result(j) : st;
}

status save_keep(void *ctx, int64_t step) {
    job *j = ctx;
    char file[1100], word[1100];
    status st = OK;
    memcpy(file, j->file, sizeof file), memcpy(word, j->word_file, sizeof word);
    snprintf(j->file, sizeof j->file, "%.1000s/adapter-%07lld.safetensors", j->folder,
             (long long)step);
    snprintf(j->word_file, sizeof j->word_file, "%.1000s/embedding-%07lld.safetensors", j->folder,
             (long long)step);
    st = write_run_files(j);
    memcpy(j->file, file, sizeof file), memcpy(j->word_file, word, sizeof word);
    return st;
}

/* ---- sheets ---- */
static int columns(const job *j) { return j->p->n_samples ? j->p->n_samples : SHEET_COLUMNS; }

static status draw_row(job *j, imago *im, int row) {
    status st = OK;
    size_t one = (size_t)j->side * (size_t)j->side * 3;
    int given = j->p->n_samples, each = given ? 1 : SHEET_COLUMNS;
    for (int k = 0; k < (given ? given : 1); k++) {
        imago_picture *pics = NULL;
        imago_generate_params g =
            IMAGO_GENERATE(.prompt = given ? j->p->sample[k] : j->prompt, .plain_prompt = true,
                           .width = j->side, .height = j->side, .steps = SHEET_STEPS,
                           .seed = j->run.seed, .batch = each);
        TRY((status)imago_generate(im, &g, &pics));
        for (int i = 0; i < each; i++)
            memcpy(j->sheet + one * (size_t)(row * columns(j) + k + i), pics[i].rgb, one);
        imago_free_pictures(pics, each);
    }
out:
    return st;
}

status save_sheet(void *ctx, const char *path, record_value *v, int *n) {
    status st = OK;
    job *j = ctx;
    imago *im = NULL;
    (void)v, (void)n;
    TRY(write_run_files(j));
    TRY(open_adapted(j, true, &im));
    TRY(draw_row(j, im, 1));
    TRY(sheet_save(j->sheet, 2 * columns(j), j->side, columns(j), path));
out:
    imago_close(im);
    return st;
}

status save_base_pictures(job *j) {
    if (!j->run.sheet_every) return OK;
    if (!(j->sheet = mem_alloc((size_t)(2 * columns(j)) * (size_t)j->side * (size_t)j->side * 3)))
        return fail(E_HOST_MEMORY, "no host memory for a sheet");
    status st = draw_row(j, j->im, 0);
    latents_fini(j->im);
    return st;
}
