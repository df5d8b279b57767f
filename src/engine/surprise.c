/* surprise.c: how strange a picture is to a model: its own denoising loss. Noise is the same for every picture, so that
 * differences between pictures are not those of luck.
 * SPDX-License-Identifier: MIT */
#include "engine/engine.h"
#include <math.h>

/* pi/2 = nothing but noise. Below 30 degrees every sharp picture is as easy as another, beyond 70 nothing of it is left. */
static const double angles[] = {30, 50, 70};
enum { DRAWS = 4 };

/* The time whose level is nearest to that angle. */
static level level_near(const schedule_config *c, const double *abar, double degrees) {
    double want = degrees * 3.14159265358979323846 / 180, best = 10;
    int t = 0;
    for (int i = 0; i < c->num_train_timesteps; i++) {
        double off = fabs(acos(sqrt(MIN(abar[i], 1))) - want);
        if (off < best) best = off, t = i;
    }
    return schedule_level(c, abar, t);
}

/* Mean |v' - v|^2 of the network's word on x = alpha z + sigma noise; with x0' in place of v', |x0' - z|^2 / sigma^2. */
static status loss_at(imago *im, level at, const float *z, const float *noise, float *x, double *loss) {
    status st = OK;
    const latents *l = &im->lat;
    denoise_shape bare = {0};
    sampler_call call = {.at = at, .mix = {.x = 1}};
    size_t cells = (size_t)l->h * (size_t)l->w * (size_t)l->channels;
    plan *p = NULL;
    double sum = 0;
    for (size_t i = 0; i < DRAWS * cells; i++) x[i] = (float)(at.alpha * (double)z[i % cells] + at.sigma * (double)noise[i]);
    TRY(array_write(l->x, x));
    TRY(denoise_plan(im, &bare, &p));
    TRY(denoise_run(im, p, &bare, &(denoise_inputs){.call = &call, .next = at, .guidance = 1}));
    TRY(plan_read(p, "x0", x));
    for (size_t i = 0; i < DRAWS * cells; i++) sum += pow(((double)x[i] - (double)z[i % cells]) / at.sigma, 2);
    *loss = sum / (double)(DRAWS * cells);
out:
    return st;
}

status picture_surprise(imago *im, const image *picture, double *loss) {
    status st = OK;
    const schedule_config *c = &im->ck->schedule;
    int f = latent_factor(im), h = picture->h / f, w = picture->w / f, entries = 0, tokens = 0;
    size_t cells = (size_t)h * (size_t)w * (size_t)im->ck->vae.latent_channels, n = (size_t)picture->w * (size_t)picture->h * 3;
    noise_gen gen;
    double one, *abar = NULL;
    float *px = NULL, *z = NULL, *noise, *x, *text = NULL;
    TRY(latent_check_size(im, picture->w, picture->h));
    if (im->ck->inpainting) TRY(fail(E_UNSUPPORTED, "this is an inpainting model: it says nothing of whole pictures"));
    px = mem_alloc(n * sizeof *px);
    z = mem_alloc((1 + 2 * DRAWS) * cells * sizeof *z);
    abar = mem_alloc((size_t)c->num_train_timesteps * sizeof *abar);
    if (!px || !z || !abar) TRY(fail(E_HOST_MEMORY, "no host memory for a picture of %dx%d", picture->w, picture->h));
    noise = z + cells, x = noise + DRAWS * cells;
    for (size_t i = 0; i < n; i++) px[i] = image_unit(picture->px[i]);
    TRY(vae_encode_pixels(im, px, picture->h, picture->w, NULL, z));
    TRY(latents_prepare(im, DRAWS, h, w));
    TRY(text_features(im, &(text_params){.prompt = "", .plain = true}, &text, &entries, &tokens));
    TRY(text_keys(im, text, entries, tokens, DRAWS));
    noise_init(&gen, NOISE_CPU, DT_F32, 0);
    for (int d = 0; d < DRAWS; d++) TRY(latent_noise(im, &gen, h, w, noise + (size_t)d * cells));
    TRY(schedule_alphas_cumprod(c, abar));
    *loss = 0;
    for (size_t a = 0; a < ARRAY_LEN(angles); a++) {
        TRY(loss_at(im, level_near(c, abar, angles[a]), z, noise, x, &one));
        *loss += one / ARRAY_LEN(angles);
    }
out:
    mem_free(px);
    mem_free(z);
    mem_free(abar);
    mem_free(text);
    return st;
}
