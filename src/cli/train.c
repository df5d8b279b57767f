/* train.c: imago train: the networks of the bundled model from scratch, stage by stage: vae, words,
 * pool, base. SPDX-License-Identifier: MIT */
#include "cli/cli.h"
#include "engine/train.h"
#include "train/pool.h"
#include <stdio.h>

typedef struct options {
    const char *stage, *data, *out, *device, *precision, *judge, *vae, *words, *pool, *compose, *from, *text;
    int steps, batch, accumulate, seed, threads, channels, log_every, count, first;
    float lr, shift, shift_late, save_minutes, sheet_minutes;
    bool checkpointing, decoder;
    device *dev;
    dtype type;
} options;

enum { TOKENS = 64, VOCABULARY = 4096 };

static vae_config vae_of(int channels) {
    return (vae_config){.kind = VAE_TINY,
                        .in_channels = 3,
                        .out_channels = 3,
                        .latent_channels = channels,
                        .levels = 4,
                        .scaling_factor = 1,
                        .block_out_channels = {64, 64, 64, 64},
                        .encoder_block_out_channels = {64, 64, 64, 64},
                        .num_encoder_blocks = {0, 1, 3, 3},
                        .num_decoder_blocks = {3, 3, 1, 0},
                        .latent_magnitude = 3,
                        .latent_shift = 0.5f,
                        .upsampling_scaling_factor = 2};
}

static unet_config unet_of(int channels) {
    return (unet_config){.in_channels = channels,
                         .out_channels = channels,
                         .levels = 3,
                         .layers_per_block = 2,
                         .block_out_channels = {128, 192, 192},
                         .attention = {false, true, true},
                         .heads = {2, 3, 3},
                         .cross_attention_dim = 256,
                         .norm_num_groups = 16,
                         .norm_eps = 1e-5f,
                         .use_linear_projection = true,
                         .flip_sin_to_cos = true};
}

static const text_config text_base = {.vocab_size = VOCABULARY,
                                      .hidden_size = 256,
                                      .intermediate_size = 1024,
                                      .num_hidden_layers = 3,
                                      .num_attention_heads = 4,
                                      .max_position_embeddings = TOKENS,
                                      .hidden_act = ACT_QUICK_GELU,
                                      .layer_norm_eps = 1e-5f};

static const schedule_config schedule_base = {
    .num_train_timesteps = 1000,
    .beta_start = 0.00085,
    .beta_end = 0.012,
    .beta_schedule = BETA_SCALED_LINEAR,
    .prediction_type = PREDICTION_V,
    .rescale_betas_zero_snr = true,
    .set_alpha_to_one = true,
    .timestep_spacing = SPACING_TRAILING,
    .steps_offset = 1 /* has no part in trailing spacing; diffusers warns about others */};

static status compose_of(const options *o, const compose_params **out) {
    static const struct {
        const char *name;
        const compose_params *p;
    } all[] = {{"autoencoder", &compose_autoencoder},
               {"single", &compose_stage_a},
               {"all", &compose_stage_b}};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        if (strcmp(o->compose, all[i].name) == 0) return *out = all[i].p, OK;
    return fail(E_USAGE, "--compose %s: expected autoencoder, single or all", o->compose);
}

/* Threads that compose pictures: one beside a cpu that trains with all its cores, which also keeps
 * it fed; a GPU asks for thousands of pictures a second. */
static int composers(const options *o) {
    return strcmp(device_id(o->dev), "cpu") == 0 ? 1 : MIN(4, MAX(1, os_cpu_count() - 1));
}

static train_params run_of(const options *o, int steps, double lr) {
    return (train_params){
        .folder = o->out,
        .batch = o->batch,
        .accumulate = o->accumulate,
        .seed = (uint32_t)o->seed,
        .log_every = o->log_every,
        .save_minutes = (double)o->save_minutes,
        .sheet_minutes = (double)o->sheet_minutes,
        .checkpointing = o->checkpointing,
        .cancelled = cli_cancelled,
        .lr = {.kind = LR_LINEAR_TAIL,
               .lr = o->lr > 0 ? (double)o->lr : lr,
               .lr_end = lr / 100,
               .warmup = 100,
               .steps = o->steps ? o->steps : steps,
               .tail = 0.3},
        .adam = {
            .beta1 = 0.9f, .beta2 = 0.99f, .eps = 1e-8f, .max_norm = 1, .average_decay = 0.999f}};
}

static status stage_vae(const options *o) {
    status st = OK;
    corpus_source *s = NULL;
    uint8_t *held_out = NULL;
    int *which = NULL;
    const char *names[CORPUS_MAX_STYLES];
    train_params p = run_of(o, 32000, 1e-3);
    train_vae_params v = {.vae = vae_of(o->channels),
                          .from = o->from,
                          .loss = {.edges = 1, .features = 0.1f, .moments = 0.1f},
                          .judge = o->judge,
                          .jitter = 0.15,
                          .side = COMPOSE_SIDE,
                          .n_held_out = 256};
    p.adam.weight_decay = 1e-4f;
    /* with latents that stay, what is left to gain is the PSNR */
    if (o->decoder) v.decoder_only = true, v.jitter = 0.05, v.loss.edges = 0.25f, v.loss.moments = 0, v.loss.squares = 5;
    if (o->channels < 1 || o->channels > 64)
        TRY(fail(E_USAGE, "--channels %d: expected 1 to 64", o->channels));
    TRY(corpus_source_open(o->data, &compose_autoencoder, p.seed, composers(o), &s));
    TRY(corpus_source_held_out(s, false, &v.n_held_out, &held_out, &which));
    const corpus *c = corpus_source_corpus(s);
    for (int i = 0; i < v.n_held_out; i++) which[i] = c->pictures[which[i]].style;
    for (int i = 0; i < c->n_styles; i++) names[i] = c->styles[i].name;
    v.pictures = corpus_source_pictures(s);
    v.held_out = held_out, v.held_out_group = which, v.n_groups = c->n_styles, v.group_name = names;
    TRY(train_vae(o->dev, o->type, &p, &v));
out:
    mem_free(held_out);
    mem_free(which);
    corpus_source_close(s);
    return st;
}

static status stage_words(const options *o) {
    status st = OK;
    corpus_source *s = NULL;
    int learned = 0;
    TRY(corpus_source_open(o->data, &compose_stage_b, (uint32_t)o->seed, composers(o), &s));
    TRY(train_make_words(s, VOCABULARY, TOKENS, o->out, &learned));
    printf("%s: %d ids\n", o->out, learned);
out:
    corpus_source_close(s);
    return st;
}

static status stage_pool(const options *o) {
    status st = OK;
    const compose_params *compose = NULL;
    corpus_source *s = NULL;
    if (!o->vae) TRY(fail(E_USAGE, "stage pool needs --vae: the folder of a trained autoencoder"));
    if (o->count < 1 || o->first < 0)
        TRY(fail(E_USAGE, "--count %d, --first %d: expected at least 1 and 0", o->count, o->first));
    TRY(compose_of(o, &compose));
    TRY(corpus_source_open(o->data, compose, (uint32_t)o->seed, composers(o), &s));
    TRY(train_make_pool(o->dev, o->type, o->vae, s, (uint32_t)o->seed, (uint64_t)o->first, o->count,
                        o->out, cli_cancelled, NULL));
out:
    corpus_source_close(s);
    return st;
}

static const char *const sheet_things[] = {"a fox",   "a red apple",     "an automobile",
                                           "a house", "a grinning face", "a cat face",
                                           "a tulip", "a pizza"};
static const char *const sheet_styles[] = {"a glossy 3D render of ", "a flat illustration of ",
                                           "a black ink drawing of ", "a shaded vector icon of "};
enum { THINGS = 8, STYLES = 4 };

/* Held-out pictures as latents and captions. */
static status measure_with(const corpus_source *s, vae_opened *v, train_base_params *b,
                           float **latents, caption **captions) {
    status st = OK;
    uint8_t *rgb = NULL;
    int *which = NULL;
    TRY(corpus_source_held_out(s, true, &b->n_held_out, &rgb, &which));
    *latents = mem_alloc(sizeof **latents * (size_t)b->n_held_out *
                         (size_t)(b->h * b->w * v->config.latent_channels));
    *captions = mem_alloc(sizeof **captions * (size_t)b->n_held_out);
    if (!*latents || !*captions)
        TRY(fail(E_HOST_MEMORY, "no host memory for %d held-out pictures", b->n_held_out));
    TRY(vae_opened_encode(v, COMPOSE_SIDE, b->n_held_out, rgb, *latents));
    for (int i = 0; i < b->n_held_out; i++)
        compose_plain_caption(corpus_source_corpus(s), which[i], &(*captions)[i]);
    b->held_out = *latents;
    b->held_out_caption = *captions;
out:
    mem_free(rgb);
    mem_free(which);
    return st;
}

static status stage_denoiser(const options *o, bool text) {
    status st = OK;
    const compose_params *compose = NULL;
    corpus_source *s = NULL;
    pool *pl = NULL;
    vae_opened vae = {0};
    float *latents = NULL;
    caption *captions = NULL;
    char prompt[THINGS * STYLES][96];
    const char *prompts[THINGS * STYLES];
    train_params p = run_of(o, text ? 8000 : 60000, text ? 1e-3 : 4e-4);
    if (!o->vae || !o->words || !o->pool)
        TRY(fail(E_USAGE, "stages text and base need --vae, --words and --pool"));
    TRY(compose_of(o, &compose));
    TRY(vae_opened_open(o->dev, o->type, o->vae, &vae));
    int c = vae.config.latent_channels;
    train_base_params b = {.unet = unet_of(c),
                           .text = text_base,
                           .schedule = schedule_base,
                           .from = o->from,
                           .text_from = o->text,
                           .h = COMPOSE_SIDE / 8,
                           .w = COMPOSE_SIDE / 8,
                           .tokenizer = o->words,
                           .shift = (double)o->shift,
                           .shift_late = (double)o->shift_late,
                           /* one that knows its words only has to follow */
                           .text_lr = o->text ? 0.25 : 1,
                           .n_held_out = text ? 512 : 64,
                           .n_prompts = THINGS * STYLES,
                           .columns = THINGS,
                           .sheet_steps = 20,
                           .guidance = 4,
                           .vae = &vae,
                           .side = COMPOSE_SIDE};
    p.adam.weight_decay = 1e-2f;
    TRY(corpus_source_open(o->data, compose, (uint32_t)o->seed, composers(o), &s));
    TRY(pool_open(o->pool, corpus_source_corpus(s), &pl));
    if (pl->h != b.h || pl->w != b.w || pl->channels != c)
        TRY(fail(E_USAGE, "%s holds latents of %dx%d and %d channels, %s makes %dx%d and %d",
                 o->pool, pl->w, pl->h, pl->channels, o->vae, b.w, b.h, c));
    if (pl->seed != (uint32_t)o->seed)
        TRY(fail(E_USAGE, "%s was composed with seed %u, not %d", o->pool, pl->seed, o->seed));
    pool_source from = {pl, s, (uint32_t)o->seed};
    b.latents = pool_source_latents(&from);
    TRY(measure_with(s, &vae, &b, &latents, &captions));
    for (int i = 0; i < b.n_prompts; i++) {
        snprintf(prompt[i], sizeof prompt[i], "%s%s", sheet_styles[i / THINGS],
                 sheet_things[i % THINGS]);
        prompts[i] = prompt[i];
    }
    b.prompt = prompts;
    TRY((text ? train_text : train_base)(o->dev, o->type, &p, &b));
out:
    mem_free(latents);
    mem_free(captions);
    pool_close(pl);
    vae_opened_close(&vae);
    corpus_source_close(s);
    return st;
}

static status stage_text(const options *o) { return stage_denoiser(o, true); }
static status stage_base(const options *o) { return stage_denoiser(o, false); }

static status precision_of(const char *name, const device *d, dtype *out) {
    *out = DT_COUNT;
    for (int t = DT_F32; t <= DT_BF16; t++)
        if (strcmp(name, dtype_name((dtype)t)) == 0) *out = (dtype)t;
    if (strcmp(name, "auto") == 0) *out = device_auto_precision(d);
    return *out == DT_COUNT ? fail(E_USAGE, "--precision %s: expected auto, f32, f16 or bf16", name)
                            : OK;
}

static status train(options *o) {
    static const struct {
        const char *name;
        status (*run)(const options *);
    } stages[] = {
        {"vae", stage_vae}, {"words", stage_words}, {"pool", stage_pool}, {"text", stage_text}, {"base", stage_base}};
    status st = OK;
    char cache[512];
    int stage = -1;
    if (!o->stage || !o->data || !o->out)
        return fail(E_USAGE, "train needs --stage, --data and --out; see imago train --help");
    for (int i = 0; i < (int)ARRAY_LEN(stages); i++)
        if (strcmp(o->stage, stages[i].name) == 0) stage = i;
    if (stage < 0) return fail(E_USAGE, "--stage %s: expected vae, words, pool, text or base", o->stage);
    if (!(o->shift > 0 && o->shift <= 100 && o->shift_late > 0 && o->shift_late <= 100))
        return fail(E_USAGE, "--shift %g, --shift-late %g: expected above 0, at most 100", (double)o->shift, (double)o->shift_late);
    if (o->steps < 0 || o->batch < 1 || o->accumulate < 1 || o->log_every < 1)
        return fail(E_USAGE, "--steps, --batch, --accumulate and --log-every must be positive");
    TRY(device_open(&op_all,
                    &(device_params){.name = o->device,
                                     .cache_dir = cli_cache_dir(cache),
                                     .threads = o->threads},
                    &o->dev));
    TRY(precision_of(o->precision, o->dev, &o->type));
    TRY(stages[stage].run(o));
out:
    device_close(o->dev);
    return st;
}

int cmd_train(int argc, char **argv) {
    static const command self = {"train",
                                 "Trains the networks of the bundled model from scratch. The same "
                                 "command goes on where a run was stopped.",
                                 NULL};
    options o = {.device = "auto",
                 .precision = "auto",
                 .compose = "single",
                 .batch = 16,
                 .accumulate = 1,
                 .channels = 12,
                 .count = 60000,
                 .log_every = 20,
                 .shift = 1.5f,
                 .shift_late = 1,
                 .save_minutes = 5,
                 .sheet_minutes = 15};
    bool help = false;
    const option table[] = {
        {"stage", OPT_STRING, &o.stage,
         "vae: the autoencoder; words: the vocabulary; pool: latents; text: the text encoder alone; base: text encoder and UNet",
         NULL},
        {"data", OPT_STRING, &o.data, "the corpus: a folder that examples/corpus makes", NULL},
        {"out", OPT_STRING, &o.out, "vae, text, base: folder of the run; words: folder; pool: file", "o"},
        {"from", OPT_STRING, &o.from,
         "folder of a model to begin with instead of random weights: vae, text, base", NULL},
        {"text", OPT_STRING, &o.text, "folder that stage text made: base", NULL},
        {"vae", OPT_STRING, &o.vae, "folder that holds vae/: pool, text, base", NULL},
        {"words", OPT_STRING, &o.words, "folder that stage words made: text, base", NULL},
        {"pool", OPT_STRING, &o.pool, "file that stage pool made: text, base", NULL},
        {"compose", OPT_STRING, &o.compose,
         "what is composed: single (one thing on white and flat colours) or all: pool, text, "
         "base (single)",
         NULL},
        {"count", OPT_INT, &o.count, "pictures in the pool (60000)", NULL},
        {"first", OPT_INT, &o.first, "first picture of the pool: another one for a fresh pool (0)",
         NULL},
        {"steps", OPT_INT, &o.steps,
         "how many in all (vae: 32000, text: 8000, base: 60000); the last 30 % at a falling rate", NULL},
        {"batch", OPT_INT, &o.batch, "pictures at once (16)", NULL},
        {"accumulate", OPT_INT, &o.accumulate, "batches a step (1)", NULL},
        {"lr", OPT_FLOAT, &o.lr, "learning rate (vae, text: 0.001, base: 0.0004)", NULL},
        {"shift", OPT_FLOAT, &o.shift,
         "base: of the timesteps towards noise, 1 = even; what a picture shows is decided there (1.5)", NULL},
        {"shift-late", OPT_FLOAT, &o.shift_late, "base: the same in the last third of the steps (1)", NULL},
        {"channels", OPT_INT, &o.channels, "of the autoencoder's latents (12)", NULL},
        {"decoder-only", OPT_FLAG, &o.decoder, "vae: train the decoder alone, for squared error; latents stay what they are", NULL},
        {"judge", OPT_STRING, &o.judge,
         "SqueezeNet's weights: adds its features to the autoencoder's loss", NULL},
        {"seed", OPT_INT, &o.seed, "of weights, pictures and noise (0)", NULL},
        {"device", OPT_STRING, &o.device, "auto, cpu, vulkan or vulkan:N", NULL},
        {"precision", OPT_STRING, &o.precision,
         "auto, f32, f16 or bf16; weights are kept in f32 beside it", NULL},
        {"threads", OPT_INT, &o.threads, "on cpu (all cores)", NULL},
        {"checkpointing", OPT_FLAG, &o.checkpointing,
         "recompute activations in the backward pass: less memory", NULL},
        {"log-every", OPT_INT, &o.log_every, "steps between lines of train.log (20)", NULL},
        {"save-minutes", OPT_FLOAT, &o.save_minutes, "between saved states (5)", NULL},
        {"sheet-minutes", OPT_FLOAT, &o.sheet_minutes,
         "between sheets, each with the model as it is (15)", NULL}};
    status st = cli_parse(&self, argc, argv, table, ARRAY_LEN(table), NULL, &help);
    if (st == OK && !help) st = train(&o);
    return st == OK ? 0 : cli_fail(st);
}
