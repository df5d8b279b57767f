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
/* One picture as a vector: the squared distance of two is their feature distance. *out: n values, mem_alloc'ed. For one picture among many. */
status judge_features(judge *j, const image *a, float **out, int64_t *n);

/* ---- morph.c ---- */
typedef enum eval_kind { BY_FEATURES, BY_PIXELS, EVAL_KINDS } eval_kind;
typedef struct sequence_measures {
    double *gap;                 /* [frames - 1] */
    gap_measures of;
    double to_first, to_last;    /* from the first picture to the first frame, from the last to the last; NAN = not given */
} sequence_measures;
typedef struct morph_measures { const char *dir; int frames, w, h; sequence_measures by[EVAL_KINDS]; } morph_measures;
typedef struct morph_inputs { const char *first, *last; image_fit fit; } morph_inputs; /* paths, NULL = not given; fitted to the frames as imago morph does */
/* DIR/frame-0001.png and on, as `imago morph` writes them; transparent ones on white. Gaps live in `a`.
 *   errors  E_FORMAT: fewer than two frames, a missing number, frames of different sizes, a file that is no picture;
 *           E_UNSUPPORTED: a side below JUDGE_MIN_SIDE; E_IO: no such folder; E_CANCELLED; those of judge_distance */
status morph_measure(judge *j, const char *dir, const morph_inputs *in, arena *a, morph_measures *out);

/* ---- report.c ---- */
/* Mean of each measure over n sequences; to_first and to_last are NAN where any is. gap = NULL. */
sequence_measures sequences_mean(const morph_measures *m, int n, eval_kind k);
status morphs_json(const morph_measures *m, int n, char **text); /* mem_alloc'ed */
/* A panel per sequence in their order: a bar per feature gap, all in units of the sequence's mean gap, which is the line. */
status morphs_chart(const morph_measures *m, int n, image *out);
