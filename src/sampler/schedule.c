/* schedule.c: noise levels of a model, and the ladders of levels that samplers climb down.
 * Spacing, rounding and grids are diffusers', down to numpy's way of counting, because a picture
 * depends on the integers. Where diffusers divides by a zero terminal SNR it puts 2^-24 in its
 * place; so do the ladders here that have to. SPDX-License-Identifier: MIT */
#include "sampler/sampler_internal.h"

#define PI              3.14159265358979323846
#define KARRAS_RHO      7.0     /* Karras et al. 2022 */
#define MIN_ABAR        0x1p-24 /* diffusers' stand-in for zero */
#define MAX_COSINE_BETA 0.999   /* Nichol & Dhariwal 2021 */

const schedule_config schedule_sd1 = {
    .num_train_timesteps = 1000,
    .beta_start = 0.00085,
    .beta_end = 0.012,
    .beta_schedule = BETA_SCALED_LINEAR,
    .prediction_type = PREDICTION_EPSILON,
    .timestep_spacing = SPACING_DEFAULT,
    .steps_offset = 1,
};

static double cosine_abar(double t) {
    double c = cos((t + 0.008) / 1.008 * PI / 2);
    return c * c;
}

static double beta_of(const schedule_config *c, int i) {
    double f = (double)i / (c->num_train_timesteps - 1);
    switch (c->beta_schedule) {
    case BETA_LINEAR:
        return c->beta_start + f * (c->beta_end - c->beta_start);
    case BETA_SCALED_LINEAR: {
        double r = sqrt(c->beta_start) + f * (sqrt(c->beta_end) - sqrt(c->beta_start));
        return r * r;
    }
    case BETA_COSINE: {
        double n = c->num_train_timesteps;
        return fmin(1 - cosine_abar((i + 1) / n) / cosine_abar(i / n), MAX_COSINE_BETA);
    }
    case BETA_KIND_COUNT:
        break;
    }
    return 0;
}

/* Shifts and stretches sqrt(abar): the first stays, the last becomes 0 (Lin et al. 2023, algorithm
 * 1). */
static void rescale_zero_snr(double *abar, int n) {
    double first = sqrt(abar[0]), last = sqrt(abar[n - 1]);
    for (int i = 0; i < n; i++) {
        double r = (sqrt(abar[i]) - last) * (first / (first - last));
        abar[i] = r * r;
    }
}

status schedule_alphas_cumprod(const schedule_config *c, double *abar) {
    int n = c->num_train_timesteps;
    if (n < 2 || n > MAX_TRAIN_STEPS)
        return fail(E_FORMAT, "schedule: %d training steps, 2 to %d are possible", n,
                    MAX_TRAIN_STEPS);
    if (!(c->beta_start > 0 && c->beta_start <= c->beta_end && c->beta_end < 1))
        return fail(E_FORMAT, "schedule: beta from %g to %g, expected 0 < start <= end < 1",
                    c->beta_start, c->beta_end);
    double product = 1;
    for (int i = 0; i < n; i++) abar[i] = product *= 1 - beta_of(c, i);
    if (c->rescale_betas_zero_snr) rescale_zero_snr(abar, n);
    return OK;
}

status schedule_make(const schedule_config *c, double **abar) {
    /* a number out of range is refused just below */
    int n = MAX(2, MIN(c->num_train_timesteps, MAX_TRAIN_STEPS));
    *abar = mem_alloc(sizeof(double) * (size_t)n);
    if (!*abar) return fail(E_HOST_MEMORY, "no memory for a schedule of %d levels", n);
    return schedule_alphas_cumprod(c, *abar);
}

level level_of_abar(double t, double abar) { return (level){t, sqrt(abar), sqrt(1 - abar)}; }
static level level_of_sigma(double t, double s) { /* s: k-diffusion's */
    double alpha = 1 / sqrt(1 + s * s);
    return (level){t, alpha, s * alpha};
}
static double k_sigma(double abar) {
    double a = abar > 0 ? abar : MIN_ABAR;
    return sqrt((1 - a) / a);
}

level schedule_level(const schedule_config *c, const double *abar, double t) {
    int n = c->num_train_timesteps, low = (int)fmin(fmax(floor(t), 0), n - 1);
    double w = t - low;
    if (w <= 0 || low == n - 1) return level_of_abar(t, abar[low]);
    return level_of_sigma(t,
                          exp((1 - w) * log(k_sigma(abar[low])) + w * log(k_sigma(abar[low + 1]))));
}

/* k-diffusion's inverse of the above: the time whose sigma is s, between 0 and the last. */
static double time_of_sigma(const ladder_ask *a, double s) {
    int low = 0, high = a->config->num_train_timesteps - 1;
    while (high - low > 1) {
        int mid = (low + high) / 2;
        if (k_sigma(a->abar[mid]) <= s)
            low = mid;
        else
            high = mid;
    }
    double from = log(k_sigma(a->abar[low])), to = log(k_sigma(a->abar[high]));
    return low + fmin(fmax((log(s) - from) / (to - from), 0), 1);
}

/* numpy's interp over whole times: linear in sigma, unlike time_of_sigma. */
static double sigma_of_time(const ladder_ask *a, double t) {
    int low = (int)fmin(floor(t), a->config->num_train_timesteps - 2);
    double from = k_sigma(a->abar[low]), to = k_sigma(a->abar[low + 1]);
    return from + (t - low) * (to - from);
}

status ladder_times(const ladder_ask *a, bool intervals, bool whole, double *t) {
    int train = a->config->num_train_timesteps, n = a->steps, points = n + intervals;
    for (int i = 0; i < n; i++) {
        int up = points - 1 - i; /* counted from the clean end */
        switch (a->spacing) {
        case SPACING_LEADING:
            t[i] = (double)up * (train / points) + a->config->steps_offset;
            break;
        case SPACING_TRAILING: {
            /* numpy.arange takes the step as it was rounded, and rounds the product before it adds:
             * halves must fall as they do there, also where the compiler would fuse */
            volatile double down = i * ((train - (double)train / n) - train);
            t[i] = rint(train + down) - 1;
            break;
        }
        case SPACING_LINSPACE:
            t[i] = points > 1 ? fmin(up * ((train - 1.0) / (points - 1)), train - 1) : 0;
            if (whole) t[i] = rint(t[i]);
            break;
        case SPACING_DEFAULT:
        case SPACING_COUNT:
            break;
        }
        if (!(t[i] >= 0 && t[i] <= train - 1) || (i && !(t[i] < t[i - 1])))
            return fail(E_USAGE,
                        "%s: %d steps do not fit into a schedule of %d levels with this spacing "
                        "and steps_offset %d: use fewer",
                        a->name, n, train, a->config->steps_offset);
    }
    return OK;
}

status ladder_first(const ladder_ask *a, int *first) {
    int run = (int)(a->steps * a->strength);
    *first = a->steps - run;
    if (run < 1)
        return fail(E_USAGE, "%s: strength %g of %d steps leaves none: at least %g is needed",
                    a->name, a->strength, a->steps, 1.0 / a->steps);
    return OK;
}

status ladder_model_grid_only(const ladder_ask *a) {
    if (a->grid == GRID_MODEL) return OK;
    return fail(E_UNSUPPORTED, "%s visits the model's own timesteps: it has no %s grid", a->name,
                a->grid == GRID_KARRAS ? "karras" : "exponential");
}

/* Replaces sigmas by a grid from s_max to s_min. */
static void fill_grid(sigma_grid grid, double s_max, double s_min, int n, double *s) {
    for (int i = 0; i < n; i++) {
        double f = n > 1 ? (double)i / (n - 1) : 0;
        if (grid == GRID_KARRAS) {
            double top = pow(s_max, 1 / KARRAS_RHO), bottom = pow(s_min, 1 / KARRAS_RHO);
            s[i] = pow(top + f * (bottom - top), KARRAS_RHO);
        } else {
            s[i] = exp(log(s_max) + f * (log(s_min) - log(s_max)));
        }
    }
}

/* The last step ends at no noise at all: diffusers' final_sigmas_type zero. */
static void fill_rungs(const double *t, const double *s, ladder *l) {
    for (int i = 0; i < l->n; i++) {
        l->r[i].at = level_of_sigma(t[i], s[i]);
        if (i) l->r[i - 1].to = l->r[i].at;
    }
    l->r[l->n - 1].to = (level){0, 1, 0};
}

typedef enum ladder_kind { LADDER_K, LADDER_DPM, LADDER_UNIPC } ladder_kind;

/* diffusers rounds the times of the karras grid and cuts those of the exponential one; DPM-Solver
 * cuts both where betas are cosine. A hair is added, so that times that are whole but for rounding
 * stay what they are. */
static double whole_time(const ladder_ask *a, ladder_kind kind, double t) {
    bool cut = a->grid == GRID_EXPONENTIAL ||
               (kind == LADDER_DPM && a->config->beta_schedule == BETA_COSINE);
    return cut ? floor(t + 1e-6) : rint(t);
}

static status ladder_sigmas(const ladder_ask *a, ladder_kind kind, ladder *l) {
    bool dpm = kind != LADDER_K;
    status st = OK;
    int n = l->n = a->steps, last = a->config->num_train_timesteps - 1;
    double *t = mem_alloc(sizeof(double) * 2 * (size_t)n), *s = t ? t + n : NULL;
    if (!t) TRY(fail(E_HOST_MEMORY, "no memory for %d timesteps", n));
    TRY(ladder_first(a, &l->first));
    TRY(ladder_times(a, dpm, dpm, t));
    for (int i = 0; i < n; i++) s[i] = sigma_of_time(a, t[i]);
    if (a->grid != GRID_MODEL) {
        fill_grid(a->grid, dpm ? k_sigma(a->abar[last]) : s[0],
                  dpm ? k_sigma(a->abar[0]) : s[n - 1], n, s);
        for (int i = 0; i < n; i++)
            t[i] = dpm ? whole_time(a, kind, time_of_sigma(a, s[i])) : time_of_sigma(a, s[i]);
    }
    fill_rungs(t, s, l);
    l->noise_scale = dpm || a->spacing == SPACING_LEADING ? 1 : l->r[0].at.sigma;
out:
    mem_free(t);
    return st;
}

status ladder_k(const ladder_ask *a, ladder *l) { return ladder_sigmas(a, LADDER_K, l); }
status ladder_dpm(const ladder_ask *a, ladder *l) { return ladder_sigmas(a, LADDER_DPM, l); }
status ladder_unipc(const ladder_ask *a, ladder *l) { return ladder_sigmas(a, LADDER_UNIPC, l); }
