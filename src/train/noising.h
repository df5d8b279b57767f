/* noising.h: which noise a denoiser is trained at: a timestep for every sample, and the levels of the schedule.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "sampler/sampler.h"

/* t[i]: timesteps 0 ... num_train_timesteps - 1 for n samples of one step, spread evenly over the batch (stratified), each
 * uniform before the shift. shift s maps u to s u / (1 + (s - 1) u): above 1 leans to high noise, where these pictures' content is
 * decided. level_x[i] = {alpha, sigma}, level_v[i] = {-sigma, alpha}: weights of (x0, noise) in the network's input and in
 * its target v.   abar: schedule_alphas_cumprod's.     source  Salimans & Ho 2022 (v); Lin et al. 2023 (zero SNR) */
void noising_draw(const schedule_config *c, const double *abar, uint32_t seed, int64_t step, double shift, int n, float *t, float (*level_x)[2], float (*level_v)[2]);
/* One timestep's weights. */
void noising_level(const double *abar, int64_t t, float level_x[2], float level_v[2]);
