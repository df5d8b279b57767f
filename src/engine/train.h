/* train.h: training from scratch: the loop that every stage shares, and the two stages of the bundled model. A run lives
 * in a folder: state.safetensors (to go on), train.log, curve.png, sheet-STEP.png, and the model as far as it is.
 * The same call goes on where the folder's state left off.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "train/train.h"
#include "train/vae_loss.h"
#include "family/checkpoint.h"
#include "train/compose.h"
#include "train/record.h"

#define TRAIN_MAX_SHOWN 8

typedef struct train_params {              /* of a run, whatever it trains */
    const char *folder;
    int batch, accumulate;                 /* samples at once; how often before the weights change */
    uint32_t seed;
    lr_schedule lr; optimizer_params adam; /* adam.lr and adam.loss_scale are set by the loop */
    int64_t log_every;                     /* steps */
    double save_minutes, sheet_minutes;    /* 0 = only at the end */
    int64_t sheet_every;                   /* steps, beside sheet_minutes; 0 = not by steps */
    int64_t probe_every, keep_every;       /* steps between calls of the stage's probe and keep; 0 = never */
    bool anew, repeat;                     /* an old state is not read; nor one that has done all its steps */
    bool checkpointing;
    bool (*cancelled)(void *ctx); void *ctx; /* asked within steps too; the run is saved, then E_CANCELLED */
} train_params;

/* What a stage gives the loop. The plan has an input "scale" f32 [1] (loss scale over accumulate) and its loss is show[0]. */
typedef struct train_stage {
    const char *what;                      /* "vae": name of the progress bar */
    dtype type; plan *step;
    params *part[OPTIMIZER_MAX_PARTS]; const char *part_name[OPTIMIZER_MAX_PARTS]; int n_parts;
    const char *show[TRAIN_MAX_SHOWN]; int n_show; /* outputs [1] f32 of the plan that are logged */
    /* Writes all other inputs for samples [first, first + batch) of optimiser step `step`. */
    status (*feed)(void *ctx, int64_t step, uint64_t first);
    status (*after)(void *ctx);            /* after every update of the weights; NULL = nothing to do */
    /* Both see the averaged weights. sheet writes a PNG to path and may add values to the log. */
    status (*sheet)(void *ctx, const char *path, record_value *v, int *n);
    status (*save)(void *ctx, const char *folder);
    plan  *(*which)(void *ctx, uint64_t first); /* the plan for the samples from `first` on; NULL = always step */
    status (*keep)(void *ctx, int64_t step); /* averaged weights: what stays beside later saves */
    status (*probe)(void *ctx, int64_t step, record_value *v, int *n); /* the weights as they are; values for the log; also before step 1 */
    void *ctx;
} train_stage;
/* errors  E_CANCELLED after saving; E_FORMAT when the loss is no longer finite: the state saved last stays; those of files, devices and the stage's own */
status train_run(const train_params *p, const train_stage *s);

/* ---- train_settings.c ---- */
/* Writes `wanted`, at most `most` bytes as text, to config.json of run->folder. Where a state is and was begun with others: E_USAGE,
 * which names `what` they are ("settings"), or with overwrite run->anew. */
status train_settle(train_params *run, const json *wanted, size_t most, const char *what, bool overwrite);

/* ---- train_vae.c: pictures -> autoencoder ---- */
/* next fills rgb [n, side, side, 3] with samples first ... first + n - 1 of an endless stream that depends on nothing else. */
typedef struct picture_source { status (*next)(void *ctx, uint64_t first, int n, uint8_t *rgb); void *ctx; } picture_source;
typedef struct train_vae_params {
    vae_config vae; vae_loss_params loss;
    const char *from;                      /* folder whose weights to begin with; NULL = random ones */
    const char *judge;                     /* SqueezeNet's file; NULL = no features term */
    bool decoder_only;                     /* the encoder stays as it is, and with it every latent made so far */
    double jitter;                         /* standard deviation of the noise on the latents in the last third */
    int side;                              /* px */
    picture_source pictures;
    const uint8_t *held_out; int n_held_out; /* [n, side, side, 3]: measured at every sheet, never trained on */
    const int *held_out_group; int n_groups; const char *const *group_name; /* PSNR is logged per group too (styles) */
} train_vae_params;
status train_vae(device *dev, dtype type, const train_params *p, const train_vae_params *v);

/* ---- train_data.c: the corpus as sources ---- */
typedef struct corpus_source corpus_source;
/* A stream of composed pictures.
 *   errors  those of corpus_open and composer_create     owner  caller: corpus_source_close (accepts NULL) */
status corpus_source_open(const char *folder, const compose_params *compose, uint32_t seed, int threads, corpus_source **out);
void   corpus_source_close(corpus_source *s);
picture_source corpus_source_pictures(corpus_source *s);
const corpus *corpus_source_corpus(const corpus_source *s);
/* n of the held-out pictures, spread over all of them (pairs: only those whose thing is trained in other styles; no Symbols, which denoisers do not train), on white:
 * rgb [n, 128, 128, 3] and which picture each is [n], mem_alloc'ed. *n becomes less where there are fewer. */
status corpus_source_held_out(const corpus_source *s, bool pairs, int *n, uint8_t **rgb, int **picture);
/* The next n samples of the stream with what they show; caption of a sample. */
status corpus_source_next(corpus_source *s, uint64_t first, int n, uint8_t *rgb, compose_info *info);
const composer *corpus_source_composer(const corpus_source *s);

/* ---- train_pool.c ---- */
/* An autoencoder on a device, from a folder that holds vae/. Both ways in batches; latents [n, h, w, C] f32, as StableDiffusionPipeline
 * would scale them (scaling_factor 1). */
typedef struct vae_opened { vae_config config; params ps; plan *encode, *decode; } vae_opened;
status vae_opened_open(device *dev, dtype type, const char *folder, vae_opened *v);
void   vae_opened_close(vae_opened *v);
status vae_opened_encode(vae_opened *v, int side, int n, const uint8_t *rgb, float *z);
status vae_opened_decode(vae_opened *v, int side, int n, const float *z, uint8_t *rgb);
/* Samples [first, first + n) of s, whose seed is `seed`, as latents to path (pool.h). */
status train_make_pool(device *dev, dtype type, const char *vae_folder, corpus_source *s, uint32_t seed, uint64_t first, int64_t n, const char *path,
                       bool (*cancelled)(void *), void *ctx);

/* ---- train_base.c: latents and captions -> text encoder and UNet ---- */
/* next fills latents [n, h, w, C] f32 and captions [n] for training samples first ... first + n - 1; it depends on nothing else. */
typedef struct latent_source { status (*next)(void *ctx, uint64_t first, int n, float *latents, caption *captions); void *ctx; } latent_source;
typedef struct train_base_params {
    unet_config unet; text_config text; schedule_config schedule;
    const char *from;                      /* folder whose weights to begin with; NULL = random ones */
    const char *text_from;                 /* another one for the text encoder; NULL = from */
    int h, w;                              /* latent cells */
    const char *tokenizer;                 /* its folder; copied into the model */
    double shift, shift_late;              /* of the timesteps (noising.h); late: the last third */
    double text_lr;                        /* factor on the text encoder's learning rate */
    latent_source latents;
    /* held out: latents [n, h, w, C] with captions, measured at every sheet: error of the predicted x0 with and without caption */
    const float *held_out; const caption *held_out_caption; int n_held_out;
    /* sheet: pictures of these prompts from fixed noise, decoded by the autoencoder */
    const char *const *prompt; int n_prompts, columns, sheet_steps; double guidance; vae_opened *vae; int side;
} train_base_params;
status train_base(device *dev, dtype type, const train_params *p, const train_base_params *b);

/* ---- train_text.c: captions and latents -> a text encoder for train_base to begin with ---- */
/* Of b: unet.in_channels, text, from, h, w, tokenizer, latents, held_out, vae, side. */
status train_text(device *dev, dtype type, const train_params *p, const train_base_params *b);

/* ---- train_words.c ---- */
/* A vocabulary of at most `size` ids for prompts of `length` ids, from the captions of s and of every picture, written to folder. */
status train_make_words(corpus_source *s, int size, int length, const char *folder, int *learned);
/* ---- train_data.c ---- */
/* A pool as a source. p and s (the source the pool was made of: it knows the captions) must stay open longer. */
struct pool;
typedef struct pool_source { const struct pool *p; const corpus_source *s; uint32_t seed; } pool_source;
latent_source pool_source_latents(pool_source *p);
