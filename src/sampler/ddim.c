/* ddim.c: DDIM, down and up. diffusers steps to t - T/steps whatever time comes next, so with
 * linspace and trailing spacing a step may end a little beside the level where the next one starts;
 * pictures depend on it, so it is kept. Zero SNR is exact here. Source: DDIMScheduler,
 * DDIMInverseScheduler; Song et al. 2020, eq. 12 and 16. SPDX-License-Identifier: MIT */
#include "sampler/sampler_internal.h"

/* The level of whole time t; below the first: the clean end as the config has it. */
static level level_at(const ladder_ask *a, double t) {
    if (t < 0) return a->config->set_alpha_to_one ? (level){t, 1, 0} : level_of_abar(t, a->abar[0]);
    return level_of_abar(t, a->abar[(int)t]);
}

static status climb(const ladder_ask *a, ladder *l) {
    status st = OK;
    double *t = mem_alloc(sizeof(double) * (size_t)a->steps);
    if (!t) TRY(fail(E_HOST_MEMORY, "no memory for %d timesteps", a->steps));
    l->n = a->steps;
    l->noise_scale = 1;
    TRY(ladder_model_grid_only(a));
    TRY(ladder_first(a, &l->first));
    TRY(ladder_times(a, false, true, t));
    for (int i = 0; i < l->n; i++)
        l->r[i] = (rung){level_at(a, t[i]),
                         level_at(a, t[i] - a->config->num_train_timesteps / a->steps)};
out:
    mem_free(t);
    return st;
}

static bool mix(const step_at *at, sampler_mix *m) {
    level from = at->r[at->i].at, to = at->r[at->i].to;
    double shrink = from.alpha / to.alpha,
           variance = to.sigma * to.sigma / (from.sigma * from.sigma) * (1 - shrink * shrink);
    double noise = at->eta * sqrt(fmax(variance, 0)),
           direction = sqrt(fmax(to.sigma * to.sigma - noise * noise, 0));
    m->x = direction / from.sigma;
    m->x0 = to.alpha - direction * from.alpha / from.sigma;
    m->noise = noise;
    return true;
}

static const char *const aliases[] = {"DDIMScheduler", NULL};
const sampler_info sampler_ddim = {
    .name = "ddim",
    .label = "DDIM",
    .aliases = aliases,
    .spacing = SPACING_LEADING,
    .eta = 0,
    .evals = 1,
    .ladder = climb,
    .mix = mix,
};

/* One step up, r read backwards: from r.to, asking the network at r.at.t. Where there is no noise
 * at all the output cannot be had back from x0, so it is turned into x0 as if at the level above,
 * and the mix undoes that. */
static status step_up(const schedule_config *c, rung r, sampler_call *call) {
    level from = r.to, to = r.at;
    call->at = (level){to.t, from.alpha, from.sigma};
    call->last_of_step = true;
    if (from.sigma > 0) {
        mix_first_order(from, to, &call->mix);
        return OK;
    }
    call->at = to;
    if (to.alpha == 0 && c->prediction_type == PREDICTION_EPSILON)
        return fail(E_UNSUPPORTED,
                    "inversion in one step to zero signal needs v prediction, or more steps");
    switch (c->prediction_type) {
    case PREDICTION_EPSILON:
        call->mix.x = 1 + to.alpha, call->mix.x0 = -to.alpha;
        return OK; /* alpha x + sigma output */
    case PREDICTION_V:
        call->mix.x = 2 * to.alpha, call->mix.x0 = -1;
        return OK;
    case PREDICTION_SAMPLE:
    case PREDICTION_COUNT:
        break;
    }
    return fail(E_UNSUPPORTED, "inversion with sample prediction and set_alpha_to_one: a clean "
                               "picture does not say which noise to add; set "
                               "set_alpha_to_one to false");
}

static status climb_up(const schedule_config *c, const sampler_params *p, const double *abar,
                       sampler_plan *out) {
    status st = OK;
    spacing space = p->spacing != SPACING_DEFAULT ? (spacing)p->spacing : c->timestep_spacing;
    ladder_ask ask = {
        "inversion", c,          abar, p->steps, space != SPACING_DEFAULT ? space : SPACING_LEADING,
        p->grid,     p->strength};
    ladder l = {.r = arena_new(&out->mem, rung, p->steps)};
    out->call = arena_new(&out->mem, sampler_call, p->steps);
    if (!l.r || !out->call) TRY(fail(E_HOST_MEMORY, "no memory for a plan of %d steps", p->steps));
    if (ask.spacing == SPACING_LINSPACE)
        TRY(fail(E_UNSUPPORTED, "inversion has leading and trailing spacing, not linspace"));
    TRY(climb(&ask, &l));
    out->n_calls = out->n_steps = l.n - l.first;
    out->start = l.r[l.n - 1].to;
    for (int i = 0; i < out->n_calls; i++) {
        out->call[i].step = i;
        TRY(step_up(c, l.r[l.n - 1 - i], &out->call[i]));
    }
out:
    return st;
}

status sampler_expand_inversion(const schedule_config *c, const sampler_params *p,
                                sampler_plan *out) {
    status st = OK;
    double *abar = NULL;
    *out = (sampler_plan){0};
    TRY(sampler_check(&sampler_ddim, c, p));
    TRY(schedule_make(c, &abar));
    TRY(climb_up(c, p, abar, out));
out:
    mem_free(abar);
    if (st != OK) sampler_plan_fini(out);
    return st;
}
