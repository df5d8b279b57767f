/* denoise.c: one model call and what follows from it, recorded once: network, guidance, the estimate of x0, the sampler's
 * weighted sums, the next x. All weights are inputs, so every step of every sampler replays the same plan.
 * SPDX-License-Identifier: MIT */
#include "engine/engine.h"
#include "op/op.h"
#include <math.h>
#include <stdio.h>

static tensor *weights_input(graph *g, const char *name, int batch, int n) { return graph_input(g, name, DT_F32, SHAPE(batch, n)); }

tensor *denoise_network(imago *im, graph *g, const attention_rule *rule, tensor *x) {
    const latents *l = &im->lat;
    const unet_config *c = &im->ck->unet;
    int64_t rows = x->s.d[0];
    nn m = {g, &im->part[PART_UNET], NULL, rule};
    unet_text text = {0};
    for (int i = 0; i < l->n_kv; i++) text.k[i] = graph_array(g, l->k[i]), text.v[i] = graph_array(g, l->v[i]);
    tensor *t = graph_input(g, "t", DT_F32, SHAPE(rows)), *w = NULL;
    if (c->time_cond_proj_dim) w = op_cast(g, graph_input(g, "distilled_guidance", DT_F32, SHAPE(rows, c->time_cond_proj_dim)), im->type);
    return op_cast(g, unet_denoise(&m, c, x, t, &text, w), DT_F32);
}

/* The network's prediction, f32 [batch, h, w, C]; both halves of guidance are one batch, unconditional first. */
static tensor *record_network(imago *im, graph *g, const denoise_shape *s, tensor *x) {
    tensor *xt = op_cast(g, x, im->type);
    if (im->ck->inpainting) xt = op_concat(g, 3, xt, op_cast(g, graph_array(g, im->lat.fixed), im->type));
    if (s->guided) xt = op_concat(g, 0, xt, xt);
    return denoise_network(im, g, NULL, xt);
}

/* u + g (c - u), and the share `rescale` of it brought back to the spread of c (Lin et al. 2023, eq. 14-16). */
static tensor *record_guidance(graph *g, const denoise_shape *s, tensor *y, int batch) {
    if (!s->guided) return y;
    tensor *u = op_slice(g, y, 0, 0, batch), *c = op_slice(g, y, 0, batch, 2 * batch);
    tensor *guided = op_mix(g, ((tensor *[]){u, c}), 2, weights_input(g, "guidance", batch, 2), NULL, NULL);
    if (!s->rescaled) return guided;
    uint32_t dims = 1u << 1 | 1u << 2 | 1u << 3;
    tensor *back = op_mul(g, guided, op_div(g, op_std(g, c, dims), op_std(g, guided, dims)));
    return op_mix(g, ((tensor *[]){back, guided}), 2, weights_input(g, "rescale", batch, 2), NULL, NULL);
}

static status record_step(imago *im, graph *g, const void *ctx) {
    const denoise_shape *s = ctx;
    const latents *l = &im->lat;
    tensor *in[SAMPLER_MAX_KEPT + 3], *mask = NULL, *keep = NULL, *kept[SAMPLER_MAX_KEPT];
    int n = 0;
    tensor *x = graph_array(g, l->x);
    tensor *y = record_guidance(g, s, record_network(im, g, s, x), l->batch);
    tensor *x0 = op_mix(g, ((tensor *[]){x, y}), 2, weights_input(g, "x0", l->batch, 2), NULL, NULL);
    graph_output(g, x0, "x0");
    in[n++] = x, in[n++] = x0;
    for (int i = 0; i < s->n_kept; i++) in[n++] = graph_array(g, l->kept[i]);
    for (int i = 0; i < s->n_kept; i++) {
        char name[16];
        snprintf(name, sizeof name, "keep%d", i);
        kept[i] = op_mix(g, in, n, weights_input(g, name, l->batch, n), NULL, NULL);
    }
    if (s->noise) in[n++] = graph_input(g, "noise", DT_F32, SHAPE(l->batch, l->h, l->w, l->channels));
    if (s->blend) {
        mask = graph_array(g, l->mask);
        keep = op_mix(g, ((tensor *[]){graph_array(g, l->init), graph_array(g, l->noise)}), 2, weights_input(g, "outside", l->batch, 2), NULL, NULL);
    }
    tensor *next = op_mix(g, in, n, weights_input(g, "next", l->batch, n), mask, keep);
    for (int i = 0; i < s->n_kept; i++) op_store(g, graph_array(g, l->kept[i]), kept[i]);
    op_store(g, x, next);
    return OK;
}

status denoise_plan(imago *im, const denoise_shape *s, plan **out) {
    const latents *l = &im->lat;
    char key[160];
    snprintf(key, sizeof key, "denoise %dx%dx%d tokens %d/%d kept %d %s%s%s%s", l->batch, l->h, l->w, l->entries, l->tokens, s->n_kept,
             s->guided ? "guided " : "", s->rescaled ? "rescaled " : "", s->noise ? "noise " : "", s->blend ? "blend" : "");
    return engine_plan(im, key, record_step, s, out);
}

status denoise_write_rows(plan *p, const char *name, int rows, const double *w, int n) {
    float *all = mem_alloc(sizeof *all * (size_t)(rows * n));
    if (!all) return fail(E_HOST_MEMORY, "no host memory for sampler weights");
    for (int i = 0; i < rows * n; i++) all[i] = (float)w[i % n];
    status st = plan_write(p, name, all);
    mem_free(all);
    return st;
}

/* diffusers' get_guidance_scale_embedding: sinusoid of 1000 (scale - 1). */
static status write_distilled(plan *p, int rows, int dim, float guidance) {
    float *e = mem_alloc(sizeof *e * (size_t)rows * (size_t)dim);
    if (!e) return fail(E_HOST_MEMORY, "no host memory for the guidance embedding");
    int half = dim / 2;
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < dim; i++) {
            double f = exp(-log(10000.0) * (i % MAX(half, 1)) / MAX(half - 1, 1)), a = 1000.0 * (guidance - 1) * f;
            e[r * dim + i] = i < half ? (float)sin(a) : i < 2 * half ? (float)cos(a) : 0.0f;
        }
    status st = plan_write(p, "distilled_guidance", e);
    mem_free(e);
    return st;
}

status denoise_write_time(imago *im, plan *p, int rows, double t, float guidance) {
    status st = OK;
    int dim = im->ck->unet.time_cond_proj_dim;
    TRY(denoise_write_rows(p, "t", rows, &t, 1));
    if (dim) TRY(write_distilled(p, rows, dim, guidance));
out:
    return st;
}

status denoise_run(imago *im, plan *p, const denoise_shape *s, const denoise_inputs *in) {
    status st = OK;
    const sampler_mix *m = &in->call->mix;
    int batch = im->lat.batch, rows = s->guided ? 2 * batch : batch, n = 2 + s->n_kept;
    double w[SAMPLER_MAX_KEPT + 3], x0[2];
    TRY(denoise_write_time(im, p, rows, in->call->at.t, in->guidance));
    if (s->guided) TRY(denoise_write_rows(p, "guidance", batch, (double[]){1.0 - (double)in->guidance, (double)in->guidance}, 2));
    if (s->rescaled) TRY(denoise_write_rows(p, "rescale", batch, (double[]){(double)in->rescale, 1.0 - (double)in->rescale}, 2));
    prediction_to_x0(im->ck->schedule.prediction_type, in->call->at, &x0[0], &x0[1]);
    TRY(denoise_write_rows(p, "x0", batch, x0, 2));
    for (int i = 0; i < s->n_kept; i++) {
        char name[16];
        snprintf(name, sizeof name, "keep%d", i);
        memset(w, 0, sizeof w);
        w[2 + i] = 1;
        if (m->keep[i].set) {
            w[0] = m->keep[i].x, w[1] = m->keep[i].x0;
            for (int k = 0; k < s->n_kept; k++) w[2 + k] = m->keep[i].kept[k];
        }
        TRY(denoise_write_rows(p, name, batch, w, n));
    }
    w[0] = m->x, w[1] = m->x0;
    for (int k = 0; k < s->n_kept; k++) w[2 + k] = m->kept[k];
    w[n] = in->noise ? m->noise : 0;
    if (s->noise && in->noise) TRY(plan_write(p, "noise", in->noise));
    if (s->blend) TRY(denoise_write_rows(p, "outside", batch, (double[]){in->next.alpha, in->next.sigma}, 2));
    TRY(denoise_write_rows(p, "next", batch, w, s->noise ? n + 1 : n));
    TRY(engine_run(im, p));
out:
    return st;
}

/* ---- which prediction? ---- */
static status record_probe(imago *im, graph *g, const void *ctx) {
    (void)ctx;
    denoise_shape plain = {0};
    graph_output(g, record_network(im, g, &plain, graph_array(g, im->lat.x)), "y");
    return OK;
}

status denoise_find_prediction(imago *im) {
    status st = OK;
    enum { SIDE = 16 };
    schedule_config *c = &im->ck->schedule;
    float *text = NULL, *x = NULL, *y = NULL;
    double xy = 0, xx = 0, yy = 0;
    plan *p = NULL;
    int entries = 0, tokens = 0, n = SIDE * SIDE * im->ck->vae.latent_channels;
    noise_gen gen;
    noise_init(&gen, NOISE_CPU, DT_F32, 0);
    if (!(x = mem_alloc(sizeof *x * (size_t)n)) || !(y = mem_alloc(sizeof *y * (size_t)n))) TRY(fail(E_HOST_MEMORY, "no host memory to probe the network"));
    TRY(text_features(im, &(text_params){.prompt = ""}, &text, &entries, &tokens));
    TRY(latents_prepare(im, 1, SIDE, SIDE));
    TRY(text_keys(im, text, entries, tokens, 1));
    TRY(latent_noise(im, &gen, SIDE, SIDE, x));
    TRY(array_write(im->lat.x, x));
    TRY(engine_plan(im, "probe", record_probe, NULL, &p));
    TRY(denoise_write_time(im, p, 1, c->num_train_timesteps - 1, 1));
    TRY(engine_run(im, p));
    TRY(plan_read(p, "y", y));
    for (int i = 0; i < n; i++) {
        xy += (double)x[i] * (double)y[i];
        xx += (double)x[i] * (double)x[i];
        yy += (double)y[i] * (double)y[i];
    }
    double like = xy / sqrt(xx * yy);
    c->prediction_type = like > 0.5 ? PREDICTION_EPSILON : PREDICTION_V;
    im->ck->prediction_known = true;
    im->ck->prediction_source = like > 0.5 ? "the network gives back its input at the last timestep" : "the network does not give back its input at the last timestep";
    log_info("prediction type: correlation of input and output at t = %d is %.2f", c->num_train_timesteps - 1, like);
out:
    mem_free(text);
    mem_free(x);
    mem_free(y);
    return st;
}
