/* train.h: one training step as two plans. step: forward, loss, backward, gradients added to the flats.
 * update: global norm, clip, AdamW and moving average per flat, gradients cleared.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "graph/params.h"
#include "op/op.h"

#define OPTIMIZER_MAX_PARTS 4              /* networks trained together */
#define PRODIGY_PLANS       4

typedef enum optimizer_kind { OPTIMIZER_ADAMW, OPTIMIZER_ADAMW8BIT, OPTIMIZER_PRODIGY, OPTIMIZER_KIND_COUNT } optimizer_kind;
const char *optimizer_name(optimizer_kind k); /* "adamw", "adamw8bit", "prodigy" */

/* Optimiser state beside the flats of its parts. One norm is clipped, over all of them. */
typedef struct optimizer {
    optimizer_kind kind;
    params *part[OPTIMIZER_MAX_PARTS]; int n_parts;
    struct optimizer_flat {                /* f32 each, of the flat's size */
        array *m, *v, *average;            /* m, v: NULL for adamw8bit; average: moving average of the values, NULL unless asked for */
        array *s, *start;                  /* prodigy: its sum of gradients, and the values it began with; else NULL */
    } *flat[OPTIMIZER_MAX_PARTS];
    struct optimizer_own {                 /* adamw8bit: of a parameter by itself: in 8 bits (op_adamw8), or f32 where it is small */
        array *codes, *scale, *m, *v;
    } *own[OPTIMIZER_MAX_PARTS];           /* as many as the part has parameters; NULL for the others */
    array *hyper[OPTIMIZER_MAX_PARTS][GROUP_COUNT]; /* f32 [6]: lr, beta1, beta2, eps, weight_decay, step */
    array *limits;                         /* f32 [2]: max_norm (0 = off), loss_scale */
    array *decay;                          /* f32 [1], of the average */
    array *found_inf;                      /* u32 [1] */
    plan *update; int64_t step;            /* steps done */
    plan *prodigy[PRODIGY_PLANS]; double d, numerator; /* its plans, its estimate of the distance, and what that is made of */
    bool averaging, swapped;
} optimizer;
typedef struct optimizer_params {
    optimizer_kind kind;                   /* as it was created; prodigy: lr is a factor on its own estimate */
    float lr, beta1, beta2, eps, weight_decay, max_norm, loss_scale;
    float lr_factor[OPTIMIZER_MAX_PARTS];  /* of a part's learning rate; 0 = 1 */
    float average_decay;                   /* at most; early steps use (1 + step) / (10 + step), so that the start is forgotten */
} optimizer_params;
#define OPTIMIZER_DEFAULTS .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .weight_decay = 1e-2f, .loss_scale = 1.0f

/* After params_allocate and after the values are set: the average starts from them.
 *   errors  E_USAGE: a part without trainables, too many parts; those of memory */
status optimizer_create(params *const *part, int n_parts, optimizer_kind kind, bool average, optimizer *o);
void   optimizer_destroy(optimizer *o);
/* What optimizer_create takes on the device, of the arrays that grow with the weights. */
uint64_t optimizer_bytes(params *const *part, int n_parts, optimizer_kind kind, bool average);
/* One AdamW step with what the flats' gradients hold, then clears them. *norm (may be NULL) gets the
 * gradient norm before clipping; a non-finite norm skips the step and sets *skipped. */
status optimizer_step(optimizer *o, const optimizer_params *p, float *norm, bool *skipped);
/* Exchanges the values with their averages, for pictures and for the finished model; a second call puts them back. */
status optimizer_swap_average(optimizer *o);

/* Adds the gradients of `loss` towards every trainable of ps[0..n) into their flats. seed: f32 [1], the loss scale. */
void train_backward(graph *g, tensor *loss, tensor *seed, params *const *ps, int n, bool checkpoint);

/* ---- schedule.c ---- */
typedef enum lr_kind { LR_CONSTANT, LR_COSINE, LR_LINEAR_TAIL, LR_KIND_COUNT } lr_kind;
typedef struct lr_schedule {
    lr_kind kind; double lr, lr_end;       /* lr_end: what cosine and tail arrive at with the last step */
    int64_t warmup, steps;                 /* warm-up: linear from lr / warmup; steps in all */
    double tail;                           /* share of `steps` at the end in which LR_LINEAR_TAIL falls, 0..1 */
} lr_schedule;
double lr_at(const lr_schedule *s, int64_t step); /* step counts from 0 */

/* The factor on the loss that keeps f16 gradients from vanishing: halved where they overflow, doubled after a long time
 * without. source: Micikevicius et al. 2018; torch.amp.GradScaler */
typedef struct loss_scaler { float scale; int64_t good; } loss_scaler; /* good: steps since the scale last changed */
void loss_scaler_init(loss_scaler *s, dtype type); /* 1 and fixed unless type is f16 */
void loss_scaler_update(loss_scaler *s, bool skipped);

/* ---- state.c: all that a run must know to go on as if it had never stopped ---- */
typedef struct train_note { const char *key; int64_t value; } train_note;
/* Values, moments and averages of every part by name, and the notes, as one safetensors file, written atomically. */
status train_state_save(const char *path, const optimizer *o, const char *const *part_name, const train_note *note, int n_notes);
/* Reads what train_state_save wrote into the same parts; note[i].value gets what the file says for note[i].key.
 *   errors  E_IO; E_FORMAT: a tensor or note that is missing or of another shape: another network, or not a state file */
status train_state_load(const char *path, optimizer *o, const char *const *part_name, train_note *note, int n_notes);
