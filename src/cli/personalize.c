/* personalize.c: imago personalize: a few pictures of a subject -> an adapter file.
 * SPDX-License-Identifier: MIT */
#include "cli/cli.h"
#include "engine/personalize.h"
#include <stdio.h>

typedef struct wishes {
    int steps, batch, accumulate, seed, warmup, log_every, sheet_every, save_every, size,
        class_images;
    float lr, text_lr, word_lr, gamma, ema, save_minutes, prior_weight, noise_offset;
    const char *schedule, *format, *optimizer, *save_precision;
    bool new_word;
    string_list samples;
} wishes;

static status pick(const char *what, const char *name, const char *const *names, int n,
                   int *which) {
    char list[200] = "";
    for (int i = 0; i < n; i++) {
        if (strcmp(names[i], name) == 0) return *which = i, OK;
        size_t at = strlen(list);
        snprintf(list + at, sizeof list - at, "%s%s", i ? ", " : "", names[i]);
    }
    return fail(E_USAGE, "--%s %s: expected one of %s", what, name, list);
}

/* What the output is called, and the type it is written in, follow from the format. */
static status apply_output(const wishes *w, personalize_params *p) {
    static const char *const types[] = {"f32", "f16", "bf16"};
    status st = OK;
    int format = OUT_KOHYA, type = DT_F32;
    TRY(pick("format", w->format, personalize_format_names, OUT_FORMAT_COUNT, &format));
    bool folder = format == OUT_PEFT || format == OUT_MERGED;
    if (w->save_precision)
        TRY(pick("save-precision", w->save_precision, types, 3, &type));
    else if (format == OUT_MERGED)
        type = DT_F16;
    p->format = (personalize_format)format;
    p->save_type = (dtype)type;
    if (!p->out) p->out = folder ? "personalized" : "personalized.safetensors";
out:
    return st;
}

static status apply(const wishes *w, personalize_params *p) {
    static const char *const schedules[] = {"constant", "cosine"},
                             *optimizers[OPTIMIZER_KIND_COUNT];
    status st = OK;
    int schedule = 0, kind = 0;
    bool lora = strcmp(p->adapter, "lora") == 0;
    for (int i = 0; i < OPTIMIZER_KIND_COUNT; i++)
        optimizers[i] = optimizer_name((optimizer_kind)i);
    TRY(apply_output(w, p));
    TRY(pick("schedule", w->schedule, schedules, 2, &schedule));
    TRY(pick("optimizer", w->optimizer, optimizers, OPTIMIZER_KIND_COUNT, &kind));
    if (w->steps < 1 || w->warmup < 0 || w->sheet_every < 0 || w->save_every < 0)
        TRY(fail(E_USAGE, "--steps must be positive, --warmup, --sheet-every and --save-every not "
                          "negative"));
    if (!(w->lr >= 0)) TRY(fail(E_USAGE, "--lr %g: expected above 0", (double)w->lr));
    if (!(w->ema >= 0 && w->ema < 1))
        TRY(fail(E_USAGE, "--ema %g: expected 0 (none) to below 1", (double)w->ema));
    if (lora && !p->options.rank) p->options.rank = 8;
    if (w->new_word && !p->vectors) p->vectors = 1;
    if (!p->init_word) p->init_word = p->class_word;
    p->side = w->size;
    p->snr_gamma = (double)w->gamma;
    p->noise_offset = (double)w->noise_offset;
    p->class_images = w->class_images;
    p->prior_weight = (double)w->prior_weight;
    p->text_lr = (double)w->text_lr;
    p->embedding_lr = (double)w->word_lr;
    for (int i = 0; i < w->samples.n; i++) p->sample[p->n_samples++] = w->samples.value[i];
    /* turning takes about four times the rate of adding (Qiu et al. 2025, OFTv2); prodigy finds
     * its own, of which this is a factor */
    double lr = kind == OPTIMIZER_PRODIGY ? 1 : lora ? 1e-4 : 4e-4;
    p->run = (train_params){.batch = w->batch,
                            .accumulate = w->accumulate,
                            .seed = (uint32_t)w->seed,
                            .log_every = w->log_every,
                            .save_minutes = (double)w->save_minutes,
                            .sheet_every = w->sheet_every,
                            .keep_every = w->save_every,
                            .probe_every = MAX(w->steps / 20, 10),
                            .checkpointing = p->run.checkpointing,
                            .cancelled = cli_cancelled,
                            .lr = {.kind = schedule ? LR_COSINE : LR_CONSTANT,
                                   .lr = w->lr > 0 ? (double)w->lr : lr,
                                   .warmup = w->warmup,
                                   .steps = w->steps},
                            .adam = {OPTIMIZER_DEFAULTS, .kind = (optimizer_kind)kind,
                                     .max_norm = 1, .average_decay = w->ema}};
out:
    return st;
}

static const command self = {
    "personalize",
    "Teaches a model a subject from a few pictures of it. NAME.txt beside NAME.png is its "
    "caption; others are \"a photo of TOKEN CLASS\". White in NAME.mask.png is what counts. The "
    "same command goes on where a run was stopped.",
    NULL};

static status parse(int argc, char **argv, wishes *w, personalize_params *p, bool *help) {
    positionals args = {"DIR", &p->pictures, 1, 1, 0};
    const option table[] = {
        {"model", OPT_STRING, &p->open.model, "diffusers folder, .safetensors or .gguf (the bundled one)",
         "m"},
        {"output", OPT_STRING, &p->out,
         "the adapter (personalized.safetensors); its run lives beside it, in OUTPUT.run", "o"},
        {"format", OPT_STRING, &w->format,
         "kohya (default), diffusers, diff, svd-lora: a file; peft: a folder; merged: the whole "
         "model",
         NULL},
        {"svd-rank", OPT_INT, &p->svd_rank, "of svd-lora (32)", NULL},
        {"save-precision", OPT_STRING, &w->save_precision, "f32 (default), f16 (merged), bf16",
         NULL},
        {"token", OPT_STRING, &p->token, "the word that shall mean the subject (sks)", NULL},
        {"class", OPT_STRING, &p->class_word, "what it is: dog, backpack", NULL},
        {"instance-prompt", OPT_STRING, &p->instance_prompt,
         "of pictures without a caption (\"a photo of TOKEN CLASS\")", NULL},
        {"class-images", OPT_INT, &w->class_images,
         "prior preservation: pictures of the class that the model draws first (0)",
         "num-class-images"},
        {"class-prompt", OPT_STRING, &p->class_prompt, "for those (\"a photo of CLASS\")", NULL},
        {"prior-loss-weight", OPT_FLOAT, &w->prior_weight, "of their loss (1)", NULL},
        {"adapter", OPT_STRING, &p->adapter,
         "lora (default), oft, coft, oft_neumann, boft; none: only a new word", NULL},
        {"rank", OPT_INT, &p->options.rank, "of lora (8)", NULL},
        {"alpha", OPT_FLOAT, &p->options.alpha, "of lora: scaled by alpha / rank (rank)", NULL},
        {"rslora", OPT_FLAG, &p->options.rslora, "lora: scaled by alpha / sqrt(rank)",
         "use-rslora"},
        {"dora", OPT_FLAG, &p->options.dora, "lora: the norm of every row is trained too",
         "use-dora"},
        {"block", OPT_INT, &p->options.block, "side of the rotations' blocks (32, boft 4)", NULL},
        {"factors", OPT_INT, &p->options.factors, "of boft: butterfly factors (1)", NULL},
        {"eps", OPT_FLOAT, &p->options.eps, "of coft: how far it may turn (6e-5 block^2)", NULL},
        {"train-text-encoder", OPT_FLAG, &p->train_text, "the adapter on the text encoder too",
         NULL},
        {"text-encoder-lr", OPT_FLOAT, &w->text_lr, "its learning rate (half of --lr)", NULL},
        {"train-embedding", OPT_FLAG, &w->new_word,
         "TOKEN is a new word; its vectors go to OUTPUT_emb.safetensors, for generate --embedding",
         NULL},
        {"num-vectors", OPT_INT, &p->vectors, "how many it has (1)", NULL},
        {"init-word", OPT_STRING, &p->init_word, "what it begins as (CLASS)", "initializer-token"},
        {"embedding-lr", OPT_FLOAT, &w->word_lr, "its learning rate (5e-4)", NULL},
        {"size", OPT_INT, &w->size, "side in pixels, cut from the middle (the model's own)",
         "resolution"},
        {"buckets", OPT_FLAG, &p->buckets, "keep about the shape of pictures that are not square",
         "enable-bucket"},
        {"flip", OPT_FLAG, &p->flip, "mirror half of the samples", "random-flip"},
        {"steps", OPT_INT, &w->steps, "how many in all (400)", "max-train-steps"},
        {"batch", OPT_INT, &w->batch, "pictures at once (1)", "train-batch-size"},
        {"accumulate", OPT_INT, &w->accumulate, "batches a step (1)",
         "gradient-accumulation-steps"},
        {"optimizer", OPT_STRING, &w->optimizer, "adamw (default), adamw8bit or prodigy",
         "optimizer-type"},
        {"lr", OPT_FLOAT, &w->lr, "learning rate (lora 1e-4, others 4e-4, prodigy 1)",
         "learning-rate"},
        {"schedule", OPT_STRING, &w->schedule, "constant (default) or cosine", "lr-scheduler"},
        {"warmup", OPT_INT, &w->warmup, "steps of rising learning rate (0)", "lr-warmup-steps"},
        {"min-snr", OPT_FLOAT, &w->gamma, "weight timesteps by min(SNR, this); 5 is common (off)",
         "snr-gamma min-snr-gamma"},
        {"noise-offset", OPT_FLOAT, &w->noise_offset,
         "noise that is one number a channel; 0.05 is common (0)", NULL},
        {"ema", OPT_FLOAT, &w->ema, "keep a moving average with this decay (none)", NULL},
        {"seed", OPT_INT, &w->seed, "of weights, order and noise (0)", NULL},
        {"checkpointing", OPT_FLAG, &p->run.checkpointing,
         "recompute activations in the backward pass: less memory", "gradient-checkpointing"},
        {"sheet-every", OPT_INT, &w->sheet_every,
         "steps between sheets of pictures, the base model's above (no sheets)",
         "validation-steps"},
        {"sample-prompt", OPT_LIST, &w->samples,
         "a picture of the sheets; may be repeated (three of the subject)", "validation-prompt"},
        {"save-every", OPT_INT, &w->save_every,
         "steps between adapters that are kept in the run (none)", "save-every-n-steps"},
        {"log-every", OPT_INT, &w->log_every, "steps between lines of train.log (10)", NULL},
        {"save-minutes", OPT_FLOAT, &w->save_minutes, "between saved states (2)", NULL},
        {"prediction", OPT_STRING, &p->open.prediction,
         "epsilon or v_prediction, where the files do not say", NULL},
        {"vae", OPT_STRING, &p->open.vae, "another autoencoder", NULL},
        {"device", OPT_STRING, &p->open.device, "auto, cpu, vulkan, vulkan:N", NULL},
        {"precision", OPT_STRING, &p->open.precision,
         "of the model: auto, f32, f16, bf16; the adapter is f32", NULL},
        {"threads", OPT_INT, &p->open.threads, "cpu threads (all cores)", NULL},
        {"overwrite", OPT_FLAG, &p->overwrite, "replace an existing output", NULL}};
    return cli_parse(&self, argc, argv, table, ARRAY_LEN(table), &args, help);
}

int cmd_personalize(int argc, char **argv) {
    personalize_params p = {.token = "sks", .class_word = "", .adapter = "lora", .svd_rank = 32};
    wishes w = {.steps = 400,
                .batch = 1,
                .accumulate = 1,
                .log_every = 10,
                .save_minutes = 2,
                .prior_weight = 1,
                .word_lr = 5e-4f,
                .schedule = "constant",
                .format = "kohya",
                .optimizer = "adamw"};
    bool help = false;
    char cache[512], model[1200];
    status st = parse(argc, argv, &w, &p, &help);
    if (st == OK && help) return 0;
    p.open.cache_dir = cli_cache_dir(cache);
    if (!p.open.model) p.open.model = cli_default_model(model);
    p.open.cancelled = cli_cancelled;
    if (st == OK) st = apply(&w, &p);
    if (st == OK) st = personalize(&p);
    if (st == OK) printf("%s\n", p.out);
    return st == OK ? 0 : cli_fail(st);
}
