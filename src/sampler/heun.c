/* heun.c: Euler's step, then once more with the mean of the slopes at both ends. The last step is
 * Euler's: without noise there is no slope. Source: HeunDiscreteScheduler, which has no zero-SNR
 * schedules; here they start where Euler's do. SPDX-License-Identifier: MIT */
#include "sampler/sampler_internal.h"

static bool mix(const step_at *at, sampler_mix *m) {
    level from = at->r[at->i].at, to = at->r[at->i].to;
    if (at->eval == 0) {
        mix_first_order(from, to, m);
        m->keep[0].set = m->keep[1].set = true;
        m->keep[0].x = m->keep[1].x0 = 1; /* x and x0 where the step starts */
        return to.sigma == 0;
    }
    /* X = x / alpha, S = sigma / alpha:  X' = X + (S' - S)/2 * ((X - x0)/S + (X1 - x01)/S'),  X1,
     * x01 after Euler's step */
    double s = from.sigma / from.alpha, next = to.sigma / to.alpha, half = (next - s) / 2;
    m->kept[0] = to.alpha / from.alpha * (1 + half / s);
    m->kept[1] = -to.alpha * half / s;
    m->x = half / next;
    m->x0 = -to.alpha * half / next;
    return true;
}

static const char *const aliases[] = {"HeunDiscreteScheduler", "k_heun", NULL};
const sampler_info sampler_heun = {
    .name = "heun",
    .label = "Heun",
    .aliases = aliases,
    .spacing = SPACING_LINSPACE,
    .eta = -1,
    .evals = 2,
    .kept = 2,
    .ladder = ladder_k,
    .mix = mix,
};
