/* unipc.c: UniPC of order 2, B(h) = exp(h) - 1 ("bh2"), predicting x0. A model call serves twice:
 * it corrects the step that led here, then predicts the next from the corrected x, so x itself
 * enters through x0 only. kept: 0 = corrected x of the last step, 1 = its x0, 2 = the x0 before.
 * Source: UniPCMultistepScheduler with its defaults (first order at the end); Zhao et al. 2023.
 * SPDX-License-Identifier: MIT */
#include "sampler/sampler_internal.h"

static int order_of(const step_at *at, int i) { return MIN(2, MIN(at->n - i, i - at->first + 1)); }

/* Weights of the corrected x in terms of what step i has. */
static void correct(const step_at *at, sampler_mix *m) {
    level from = at->r[at->i - 1].at, to = at->r[at->i].at;
    mix_first_order(from, to, m);
    double g = m->x0, h = log_snr(to) - log_snr(from), older = 0, newer = 0.5;
    if (order_of(at, at->i - 1) == 2) {
        double ratio =
            (log_snr(at->r[at->i - 2].at) - log_snr(from)) / h; /* of the step before, negative */
        double b = expm1(-h), phi2 = b / -h - 1, phi3 = phi2 / -h - 0.5, b1 = phi2 / b,
               b2 = 2 * phi3 / b;
        double rho = (b1 - b2) / (1 - ratio); /* solves rho + newer = b1, ratio rho + newer = b2 */
        older = rho / ratio;
        newer = b1 - rho;
    }
    m->kept[0] = m->x;
    m->kept[1] = g * (1 - older - newer);
    m->kept[2] = g * older;
    m->x0 = g * newer;
    m->x = 0;
}

static bool mix(const step_at *at, sampler_mix *m) {
    level from = at->r[at->i].at, to = at->r[at->i].to;
    sampler_mix c = {.x = 1}, p = {0};
    if (at->i > at->first) correct(at, &c);
    mix_first_order(from, to, &p);
    double slope = 0;
    if (order_of(at, at->i) == 2)
        slope = p.x0 * 0.5 * (log_snr(to) - log_snr(from)) /
                (log_snr(from) - log_snr(at->r[at->i - 1].at));
    m->x = p.x * c.x;
    m->x0 = p.x * c.x0 + p.x0 + slope;
    for (int k = 0; k < 3; k++) m->kept[k] = p.x * c.kept[k];
    m->kept[1] -= slope;
    m->keep[0].set = m->keep[1].set = m->keep[2].set = true;
    m->keep[0].x = c.x, m->keep[0].x0 = c.x0;
    memcpy(m->keep[0].kept, c.kept, sizeof c.kept);
    m->keep[1].x0 = 1;
    m->keep[2].kept[1] = 1;
    return true;
}

static const char *const aliases[] = {"UniPCMultistepScheduler", "uni_pc_bh2", NULL};
const sampler_info sampler_unipc = {
    .name = "unipc",
    .label = "UniPC",
    .aliases = aliases,
    .spacing = SPACING_LINSPACE,
    .eta = -1,
    .evals = 1,
    .kept = 3,
    .ladder = ladder_unipc,
    .mix = mix,
};
