/* schedule_config.c: reads diffusers' scheduler_config.json. It describes a model and, in part, a
 * sampler; only the model's part is taken, and whatever of it would give other pictures without our
 * knowing is refused by name. SPDX-License-Identifier: MIT */
#include "sampler/sampler_internal.h"
#include <cjson/cJSON.h>

static const json *field(const json *j, const char *name) { /* NULL: absent or null */
    const json *v = cJSON_GetObjectItemCaseSensitive(j, name);
    return cJSON_IsNull(v) ? NULL : v;
}

static status read_number(const json *j, const char *name, double low, double high, double *out) {
    const json *v = field(j, name);
    if (!v) return OK;
    if (!cJSON_IsNumber(v) || !(v->valuedouble >= low && v->valuedouble <= high))
        return fail(E_FORMAT, "scheduler config: %s must be a number from %g to %g", name, low,
                    high);
    *out = v->valuedouble;
    return OK;
}

static status read_integer(const json *j, const char *name, int low, int high, int *out) {
    double v = *out;
    status st = read_number(j, name, low, high, &v);
    if (st != OK) return st;
    if (v != floor(v))
        return fail(E_FORMAT, "scheduler config: %s is %g, expected a whole number", name, v);
    *out = (int)v;
    return OK;
}

static status read_bool(const json *j, const char *name, bool *out) {
    const json *v = field(j, name);
    if (!v) return OK;
    if (!cJSON_IsBool(v)) return fail(E_FORMAT, "scheduler config: %s must be true or false", name);
    *out = cJSON_IsTrue(v);
    return OK;
}

/* One of n words; another word is something diffusers may know and we do not. */
static status read_word(const json *j, const char *name, const char *const *words, int n,
                        int *out) {
    const json *v = field(j, name);
    if (!v) return OK;
    if (!cJSON_IsString(v)) return fail(E_FORMAT, "scheduler config: %s must be a string", name);
    for (int i = 0; i < n; i++)
        if (strcmp(v->valuestring, words[i]) == 0) return *out = i, OK;
    return fail(E_UNSUPPORTED,
                "scheduler config: %s \"%.40s\" is not known here (\"%s\" and its like are)", name,
                v->valuestring, words[0]);
}

/* Classes whose models are not variance-preserving, or not told time the way ours are. */
static status check_class(const json *j) {
    static const char *const foreign[] = {"FlowMatch", "EDM",          "ScoreSde",
                                          "KarrasVe",  "CMStochastic", "VQDiffusion"};
    const json *v = field(j, "_class_name");
    if (!v) return OK;
    if (!cJSON_IsString(v)) return fail(E_FORMAT, "scheduler config: _class_name must be a string");
    for (size_t i = 0; i < ARRAY_LEN(foreign); i++)
        if (strncmp(v->valuestring, foreign[i], strlen(foreign[i])) == 0)
            return fail(E_UNSUPPORTED,
                        "scheduler config: models of %.60s are not supported, only "
                        "variance-preserving ones "
                        "(those of DDIM, Euler, DPM-Solver, ...)",
                        v->valuestring);
    return OK;
}

static status check_unsupported(const json *j) {
    static const char *const switches[] = {"clip_sample", "thresholding", "use_flow_sigmas",
                                           "use_dynamic_shifting"};
    status st = check_class(j);
    for (size_t i = 0; st == OK && i < ARRAY_LEN(switches); i++) {
        bool on = false;
        st = read_bool(j, switches[i], &on);
        if (on)
            st = fail(E_UNSUPPORTED, "scheduler config: %s is true, which is not supported",
                      switches[i]);
    }
    if (st == OK && field(j, "trained_betas"))
        st = fail(E_UNSUPPORTED,
                  "scheduler config: a list of trained_betas is not supported, only beta_schedule");
    int word = 0;
    if (st == OK) st = read_word(j, "timestep_type", (const char *const[]){"discrete"}, 1, &word);
    if (st == OK)
        st = read_word(j, "interpolation_type", (const char *const[]){"linear"}, 1, &word);
    if (st == OK) st = read_word(j, "final_sigmas_type", (const char *const[]){"zero"}, 1, &word);
    return st;
}

status schedule_config_parse(const json *j, schedule_config *c) {
    static const char *const betas[BETA_KIND_COUNT] = {"linear", "scaled_linear",
                                                       "squaredcos_cap_v2"};
    static const char *const predictions[PREDICTION_COUNT] = {"epsilon", "v_prediction", "sample"};
    static const char *const spacings[SPACING_COUNT] = {"leading", "trailing", "linspace"};
    status st = OK;
    schedule_config n = *c;
    int beta = (int)n.beta_schedule, predicted = (int)n.prediction_type,
        space = (int)n.timestep_spacing;
    if (!cJSON_IsObject(j)) TRY(fail(E_FORMAT, "scheduler config: not a JSON object"));
    TRY(check_unsupported(j));
    TRY(read_integer(j, "num_train_timesteps", 2, MAX_TRAIN_STEPS, &n.num_train_timesteps));
    TRY(read_number(j, "beta_start", 1e-9, 0.999999, &n.beta_start));
    TRY(read_number(j, "beta_end", 1e-9, 0.999999, &n.beta_end));
    if (n.beta_start > n.beta_end)
        TRY(fail(E_FORMAT, "scheduler config: beta_start %g is above beta_end %g", n.beta_start,
                 n.beta_end));
    TRY(read_word(j, "beta_schedule", betas, BETA_KIND_COUNT, &beta));
    TRY(read_word(j, "prediction_type", predictions, PREDICTION_COUNT, &predicted));
    TRY(read_word(j, "timestep_spacing", spacings, SPACING_COUNT, &space));
    TRY(read_bool(j, "rescale_betas_zero_snr", &n.rescale_betas_zero_snr));
    TRY(read_bool(j, "set_alpha_to_one", &n.set_alpha_to_one));
    TRY(read_integer(j, "steps_offset", 0, n.num_train_timesteps - 1, &n.steps_offset));
    n.beta_schedule = (beta_kind)beta, n.prediction_type = (prediction)predicted,
    n.timestep_spacing = (spacing)space;
    *c = n;
out:
    return st;
}
