/* train_base.h: what train_base.c, train_text.c and train_sheet.c share.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "engine/train.h"

typedef struct base_job {
    device *dev; dtype type; const train_params *p; const train_base_params *b;
    params unet, text; tokenizer *tok; int tokens;
    plan *step, *ask;                      /* ask: x, t, ids -> v, of the same batch size */
    float *x, *y, *t, (*level_x)[2], (*level_v)[2]; /* one batch; x, y [batch, h, w, C] */
    caption *captions; uint32_t *ids, *sample; double *abar;
    size_t one;                            /* elements of one latent */
} base_job;
void base_init(base_job *j, device *dev, dtype type, const train_params *p, const train_base_params *b);
void base_fini(base_job *j);
status base_prepare(base_job *j);          /* tokenizer, schedule, memory of a batch */
status base_copy_tokenizer(const char *from, const char *folder); /* to folder/tokenizer */
status base_tokenize(base_job *j, const char *text, uint32_t *ids);
/* ---- train_sheet.c ---- */
status base_sheet(void *ctx, const char *path, record_value *v, int *n);
