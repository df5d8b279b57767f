/* personalize.h: a model learns a subject from a few pictures: an adapter on the attention projections of its UNet, and
 * where asked for of its text encoder, and vectors of a new word. A run lives in a folder (train.h).
 * SPDX-License-Identifier: MIT */
#pragma once
#include "adapter/adapter_write.h"
#include "engine/engine.h"
#include "engine/train.h"

/* ---- personalize_data.c ---- */
typedef struct instance { const char *name, *path, *mask; int text; } instance; /* mask: path or NULL; text: which caption */
typedef struct instance_set {
    instance *it; int n;
    const char **text; int n_texts;        /* each caption once, and room for one more */
    arena mem;
} instance_set;
/* The pictures of a folder (.png, .jpg, .jpeg, .webp), by name; NAME.txt holds the caption of NAME.png, the others get `prompt`;
 * NAME.mask.png says where to look.
 *   errors  E_IO; E_FORMAT: no pictures; files that are neither; an empty caption, one without a picture, or such a mask */
status instances_open(const char *folder, const char *prompt, instance_set *out);
void   instances_close(instance_set *s);
status instances_add_text(instance_set *s, const char *text, int *which);
status instance_size(const instance *i, int *w, int *h);
/* The centre of a picture as rgb [h, w, 3] in [-1, 1]; transparency on white. */
status instance_load(const instance *i, int w, int h, bool flip, float *px);
/* Its mask of the same centre, [h, w] in 0 ... 1 (w and h of latent cells); 1 where there is none.
 *   errors  E_SHAPE: not of the picture's size; E_FORMAT: nothing but black */
status instance_load_mask(const instance *i, int w, int h, bool flip, float *m);
/* The picture of a sample: every run of n samples shows each of n pictures once, in an order of its own. */
int    instance_of(uint32_t seed, uint64_t sample, int n);

/* ---- personalize.c ---- */
/* The files of adapter_write.h, and the whole model with the adapter in its weights. */
typedef enum personalize_format {
    OUT_KOHYA, OUT_PEFT, OUT_DIFFUSERS, OUT_DIFF, OUT_SVD_LORA, OUT_MERGED, OUT_FORMAT_COUNT
} personalize_format;
extern const char *const personalize_format_names[OUT_FORMAT_COUNT]; /* "kohya", ... */

#define PERSONALIZE_MAX_SAMPLES 32

typedef struct personalize_params {
    imago_open_params open;
    const char *pictures, *token, *class_word; /* class_word may be "" */
    const char *instance_prompt, *class_prompt; /* NULL: "a photo of TOKEN CLASS", "a photo of CLASS" */
    const char *adapter; adapter_options options; /* "none": only the word is learned */
    const char *out; bool overwrite;       /* .safetensors, or a folder: peft, merged */
    personalize_format format; int svd_rank; dtype save_type;
    int side; bool buckets;                /* px; 0 = the model's own. buckets: pictures keep about their shape */
    bool flip;                             /* half of the samples are mirrored */
    double snr_gamma;                      /* weights min(SNR, gamma) / SNR (Hang et al. 2023); 0 = none */
    double noise_offset;                   /* deviation of noise that is one number a channel (Guttenberg 2023); 0 = none */
    int class_images; double prior_weight; /* prior preservation (Ruiz et al. 2023); 0 pictures = none */
    bool train_text; double text_lr;       /* the adapter on the text encoder too; 0 = half the rate */
    int vectors; const char *init_word; double embedding_lr; /* token is a new word of so many vectors, 0 = none; they begin as those of init_word */
    const char *sample[PERSONALIZE_MAX_SAMPLES]; int n_samples; /* prompts of the sheets; none: three of the subject */
    train_params run;                      /* run.folder NULL: beside out, as OUT.run */
} personalize_params;
/* errors  E_USAGE: wrong wishes, an output that is there already, a run begun with other settings; those of train_run */
status personalize(const personalize_params *p);
