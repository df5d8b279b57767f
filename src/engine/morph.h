/* morph.h: inside engine/: the pieces of a morph, apart, so that each can be tested by itself.
 *   morph.c        pictures in, frames out: the straight line, and the methods freemorph and slerp
 *   morph_imago.c  the method imago                 morph_step.c  one network call of all frames
 *   morph_math.c   interpolation, blend weights, injection of noise, levels: host mathematics in double
 * Letters of the modes: FreeMorph (Cao et al. 2025) as its code was released, which differs from the paper.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "engine/engine.h"
#include "eval/eval.h"

/* What frame j's queries look at, in self- and cross-attention alike (c_j = morph_blend, 0 and L the first and last frame):
 *   PLAIN  its own keys
 *   MEAN   its own; then every frame gets the mean over all frames
 *   ENDS   half of the first frame's keys, half of the last one's
 *   BLEND  (1 - c_j) first, c_j last                 ends: plain
 *   FUSED  (1 - c_j) own + first, c_j own + last     ends: plain, for a key set named twice changes nothing */
typedef enum morph_mode { MORPH_PLAIN, MORPH_MEAN, MORPH_ENDS, MORPH_BLEND, MORPH_FUSED, MORPH_MODE_COUNT } morph_mode;
typedef enum morph_part { MORPH_ALL, MORPH_OUTER, MORPH_INNER } morph_part; /* the frames that move: all, the two ends, all but these */

/* Step i of inversion, of `steps` in the whole schedule; step i of n that denoise. */
morph_mode morph_mode_up(int i, int steps);
morph_mode morph_mode_down(int i, int n);

/* What is recorded. up: the step starts from im->lat.kept[0], else from x itself. lean: guidance reaches all but the ends.
 *   modes but PLAIN, and lean, need all frames; MEAN no guidance */
typedef struct morph_shape { morph_mode mode; morph_part part; bool up, lean; } morph_shape;
/* next x = x from + y network(now, t) */
typedef struct morph_update { double t, x, y; } morph_update;
morph_update morph_update_of(const imago *im, const sampler_call *call);
/* guidance 1: no unconditional rows.   frame_guidance [frames], NULL: guidance for all
 * share [frames]: how much of the last picture a frame has, 0 ... 1; NULL: evenly */
typedef struct morph_dials { float guidance; const double *frame_guidance, *share; } morph_dials;
/* One network call and the update after it, on im->lat.x [frames, h, w, C]; im->lat has keys of 1 + frames texts, the
 * first one unconditional. */
status morph_step(imago *im, const morph_shape *s, const morph_update *u, const morph_dials *d);
/* Makes that call's plan beforehand: what does not fit is refused before hours are spent. */
status morph_compile(imago *im, const morph_shape *s, bool guided, plan **out);
/* Does the call change nothing? So it is at the clean end, whose level lies at t = 0 already. */
bool   morph_idle(const sampler_call *call);
int    morph_rows(int frames, morph_part who); /* frames that move */

/* ---- morph_math.c: latents [h, w, C] ---- */
/* Along each latent row, per channel: vectors of length w, one angle each. share 0 gives a, 1 gives b. */
void   morph_slerp(const float *a, const float *b, double share, int h, int w, int c, float *out);
/* Quantile at `share` of the Beta(20, 20) distribution; 0 and 1 stay. */
double morph_blend(double share);
/* Keeps the low frequencies of x and takes the others from noise; keep = share of the half size along both axes. */
status morph_inject(float *x, const float *noise, double keep, int h, int w, int c);
double morph_keep(int j, int frames);           /* keep of frame j */
/* Cells along an axis of n that are kept on either side of zero frequency. */
int    morph_cut(int n, double keep);
/* n + 1 levels from the cleanest to the time strength * last, at equal angles: every step between neighbours turns the latent as far. */
status morph_ladder(const schedule_config *c, int n, double strength, level *at);
/* DDIM from a level to one with less noise, and the step that undoes it where the network says the same in both. */
morph_update morph_down(prediction p, level from, level to);
morph_update morph_up(prediction p, level from, level to);
/* gap [m]: lengths of the ways between frames made at shares `at` [m + 1], 0 ... 1 -> share [n + 1]: where n + 1 frames lie
 * equally far apart, were every way even in itself. Where all lengths are 0: evenly. */
void   morph_even(const double *gap, const double *at, int m, int n, double *share);

/* ---- morph.c: what a method works with ---- */
typedef struct morph_job {
    imago *im; imago_morph_params p; bool slerp, imago;
    int h, w, pairs, total, done;          /* latent size; frames in all, and given out */
    int batch;                             /* frames in im->lat, ends included */
    size_t cells;                          /* elements of one latent */
    schedule_config schedule; sampler_plan up, down; level *ladder;
    noise_gen gen;
    float *x, *noise;                      /* [batch, h, w, C]; what is injected [h, w, C] */
    float *text; int tokens;               /* [3, tokens, width]: of no words, of the first and the last picture */
    image *fitted;                         /* the pictures, at the size of the frames */
    int evaluated, evaluations; double begun; /* of one frame each; when sampling began */
    judge *judge;                          /* NULL: pixels decide */
    imago_picture *out;
} morph_job;
/* Keys of 1 + n texts: none, then each share of the way from the first text to the last. */
status morph_text(morph_job *j, const double *share, int n);
status morph_advance(morph_job *j, const morph_shape *s, const morph_update *u, const morph_dials *d, int rows);
status morph_give(morph_job *j, image *frame); /* takes the pixels */

/* ---- morph_imago.c ---- */
int    morph_imago_batch(int frames);      /* ends included */
int    morph_imago_evaluations(const morph_job *j); /* at most, in a pair */
status morph_imago_compile(morph_job *j);
/* From the latents of pictures a and b, first and last in j->x, to all frames between, given out in order. */
status morph_imago(morph_job *j, int a, int b);
