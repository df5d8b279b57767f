/* dpmpp_2m_sde.c: the stochastic DPM-Solver++(2M), midpoint: as dpmpp_2m with twice the log-SNR
 * decay and fresh noise in its place. Noise is white per step, as diffusers draws it; A1111 and
 * k-diffusion take it from a Brownian tree, so their pictures differ. Source:
 * DPMSolverMultistepScheduler (sde-dpmsolver++, order 2). SPDX-License-Identifier: MIT */
#include "sampler/sampler_internal.h"

static bool mix(const step_at *at, sampler_mix *m) {
    level from = at->r[at->i].at, to = at->r[at->i].to;
    double decay = to.sigma * from.alpha / (to.alpha * from.sigma); /* exp(-h) */
    m->x = to.sigma / from.sigma * decay;
    m->x0 = to.alpha * (1 - decay * decay);
    m->noise = to.sigma * sqrt(1 - decay * decay);
    mix_midpoint(at, m);
    return true;
}

static const char *const aliases[] = {"dpm++2m_sde", "k_dpmpp_2m_sde", NULL};
const sampler_info sampler_dpmpp_2m_sde = {
    .name = "dpmpp_2m_sde",
    .label = "DPM++ 2M SDE",
    .aliases = aliases,
    .spacing = SPACING_LINSPACE,
    .eta = -1,
    .evals = 1,
    .kept = 1,
    .ladder = ladder_dpm,
    .mix = mix,
};
