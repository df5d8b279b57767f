/* sampler.c: the table of samplers, from samplers.def; their names; and the walk along a ladder
 * that turns a sampler's weights into a plan. SPDX-License-Identifier: MIT */
#include "sampler/sampler_internal.h"
#include <ctype.h>

static const sampler_info *const infos[] = {
#define SAMPLER(name) &sampler_##name,
#include "sampler/samplers.def"
#undef SAMPLER
};

const sampler_info *sampler_at(int i) {
    return i >= 0 && i < (int)ARRAY_LEN(infos) ? infos[i] : NULL;
}
const char *sampler_name(const sampler_info *s) { return s->name; }
const char *sampler_label(const sampler_info *s) { return s->label; }

/* "DPM++ 2M" and "dpmpp_2m" are both dpmpp2m. False if out is too short. */
static bool plain(const char *text, char *out, size_t bytes) {
    size_t n = 0;
    for (; *text; text++) {
        char c = *text == '+' ? 'p' : (char)tolower((unsigned char)*text);
        if (strchr(" \t_-", c)) continue;
        if (n + 1 >= bytes) return false;
        out[n++] = c;
    }
    out[n] = 0;
    return true;
}

static bool strip(char *text, const char *suffix) {
    size_t n = strlen(text), k = strlen(suffix);
    if (n <= k || strcmp(text + n - k, suffix) != 0) return false;
    text[n - k] = 0;
    return true;
}

/* diffusers' classes go with and without their last word. */
static bool same(const char *wanted, const char *name) {
    char b[64];
    if (!plain(name, b, sizeof b)) return false;
    strip(b, "scheduler");
    return strcmp(wanted, b) == 0;
}

static const sampler_info *find_plain(char *wanted) {
    strip(wanted, "scheduler");
    for (size_t i = 0; i < ARRAY_LEN(infos); i++) {
        const sampler_info *s = infos[i];
        if (same(wanted, s->name) || same(wanted, s->label)) return s;
        for (int k = 0; s->aliases[k]; k++)
            if (same(wanted, s->aliases[k])) return s;
    }
    return NULL;
}

const sampler_info *sampler_find(const char *name) {
    char b[64];
    return plain(name, b, sizeof b) ? find_plain(b) : NULL;
}

bool sampler_alias(const char *text, const sampler_info **s, sampler_params *p) {
    static const char *const grids[GRID_COUNT] = {NULL, "karras", "exponential"};
    static const char *const spacings[SPACING_COUNT] = {"leading", "trailing", "linspace"};
    char b[64];
    if (!plain(text, b, sizeof b)) return false;
    int grid = GRID_MODEL, space = SPACING_DEFAULT;
    for (int i = GRID_KARRAS; i < GRID_COUNT; i++)
        if (strip(b, grids[i])) grid = i;
    for (int i = 0; i < SPACING_COUNT; i++)
        if (strip(b, spacings[i])) space = i;
    const sampler_info *found = find_plain(b);
    if (!found) return false;
    *s = found;
    if (grid != GRID_MODEL) p->grid = (sigma_grid)grid;
    if (space != SPACING_DEFAULT) p->spacing = space;
    return true;
}

void prediction_to_x0(prediction p, level at, double *wx, double *wp) {
    *wx = *wp = 0;
    switch (p) {
    case PREDICTION_EPSILON:
        *wx = 1 / at.alpha, *wp = -at.sigma / at.alpha;
        break;
    case PREDICTION_V:
        *wx = at.alpha, *wp = -at.sigma;
        break;
    case PREDICTION_SAMPLE:
        *wp = 1;
        break;
    case PREDICTION_COUNT:
        break;
    }
}

status sampler_check(const sampler_info *s, const schedule_config *c, const sampler_params *p) {
    if (p->steps < 1 || p->steps > c->num_train_timesteps)
        return fail(E_USAGE, "%d steps of %s: 1 to %d are possible, one per level the model knows",
                    p->steps, s->name, c->num_train_timesteps);
    if (!(p->strength > 0 && p->strength <= 1))
        return fail(E_USAGE, "strength %g: above 0, up to 1 (all steps) is possible", p->strength);
    if (p->spacing < SPACING_DEFAULT || p->spacing >= SPACING_COUNT)
        return fail(E_USAGE, "spacing number %d: leading, trailing and linspace are 0, 1, 2",
                    p->spacing);
    if ((unsigned)p->grid >= GRID_COUNT)
        return fail(E_USAGE, "sigma grid number %d: model, karras and exponential are 0, 1, 2",
                    (int)p->grid);
    if (p->eta >= 0 && s->eta < 0)
        return fail(E_USAGE, "eta %g: %s draws no share of noise that could be set; leave eta out",
                    p->eta, s->name);
    if (!(p->eta <= 1)) return fail(E_USAGE, "eta %g: at most 1", p->eta);
    return OK;
}

static void walk(const sampler_info *s, const ladder *l, double eta, sampler_plan *out) {
    for (int i = l->first; i < l->n; i++) {
        bool done = false;
        for (int eval = 0; !done; eval++) {
            sampler_call *call = &out->call[out->n_calls++];
            step_at at = {l->r, i, l->n, l->first, eval, eta};
            call->at = eval ? l->r[i].to : l->r[i].at;
            call->step = i - l->first;
            call->last_of_step = done = s->mix(&at, &call->mix);
            out->noise |= call->mix.noise != 0;
        }
    }
}

status sampler_expand(const sampler_info *s, const schedule_config *c, const sampler_params *p,
                      sampler_plan *out) {
    status st = OK;
    double *abar = NULL;
    ladder l = {0};
    *out = (sampler_plan){0};
    TRY(sampler_check(s, c, p));
    TRY(schedule_make(c, &abar));
    spacing space = p->spacing != SPACING_DEFAULT ? (spacing)p->spacing : c->timestep_spacing;
    ladder_ask ask = {
        s->name, c,          abar, p->steps, space != SPACING_DEFAULT ? space : s->spacing,
        p->grid, p->strength};
    l.r = arena_new(&out->mem, rung, p->steps);
    out->call = arena_new(&out->mem, sampler_call, p->steps * s->evals);
    if (!l.r || !out->call) TRY(fail(E_HOST_MEMORY, "no memory for a plan of %d steps", p->steps));
    TRY(s->ladder(&ask, &l));
    out->start = l.r[l.first].at;
    if (c->prediction_type == PREDICTION_EPSILON && out->start.alpha == 0)
        TRY(fail(E_UNSUPPORTED,
                 "%s starts at zero signal (t = %g), where a network that predicts epsilon says "
                 "nothing about the picture: "
                 "this schedule (rescale_betas_zero_snr) needs v prediction",
                 s->name, out->start.t));
    out->n_steps = l.n - l.first;
    out->n_kept = s->kept;
    out->noise_scale = l.first ? out->start.sigma : l.noise_scale;
    walk(s, &l, p->eta >= 0 ? p->eta : s->eta, out);
out:
    mem_free(abar);
    if (st != OK) sampler_plan_fini(out);
    return st;
}

void sampler_plan_fini(sampler_plan *p) {
    arena_fini(&p->mem);
    *p = (sampler_plan){0};
}
