/* personalize.c: imago personalize: a few pictures of a subject -> an adapter file.
 * SPDX-License-Identifier: MIT */
#include "cli/cli.h"
#include "engine/personalize.h"
#include <stdio.h>

static bool cancelled(void *ctx) {
    (void)ctx;
    return os_cancelled();
}

typedef struct wishes {
    int steps, batch, accumulate, seed, warmup, log_every, sheet_every, size;
    float lr, gamma, ema, save_minutes;
    const char *schedule;
} wishes;

static status apply(const wishes *w, personalize_params *p) {
    bool cosine = strcmp(w->schedule, "cosine") == 0, lora = strcmp(p->adapter, "lora") == 0;
    if (!cosine && strcmp(w->schedule, "constant") != 0)
        return fail(E_USAGE, "--schedule %s: expected constant or cosine", w->schedule);
    if (w->steps < 1 || w->warmup < 0 || w->sheet_every < 0)
        return fail(E_USAGE, "--steps must be positive, --warmup and --sheet-every not negative");
    if (!(w->lr >= 0)) return fail(E_USAGE, "--lr %g: expected above 0", (double)w->lr);
    if (!(w->ema >= 0 && w->ema < 1))
        return fail(E_USAGE, "--ema %g: expected 0 (none) to below 1", (double)w->ema);
    if (lora && !p->options.rank) p->options.rank = 8;
    p->side = w->size;
    p->snr_gamma = (double)w->gamma;
    /* turning takes about four times the rate of adding (Qiu et al. 2025, OFTv2) */
    p->run = (train_params){.batch = w->batch,
                            .accumulate = w->accumulate,
                            .seed = (uint32_t)w->seed,
                            .log_every = w->log_every,
                            .save_minutes = (double)w->save_minutes,
                            .sheet_every = w->sheet_every,
                            .checkpointing = p->run.checkpointing,
                            .cancelled = cancelled,
                            .lr = {.kind = cosine ? LR_COSINE : LR_CONSTANT,
                                   .lr = w->lr > 0 ? (double)w->lr
                                         : lora    ? 1e-4
                                                   : 4e-4,
                                   .warmup = w->warmup,
                                   .steps = w->steps},
                            .adam = {OPTIMIZER_DEFAULTS, .max_norm = 1, .average_decay = w->ema}};
    return OK;
}

int cmd_personalize(int argc, char **argv) {
    static const command self = {
        "personalize",
        "Teaches a model a subject from a few pictures of it. NAME.txt beside NAME.png is its "
        "caption; others are \"a photo of TOKEN CLASS\". The same command goes on where a run was "
        "stopped.",
        NULL};
    personalize_params p = {
        .token = "sks", .class_word = "", .adapter = "lora", .out = "personalized.safetensors"};
    wishes w = {.steps = 400,
                .batch = 1,
                .accumulate = 1,
                .log_every = 10,
                .save_minutes = 2,
                .schedule = "constant"};
    bool help = false;
    char cache[512], model[1200];
    positionals args = {"DIR", &p.pictures, 1, 1, 0};
    const option table[] = {
        {"model", OPT_STRING, &p.open.model, "diffusers folder, .safetensors or .gguf (the bundled one)", "m"},
        {"output", OPT_STRING, &p.out,
         "the adapter (personalized.safetensors); its run lives beside it, in OUTPUT.run", "o"},
        {"token", OPT_STRING, &p.token, "the word that shall mean the subject (sks)", NULL},
        {"class", OPT_STRING, &p.class_word, "what it is: dog, backpack", NULL},
        {"adapter", OPT_STRING, &p.adapter, "lora (default), oft, coft, oft_neumann or boft", NULL},
        {"rank", OPT_INT, &p.options.rank, "of lora (8)", NULL},
        {"alpha", OPT_FLOAT, &p.options.alpha, "of lora: scaled by alpha / rank (rank)", NULL},
        {"block", OPT_INT, &p.options.block, "side of the rotations' blocks (32, boft 4)", NULL},
        {"factors", OPT_INT, &p.options.factors, "of boft: butterfly factors (1)", NULL},
        {"eps", OPT_FLOAT, &p.options.eps, "of coft: how far it may turn (6e-5 block^2)", NULL},
        {"size", OPT_INT, &w.size, "side in pixels, cut from the middle (the model's own)", NULL},
        {"flip", OPT_FLAG, &p.flip, "mirror half of the samples", NULL},
        {"steps", OPT_INT, &w.steps, "how many in all (400)", NULL},
        {"batch", OPT_INT, &w.batch, "pictures at once (1)", NULL},
        {"accumulate", OPT_INT, &w.accumulate, "batches a step (1)", NULL},
        {"lr", OPT_FLOAT, &w.lr, "learning rate (lora 1e-4, others 4e-4)", NULL},
        {"schedule", OPT_STRING, &w.schedule, "constant (default) or cosine", NULL},
        {"warmup", OPT_INT, &w.warmup, "steps of rising learning rate (0)", NULL},
        {"min-snr", OPT_FLOAT, &w.gamma, "weight timesteps by min(SNR, this); 5 is common (off)",
         NULL},
        {"ema", OPT_FLOAT, &w.ema, "keep a moving average with this decay (none)", NULL},
        {"seed", OPT_INT, &w.seed, "of weights, order and noise (0)", NULL},
        {"checkpointing", OPT_FLAG, &p.run.checkpointing,
         "recompute activations in the backward pass: less memory", NULL},
        {"sheet-every", OPT_INT, &w.sheet_every,
         "steps between sheets of pictures, the base model's above (no sheets)", NULL},
        {"log-every", OPT_INT, &w.log_every, "steps between lines of train.log (10)", NULL},
        {"save-minutes", OPT_FLOAT, &w.save_minutes, "between saved states (2)", NULL},
        {"prediction", OPT_STRING, &p.open.prediction,
         "epsilon or v_prediction, where the files do not say", NULL},
        {"vae", OPT_STRING, &p.open.vae, "another autoencoder", NULL},
        {"device", OPT_STRING, &p.open.device, "auto, cpu, vulkan, vulkan:N", NULL},
        {"precision", OPT_STRING, &p.open.precision,
         "of the model: auto, f32, f16, bf16; the adapter is f32", NULL},
        {"threads", OPT_INT, &p.open.threads, "cpu threads (all cores)", NULL},
        {"overwrite", OPT_FLAG, &p.overwrite, "replace an existing output", NULL}};
    status st = cli_parse(&self, argc, argv, table, ARRAY_LEN(table), &args, &help);
    if (st == OK && help) return 0;
    p.open.cache_dir = cli_cache_dir(cache);
    if (!p.open.model) p.open.model = cli_default_model(model);
    p.open.cancelled = cancelled;
    if (st == OK) st = apply(&w, &p);
    if (st == OK) st = personalize(&p);
    if (st == OK) printf("%s\n", p.out);
    return st == OK ? 0 : cli_fail(st);
}
