/* personalize.h: a model learns a subject from a few pictures: an adapter on the attention projections of its UNet.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "adapter/adapter_write.h"
#include "engine/engine.h"
#include "engine/train.h"

/* ---- personalize_data.c ---- */
typedef struct instance { const char *name, *path; int text; } instance; /* text: which caption */
typedef struct instance_set {
    instance *it; int n;
    const char **text; int n_texts;        /* each caption once */
    arena mem;
} instance_set;
/* The pictures of a folder (.png, .jpg, .jpeg, .webp), by name; NAME.txt holds the caption of NAME.png, the others get `prompt`.
 *   errors  E_IO; E_FORMAT: no pictures; files that are neither; an empty caption, or one without a picture */
status instances_open(const char *folder, const char *prompt, instance_set *out);
void   instances_close(instance_set *s);
/* The centre of a picture as rgb [side, side, 3] in [-1, 1]; transparency on white. */
status instance_load(const instance *i, int side, bool flip, float *px);
/* The picture of a sample: every run of n samples shows each of n pictures once, in an order of its own. */
int    instance_of(uint32_t seed, uint64_t sample, int n);

/* ---- personalize.c ---- */
typedef struct personalize_params {
    imago_open_params open;
    const char *pictures, *token, *class_word; /* prompt: "a photo of TOKEN CLASS"; class_word may be "" */
    const char *adapter; adapter_options options;
    const char *out; bool overwrite;       /* kohya's single file */
    int side;                              /* px; 0 = the model's own */
    bool flip;                             /* half of the samples are mirrored */
    double snr_gamma;                      /* weights min(SNR, gamma) / SNR (Hang et al. 2023); 0 = none */
    train_params run;                      /* run.folder NULL: beside out, as OUT.run */
} personalize_params;
/* errors  E_USAGE: wrong wishes, an output that is there already, a run begun with other settings; those of train_run */
status personalize(const personalize_params *p);
