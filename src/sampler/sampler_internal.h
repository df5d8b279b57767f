/* sampler_internal.h: what a sampler is made of. It chooses a ladder (the levels it visits) and
 * says how to step from one rung to the next. Ladders are shared: schedule.c has the two of
 * diffusers' solvers. SPDX-License-Identifier: MIT */
#pragma once
#include "sampler/sampler.h"
#include <math.h>

#define MAX_TRAIN_STEPS 100000 /* keeps what a file can make us allocate small */

/* A step: the network is asked at `at`, the result has the level `to`. */
typedef struct rung {
    level at, to;
} rung;
typedef struct ladder {
    rung *r;
    int n, first;       /* n rungs, of which first.. run: strength leaves the noisiest out */
    double noise_scale; /* as in sampler_plan, for a whole run */
} ladder;
typedef struct ladder_ask {
    const char *name; /* of the sampler, for messages */
    const schedule_config *config;
    const double *abar;
    int steps;
    spacing spacing;
    sigma_grid grid;
    double strength;
} ladder_ask;

typedef struct step_at {
    const rung *r;
    int i, n, first, eval;
    double eta;
} step_at; /* eval: which model call of step i */

struct sampler_info {
    const char *name, *label;
    const char *const *aliases; /* ends with NULL; any spelling: sampler_find compares letters,
                                   digits and + only */
    spacing spacing;            /* where neither config nor user names one */
    double eta;                 /* default; < 0 = takes none */
    int evals, kept;            /* most model calls per step; slots in use */
    status (*ladder)(const ladder_ask *a,
                     ladder *l); /* fills a->steps rungs of l->r and the rest of l */
    bool (*mix)(const step_at *at,
                sampler_mix *m); /* m comes zeroed; true = this call ends the step */
};

#define SAMPLER(name) extern const sampler_info sampler_##name;
#include "sampler/samplers.def"
#undef SAMPLER

/* Times of the whole run, falling, one a step. `intervals`: steps + 1 points of which the clean end
 * is dropped (diffusers' DPM-Solver family); whole: rounded. E_USAGE where one falls outside the
 * schedule. */
status ladder_times(const ladder_ask *a, bool intervals, bool whole, double *t);
/* Euler and its kin: fractional times, grids between the first and the last of them. */
status ladder_k(const ladder_ask *a, ladder *l);
/* DPM-Solver and UniPC: whole times, grids over all levels the model was trained on. They round
 * alike but for karras on cosine. */
status ladder_dpm(const ladder_ask *a, ladder *l);
status ladder_unipc(const ladder_ask *a, ladder *l);
/* diffusers' get_timesteps: the first of `steps` that runs. */
status ladder_first(const ladder_ask *a, int *first);
status ladder_model_grid_only(const ladder_ask *a);
/* Ranges of p. */
status sampler_check(const sampler_info *s, const schedule_config *c, const sampler_params *p);
level level_of_abar(double t, double abar);
status schedule_make(const schedule_config *c, double **abar); /* mem_alloc'ed */

/* Exact for a constant x0: DDIM without noise, Euler, and the first order of every solver here are
 * this step. */
static inline void mix_first_order(level from, level to, sampler_mix *m) {
    m->x = to.sigma / from.sigma;
    m->x0 = to.alpha - from.alpha * m->x;
}
static inline double log_snr(level l) {
    return log(l.alpha) - log(l.sigma);
} /* half of it: diffusers' lambda */

/* DPM-Solver++(2M): adds half the slope of x0 over the last step, in log-SNR, and keeps x0 for the next. Nothing is added in the
 * first step, which has no last one, and in the final one (to no noise), which has no finite length. */
static inline void mix_midpoint(const step_at *at, sampler_mix *m) {
    level from = at->r[at->i].at, to = at->r[at->i].to;
    m->keep[0].set = true;
    m->keep[0].x0 = 1;
    if (at->i == at->first || to.sigma == 0) return;
    double h = log_snr(to) - log_snr(from), last = log_snr(from) - log_snr(at->r[at->i - 1].at);
    double slope = m->x0 * 0.5 * h / last;
    m->x0 += slope;
    m->kept[0] = -slope;
}
