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
    bool checkpointing;
    bool (*cancelled)(void *ctx); void *ctx; /* asked within steps too; the run is saved, then E_CANCELLED */
} train_params;

/* What a stage gives the loop. The plan has an input "scale" f32 [1] (loss scale over accumulate) and its loss is show[0]. */
typedef struct train_stage {
    const char *what;                      /* "vae": name of the progress bar */
    device *dev; dtype type; plan *step;
    params *part[OPTIMIZER_MAX_PARTS]; const char *part_name[OPTIMIZER_MAX_PARTS]; int n_parts;
    const char *show[TRAIN_MAX_SHOWN]; int n_show; /* outputs [1] f32 of the plan that are logged */
    /* Writes all other inputs for samples [first, first + batch) of optimiser step `step`. */
    status (*feed)(void *ctx, int64_t step, uint64_t first);
    /* Both see the averaged weights. sheet writes a PNG to path and may add values to the log. */
    status (*sheet)(void *ctx, const char *path, record_value *v, int *n);
    status (*save)(void *ctx, const char *folder);
    void *ctx;
} train_stage;
/* errors  E_CANCELLED after saving; those of files, devices and the stage's own */
status train_run(const train_params *p, const train_stage *s);

/* ---- train_vae.c: pictures -> autoencoder ---- */
/* next fills rgb [n, side, side, 3] with samples first ... first + n - 1 of an endless stream that depends on nothing else. */
typedef struct picture_source { status (*next)(void *ctx, uint64_t first, int n, uint8_t *rgb); void *ctx; } picture_source;
typedef struct train_vae_params {
    vae_config vae; vae_loss_params loss;
    const char *judge;                     /* SqueezeNet's file; NULL = no features term */
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
status corpus_source_open(const char *folder, const compose_params *compose, uint32_t seed, corpus_source **out);
void   corpus_source_close(corpus_source *s);
picture_source corpus_source_pictures(corpus_source *s);
const corpus *corpus_source_corpus(const corpus_source *s);
/* n of the held-out pictures, spread over all of them, on white: rgb [n, 128, 128, 3] and style [n], mem_alloc'ed. *n becomes less
 * where there are fewer. */
status corpus_source_held_out(const corpus_source *s, int *n, uint8_t **rgb, int **style);
