/* sampler.h: the mathematics of sampling on the host, in double: noise schedules, which timesteps are visited, and how
 * each sampler weighs what it has. No device, no model. One file per sampler, one row in samplers.def.
 *
 * The latent is kept variance-preserving everywhere: x_t = alpha_t x0 + sigma_t eps, alpha^2 + sigma^2 = 1, so it is the
 * network's input without scaling. A k-diffusion sigma is sigma_t / alpha_t. Levels are (alpha, sigma) pairs, never their
 * ratio: zero terminal SNR (alpha = 0) is a level like others.
 *
 * Every model call turns into one denoised estimate x0 (prediction_to_x0), and every update is a weighted sum of
 *   x (now), x0 (now), kept tensors, fresh noise        -> next x, and which of them are kept.
 * Source: diffusers' schedulers; tests/golden/make_sampler.py says which class defines which sampler.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "base/base.h"

typedef enum prediction { PREDICTION_EPSILON, PREDICTION_V, PREDICTION_SAMPLE, PREDICTION_COUNT } prediction;
typedef enum beta_kind { BETA_LINEAR, BETA_SCALED_LINEAR, BETA_COSINE, BETA_KIND_COUNT } beta_kind; /* squaredcos_cap_v2 */
typedef enum spacing {
    SPACING_DEFAULT = -1,       /* the sampler's own, as its diffusers class: leading for ddim and lcm, else linspace */
    SPACING_LEADING, SPACING_TRAILING, SPACING_LINSPACE, SPACING_COUNT
} spacing;                      /* diffusers' timestep_spacing */
typedef enum sigma_grid { GRID_MODEL, GRID_KARRAS, GRID_EXPONENTIAL, GRID_COUNT } sigma_grid; /* GRID_MODEL: the spacing above */

/* Field names follow diffusers' scheduler_config.json. */
typedef struct schedule_config {
    int num_train_timesteps; double beta_start, beta_end; beta_kind beta_schedule;
    prediction prediction_type; bool rescale_betas_zero_snr, set_alpha_to_one;
    spacing timestep_spacing; int steps_offset;
} schedule_config;
extern const schedule_config schedule_sd1;         /* the scheduler_config.json of Stable Diffusion 1.x, which names no spacing */
/* scheduler_config.json; absent or null fields keep what c has. What belongs to a sampler and not to the model (solver
 * order, use_karras_sigmas, ...) is passed over. c is untouched on failure.
 *   errors  E_FORMAT: a type or range; E_UNSUPPORTED names what we cannot do (flow, trained_betas, clip_sample, ...) */
status schedule_config_parse(const json *j, schedule_config *c);

typedef struct level { double t, alpha, sigma; } level; /* t: the timestep the network is told, may be fractional */

#define SAMPLER_MAX_KEPT 4
/* Weights of one update. Slots: kept[k] as they were before this call. */
typedef struct sampler_mix {
    double x, x0, noise, kept[SAMPLER_MAX_KEPT];   /* next x = sum */
    struct { bool set; double x, x0, kept[SAMPLER_MAX_KEPT]; } keep[SAMPLER_MAX_KEPT]; /* new value of slot k, where set */
} sampler_mix;

/* One model call: the network is evaluated at `at` on the present x, then mix is applied. */
typedef struct sampler_call { level at; sampler_mix mix; int step; bool last_of_step; } sampler_call;

/* start: the level the initial latent must have (image to image: x = alpha x0 + sigma noise). From noise alone x is
 * noise_scale * noise: diffusers' init_noise_sigma, 1 for most samplers and start.sigma for the k-diffusion ones, except
 * with leading spacing.   noise: some mix.noise is not zero.
 * Seeds: draw the initial noise of an image first (the whole latent [C, H, W] in one noise_normal call), then, for every
 * call in order whose mix.noise is not zero, one more of the same size. This is how diffusers' pipelines use up their
 * generator, so a torch CPU generator gives their pictures. Image to image takes one draw of that size before all others,
 * for sampling the encoder's posterior. (diffusers' dpmpp_2m_sde draws in f32 whatever the pipeline's type.) */
typedef struct sampler_plan {
    sampler_call *call; int n_calls, n_steps; level start; double noise_scale; int n_kept; bool noise; arena mem;
} sampler_plan;

typedef struct sampler_params {
    int steps; sigma_grid grid;
    double eta;                                    /* 0..1: DDIM's, and euler_a's share of fresh noise; <0 = the sampler's default */
    double strength;                               /* img2img: share of the steps that run, 1 = all; as diffusers counts them */
    int spacing;                                   /* enum spacing; -1 = the config's, and where that has none the sampler's own */
} sampler_params;

typedef struct sampler_info sampler_info;
/* Any name of a sampler: ours, diffusers' classes, A1111's, ComfyUI's, stable-diffusion.cpp's. Case, blanks, '_' and '-' do not count.
 * NULL = unknown. */
const sampler_info *sampler_find(const char *name);
const char *sampler_name(const sampler_info *s);    /* "dpmpp_2m" */
const char *sampler_label(const sampler_info *s);   /* A1111's: "DPM++ 2M" */
/* The same, and words that follow: "DPM++ 2M Karras", "ddim_trailing". Sets p->grid and p->spacing only where the text says so. */
bool sampler_alias(const char *text, const sampler_info **s, sampler_params *p);
const sampler_info *sampler_at(int i);              /* NULL past the end: for --help */

/* The whole run, expanded per model call.
 *   errors  E_USAGE: steps, strength, eta or spacing that give no run, eta for a sampler that takes none; E_UNSUPPORTED: a grid
 *           this sampler has not, or epsilon prediction at zero SNR; E_HOST_MEMORY. On failure *out is zero. */
status sampler_expand(const sampler_info *s, const schedule_config *c, const sampler_params *p, sampler_plan *out);
/* DDIM run upwards, from a clean latent to noise, times rising; p->strength < 1 runs the lowest share of them. Takes steps,
 * strength and spacing (leading or trailing) from p. The network is told at.t, yet its output is read at the level the step
 * starts from, which is what at.alpha and at.sigma are: a fixed-point iteration evaluates the network on its present guess
 * and applies wx, wp and mix to the x the step started from. The last call leaves x at the level where sampler_expand of
 * ddim with the same config and params starts (with trailing spacing and steps that do not divide the schedule: nearly).
 * FreeMorph: 50 steps, strength 0.8, steps_offset 0, set_alpha_to_one false: t = 0, 20, ..., 780; the first call changes
 * nothing.   source  DDIMInverseScheduler   errors  as sampler_expand */
status sampler_expand_inversion(const schedule_config *c, const sampler_params *p, sampler_plan *out);
void   sampler_plan_fini(sampler_plan *p);
/* x0 = wx * x + wp * network output, at a level. at.alpha > 0 for epsilon. */
void prediction_to_x0(prediction p, level at, double *wx, double *wp);
/* cumulative alphas of the schedule, [num_train_timesteps], double (after zero-SNR rescaling where set) */
status schedule_alphas_cumprod(const schedule_config *c, double *abar);
level schedule_level(const schedule_config *c, const double *abar, double t); /* t may be fractional: log-sigma interpolation as k-diffusion */
