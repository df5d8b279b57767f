/* train_sheet.c: what the base model can do so far: pictures of fixed prompts from fixed noise, and
 * how well it guesses held-out pictures from noise, with their caption and without. The gap between
 * the two is what it learned of words; it moves long before the eye sees anything.
 * SPDX-License-Identifier: MIT */
#include "engine/train_base.h"
#include "train/noising.h"
#include <math.h>
#include <stdio.h>

static status ask(base_job *j) {
    status st = OK;
    TRY(plan_write(j->ask, "x", j->x));
    TRY(plan_write(j->ask, "t", j->t));
    TRY(plan_write(j->ask, "ids", j->ids));
    TRY(plan_run(j->ask, j->p->cancelled, j->p->ctx));
    TRY(plan_read(j->ask, "v", j->y));
out:
    return st;
}

/* Mean squared error of x0 over the held-out latents noised to t; captions or none. */
static status error_at(base_job *j, int64_t t, bool captions, double *out) {
    status st = OK;
    float lx[2], lv[2];
    rng_key key = {{j->p->seed, 1}, rng_stream("held-out noise")};
    double sum = 0;
    noising_level(j->abar, t, lx, lv);
    for (int first = 0; first < j->b->n_held_out; first += j->p->batch) {
        int n = MIN(j->p->batch, j->b->n_held_out - first);
        const float *x0 = j->b->held_out + j->one * (size_t)first;
        for (int i = 0; i < j->p->batch; i++) {
            j->t[i] = (float)t;
            TRY(base_tokenize(j, captions && i < n ? j->b->held_out_caption[first + i].text : "",
                              j->ids + (size_t)i * (size_t)j->tokens));
        }
        for (size_t i = 0; i < j->one * (size_t)n; i++)
            j->x[i] = lx[0] * x0[i] +
                      lx[1] * (float)rng_normal(key, (uint64_t)first + i / j->one, i % j->one);
        TRY(ask(j));
        for (size_t i = 0; i < j->one * (size_t)n; i++) {
            double d = (double)(lx[0] * j->x[i] + lv[0] * j->y[i] - x0[i]);
            sum += d * d;
        }
    }
    *out = sum / ((double)j->one * MAX(j->b->n_held_out, 1));
out:
    return st;
}

static status measure(base_job *j, record_value *v, int *n) {
    status st = OK;
    static const struct {
        double share;
        const char *with, *without;
    } at[] = {{0.9, "x0_900", "x0_900_empty"},
              {0.8, "x0_800", "x0_800_empty"},
              {0.5, "x0_500", "x0_500_empty"}};
    for (size_t i = 0; i < ARRAY_LEN(at); i++) {
        int64_t t = (int64_t)(at[i].share * j->b->schedule.num_train_timesteps);
        double e;
        TRY(error_at(j, t, true, &e));
        v[(*n)++] = (record_value){at[i].with, e};
        TRY(error_at(j, t, false, &e));
        v[(*n)++] = (record_value){at[i].without, e};
    }
out:
    return st;
}

/* Pictures [first, first + n), n <= batch / 2: the first half of the batch has no caption, the
 * second half has. */
static status draw(base_job *j, const sampler_plan *s, int first, int n, float *latents) {
    status st = OK;
    int half = j->p->batch / 2;
    rng_key key = {{j->p->seed, 2}, rng_stream("sheet")};
    float *x = latents + j->one * (size_t)first;
    for (size_t i = 0; i < j->one * (size_t)n; i++)
        x[i] = (float)(s->noise_scale * rng_normal(key, (uint64_t)first + i / j->one, i % j->one));
    for (int i = 0; i < j->p->batch; i++)
        TRY(base_tokenize(j, i >= half && i - half < n ? j->b->prompt[first + i - half] : "",
                          j->ids + (size_t)i * (size_t)j->tokens));
    for (int c = 0; c < s->n_calls; c++) {
        const sampler_call *call = &s->call[c];
        double wx, wv;
        prediction_to_x0(j->b->schedule.prediction_type, call->at, &wx, &wv);
        for (int i = 0; i < j->p->batch; i++) j->t[i] = (float)call->at.t;
        for (int k = 0; k < 2; k++)
            memcpy(j->x + j->one * (size_t)(k * half), x, sizeof *x * j->one * (size_t)n);
        TRY(ask(j));
        for (size_t i = 0; i < j->one * (size_t)n; i++) {
            double without = (double)j->y[i], with = (double)j->y[i + j->one * (size_t)half];
            double x0 = wx * (double)x[i] + wv * (without + j->b->guidance * (with - without));
            x[i] = (float)(call->mix.x * (double)x[i] + call->mix.x0 * x0);
        }
    }
out:
    return st;
}

static status pictures(base_job *j, const char *path) {
    status st = OK;
    const train_base_params *b = j->b;
    sampler_plan s = {0};
    uint8_t *rgb = mem_alloc((size_t)b->side * (size_t)b->side * 3 * (size_t)b->n_prompts);
    float *latents = mem_alloc(sizeof *latents * j->one * (size_t)b->n_prompts);
    if (!rgb || !latents) TRY(fail(E_HOST_MEMORY, "no host memory for a sheet"));
    TRY(sampler_expand(
        sampler_find("ddim"), &b->schedule,
        &(sampler_params){
            .steps = b->sheet_steps, .eta = 0, .strength = 1, .spacing = SPACING_TRAILING},
        &s));
    for (int i = 0; i < b->n_prompts; i += j->p->batch / 2)
        TRY(draw(j, &s, i, MIN(j->p->batch / 2, b->n_prompts - i), latents));
    TRY(vae_opened_decode(b->vae, b->side, b->n_prompts, latents, rgb));
    TRY(sheet_save(rgb, b->n_prompts, b->side, b->columns, path));
out:
    sampler_plan_fini(&s);
    mem_free(rgb);
    mem_free(latents);
    return st;
}

status base_sheet(void *ctx, const char *path, record_value *v, int *n) {
    status st = OK;
    TRY(measure(ctx, v, n));
    TRY(pictures(ctx, path));
out:
    return st;
}
