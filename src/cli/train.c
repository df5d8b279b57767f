/* train.c: imago train: the bundled model's networks from scratch.
 * SPDX-License-Identifier: MIT */
#include "cli/cli.h"
#include "engine/train.h"
#include <stdio.h>

typedef struct options {
    const char *stage, *data, *out, *device, *precision, *judge;
    int steps, batch, accumulate, seed, threads, channels, log_every;
    float lr, save_minutes, sheet_minutes; bool checkpointing;
} options;

static bool cancelled(void *ctx) { (void)ctx; return os_cancelled(); }

static vae_config vae_of(int channels) {
    return (vae_config){.kind = VAE_TINY, .in_channels = 3, .out_channels = 3, .latent_channels = channels, .levels = 4, .scaling_factor = 1,
                        .block_out_channels = {64, 64, 64, 64}, .encoder_block_out_channels = {64, 64, 64, 64}, .num_encoder_blocks = {0, 1, 3, 3},
                        .num_decoder_blocks = {3, 3, 1, 0}, .latent_magnitude = 3, .latent_shift = 0.5f, .upsampling_scaling_factor = 2};
}

static status stage_vae(const options *o, device *dev, dtype type, train_params *p) {
    status st = OK;
    corpus_source *s = NULL;
    uint8_t *held_out = NULL;
    int *style = NULL;
    const char *names[CORPUS_MAX_STYLES];
    train_vae_params v = {.vae = vae_of(o->channels ? o->channels : 12), .loss = {.edges = 1, .features = 0.1f, .moments = 0.1f}, .judge = o->judge, .jitter = 0.15,
                          .side = COMPOSE_SIDE, .n_held_out = 256};
    p->lr = (lr_schedule){.kind = LR_LINEAR_TAIL, .lr = o->lr > 0 ? (double)o->lr : 1e-3, .lr_end = 1e-5, .warmup = 100, .tail = 0.25, .steps = o->steps ? o->steps : 16000};
    p->adam = (optimizer_params){.beta1 = 0.9f, .beta2 = 0.99f, .eps = 1e-8f, .weight_decay = 1e-4f, .max_norm = 1, .average_decay = 0.999f};
    if (v.vae.latent_channels < 1 || v.vae.latent_channels > 64) TRY(fail(E_USAGE, "--channels %d: expected 1 to 64", o->channels));
    TRY(corpus_source_open(o->data, &compose_autoencoder, p->seed, &s));
    TRY(corpus_source_held_out(s, &v.n_held_out, &held_out, &style));
    const corpus *c = corpus_source_corpus(s);
    for (int i = 0; i < c->n_styles; i++) names[i] = c->styles[i].name;
    v.pictures = corpus_source_pictures(s);
    v.held_out = held_out, v.held_out_group = style, v.n_groups = c->n_styles, v.group_name = names;
    TRY(train_vae(dev, type, p, &v));
out:
    mem_free(held_out);
    mem_free(style);
    corpus_source_close(s);
    return st;
}

static status precision_of(const char *name, const device *d, dtype *out) {
    *out = DT_COUNT;
    for (int t = DT_F32; t <= DT_BF16; t++)
        if (strcmp(name, dtype_name((dtype)t)) == 0) *out = (dtype)t;
    if (strcmp(name, "auto") == 0) *out = device_auto_precision(d);
    return *out == DT_COUNT ? fail(E_USAGE, "--precision %s: expected auto, f32, f16 or bf16", name) : OK;
}

static status train(const options *o) {
    status st = OK;
    device *dev = NULL;
    dtype type;
    char cache[512];
    train_params p = {.folder = o->out, .batch = o->batch, .accumulate = o->accumulate, .seed = (uint32_t)o->seed, .log_every = o->log_every,
                      .save_minutes = (double)o->save_minutes, .sheet_minutes = (double)o->sheet_minutes, .checkpointing = o->checkpointing, .cancelled = cancelled};
    if (!o->stage || !o->data || !o->out) return fail(E_USAGE, "train needs --stage, --data and --out; see imago train --help");
    if (o->steps < 0 || o->batch < 1 || o->accumulate < 1 || o->log_every < 1) return fail(E_USAGE, "--steps, --batch, --accumulate and --log-every must be positive");
    TRY(device_open(&op_all, &(device_params){.name = o->device, .cache_dir = cli_cache_dir(cache), .threads = o->threads}, &dev));
    TRY(precision_of(o->precision, dev, &type));
    if (strcmp(o->stage, "vae") == 0) TRY(stage_vae(o, dev, type, &p));
    else TRY(fail(E_USAGE, "--stage %s: expected vae", o->stage));
out:
    device_close(dev);
    return st;
}

int cmd_train(int argc, char **argv) {
    static const command self = {"train", "Trains the networks of the bundled model from scratch. The same command goes on where a run was stopped.", NULL};
    options o = {.device = "auto", .precision = "auto", .batch = 16, .accumulate = 1, .log_every = 20, .save_minutes = 5, .sheet_minutes = 15};
    bool help = false;
    const option table[] = {
        {"stage", OPT_STRING, &o.stage, "vae: the autoencoder"},
        {"data", OPT_STRING, &o.data, "the corpus: a folder that examples/corpus makes"},
        {"out", OPT_STRING, &o.out, "folder of the run: state, log, curve, sheets, model", "o"},
        {"steps", OPT_INT, &o.steps, "how many in all (vae: 16000)"},
        {"batch", OPT_INT, &o.batch, "pictures at once (16)"},
        {"accumulate", OPT_INT, &o.accumulate, "batches a step (1)"},
        {"lr", OPT_FLOAT, &o.lr, "learning rate (vae: 0.001)"},
        {"channels", OPT_INT, &o.channels, "of the latents (12)"},
        {"judge", OPT_STRING, &o.judge, "SqueezeNet's weights: adds its features to the autoencoder's loss"},
        {"seed", OPT_INT, &o.seed, "of weights, pictures and noise (0)"},
        {"device", OPT_STRING, &o.device, "auto, cpu, vulkan or vulkan:N"},
        {"precision", OPT_STRING, &o.precision, "auto, f32, f16 or bf16; weights are kept in f32 beside it"},
        {"threads", OPT_INT, &o.threads, "on cpu (all cores)"},
        {"checkpointing", OPT_FLAG, &o.checkpointing, "recompute activations in the backward pass: less memory"},
        {"log-every", OPT_INT, &o.log_every, "steps between lines of train.log (20)"},
        {"save-minutes", OPT_FLOAT, &o.save_minutes, "between saved states (5)"},
        {"sheet-minutes", OPT_FLOAT, &o.sheet_minutes, "between sheets, each with the model as it is (15)"}};
    status st = cli_parse(&self, argc, argv, table, ARRAY_LEN(table), NULL, &help);
    if (st == OK && !help) st = train(&o);
    return st == OK ? 0 : cli_fail(st);
}
