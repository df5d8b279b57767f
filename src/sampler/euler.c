/* euler.c: Euler's method on the probability-flow ODE, in k-diffusion's sigma (Karras et al. 2022,
 * algorithm 2 without churn). Source: EulerDiscreteScheduler. SPDX-License-Identifier: MIT */
#include "sampler/sampler_internal.h"

static bool mix(const step_at *at, sampler_mix *m) {
    mix_first_order(at->r[at->i].at, at->r[at->i].to, m);
    return true;
}

static const char *const aliases[] = {"EulerDiscreteScheduler", "k_euler", NULL};
const sampler_info sampler_euler = {
    .name = "euler",
    .label = "Euler",
    .aliases = aliases,
    .spacing = SPACING_LINSPACE,
    .eta = -1,
    .evals = 1,
    .ladder = ladder_k,
    .mix = mix,
};
