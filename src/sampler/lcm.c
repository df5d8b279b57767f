/* lcm.c: latent consistency: each call jumps to x0, then noise is added up to the next level. Times
 * are a subset of the 50 that such models are distilled on; strength shortens those 50, and all
 * steps run. Spacing and steps_offset play no part. Source: LCMScheduler; Luo et al. 2023.
 * SPDX-License-Identifier: MIT */
#include "sampler/sampler_internal.h"

#define TRAINED_STEPS    50 /* original_inference_steps */
#define TIMESTEP_SCALING 10.0
#define SIGMA_DATA       0.5

static status climb(const ladder_ask *a, ladder *l) {
    int gap = a->config->num_train_timesteps / TRAINED_STEPS,
        trained = (int)(TRAINED_STEPS * a->strength);
    status st = ladder_model_grid_only(a);
    if (st != OK) return st;
    if (a->steps > trained || gap < 1)
        return fail(
            E_USAGE,
            "lcm: %d steps at strength %g, at most %d are possible (of %d levels, in %d strides)",
            a->steps, a->strength, gap < 1 ? 0 : trained, a->config->num_train_timesteps,
            TRAINED_STEPS);
    l->n = a->steps;
    l->noise_scale = 1;
    for (int i = 0; i < l->n; i++) {
        int down = (int)((double)i *
                         ((double)trained / a->steps)); /* numpy.linspace without the end, cut */
        int t = (trained - down) * gap - 1;
        l->r[i].at = level_of_abar(t, a->abar[t]);
        if (i) l->r[i - 1].to = l->r[i].at;
    }
    l->r[l->n - 1].to = (level){0, 1, 0};
    return OK;
}

static bool mix(const step_at *at, sampler_mix *m) {
    level from = at->r[at->i].at, to = at->r[at->i].to;
    double scaled = from.t * TIMESTEP_SCALING, sum = scaled * scaled + SIGMA_DATA * SIGMA_DATA;
    m->x = to.alpha * SIGMA_DATA * SIGMA_DATA / sum;
    m->x0 = to.alpha * scaled / sqrt(sum);
    m->noise = to.sigma;
    return true;
}

static const char *const aliases[] = {"LCMScheduler", NULL};
const sampler_info sampler_lcm = {
    .name = "lcm",
    .label = "LCM",
    .aliases = aliases,
    .spacing = SPACING_LEADING,
    .eta = -1,
    .evals = 1,
    .ladder = climb,
    .mix = mix,
};
