/* personalize_probe.c: has it learned enough? Now and then the network is asked about the training
 * pictures with fixed noise (fit: the loss without chance) and about the class without the subject
 * (drift: how far its answers have left those of the model it was). Training goes too far where fit
 * no longer falls and drift still rises, or fit rises again. SPDX-License-Identifier: MIT */
#include "engine/personalize_job.h"
#include "train/noising.h"
#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>

enum { FIT_ASKED = 4, DRIFT_ASKED = 2, LOG_BYTES = 1 << 26 };
static const double fit_at[FIT_ASKED] = {0.3, 0.5, 0.7, 0.9}, drift_at[DRIFT_ASKED] = {0.5, 0.9};

/* All rows of bucket 0 at timestep share * T; row i shows picture first + i. */
static status ask(job *j, double share, int first, int text, uint32_t noise, float *y) {
    status st = OK;
    bucket *b = &j->bucket[0];
    int64_t t = (int64_t)(share * j->im->ck->schedule.num_train_timesteps);
    for (int i = 0; i < j->rows; i++) {
        j->t[i] = (float)t;
        noising_level(j->abar, t, j->level_x[i], j->level_v[i]);
        feed_picture(j, b, i, (first + i) % b->n, 0);
        if (text >= 0) feed_text(j, i, text);
        feed_target(j, i, 1);
        j->sample[i] = 0xc0000000u + noise + (uint32_t)i; /* no sample of training has it */
    }
    TRY(feed_write(j, b->look));
    TRY(plan_run(b->look, j->run.cancelled, j->run.ctx));
    if (y) TRY(plan_read(b->look, "y", y));
out:
    return st;
}

static status fit(job *j, double *out) {
    status st = OK;
    *out = 0;
    for (int k = 0; k < FIT_ASKED; k++) {
        float loss;
        TRY(ask(j, fit_at[k], k, -1, (uint32_t)(k * j->rows), NULL));
        TRY(plan_read(j->bucket[0].look, "loss", &loss));
        *out += (double)loss / FIT_ASKED;
    }
out:
    return st;
}

static size_t answer_size(const job *j) { return latent_of(j, &j->bucket[0]) * (size_t)j->rows; }

/* Mean squared change of the answers, as a share of their own size. */
static status drift(job *j, double *out) {
    status st = OK;
    size_t n = answer_size(j);
    double off = 0, size = 0;
    float *y = mem_alloc(sizeof *y * n);
    if (!y) return fail(E_HOST_MEMORY, "no host memory to probe");
    for (int k = 0; k < DRIFT_ASKED; k++) {
        TRY(ask(j, drift_at[k], k, j->class_text, 1000u + (uint32_t)(k * j->rows), y));
        for (size_t i = 0; i < n; i++) {
            double was = (double)j->base[n * (size_t)k + i], d = (double)y[i] - was;
            off += d * d;
            size += was * was;
        }
    }
    *out = off / MAX(size, 1e-30);
out:
    mem_free(y);
    return st;
}

static double number_of(const cJSON *o, const char *key) {
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, key);
    return cJSON_IsNumber(v) ? v->valuedouble : NAN;
}

static void remember(job *j, int64_t step, double f, double d) {
    while (j->n_probes && j->probe[j->n_probes - 1].step >= step) j->n_probes--; /* run again */
    if (j->n_probes < PERSONALIZE_PROBES) j->probe[j->n_probes++] = (probe_point){step, f, d};
}

/* What earlier processes of this run saw. */
static status read_history(job *j) {
    status st = OK;
    char path[1200];
    uint8_t *data = NULL;
    size_t bytes = 0;
    snprintf(path, sizeof path, "%s/train.log", j->folder);
    if (j->run.anew || !os_file_exists(path)) return OK;
    TRY(file_read(path, LOG_BYTES, &data, &bytes));
    for (char *line = (char *)data, *end; (end = strchr(line, '\n')); line = end + 1) {
        cJSON *o = cJSON_ParseWithLength(line, (size_t)(end - line));
        double f = number_of(o, "fit"), d = number_of(o, "drift"), s = number_of(o, "step");
        cJSON_Delete(o);
        if (isfinite(f) && isfinite(d) && s >= 0 && s < 1e15) remember(j, (int64_t)s, f, d);
    }
out:
    mem_free(data);
    return st;
}

status probe_begin(job *j) {
    status st = OK;
    size_t n = answer_size(j);
    if (!j->run.probe_every) return OK;
    if (!(j->base = mem_alloc(sizeof *j->base * n * DRIFT_ASKED)))
        return fail(E_HOST_MEMORY, "no host memory to probe");
    for (int k = 0; k < DRIFT_ASKED; k++)
        TRY(ask(j, drift_at[k], k, j->class_text, 1000u + (uint32_t)(k * j->rows),
                j->base + n * (size_t)k));
    TRY(read_history(j));
out:
    return st;
}

/* The probe of the best fit, and the first that had learned 95 % of what that had. */
static void landmarks(const job *j, int *best, int *enough) {
    *best = *enough = 0;
    for (int i = 0; i < j->n_probes; i++)
        if (j->probe[i].fit < j->probe[*best].fit) *best = i;
    double least = j->probe[*best].fit, all = j->probe[0].fit - least;
    while (*enough < *best && j->probe[*enough].fit > least + 0.05 * all) (*enough)++;
}

static void say(job *j, const probe_point *then) {
    const probe_point *now = &j->probe[j->n_probes - 1];
    j->advised = true;
    log_info(
        "step %lld: since step %lld the pictures are learned no better (fit %.4f -> %.4f), but "
        "answers about '%s' went on drifting from the base model's (%.4f -> %.4f): --steps "
        "%lld would keep more of what it knew%s",
        (long long)now->step, (long long)then->step, then->fit, now->fit, j->class_prompt,
        then->drift, now->drift, (long long)then->step,
        j->run.keep_every ? ", or take one of the kept adapters"
                          : "; --save-every keeps the states on the way");
}

/* While it runs only a fit that rises is worth a word; at the end, also one that stood still. */
static void advise(job *j, bool over) {
    int best, enough, last = j->n_probes - 1;
    if (last < 4 || j->advised) return;
    landmarks(j, &best, &enough);
    const probe_point *at = &j->probe[best], *early = &j->probe[enough], *now = &j->probe[last];
    if (last - best >= 4 && now->fit > 1.01 * at->fit)
        say(j, at);
    else if (over && early->step * 10 <= now->step * 6 && now->drift > 1.5 * early->drift)
        say(j, early);
}

status probe_run(void *ctx, int64_t step, record_value *v, int *n) {
    status st = OK;
    job *j = ctx;
    double f = 0, d = 0;
    TRY(fit(j, &f));
    TRY(drift(j, &d));
    v[(*n)++] = (record_value){"fit", f};
    v[(*n)++] = (record_value){"drift", d};
    remember(j, step, f, d);
    advise(j, false);
out:
    return st;
}

void probe_advise(job *j) { advise(j, true); }
