/* eval.h: numbers that say how good a morph is. Two distances of pictures, one for eyes and one for
 * bytes; what the distances of neighbouring frames say of a whole sequence; tables of them.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "file/image.h"
#include "graph/graph.h"

/* ---- gaps.c: a sequence by the distances d_1 ... d_n of neighbouring frames ---- */
typedef struct gap_measures {
    double path;        /* sum of d */
    double ppl;         /* sum of d / e^2, e = 1 / (frames - 2), and 1 for two frames: FreeMorph's, whose 7 frames give 25 x path.
                           On other features than its LPIPS, so the numbers cannot be compared with printed ones */
    double largest;     /* largest d / mean d: 1 = even */
    double gini;        /* 0 = even ... 1 - 1/n = all in one gap; sum_ij |d_i - d_j| / (2 n^2 mean) */
    double first, last; /* d_1 / mean d and d_n / mean d: the steps away from the two pictures */
} gap_measures;
/* n >= 1, every d >= 0. Where nothing moves (all d = 0) a sequence is even: 1, 0, 1, 1. */
gap_measures gaps_measure(const double *gap, int n);

/* ---- judge.c ---- */
/* Root of the mean squared difference of two RGB pictures of one size, 0 ... 1. */
double pixel_distance(const image *a, const image *b);

/* Feature distance: mean over the nine taps of SqueezeNet v1.0 (conv1, fire2 ... fire9, after relu) of the mean over
 * positions of |u - v|^2, where u and v are the two pictures' channel vectors there, each of length 1 (a silent one stays 0).
 * 0 = alike ... 2. LPIPS with equal weights in place of learned ones ("cosine distance" there), on another SqueezeNet: not
 * comparable with LPIPS. A squared distance like LPIPS, so the path through more frames is shorter: compare sequences of as
 * many frames only. source  Zhang et al. 2018 (section 3) */
#define JUDGE_MIN_SIDE 31 /* px: below it the last pooling has nothing to pool */
typedef struct judge judge;
/* weights: SqueezeNet v1.0 in safetensors.   errors  those of squeezenet_load   owner  caller: judge_close (accepts NULL) */
status judge_open(device *d, const char *weights, judge **out);
void   judge_close(judge *j);
/* RGB pictures of one size, no side below JUDGE_MIN_SIDE.   errors  those of a plan */
status judge_distance(judge *j, const image *a, const image *b, double *d);

/* What a picture shows, wherever in it: means over positions of fire5 ... fire9's features, each tap of length 1 and all of it
 * too. The dot product of two is their likeness, up to 1. Features are never negative, so unlike pictures are not near 0. */
#define JUDGE_EMBED 2048
status judge_embed(judge *j, const image *im, float v[JUDGE_EMBED]);

/* ---- features.c: pictures as vectors, to find the nearest among many ---- */
/* Per tap (as above) and cell of a 4 x 4 grid laid over it: the channels' sums over the cell, of length 1. */
#define EXTRACTOR_FLOATS (16 * (96 + 128 + 128 + 256 + 256 + 384 + 384 + 512 + 512))
typedef struct extractor extractor;
/* For pictures of side x side px, `batch` of which are looked at in one run.   errors  those of squeezenet_load; E_UNSUPPORTED: side below JUDGE_MIN_SIDE
 *   owner  caller: extractor_close (accepts NULL) */
status extractor_open(device *d, const char *weights, int side, int batch, extractor **out);
void   extractor_close(extractor *e);
/* rgb [n, side, side, 3] -> out [n, EXTRACTOR_FLOATS] */
status extractor_read(extractor *e, int n, const uint8_t *rgb, float *out);
/* Mean over taps and cells of the squared distance of their vectors: 0 = alike ... 2. */
double features_distance(const float *a, const float *b);

/* ---- nearest.c: how far a picture is from the nearest of many ---- */
/* n pictures; picture fills the side x side RGB pixels of number i. */
typedef struct gallery_source { int n, side; status (*picture)(void *ctx, int i, uint8_t *rgb); void *ctx; } gallery_source;
typedef struct gallery gallery;
/* Looks at all pictures with judge_embed, or reads what an earlier call with the same key kept in the file `cache` (NULL: nothing is
 * kept; one that cannot be used is replaced, one that cannot be written is no failure). j is used until gallery_close.
 *   errors  those of judge_embed and of picture     owner  caller: gallery_close (accepts NULL) */
status gallery_open(judge *j, const gallery_source *s, const char *cache, const char *key, gallery **out);
void   gallery_close(gallery *g);
/* 1 - likeness to the nearest (judge_embed), 0 = it is one of them; pictures of another size are padded with white first. */
status gallery_nearest(gallery *g, const image *im, double *distance, int *which);
/* From now on those of the gallery that these two are (nearer than 0.01) are passed over, and no others: frames of a morph are to be
 * like pictures, not like the two that were given. */
status gallery_pass_over(gallery *g, const image *a, const image *b);

/* ---- morph.c ---- */
typedef enum eval_kind { BY_FEATURES, BY_PIXELS, EVAL_KINDS } eval_kind;
typedef struct sequence_measures {
    double *gap;                 /* [frames - 1] */
    gap_measures of;
    double to_first, to_last;    /* from the first picture to the first frame, from the last to the last; NAN = not given */
} sequence_measures;
/* Of single frames, how natural they are: a model's loss (see engine/), and the distance to the nearest of many real pictures.
 * Lower is better; means over the frames between, and over the first and the last. NAN = not measured, or nothing between. */
typedef enum eval_score { BY_LOSS, BY_NEAREST, EVAL_SCORES } eval_score;
typedef struct score_measures { double between, ends; } score_measures;
typedef struct frame_score {
    status (*of)(void *ctx, const image *frame, double *score);             /* NULL: not asked for */
    status (*begin)(void *ctx, const image *first, const image *last);      /* of a morph, before its frames; NULL: need not know */
    void *ctx;
} frame_score;
typedef struct morph_measures { const char *dir; int frames, w, h; sequence_measures by[EVAL_KINDS]; score_measures score[EVAL_SCORES]; } morph_measures;
typedef struct morph_inputs { const char *first, *last; image_fit fit; } morph_inputs; /* paths, NULL = not given; fitted to the frames as imago morph does */
/* DIR/frame-0001.png and on, as `imago morph` writes them; transparent ones on white. Gaps live in `a`.
 *   errors  E_FORMAT: fewer than two frames, a missing number, frames of different sizes, a file that is no picture;
 *           E_UNSUPPORTED: a side below JUDGE_MIN_SIDE; E_IO: no such folder; E_CANCELLED; those of judge_distance and scores
 * score [EVAL_SCORES], or NULL */
status morph_measure(judge *j, const char *dir, const morph_inputs *in, const frame_score *score, arena *a, morph_measures *out);

/* ---- report.c ---- */
/* Mean of the losses' ratio, between over ends: 1 = as natural as the pictures; NAN where any is. */
double naturalness_mean(const morph_measures *m, int n);
score_measures scores_mean(const morph_measures *m, int n, eval_score k); /* NAN where any is */
/* Mean of each measure over n sequences; to_first and to_last are NAN where any is. gap = NULL. */
sequence_measures sequences_mean(const morph_measures *m, int n, eval_kind k);
status morphs_json(const morph_measures *m, int n, char **text); /* mem_alloc'ed */
/* A panel per sequence in their order: a bar per feature gap, all in units of the sequence's mean gap, which is the line. */
status morphs_chart(const morph_measures *m, int n, image *out);

/* ---- adapter.c: what an adapter file does to the layers of a model ---- */
typedef struct layer_measures {
    const char *part, *layer, *kind;
    double change;               /* |W' - W| / |W| */
    double norm;                 /* largest | |w'| / |w| - 1 | of a neuron (a row of the weight) */
    double cosine;               /* largest change of the cosine of two neurons; of at most 512 of them, as energy */
    double energy, energy_change; /* hyperspherical energy: mean of 1 / |u - v| over pairs of neurons' directions; its relative change */
    double orthogonality, degrees; /* rotations of the input: max |R R^T - I|, and the largest angle a coordinate turns by; else NAN */
} layer_measures;
typedef struct adapter_measures { layer_measures *layer; int n; char described[700]; arena mem; } adapter_measures;
/* errors  those of checkpoint_open and adapter_file_open      owner  caller: adapter_measures_fini */
status adapter_measure(const char *model, const char *adapter, adapter_measures *out);
void   adapter_measures_fini(adapter_measures *m);
