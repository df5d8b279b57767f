/* euler_a.c: Euler with ancestral noise: step below the next level, then add noise up to it. eta
 * scales that noise (diffusers has eta = 1). diffusers' class has no grids; here it takes Euler's.
 * Source: EulerAncestralDiscreteScheduler, k-diffusion's get_ancestral_step.
 * SPDX-License-Identifier: MIT */
#include "sampler/sampler_internal.h"

static bool mix(const step_at *at, sampler_mix *m) {
    level from = at->r[at->i].at, to = at->r[at->i].to;
    double s = from.sigma / from.alpha, next = to.sigma / to.alpha;
    double up = fmin(next, at->eta * sqrt(next * next * (1 - next * next / (s * s))));
    double down = sqrt(next * next - up * up);
    m->x = to.alpha / from.alpha * (down / s);
    m->x0 = to.alpha * (1 - down / s);
    m->noise = to.alpha * up;
    return true;
}

static const char *const aliases[] = {"EulerAncestralDiscreteScheduler", "euler_ancestral",
                                      "k_euler_a", "k_euler_ancestral", NULL};
const sampler_info sampler_euler_a = {
    .name = "euler_a",
    .label = "Euler a",
    .aliases = aliases,
    .spacing = SPACING_LINSPACE,
    .eta = 1,
    .evals = 1,
    .ladder = ladder_k,
    .mix = mix,
};
