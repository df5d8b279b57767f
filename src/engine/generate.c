/* generate.c: prompt or picture -> latents -> network -> picture: the straight line of the program.
 * Order of random numbers per picture, as diffusers: the init picture's posterior, the start noise, the masked picture's
 * posterior, then the sampler's noise step by step; picture i of a batch has its own generator, seed + i.
 * SPDX-License-Identifier: MIT */
#include "engine/engine.h"
#include "op/op.h"
#include <math.h>
#include <stdio.h>

typedef struct job {
    imago *im; imago_generate_params p;
    const sampler_info *sampler; sampler_params sp; sampler_plan plan;
    int h, w; bool blend; size_t cells;    /* latent size; elements of one picture's latent */
    noise_gen *gen; float *x, *start, *init, *mask, *fixed, *noise; /* [batch, h, w, ...] on the host */
    image init_picture, mask_picture;
} job;

static status parse_schedule(const char *text, sampler_params *sp) {
    static const struct { const char *name; int grid, spacing; } all[] = {
        {"model", GRID_MODEL, -1}, {"discrete", GRID_MODEL, -1}, {"karras", GRID_KARRAS, -1}, {"exponential", GRID_EXPONENTIAL, -1},
        {"leading", GRID_MODEL, SPACING_LEADING}, {"trailing", GRID_MODEL, SPACING_TRAILING}, {"linspace", GRID_MODEL, SPACING_LINSPACE}};
    if (!text || strcmp(text, "auto") == 0) return OK;
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        if (strcmp(text, all[i].name) != 0) continue;
        sp->grid = (sigma_grid)all[i].grid;
        sp->spacing = all[i].spacing;
        return OK;
    }
    return fail(E_USAGE, "schedule '%s': expected model, karras, exponential, leading, trailing or linspace", text);
}

static status check_sizes(job *j) {
    imago_generate_params *p = &j->p;
    int f = latent_factor(j->im);
    if (p->init && !p->width) p->width = MAX(p->init->width / f * f, f);
    if (p->init && !p->height) p->height = MAX(p->init->height / f * f, f);
    if (!p->width) p->width = latent_side_px(j->im);
    if (!p->height) p->height = latent_side_px(j->im);
    status st = latent_check_size(j->im, p->width, p->height);
    if (st != OK) return st;
    if (p->batch < 0 || p->batch > 64) return fail(E_USAGE, "batch %d: expected 1 to 64", p->batch);
    if (p->steps < 0 || p->steps > 1000) return fail(E_USAGE, "steps %d: expected 1 to 1000", p->steps);
    if (!(p->strength >= 0 && p->strength <= 1)) return fail(E_USAGE, "strength %g: expected 0 to 1", (double)p->strength);
    if (!(p->guidance >= 0 && p->guidance <= 100)) return fail(E_USAGE, "guidance scale %g: expected 0 to 100", (double)p->guidance);
    if (!(p->guidance_rescale >= 0 && p->guidance_rescale <= 1)) return fail(E_USAGE, "guidance rescale %g: expected 0 to 1", (double)p->guidance_rescale);
    if (p->mask && !p->init) return fail(E_USAGE, "a mask needs the picture it belongs to: give an init picture");
    if (j->im->ck->inpainting && !p->mask) return fail(E_USAGE, "this is an inpainting model: give an init picture and a mask");
    j->h = p->height / f;
    j->w = p->width / f;
    return OK;
}

static status defaults(job *j) {
    status st = OK;
    imago_generate_params *p = &j->p;
    TRY(check_sizes(j));
    if (!p->prompt) p->prompt = "";
    if (!p->batch) p->batch = 1;
    if (!p->steps) p->steps = 20;
    if (p->guidance == 0) p->guidance = 7;
    if (p->strength == 0) p->strength = p->mask ? 1.0f : 0.75f;
    if (!p->sampler) p->sampler = "euler_a";
    if (!p->rng) p->rng = "cpu";
    if (!p->rng_dtype) p->rng_dtype = "f32";
    j->sp = (sampler_params){.steps = p->steps, .eta = (double)p->eta, .strength = p->init ? round((double)p->strength * 1e6) / 1e6 : 1.0, /* 0.7f means 0.7: steps are counted with it */ .spacing = -1};
    if (!sampler_alias(p->sampler, &j->sampler, &j->sp))
        TRY(fail(E_USAGE, "sampler '%s' is not known; see imago generate --help for the list", p->sampler));
    TRY(parse_schedule(p->schedule, &j->sp));
    TRY(sampler_expand(j->sampler, &j->im->ck->schedule, &j->sp, &j->plan));
    j->blend = p->mask && !j->im->ck->inpainting;
    j->cells = (size_t)j->h * (size_t)j->w * (size_t)j->im->ck->vae.latent_channels;
out:
    return st;
}

static status start_generators(job *j) {
    static const char *const types[] = {"f32", "f16", "bf16"};
    static const dtype dtypes[] = {DT_F32, DT_F16, DT_BF16};
    int source = strcmp(j->p.rng, "cpu") == 0 ? NOISE_CPU : strcmp(j->p.rng, "philox") == 0 ? NOISE_PHILOX : -1, type = -1;
    for (int i = 0; i < 3; i++)
        if (strcmp(j->p.rng_dtype, types[i]) == 0) type = i;
    if (source < 0) return fail(E_USAGE, "rng '%s': expected cpu or philox", j->p.rng);
    if (type < 0) return fail(E_USAGE, "rng dtype '%s': expected f32, f16 or bf16", j->p.rng_dtype);
    if (!(j->gen = mem_alloc(sizeof *j->gen * (size_t)j->p.batch))) return fail(E_HOST_MEMORY, "no host memory for %d generators", j->p.batch);
    for (int i = 0; i < j->p.batch; i++) noise_init(&j->gen[i], (noise_source)source, dtypes[type], j->p.seed + (uint64_t)i);
    return OK;
}

static status host_memory(job *j) {
    size_t n = sizeof(float) * j->cells * (size_t)j->p.batch, mask = sizeof(float) * (size_t)(j->h * j->w * j->p.batch);
    j->x = mem_alloc(n), j->start = mem_alloc(n), j->noise = mem_alloc(n), j->init = mem_zalloc(n), j->mask = mem_zalloc(mask);
    j->fixed = j->im->ck->inpainting ? mem_zalloc(n + mask) : NULL;
    if (j->x && j->start && j->noise && j->init && j->mask && (j->fixed || !j->im->ck->inpainting)) return OK;
    return fail(E_HOST_MEMORY, "no host memory for %d latents of %dx%d", j->p.batch, j->w, j->h);
}

/* The mask in latent cells (nearest, as torch's interpolate), 1 where it is painted. */
static void read_mask(job *j) {
    const image *m = &j->mask_picture;
    for (int y = 0; y < j->h; y++)
        for (int x = 0; x < j->w; x++) {
            size_t at = (size_t)(y * m->h / j->h) * (size_t)m->w + (size_t)(x * m->w / j->w);
            for (int b = 0; b < j->p.batch; b++) j->mask[(b * j->h + y) * j->w + x] = m->px[at * 3] >= 128 ? 1.0f : 0.0f;
        }
}

/* The init picture in [-1, 1]; where `hidden`, 0 wherever the mask is painted, as diffusers gives it to 9-channel networks. */
static void read_pixels(const job *j, bool hidden, float *px) {
    size_t n = (size_t)j->p.width * (size_t)j->p.height * 3;
    for (size_t i = 0; i < n; i++)
        px[i] = hidden && j->mask_picture.px[i / 3 * 3] >= 128 ? 0.0f : image_unit(j->init_picture.px[i]);
}

/* What a 9-channel network sees beside the latent: mask, and the latent of the picture without what is painted. */
static status encode_masked(job *j, int b, const float *px) {
    status st = OK;
    size_t cells = (size_t)j->h * (size_t)j->w, c = (size_t)j->im->ck->vae.latent_channels;
    float *z = mem_alloc(sizeof *z * j->cells), *out = j->fixed + (size_t)b * cells * (c + 1);
    if (!z) TRY(fail(E_HOST_MEMORY, "no host memory for a latent"));
    TRY(vae_encode_pixels(j->im, px, j->p.height, j->p.width, &j->gen[b], z));
    for (size_t i = 0; i < cells; i++) {
        out[i * (c + 1)] = j->mask[(size_t)b * cells + i];
        memcpy(out + i * (c + 1) + 1, z + i * c, c * sizeof *z);
    }
out:
    mem_free(z);
    return st;
}

static status fit_pictures(job *j) {
    status st = OK;
    static const uint8_t white[3] = {255, 255, 255}, black[3] = {0, 0, 0};
    if (j->p.init) {
        image given = picture_image(j->p.init);
        TRY(image_fit_to(&given, j->p.width, j->p.height, FIT_STRETCH, white, &j->init_picture));
    }
    if (j->p.mask) {
        image given = picture_image(j->p.mask);
        TRY(image_fit_to(&given, j->p.width, j->p.height, FIT_STRETCH, black, &j->mask_picture));
        read_mask(j);
    }
out:
    return st;
}

/* Start latents of every picture, and what inpainting needs. */
static status start_latents(job *j) {
    status st = OK;
    imago *im = j->im;
    double begun = os_seconds();
    level s = j->plan.start;
    bool pure = !j->p.init || (j->p.mask && j->p.strength >= 1);
    size_t px = sizeof(float) * (size_t)j->p.width * (size_t)j->p.height * 3;
    float *seen = j->p.init ? mem_alloc(px) : NULL, *hidden = im->ck->inpainting ? mem_alloc(px) : NULL;
    if ((j->p.init && !seen) || (im->ck->inpainting && !hidden)) TRY(fail(E_HOST_MEMORY, "no host memory for a picture"));
    TRY(fit_pictures(j));
    if (seen) read_pixels(j, false, seen);
    if (hidden) read_pixels(j, true, hidden);
    if (seen) engine_progress(im, IMAGO_ENCODING, 0, j->p.batch, begun);
    for (int b = 0; b < j->p.batch; b++) {
        float *x = j->x + (size_t)b * j->cells, *start = j->start + (size_t)b * j->cells, *init = j->init + (size_t)b * j->cells;
        /* a 9-channel network that starts from noise alone is shown the picture in its extra channels only */
        if (seen && !(hidden && pure)) TRY(vae_encode_pixels(im, seen, j->p.height, j->p.width, &j->gen[b], init));
        TRY(latent_noise(im, &j->gen[b], j->h, j->w, start));
        for (size_t i = 0; i < j->cells; i++)
            x[i] = pure ? (float)j->plan.noise_scale * start[i] : (float)s.alpha * init[i] + (float)s.sigma * start[i];
        if (hidden) TRY(encode_masked(j, b, hidden));
        if (seen) engine_progress(im, IMAGO_ENCODING, b + 1, j->p.batch, begun);
    }
    TRY(array_write(im->lat.x, j->x));
    if (j->blend) {
        TRY(array_write(im->lat.init, j->init));
        TRY(array_write(im->lat.noise, j->start));
        TRY(array_write(im->lat.mask, j->mask));
    }
    if (im->lat.fixed) TRY(array_write(im->lat.fixed, j->fixed));
    im->report.encode_s = os_seconds() - begun;
out:
    mem_free(seen);
    mem_free(hidden);
    return st;
}

static status show_preview(job *j, plan *p, int step) {
    status st = OK;
    image im = {0};
    imago_picture pic = {0};
    if (!j->p.preview || !j->p.preview_every || (step + 1) % j->p.preview_every) return OK;
    TRY(plan_read(p, "x0", j->x));
    TRY(vae_decode_picture(j->im, j->x, j->h, j->w, j->p.tile, &im));
    picture_of(&im, &pic);
    if (!j->p.preview(j->p.preview_ctx, step, &pic)) TRY(fail(E_CANCELLED, "cancelled"));
out:
    imago_clear_picture(&pic);
    return st;
}

static status sample(job *j) {
    status st = OK;
    imago *im = j->im;
    plan *p = NULL;
    bool distilled = im->ck->unet.time_cond_proj_dim > 0;
    denoise_shape s = {.n_kept = j->plan.n_kept, .guided = j->p.guidance != 1 && !distilled, .noise = j->plan.noise, .blend = j->blend};
    s.rescaled = s.guided && j->p.guidance_rescale > 0;
    float *zero = mem_zalloc(sizeof *zero * j->cells * (size_t)j->p.batch);
    if (!zero) return fail(E_HOST_MEMORY, "no host memory for latents");
    for (int i = 0; i < s.n_kept; i++) TRY(array_write(im->lat.kept[i], zero));
    double loading = os_seconds();
    engine_progress(im, IMAGO_LOADING, 0, 1, loading);
    TRY(denoise_plan(im, &s, &p));
    engine_progress(im, IMAGO_LOADING, 1, 1, loading);
    double begun = os_seconds();
    for (int i = 0; i < j->plan.n_calls; i++) {
        const sampler_call *c = &j->plan.call[i];
        bool noisy = s.noise && c->mix.noise != 0;
        denoise_inputs in = {.call = c, .next = i + 1 < j->plan.n_calls ? c[1].at : (level){0, 1, 0},
                             .guidance = j->p.guidance, .rescale = j->p.guidance_rescale, .noise = noisy ? j->noise : NULL};
        for (int b = 0; noisy && b < j->p.batch; b++) TRY(latent_noise(im, &j->gen[b], j->h, j->w, j->noise + (size_t)b * j->cells));
        engine_progress(im, IMAGO_SAMPLING, i, j->plan.n_calls, begun);
        TRY(denoise_run(im, p, &s, &in));
        if (c->last_of_step) TRY(show_preview(j, p, c->step));
    }
    engine_progress(im, IMAGO_SAMPLING, j->plan.n_calls, j->plan.n_calls, begun);
    im->report.sample_s = os_seconds() - begun;
    im->report.steps = j->plan.n_steps;
    im->report.evaluations = j->plan.n_calls * (s.guided ? 2 : 1);
    im->report.seconds_per_step = im->report.sample_s / MAX(j->plan.n_steps, 1);
    TRY(array_read(im->lat.x, j->x));
out:
    mem_free(zero);
    return st;
}

static status decode(job *j, imago_picture *out) {
    status st = OK;
    double begun = os_seconds();
    for (int b = 0; b < j->p.batch; b++) {
        image im = {0};
        engine_progress(j->im, IMAGO_DECODING, b, j->p.batch, begun);
        TRY(vae_decode_picture(j->im, j->x + (size_t)b * j->cells, j->h, j->w, j->p.tile, &im));
        picture_of(&im, &out[b]);
        out[b].seed = j->p.seed + (uint64_t)b;
        TRY(picture_describe(j->im, &j->p, j->sampler, &j->sp, &out[b]));
    }
    engine_progress(j->im, IMAGO_DECODING, j->p.batch, j->p.batch, begun);
    j->im->report.decode_s = os_seconds() - begun;
out:
    return st;
}

static status read_text(job *j) {
    status st = OK;
    double begun = os_seconds();
    float *context = NULL;
    int entries, tokens;
    bool guided = j->p.guidance != 1 && !j->im->ck->unet.time_cond_proj_dim;
    text_params t = {j->p.prompt, j->p.negative, j->p.plain_prompt, guided, j->p.clip_skip};
    engine_progress(j->im, IMAGO_READING_TEXT, 0, 1, begun);
    TRY(text_features(j->im, &t, &context, &entries, &tokens));
    TRY(text_keys(j->im, context, entries, tokens, j->p.batch));
    engine_progress(j->im, IMAGO_READING_TEXT, 1, 1, begun);
    j->im->report.text_s = os_seconds() - begun;
out:
    mem_free(context);
    return st;
}

imago_status imago_generate(imago *im, const imago_generate_params *p, imago_picture **out) {
    status st = OK;
    job j = {.im = im, .p = *p};
    *out = NULL;
    TRY(defaults(&j));
    TRY(start_generators(&j));
    TRY(host_memory(&j));
    if (!(*out = mem_zalloc(sizeof **out * (size_t)j.p.batch))) TRY(fail(E_HOST_MEMORY, "no host memory for %d pictures", j.p.batch));
    TRY(latents_prepare(im, j.p.batch, j.h, j.w));
    TRY(read_text(&j));
    TRY(start_latents(&j));
    TRY(sample(&j));
    TRY(decode(&j, *out));
out:
    if (st != OK && *out) imago_free_pictures(*out, j.p.batch), *out = NULL;
    sampler_plan_fini(&j.plan);
    image_free(&j.init_picture);
    image_free(&j.mask_picture);
    void *all[] = {j.gen, j.x, j.start, j.init, j.mask, j.fixed, j.noise};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) mem_free(all[i]);
    return ENGINE_STATUS(st);
}
