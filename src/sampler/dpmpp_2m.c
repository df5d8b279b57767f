/* dpmpp_2m.c: DPM-Solver++(2M), midpoint. Source: DPMSolverMultistepScheduler (dpmsolver++, order
 * 2); Lu et al. 2022b, algorithm 2. SPDX-License-Identifier: MIT */
#include "sampler/sampler_internal.h"

static bool mix(const step_at *at, sampler_mix *m) {
    level from = at->r[at->i].at, to = at->r[at->i].to;
    mix_first_order(from, to, m);
    mix_midpoint(at, m);
    return true;
}

static const char *const aliases[] = {"DPMSolverMultistepScheduler", "dpm++2m", "k_dpmpp_2m", NULL};
const sampler_info sampler_dpmpp_2m = {
    .name = "dpmpp_2m",
    .label = "DPM++ 2M",
    .aliases = aliases,
    .spacing = SPACING_LINSPACE,
    .eta = -1,
    .evals = 1,
    .kept = 1,
    .ladder = ladder_dpm,
    .mix = mix,
};
