/* personalize_job.h: one run of personalizing, as its files share it. Pictures of one shape form a bucket with latents and
 * plans of its own; every batch is of one bucket. A batch has rows [0, n) of the subject and, with prior preservation, rows
 * [n, 2n) of its class.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "engine/personalize.h"

#define PERSONALIZE_PROBES 256             /* points that are kept of a run's probes */

typedef struct bucket {
    int w, h;                              /* latent cells */
    int *it, n;                            /* pictures */
    float *z, *mask, *prior;               /* [n][ways][h, w, c]; [n][ways][h, w] or NULL; [class_images][h, w, c] */
    plan *step, *look;                     /* look: forward only */
} bucket;

typedef struct probe_point { int64_t step; double fit, drift; } probe_point;

typedef struct job {
    const personalize_params *p; train_params run; imago *im;
    char folder[1024], file[1100], word_file[1100], prompt[512], class_prompt[512];
    instance_set set; int class_text;      /* class_text: which text; -1 = none */
    int side, c, ways, rows, tokens;       /* side: px */
    bucket *bucket; int n_buckets; int64_t chunks; /* batches of an epoch */
    bool masked, reads;                    /* reads: the text encoder runs in every step */
    float *context; uint32_t *ids;         /* of every text: [tokens, hidden], or ids [tokens] where it reads */
    double *abar;
    adapter_set unet, text; params unet_ps, text_ps, word_ps; /* word_ps: "embedding" [vectors, hidden] */
    plan *project;
    float *x, *y, *m, *t, *weight, (*level_x)[2], (*level_v)[2]; /* one batch of a step's inputs */
    uint32_t *sample, *row_ids, *pick;
    uint8_t *sheet;                        /* [2][SHEET_COLUMNS] pictures: the base's, and those of now */
    probe_point probe[PERSONALIZE_PROBES]; int n_probes; bool advised;
    float *base;                           /* [asked][rows h w c] of bucket 0: the model's answers before training */
    bool last;                             /* the step that runs is the last one */
    arena mem;
} job;

static inline size_t cells_of(const bucket *b) { return (size_t)b->w * (size_t)b->h; }
static inline size_t latent_of(const job *j, const bucket *b) { return cells_of(b) * (size_t)j->c; }
static inline size_t text_of(const job *j) { return (size_t)j->tokens * (size_t)j->im->ck->text.hidden_size; }

/* ---- personalize_feed.c: data -> memory -> batches ---- */
status feed_buckets(job *j);               /* sorts the pictures; before anything else here */
status feed_class_pictures(job *j);        /* drawn with the model as it is, kept in the run's folder */
status feed_encode(job *j);                /* pictures and texts */
status feed_batch_memory(job *j);
/* The bucket of a micro-batch, and row i of the batch: picture `which` (mirrored when way is 1). */
bucket *feed_bucket(const job *j, uint64_t batch, uint64_t *turn);
void   feed_picture(job *j, const bucket *b, int row, int which, int way);
void   feed_text(job *j, int row, int text);
void   feed_target(const job *j, int row, double factor); /* level_v and weight, from t */
status feed_write(job *j, plan *p);
status feed_step(void *ctx, int64_t step, uint64_t first);
plan  *feed_plan(void *ctx, uint64_t first);

/* ---- personalize_step.c: what is trained, and the plans ---- */
status step_attach(job *j);
int    step_parts(job *j, params *trained[3], const char *name[3]); /* what is trained; how many */
status step_project(void *ctx);            /* into the adapter's allowed set */

/* ---- personalize_save.c: what comes out ---- */
bool   save_is_file(const char *path);     /* "….safetensors" */
status save_check(job *j);                 /* names of outputs; E_USAGE where they cannot be */
status save_now(void *ctx, const char *folder); /* adapter.safetensors (and embedding.safetensors) in the run's folder; p->out at the end */
status save_keep(void *ctx, int64_t step); /* the same, as adapter-STEP.safetensors */
status save_base_pictures(job *j);
status save_sheet(void *ctx, const char *path, record_value *v, int *n);

/* ---- personalize_probe.c: has it learned enough? ---- */
status probe_begin(job *j);                /* before the first step of this process: the base's answers, and what the log holds */
status probe_run(void *ctx, int64_t step, record_value *v, int *n);
void   probe_advise(job *j);               /* after the last step */
