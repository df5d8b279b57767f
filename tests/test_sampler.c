/* test_sampler.c: every sampler's trajectory against diffusers', on a small nonlinear network
 * evaluated here in double; what people may call a sampler; scheduler_config.json; what must be
 * refused. Golden: tests/golden/make_sampler.py. usage: test_sampler GOLDEN
 * SPDX-License-Identifier: MIT */
#include "file/file.h"
#include "sampler/sampler.h"
#include "test.h"
#include <math.h>

#define D 8
static const char *const predictions[] = {"epsilon", "v_prediction", "sample"};
static const char *const spacings[] = {"leading", "trailing", "linspace"};
static const char *const grids[] = {"model", "karras", "exponential"};
static const char *const betas[] = {"linear", "scaled_linear", "squaredcos_cap_v2"};

static const safetensors *g_gold;
static double g_a[D][D], g_noise[12][D], g_x0[D];

static int index_of(const char *const *words, int n, const char *word) {
    for (int i = 0; i < n; i++)
        if (strcmp(words[i], word) == 0) return i;
    printf("FAIL: the golden says %s\n", word);
    exit(1);
}

static void read_all(const char *name, double *out, int64_t n) {
    const safetensor *t = safetensors_find(g_gold, name);
    REQUIRE(t && safetensor_count(t) == n);
    for (int64_t i = 0; i < n; i++) out[i] = safetensor_load(t, i);
}

static void network(const double *x, double t, double *y) {
    for (int i = 0; i < D; i++) {
        double sum = cos((i + 1) * t / 1000);
        for (int k = 0; k < D; k++) sum += g_a[i][k] * x[k];
        y[i] = tanh(sum);
    }
}

/* What an engine does with one call of a plan. */
static void apply(const sampler_call *c, prediction p, const double *noise, double *x,
                  double kept[][D]) {
    double y[D], next[D], keep[SAMPLER_MAX_KEPT][D], wx, wp;
    network(x, c->at.t, y);
    prediction_to_x0(p, c->at, &wx, &wp);
    memcpy(keep, kept, sizeof keep);
    for (int i = 0; i < D; i++) {
        double x0 = wx * x[i] + wp * y[i];
        next[i] = c->mix.x * x[i] + c->mix.x0 * x0 + c->mix.noise * noise[i];
        for (int k = 0; k < SAMPLER_MAX_KEPT; k++) {
            next[i] += c->mix.kept[k] * kept[k][i];
            if (!c->mix.keep[k].set) continue;
            keep[k][i] = c->mix.keep[k].x * x[i] + c->mix.keep[k].x0 * x0;
            for (int m = 0; m < SAMPLER_MAX_KEPT; m++)
                keep[k][i] += c->mix.keep[k].kept[m] * kept[m][i];
        }
    }
    memcpy(kept, keep, sizeof keep);
    memcpy(x, next, sizeof next);
}

/* Runs the plan from x and compares each call with the golden's rows {t, x after}. Returns the
 * worst gap. */
static double follow(const char *name, const sampler_plan *plan, prediction p, double *x) {
    const safetensor *t = safetensors_find(g_gold, name);
    double kept[SAMPLER_MAX_KEPT][D] = {{0}}, worst = 0;
    int draws = 0;
    if (safetensor_count(t) != plan->n_calls * (D + 1)) {
        CHECK(false, "%s: %d calls, diffusers makes %d", name, plan->n_calls,
              (int)(safetensor_count(t) / (D + 1)));
        return 0;
    }
    for (int i = 0; i < plan->n_calls; i++) {
        const sampler_call *c = &plan->call[i];
        apply(c, p, g_noise[1 + draws], x, kept);
        draws += c->mix.noise != 0;
        CHECK(fabs(c->at.t - safetensor_load(t, i * (D + 1))) < 1e-6,
              "%s call %d: t is %.9g, diffusers' %.9g", name, i, c->at.t,
              safetensor_load(t, i * (D + 1)));
        for (int k = 0; k < D; k++)
            worst = fmax(worst, fabs(x[k] - safetensor_load(t, i * (D + 1) + 1 + k)));
    }
    CHECK(worst < 1e-8, "%s: x differs from diffusers' by %.2e", name, worst);
    for (int k = plan->n_kept; k < SAMPLER_MAX_KEPT; k++)
        for (int i = 0; i < D; i++) REQUIRE(kept[k][i] == 0); /* n_kept says which slots are used */
    REQUIRE(plan->noise == (draws > 0));
    REQUIRE(plan->call[plan->n_calls - 1].last_of_step &&
            plan->call[plan->n_calls - 1].step == plan->n_steps - 1);
    return worst;
}

static schedule_config config_of(const char *beta, const char *predicted, bool zero_snr, bool one) {
    schedule_config c = schedule_sd1;
    c.beta_schedule = (beta_kind)index_of(betas, 3, beta);
    if (c.beta_schedule == BETA_LINEAR) c.beta_start = 0.0001, c.beta_end = 0.02;
    c.prediction_type = (prediction)index_of(predictions, 3, predicted);
    c.rescale_betas_zero_snr = zero_snr;
    c.set_alpha_to_one = one;
    return c;
}

/* "run/SAMPLER/PREDICTION/SPACING/GRID/BETA/STEPS/STRENGTH/ETA/ZERO_SNR/ONE" */
static double check_run(const char *name) {
    char who[32], predicted[32], space[32], grid[32], beta[32], end_name[256];
    sampler_params p = {0};
    int zero_snr = 0, one = 0;
    REQUIRE(sscanf(name, "run/%31[^/]/%31[^/]/%31[^/]/%31[^/]/%31[^/]/%d/%lf/%lf/%d/%d", who,
                   predicted, space, grid, beta, &p.steps, &p.strength, &p.eta, &zero_snr,
                   &one) == 10);
    const sampler_info *s = sampler_find(who);
    REQUIRE(s);
    if (strcmp(who, "ddim") != 0) p.eta = -1;
    p.grid = (sigma_grid)index_of(grids, 3, grid);
    p.spacing = index_of(spacings, 3, space);
    schedule_config c = config_of(beta, predicted, zero_snr, one);
    sampler_plan plan;
    REQUIRE_OK(sampler_expand(s, &c, &p, &plan));
    double x[D];
    for (int i = 0; i < D; i++)
        x[i] = p.strength < 1 ? plan.start.alpha * g_x0[i] + plan.start.sigma * g_noise[0][i]
                              : plan.noise_scale * g_noise[0][i];
    double worst = follow(name, &plan, c.prediction_type, x);
    snprintf(end_name, sizeof end_name, "end/%s", name + 4);
    const safetensor *end = safetensors_find(g_gold, end_name);
    for (int i = 0; end && i < D; i++)
        CHECK(fabs(x[i] - safetensor_load(end, i)) < 1.1e-4,
              "%s: float32 diffusers ends at %.6f, we at %.6f", name, safetensor_load(end, i),
              x[i]);
    sampler_plan_fini(&plan);
    return worst;
}

static void check_inversion(const char *name) {
    char predicted[32], space[32];
    sampler_params p = {.eta = -1};
    int one = 0, offset = 0;
    REQUIRE(sscanf(name, "invert/%31[^/]/%31[^/]/%d/%lf/%d/%d", predicted, space, &p.steps,
                   &p.strength, &one, &offset) == 6);
    p.spacing = index_of(spacings, 3, space);
    schedule_config c = config_of("scaled_linear", predicted, false, one);
    c.steps_offset = offset;
    sampler_plan up, down;
    double x[D];
    REQUIRE_OK(sampler_expand_inversion(&c, &p, &up));
    REQUIRE(up.start.alpha == (one ? 1 : up.start.alpha) && up.start.alpha > 0.999);
    memcpy(x, g_x0, sizeof x);
    follow(name, &up, c.prediction_type, x);
    REQUIRE_OK(sampler_expand(sampler_find("ddim"), &c, &p,
                              &down)); /* its start is where the way up ends */
    REQUIRE_EQ(up.n_calls, down.n_calls);
    for (int i = 0; i < up.n_calls; i++)
        REQUIRE(up.call[i].at.t == down.call[down.n_calls - 1 - i].at.t);
    sampler_plan_fini(&up);
    sampler_plan_fini(&down);
}

/* The published rotation of FreeMorph's steps, for v prediction: next = cos D base +- sin D v. */
static void check_freemorph(void) {
    static const struct {
        int i;
        double cosine, sine;
    } table[] = {{0, 1, 0},
                 {1, 0.99417735, 0.10775622},
                 {2, 0.99823839, 0.05933062},
                 {16, 0.99942030, 0.03404492},
                 {39, 0.99982572, 0.01866896}};
    schedule_config c = schedule_sd1;
    c.prediction_type = PREDICTION_V;
    c.steps_offset = 0;
    sampler_params p = {.steps = 50, .eta = -1, .strength = 0.8, .spacing = SPACING_LEADING};
    sampler_plan up, down;
    REQUIRE_OK(sampler_expand_inversion(&c, &p, &up));
    REQUIRE_OK(sampler_expand(sampler_find("ddim"), &c, &p, &down));
    REQUIRE(up.n_calls == 40 && down.n_calls == 40);
    for (size_t k = 0; k < ARRAY_LEN(table); k++) {
        const sampler_call *calls[] = {&up.call[table[k].i], &down.call[39 - table[k].i]};
        for (int way = 0; way < 2; way++) {
            double wx, wp;
            prediction_to_x0(PREDICTION_V, calls[way]->at, &wx, &wp);
            REQUIRE(calls[way]->at.t == 20 * table[k].i);
            REQUIRE(fabs(calls[way]->mix.x + calls[way]->mix.x0 * wx - table[k].cosine) < 1e-8);
            REQUIRE(fabs(calls[way]->mix.x0 * wp - (way ? -1 : 1) * table[k].sine) < 1e-8);
        }
    }
    sampler_plan_fini(&up);
    sampler_plan_fini(&down);
}

static void check_abar(const char *name) {
    static const int at[] = {0, 1, 2, 10, 500, 990, 997, 998, 999};
    static double abar[1000];
    char beta[32];
    int zero_snr = 0;
    REQUIRE(sscanf(name, "abar/%31[^/]/%d", beta, &zero_snr) == 2);
    schedule_config c = config_of(beta, "epsilon", zero_snr, false);
    const safetensor *t = safetensors_find(g_gold, name);
    REQUIRE_OK(schedule_alphas_cumprod(&c, abar));
    for (size_t i = 0; i < ARRAY_LEN(at); i++)
        CHECK(fabs(abar[at[i]] - safetensor_load(t, (int64_t)i)) < 1e-13, "%s at %d is %.17g", name,
              at[i], abar[at[i]]);
    if (zero_snr) REQUIRE(abar[999] == 0);
    level half = schedule_level(&c, abar, 500.5), low = schedule_level(&c, abar, 500),
          high = schedule_level(&c, abar, 501);
    REQUIRE(low.alpha * low.alpha == abar[500] || fabs(low.alpha * low.alpha - abar[500]) < 1e-15);
    REQUIRE(fabs(half.alpha * half.alpha + half.sigma * half.sigma - 1) < 1e-14);
    double mean =
        sqrt(low.sigma / low.alpha * high.sigma / high.alpha); /* halfway in the logarithm */
    REQUIRE(fabs(half.sigma / half.alpha - mean) < 1e-12 * mean);
    level end = schedule_level(&c, abar, 999), near = schedule_level(&c, abar, 998.9);
    REQUIRE(end.alpha == (zero_snr ? 0 : end.alpha) && near.alpha > end.alpha &&
            isfinite(near.alpha));
}

/* "times/SAMPLER/SPACING/GRID/STEPS": float32 originals. Cut times may be one off where rounding
 * decides. */
static void check_times(const char *name) {
    char who[32], space[32], grid[32];
    sampler_params p = {.eta = -1, .strength = 1};
    REQUIRE(sscanf(name, "times/%31[^/]/%31[^/]/%31[^/]/%d", who, space, grid, &p.steps) == 4);
    p.grid = (sigma_grid)index_of(grids, 3, grid);
    p.spacing = index_of(spacings, 3, space);
    sampler_plan plan;
    const safetensor *t = safetensors_find(g_gold, name);
    REQUIRE_OK(sampler_expand(sampler_find(who), &schedule_sd1, &p, &plan));
    REQUIRE_EQ(plan.n_calls, safetensor_count(t));
    bool cut = p.grid == GRID_EXPONENTIAL && strcmp(who, "euler") != 0;
    for (int i = 0, off = 0; i < plan.n_calls; i++) {
        double gap = plan.call[i].at.t - safetensor_load(t, i);
        CHECK(fabs(gap) < 2e-3 || (cut && fabs(gap) == 1 && ++off < 3),
              "%s: time %d is %.6f, diffusers' %.6f", name, i, plan.call[i].at.t,
              safetensor_load(t, i));
    }
    sampler_plan_fini(&plan);
}

static void check_names(void) {
    static const struct {
        const char *text, *name;
        int grid, spacing;
    } names[] = {{"euler", "euler", 0, -1},
                 {"Euler", "euler", 0, -1},
                 {"EulerDiscreteScheduler", "euler", 0, -1},
                 {"euler_a", "euler_a", 0, -1},
                 {"Euler a", "euler_a", 0, -1},
                 {"EulerAncestralDiscreteScheduler", "euler_a", 0, -1},
                 {"Euler a Karras", "euler_a", 1, -1},
                 {"Heun", "heun", 0, -1},
                 {"HeunDiscreteScheduler", "heun", 0, -1},
                 {"DPM++ 2M Karras", "dpmpp_2m", 1, -1},
                 {"dpm++2m", "dpmpp_2m", 0, -1},
                 {"dpmpp_2m", "dpmpp_2m", 0, -1},
                 {"DPMSolverMultistepScheduler", "dpmpp_2m", 0, -1},
                 {"DPM++ 2M SDE Karras", "dpmpp_2m_sde", 1, -1},
                 {"DPM++ 2M SDE Exponential", "dpmpp_2m_sde", 2, -1},
                 {"dpm++2m_sde", "dpmpp_2m_sde", 0, -1},
                 {"UniPC", "unipc", 0, -1},
                 {"UniPCMultistepScheduler", "unipc", 0, -1},
                 {"uni_pc", "unipc", 0, -1},
                 {"LCM", "lcm", 0, -1},
                 {"lcmscheduler", "lcm", 0, -1},
                 {"DDIM", "ddim", 0, -1},
                 {"DDIMScheduler", "ddim", 0, -1},
                 {"ddim_trailing", "ddim", 0, SPACING_TRAILING}};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        const sampler_info *s = NULL;
        sampler_params p = {.grid = GRID_MODEL, .spacing = -1};
        bool known = sampler_alias(names[i].text, &s, &p);
        CHECK(known && strcmp(sampler_name(s), names[i].name) == 0 &&
                  (int)p.grid == names[i].grid && p.spacing == names[i].spacing,
              "\"%s\" is taken for %s, grid %d, spacing %d", names[i].text,
              known ? sampler_name(s) : "nothing", (int)p.grid, p.spacing);
        bool words = names[i].grid || names[i].spacing >= 0;
        CHECK((sampler_find(names[i].text) == NULL) == words, "sampler_find(\"%s\")",
              names[i].text);
    }
    const sampler_info *s = NULL;
    sampler_params p = {.grid = GRID_KARRAS, .spacing = SPACING_LEADING};
    REQUIRE(sampler_alias("Euler", &s, &p) && p.grid == GRID_KARRAS &&
            p.spacing == SPACING_LEADING); /* says nothing: untouched */
    static const char *const unknown[] = {"",
                                          "karras",
                                          "plms",
                                          "Euler b",
                                          "scheduler",
                                          "DPM++ 2S a",
                                          "trailing",
                                          "a name that is far longer than any name of any sampler "
                                          "that anybody has ever given to one"};
    for (size_t i = 0; i < ARRAY_LEN(unknown); i++)
        CHECK(!sampler_alias(unknown[i], &s, &p) && !sampler_find(unknown[i]),
              "\"%s\" is taken for a sampler", unknown[i]);
    int n = 0;
    for (; sampler_at(n); n++)
        REQUIRE(sampler_find(sampler_name(sampler_at(n))) == sampler_at(n) &&
                sampler_find(sampler_label(sampler_at(n))) == sampler_at(n));
    REQUIRE(n == 8 && !sampler_at(-1));
}

static status parse(const char *text, schedule_config *c) {
    json *j = NULL;
    REQUIRE_OK(json_parse(text, strlen(text), "test", &j));
    status st = schedule_config_parse(j, c);
    json_free(j);
    return st;
}

static bool same_config(const schedule_config *a, const schedule_config *b) {
    return a->num_train_timesteps == b->num_train_timesteps && a->beta_start == b->beta_start &&
           a->beta_end == b->beta_end && a->beta_schedule == b->beta_schedule &&
           a->prediction_type == b->prediction_type &&
           a->rescale_betas_zero_snr == b->rescale_betas_zero_snr &&
           a->set_alpha_to_one == b->set_alpha_to_one &&
           a->timestep_spacing == b->timestep_spacing && a->steps_offset == b->steps_offset;
}

static void check_config(void) {
    schedule_config c = schedule_sd1;
    REQUIRE_OK(parse("{}", &c));
    REQUIRE(same_config(&c, &schedule_sd1));
    REQUIRE_OK(parse("{\"_class_name\": \"PNDMScheduler\", \"_diffusers_version\": \"0.6.0\", "
                     "\"beta_end\": 0.012, \"beta_schedule\": "
                     "\"scaled_linear\", \"beta_start\": 0.00085, \"num_train_timesteps\": 1000, "
                     "\"set_alpha_to_one\": false, "
                     "\"skip_prk_steps\": true, \"steps_offset\": 1, \"trained_betas\": null, "
                     "\"clip_sample\": false}",
                     &c));
    REQUIRE(same_config(&c, &schedule_sd1)); /* Stable Diffusion 1.5's own file */
    REQUIRE_OK(parse("{\"beta_schedule\":\"linear\",\"beta_start\":0.0001,\"beta_end\":0.02,"
                     "\"prediction_type\":\"v_prediction\",\"rescale_betas_zero_snr\":"
                     "true,\"set_alpha_to_one\":true,\"timestep_spacing\":\"trailing\",\"steps_"
                     "offset\":0,\"num_train_timesteps\":500,\"use_karras_sigmas\":true}",
                     &c));
    REQUIRE(c.beta_schedule == BETA_LINEAR && c.beta_start == 0.0001 && c.beta_end == 0.02 &&
            c.prediction_type == PREDICTION_V);
    REQUIRE(c.rescale_betas_zero_snr && c.set_alpha_to_one &&
            c.timestep_spacing == SPACING_TRAILING && c.steps_offset == 0);
    REQUIRE_EQ(c.num_train_timesteps, 500);
    static const struct {
        status st;
        const char *text;
    } bad[] = {{E_FORMAT, "[]"},
               {E_FORMAT, "{\"beta_start\":\"0.1\"}"},
               {E_FORMAT, "{\"beta_start\":0}"},
               {E_FORMAT, "{\"beta_start\":-1}"},
               {E_FORMAT, "{\"beta_end\":1}"},
               {E_FORMAT, "{\"beta_start\":0.5}"},
               {E_FORMAT, "{\"num_train_timesteps\":1}"},
               {E_FORMAT, "{\"num_train_timesteps\":1e9}"},
               {E_FORMAT, "{\"num_train_timesteps\":10.5}"},
               {E_FORMAT, "{\"steps_offset\":1000}"},
               {E_FORMAT, "{\"steps_offset\":-1}"},
               {E_FORMAT, "{\"set_alpha_to_one\":0}"},
               {E_FORMAT, "{\"rescale_betas_zero_snr\":\"yes\"}"},
               {E_FORMAT, "{\"prediction_type\":1}"},
               {E_FORMAT, "{\"_class_name\":3}"},
               {E_UNSUPPORTED, "{\"prediction_type\":\"flow_prediction\"}"},
               {E_UNSUPPORTED, "{\"beta_schedule\":\"sigmoid\"}"},
               {E_UNSUPPORTED, "{\"timestep_spacing\":\"quad\"}"},
               {E_UNSUPPORTED, "{\"trained_betas\":[0.1,0.2]}"},
               {E_UNSUPPORTED, "{\"clip_sample\":true}"},
               {E_UNSUPPORTED, "{\"thresholding\":true}"},
               {E_UNSUPPORTED, "{\"use_flow_sigmas\":true}"},
               {E_UNSUPPORTED, "{\"_class_name\":\"FlowMatchEulerDiscreteScheduler\"}"},
               {E_UNSUPPORTED, "{\"_class_name\":\"EDMEulerScheduler\"}"},
               {E_UNSUPPORTED, "{\"timestep_type\":\"continuous\"}"},
               {E_UNSUPPORTED, "{\"interpolation_type\":\"log_linear\"}"},
               {E_UNSUPPORTED, "{\"final_sigmas_type\":\"sigma_min\"}"}};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        c = schedule_sd1;
        status st = parse(bad[i].text, &c);
        CHECK(st == bad[i].st, "%s: %s", bad[i].text, status_name(st));
        REQUIRE(same_config(&c, &schedule_sd1));
    }
}

static void refuse(status want, const char *who, const schedule_config *c, sampler_params p) {
    sampler_plan plan;
    status st = sampler_expand(sampler_find(who), c, &p, &plan);
    CHECK(st == want, "%s, %d steps: %s (%s)", who, p.steps, status_name(st), error_message());
    REQUIRE(!plan.call && !plan.mem.head);
}

static void check_refusals(void) {
    const sampler_params ok = {.steps = 10, .eta = -1, .strength = 1, .spacing = -1};
    sampler_params p;
    schedule_config zero = schedule_sd1, bad = schedule_sd1;
    zero.rescale_betas_zero_snr = true;
    bad.beta_end = 2;
#define WITH(field, value) (p = ok, p.field = (value), p)
    refuse(E_USAGE, "euler", &schedule_sd1, WITH(steps, 0));
    refuse(E_USAGE, "euler", &schedule_sd1, WITH(steps, 1001));
    refuse(E_USAGE, "euler", &schedule_sd1, WITH(strength, 0));
    refuse(E_USAGE, "euler", &schedule_sd1, WITH(strength, 0.05));
    refuse(E_USAGE, "euler", &schedule_sd1, WITH(strength, NAN));
    refuse(E_USAGE, "euler", &schedule_sd1, WITH(strength, 1.5));
    refuse(E_USAGE, "euler", &schedule_sd1, WITH(spacing, 3));
    refuse(E_USAGE, "euler", &schedule_sd1, WITH(grid, GRID_COUNT));
    refuse(E_USAGE, "euler", &schedule_sd1, WITH(eta, 0.5));
    refuse(E_USAGE, "ddim", &schedule_sd1, WITH(eta, 1.5));
    refuse(E_USAGE, "ddim", &schedule_sd1, WITH(eta, NAN));
    refuse(E_USAGE, "ddim", &schedule_sd1,
           WITH(steps, 1000)); /* leading with an offset: the first time would be 1000 */
    refuse(E_USAGE, "dpmpp_2m", &schedule_sd1,
           WITH(steps, 1000)); /* two equal levels: no step between them */
    refuse(E_USAGE, "lcm", &schedule_sd1, WITH(steps, 51));
    refuse(E_USAGE, "lcm", &schedule_sd1, WITH(strength, 0.1));
    refuse(E_UNSUPPORTED, "ddim", &schedule_sd1, WITH(grid, GRID_KARRAS));
    refuse(E_UNSUPPORTED, "lcm", &schedule_sd1, WITH(grid, GRID_EXPONENTIAL));
    refuse(E_UNSUPPORTED, "ddim", &zero, WITH(spacing, SPACING_TRAILING));
    refuse(E_FORMAT, "euler", &bad, ok);
    sampler_plan plan;
    p = ok, p.spacing = SPACING_LINSPACE;
    REQUIRE(sampler_expand_inversion(&schedule_sd1, &p, &plan) == E_UNSUPPORTED && !plan.call);
}

/* Every sampler, every count of steps, zero SNR: finite weights, and a constant x0 is reached
 * whatever the noise. */
static void check_exact(void) {
    for (int i = 0; sampler_at(i); i++) {
        for (int n = 1; n <= 60; n++) {
            for (int zero_snr = 0; zero_snr < 2; zero_snr++) {
                schedule_config c = schedule_sd1;
                c.prediction_type = PREDICTION_V;
                c.rescale_betas_zero_snr = zero_snr;
                c.set_alpha_to_one = true;
                sampler_params p = {
                    .steps = n, .eta = -1, .strength = 1, .spacing = SPACING_TRAILING};
                sampler_plan plan;
                if (strcmp(sampler_name(sampler_at(i)), "lcm") == 0 ||
                    sampler_expand(sampler_at(i), &c, &p, &plan) != OK)
                    continue;
                double x = 0.3, kept[SAMPLER_MAX_KEPT] = {0}, x0 = -1.7;
                for (int k = 0; k < plan.n_calls; k++) {
                    const sampler_mix *m = &plan.call[k].mix;
                    double next = m->x * x + m->x0 * x0 + m->noise * 0.9, keep[SAMPLER_MAX_KEPT];
                    for (int s = 0; s < SAMPLER_MAX_KEPT; s++) {
                        next += m->kept[s] * kept[s];
                        keep[s] = m->keep[s].set ? m->keep[s].x * x + m->keep[s].x0 * x0 : kept[s];
                        for (int q = 0; m->keep[s].set && q < SAMPLER_MAX_KEPT; q++)
                            keep[s] += m->keep[s].kept[q] * kept[q];
                    }
                    memcpy(kept, keep, sizeof kept);
                    x = next;
                }
                if (strcmp(sampler_name(sampler_at(i)), "ddim") == 0 &&
                    1000 % n) { /* DDIM's last step may stop at the first level */
                    CHECK(fabs(x - x0) < 0.1, "ddim, %d steps end at %g", n, x);
                } else {
                    CHECK(fabs(x - x0) < 1e-9, "%s, %d steps, zero SNR %d: ends at %.12g, x0 is %g",
                          sampler_name(sampler_at(i)), n, zero_snr, x, x0);
                }
                sampler_plan_fini(&plan);
            }
        }
    }
}

/* Ancestral: without its noise it is Euler; with it, variances add up to the level's. */
static void check_eta(void) {
    sampler_params p = {.steps = 12, .strength = 1, .spacing = -1};
    sampler_plan none, some, euler;
    REQUIRE_OK(sampler_expand(sampler_find("euler_a"), &schedule_sd1, &p, &none));
    p.eta = 0.4;
    REQUIRE_OK(sampler_expand(sampler_find("euler_a"), &schedule_sd1, &p, &some));
    p.eta = -1;
    REQUIRE_OK(sampler_expand(sampler_find("euler"), &schedule_sd1, &p, &euler));
    REQUIRE(!none.noise && some.noise && none.n_calls == euler.n_calls);
    for (int i = 0; i < euler.n_calls; i++) {
        const sampler_mix *n = &none.call[i].mix, *e = &euler.call[i].mix, *m = &some.call[i].mix;
        REQUIRE(fabs(n->x - e->x) < 1e-12 && fabs(n->x0 - e->x0) < 1e-12);
        if (i + 1 == euler.n_calls) continue;
        level from = euler.call[i].at, to = euler.call[i + 1].at;
        REQUIRE(fabs(m->x * from.alpha + m->x0 - to.alpha) < 1e-12);
        REQUIRE(fabs(hypot(m->x * from.sigma, m->noise) - to.sigma) < 1e-12);
    }
    sampler_plan_fini(&none);
    sampler_plan_fini(&some);
    sampler_plan_fini(&euler);
}

static void check_memory_faults(void) {
    sampler_params p = {.steps = 10, .eta = -1, .strength = 1, .spacing = -1};
    for (int i = 0; sampler_at(i); i++) {
        sampler_plan plan;
        int64_t n = 0;
        for (bool done = false; !done;) {
            fault_arm(++n);
            status st = sampler_expand(sampler_at(i), &schedule_sd1, &p, &plan);
            done = st == OK;
            REQUIRE(done || (st == E_HOST_MEMORY && !plan.call));
            if (done) sampler_plan_fini(&plan);
        }
        fault_arm(0);
        REQUIRE(n > 2);
    }
}

int main(int argc, char **argv) {
    safetensors *f = NULL;
    if (argc < 2) return printf("usage: test_sampler GOLDEN\n"), 2;
    REQUIRE_OK(safetensors_open(argv[1], &f));
    g_gold = f;
    read_all("A", &g_a[0][0], D * D);
    read_all("noise", &g_noise[0][0], 12 * D);
    read_all("x0", g_x0, D);
    int runs = 0, inversions = 0, times = 0;
    double worst = 0;
    for (int64_t i = 0; i < f->n; i++) {
        const char *name = f->tensor[i].name;
        if (strncmp(name, "run/", 4) == 0) runs++, worst = fmax(worst, check_run(name));
        if (strncmp(name, "invert/", 7) == 0) inversions++, check_inversion(name);
        if (strncmp(name, "abar/", 5) == 0) check_abar(name);
        if (strncmp(name, "times/", 6) == 0) times++, check_times(name);
    }
    printf("%d runs within %.1e of diffusers in double, %d inversions, %d lists of times\n", runs,
           worst, inversions, times);
    REQUIRE(runs > 200 && inversions == 17 && times > 200);
    check_freemorph();
    check_names();
    check_config();
    check_refusals();
    check_exact();
    check_eta();
    check_memory_faults();
    safetensors_close(f);
    REQUIRE_EQ(mem_live(), 0);
    return g_failures ? 1 : 0;
}
