/* sampler.h: the mathematics of sampling on the host, in double: noise schedules, which timesteps are visited, and how
 * each sampler weighs what it has. No device, no model. One file per sampler, one row in samplers.def.
 *
 * The latent is kept variance-preserving everywhere: x_t = alpha_t x0 + sigma_t eps, alpha^2 + sigma^2 = 1, so it is the
 * network's input without scaling. A k-diffusion sigma is sigma_t / alpha_t. Levels are (alpha, sigma) pairs, never their
 * ratio: zero terminal SNR (alpha = 0) is a level like others.
 *
 * Every model call turns into one denoised estimate x0 (prediction_to_x0), and every update is a weighted sum of
 *   x (now), x0 (now), kept tensors, fresh noise        -> next x, and which of them are kept.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "base/base.h"

typedef enum prediction { PREDICTION_EPSILON, PREDICTION_V, PREDICTION_SAMPLE, PREDICTION_COUNT } prediction;
typedef enum beta_kind { BETA_LINEAR, BETA_SCALED_LINEAR, BETA_COSINE, BETA_KIND_COUNT } beta_kind; /* squaredcos_cap_v2 */
typedef enum spacing { SPACING_LEADING, SPACING_TRAILING, SPACING_LINSPACE, SPACING_COUNT } spacing; /* diffusers' timestep_spacing */
typedef enum sigma_grid { GRID_MODEL, GRID_KARRAS, GRID_EXPONENTIAL, GRID_COUNT } sigma_grid; /* GRID_MODEL: the spacing above */

/* Field names follow diffusers' scheduler_config.json. */
typedef struct schedule_config {
    int num_train_timesteps; double beta_start, beta_end; beta_kind beta_schedule;
    prediction prediction_type; bool rescale_betas_zero_snr, set_alpha_to_one;
    spacing timestep_spacing; int steps_offset;
} schedule_config;
extern const schedule_config schedule_sd1;         /* what Stable Diffusion 1.x was trained with, DDIM's settings */
status schedule_config_parse(const json *j, schedule_config *c); /* scheduler_config.json; absent fields keep what c has; E_UNSUPPORTED names what we cannot do (flow, trained_betas of another length, ...) */

typedef struct level { double t, alpha, sigma; } level; /* t: the timestep the network is told, may be fractional */

#define SAMPLER_MAX_KEPT 4
/* Weights of one update. Slots: kept[k] as they were before this call. */
typedef struct sampler_mix {
    double x, x0, noise, kept[SAMPLER_MAX_KEPT];   /* next x = sum */
    struct { bool set; double x, x0, kept[SAMPLER_MAX_KEPT]; } keep[SAMPLER_MAX_KEPT]; /* new value of slot k, where set */
} sampler_mix;

/* One model call: the network is evaluated at `at` on the present x, then mix is applied. */
typedef struct sampler_call { level at; sampler_mix mix; int step; bool last_of_step; } sampler_call;
typedef struct sampler_plan { sampler_call *call; int n_calls, n_steps; level start; int n_kept; bool noise; arena mem; } sampler_plan;

typedef struct sampler_params {
    int steps; sigma_grid grid; double eta;        /* eta: DDIM's, and the ancestral samplers' share of fresh noise; <0 = the sampler's default */
    double strength;                               /* img2img: share of the steps that run, 1 = all; as diffusers counts them */
    int spacing;                                   /* -1 = what the sampler's diffusers class is used with for this model (config) */
} sampler_params;

typedef struct sampler_info sampler_info;
const sampler_info *sampler_find(const char *name); /* ours, diffusers' class names and A1111's names ("DPM++ 2M Karras": see sampler_alias); NULL */
const char *sampler_name(const sampler_info *s);    /* "dpmpp_2m" */
const char *sampler_label(const sampler_info *s);   /* A1111's: "DPM++ 2M" */
bool sampler_alias(const char *text, const sampler_info **s, sigma_grid *grid); /* sets grid where the text says Karras or Exponential */
const sampler_info *sampler_at(int i);              /* NULL past the end: for --help */

/* The whole run, expanded per model call. start: the level the initial latent must have (x = alpha x0 + sigma noise). */
status sampler_expand(const sampler_info *s, const schedule_config *c, const sampler_params *p, sampler_plan *out);
void   sampler_plan_fini(sampler_plan *p);
/* x0 = wx * x + wp * network output, at a level. */
void prediction_to_x0(prediction p, level at, double *wx, double *wp);
/* cumulative alphas of the schedule, [num_train_timesteps], double (after zero-SNR rescaling where set) */
status schedule_alphas_cumprod(const schedule_config *c, double *abar);
level schedule_level(const schedule_config *c, const double *abar, double t); /* t may be fractional: log-sigma interpolation as k-diffusion */
