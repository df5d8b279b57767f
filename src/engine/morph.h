/* morph.h: inside engine/: the pieces of a morph, apart, so that each can be tested by itself.
 *   morph.c       pictures in, frames out: the straight line      morph_step.c  one network call of all frames
 *   morph_math.c  interpolation, blend weights, injection of noise: host mathematics in double
 * Method and letters of the modes: FreeMorph (Cao et al. 2025) as its code was released, which differs from the paper.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "engine/engine.h"

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

/* One network call and the update after it, on im->lat.x [frames, h, w, C]; im->lat has keys of 1 + frames texts, the
 * first one unconditional. up: x = update of im->lat.kept[0], the x that the step started from, with the network's word on x.
 * guidance 1: no unconditional half.   modes but PLAIN need all frames, MEAN no guidance */
typedef struct morph_shape { morph_mode mode; morph_part part; bool up; } morph_shape;
status morph_step(imago *im, const morph_shape *s, const sampler_call *call, float guidance);
/* Makes that call's plan beforehand: what does not fit is refused before hours are spent. */
status morph_compile(imago *im, const morph_shape *s, float guidance, plan **out);
/* Does the call change nothing? So it is at the clean end, whose level lies at t = 0 already. */
bool   morph_idle(const sampler_call *call);
int    morph_rows(int frames, morph_part who); /* frames that move */

/* ---- morph_math.c: latents [h, w, C] ---- */
/* Along each latent row, per channel: vectors of length w, one angle each. share 0 gives a, 1 gives b. */
void   morph_slerp(const float *a, const float *b, double share, int h, int w, int c, float *out);
/* Quantile at j/(frames-1) of the Beta(20, 20) distribution. */
double morph_blend(int j, int frames);
/* Keeps the low frequencies of x and takes the others from noise; keep = share of the half size along both axes. */
status morph_inject(float *x, const float *noise, double keep, int h, int w, int c);
double morph_keep(int j, int frames);           /* keep of frame j */
/* Cells along an axis of n that are kept on either side of zero frequency. */
int    morph_cut(int n, double keep);
