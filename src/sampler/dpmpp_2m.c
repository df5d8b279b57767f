/* dpmpp_2m.c: DPM-Solver++(2M), midpoint: first order, plus half the slope of x0 over the last
 * step, in log-SNR. The first step has no last one and the final step (to no noise) no finite
 * length: both are first order. Source: DPMSolverMultistepScheduler (dpmsolver++, order 2); Lu et
 * al. 2022b, algorithm 2. SPDX-License-Identifier: MIT */
#include "sampler/sampler_internal.h"

static bool mix(const step_at *at, sampler_mix *m) {
    level from = at->r[at->i].at, to = at->r[at->i].to;
    mix_first_order(from, to, m);
    m->keep[0].set = true;
    m->keep[0].x0 = 1;
    if (at->i == at->first || to.sigma == 0) return true;
    double h = log_snr(to) - log_snr(from), last = log_snr(from) - log_snr(at->r[at->i - 1].at);
    double slope = m->x0 * 0.5 * h / last;
    m->x0 += slope;
    m->kept[0] = -slope;
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
