/* morph.c: pictures -> latents -> noise -> latents -> frames: FreeMorph (Cao et al. 2025) as its code was released, for any
 * number of frames, size and model. Per pair: both latents and all between (slerp) are inverted together with fixed-point
 * DDIM, their high frequencies replaced by noise, and denoised with guidance, while frames look at the ends' keys.
 * Method slerp, the baseline: the two ends are inverted, slerp lies between what came of them, frames are denoised alone.
 * Order of random numbers, as released: the noise to inject, once; then per pair the posterior of the left and right picture,
 * CUDA's generator drawing in f16.
 * SPDX-License-Identifier: MIT */
#include "engine/morph.h"
#include <math.h>

typedef struct morph_job {
    imago *im; imago_morph_params p; bool slerp;
    int h, w, pairs, total, done;          /* latent size; frames in all, and given out */
    size_t cells;                          /* elements of one latent */
    schedule_config schedule; sampler_plan up, down;
    noise_gen gen;
    float *x, *noise;                      /* [frames, h, w, C]; what is injected [h, w, C] */
    image *fitted;                         /* the pictures, at the size of the frames */
    int evaluated, evaluations; double begun; /* of one frame each; when sampling began */
    imago_picture *out;
} morph_job;

static int gaps(const imago_morph_params *p) { return p->loop ? p->n_pictures : p->n_pictures - 1; }

int imago_morph_count(const imago_morph_params *p) {
    int frames = p->frames ? p->frames : 7;
    if (p->n_pictures < 2 || p->n_pictures > 1000 || frames < 2 || frames > 1000) return 0;
    return gaps(p) * (frames - 1) + !p->loop;
}

/* ---- settings ---- */
static status check_wishes(const imago_morph_params *p) {
    if (p->n_pictures < 2 || p->n_pictures > 1000) return fail(E_USAGE, "a morph of %d pictures: 2 to 1000 are possible", p->n_pictures);
    if (p->frames < 2 || p->frames > 1000) return fail(E_USAGE, "%d frames: expected 2 to 1000 from one picture to the next, both counted", p->frames);
    if (!(p->strength > 0 && p->strength <= 1)) return fail(E_USAGE, "strength %g: expected above 0, up to 1", (double)p->strength);
    if (!(p->guidance > 0 && p->guidance <= 100)) return fail(E_USAGE, "guidance scale %g: expected 0 to 100", (double)p->guidance);
    if (p->steps < 1 || p->steps > 1000) return fail(E_USAGE, "steps %d: expected 1 to 1000", p->steps);
    if (p->inner < 1 || p->inner > 100) return fail(E_USAGE, "inner iterations %d: expected 1 to 100", p->inner);
    if (strcmp(p->method, "freemorph") != 0 && strcmp(p->method, "slerp") != 0) return fail(E_USAGE, "method '%s': expected freemorph or slerp", p->method);
    for (int i = 0; i < p->n_pictures; i++)
        if (!p->picture[i].rgb || p->picture[i].width < 1 || p->picture[i].height < 1) return fail(E_USAGE, "picture %d of the morph is empty", i + 1);
    return OK;
}

static status check_size(morph_job *j) {
    imago_morph_params *p = &j->p;
    int f = latent_factor(j->im);
    if (!p->width) p->width = p->height ? p->height : latent_side_px(j->im);
    if (!p->height) p->height = p->width;
    status st = latent_check_size(j->im, p->width, p->height);
    if (st != OK) return st;
    j->h = p->height / f, j->w = p->width / f;
    j->cells = (size_t)j->h * (size_t)j->w * (size_t)j->im->ck->vae.latent_channels;
    return OK;
}

/* Times are multiples of 1000/steps from 0 on, and the cleanest step ends at the level of t = 0. */
static status expand(morph_job *j) {
    status st = OK;
    sampler_params sp = {.steps = j->p.steps, .eta = -1, .strength = round((double)j->p.strength * 1e6) / 1e6, .spacing = SPACING_LEADING};
    j->schedule = j->im->ck->schedule;
    j->schedule.steps_offset = 0, j->schedule.set_alpha_to_one = false;
    TRY(sampler_expand_inversion(&j->schedule, &sp, &j->up));
    TRY(sampler_expand(sampler_find("ddim"), &j->schedule, &sp, &j->down));
out:
    return st;
}

static status settle(morph_job *j) {
    status st = OK;
    imago_morph_params *p = &j->p;
    if (!p->frames) p->frames = 7;
    if (!p->method) p->method = "freemorph";
    if (!p->steps) p->steps = 50;
    if (p->strength == 0) p->strength = 0.8f;
    if (!p->inner) p->inner = 5;
    if (p->guidance == 0) p->guidance = 7.5f;
    TRY(check_wishes(p));
    TRY(check_size(j));
    if (j->im->ck->inpainting) TRY(fail(E_UNSUPPORTED, "this is an inpainting model: a morph needs one that makes whole pictures"));
    TRY(expand(j));
    j->slerp = strcmp(p->method, "slerp") == 0;
    j->pairs = gaps(p);
    j->total = imago_morph_count(p);
out:
    return st;
}

/* ---- the steps that run ---- */
static morph_shape up_shape(const morph_job *j, int i) {
    if (j->slerp) return (morph_shape){MORPH_PLAIN, MORPH_OUTER, true};
    return (morph_shape){morph_mode_up(i, j->p.steps), MORPH_ALL, true};
}

/* Once no later step looks at the ends, they stay behind: pictures take their places. */
static morph_shape down_shape(const morph_job *j, int i) {
    morph_mode mode = j->slerp ? MORPH_PLAIN : morph_mode_down(i, j->down.n_calls);
    return (morph_shape){mode, mode == MORPH_PLAIN ? MORPH_INNER : MORPH_ALL, false};
}

static int halves(const morph_job *j) { return j->p.guidance != 1 && !j->im->ck->unet.time_cond_proj_dim ? 2 : 1; }

/* Network evaluations of one frame in a pair. */
static int count_evaluations(const morph_job *j) {
    int n = 0;
    for (int i = 0; i < j->up.n_calls; i++)
        if (!morph_idle(&j->up.call[i])) n += j->p.inner * morph_rows(j->p.frames, up_shape(j, i).part);
    for (int i = 0; i < j->down.n_calls; i++)
        if (!morph_idle(&j->down.call[i])) n += halves(j) * morph_rows(j->p.frames, down_shape(j, i).part);
    return j->p.frames > 2 ? n : 0;
}

static status step(morph_job *j, const morph_shape *s, const sampler_call *call, float guidance, int rows) {
    status st = OK;
    engine_progress(j->im, IMAGO_SAMPLING, j->evaluated, j->evaluations, j->begun);
    TRY(morph_step(j->im, s, call, guidance));
    j->evaluated += rows;
out:
    return st;
}

static status invert(morph_job *j) {
    status st = OK;
    latents *l = &j->im->lat;
    for (int i = 0; i < j->up.n_calls; i++) {
        morph_shape s = up_shape(j, i);
        if (morph_idle(&j->up.call[i])) continue;
        TRY(array_read(l->x, j->x));
        TRY(array_write(l->kept[0], j->x));
        for (int k = 0; k < j->p.inner; k++) TRY(step(j, &s, &j->up.call[i], 1, morph_rows(j->p.frames, s.part)));
    }
out:
    return st;
}

static status denoise(morph_job *j) {
    status st = OK;
    for (int i = 0; i < j->down.n_calls; i++) {
        morph_shape s = down_shape(j, i);
        if (morph_idle(&j->down.call[i])) continue;
        TRY(step(j, &s, &j->down.call[i], j->p.guidance, halves(j) * morph_rows(j->p.frames, s.part)));
    }
out:
    return st;
}

/* ---- what a pair starts from ---- */

/* Keys of 1 + frames texts: none, then from one prompt to the other. One encoder length, as released. */
static status read_text(morph_job *j, int a, int b) {
    status st = OK;
    const char *const *prompt = j->p.prompt;
    const char *left = prompt && prompt[a] ? prompt[a] : "", *right = prompt && prompt[b] ? prompt[b] : "";
    int n = j->p.frames, entries = 0, tokens = 0;
    float *ends = NULL, *none = NULL, *all = NULL;
    double begun = os_seconds();
    engine_progress(j->im, IMAGO_READING_TEXT, 0, 1, begun);
    TRY(text_features(j->im, &(text_params){.prompt = right, .negative = left, .want_negative = true, .plain = true}, &ends, &entries, &tokens));
    TRY(text_features(j->im, &(text_params){.prompt = "", .plain = true}, &none, &entries, &tokens));
    size_t row = (size_t)tokens * (size_t)j->im->ck->text.hidden_size;
    if (!(all = mem_alloc(sizeof *all * row * (size_t)(n + 1)))) TRY(fail(E_HOST_MEMORY, "no host memory for the texts of %d frames", n));
    memcpy(all, none, row * sizeof *all);
    for (int f = 0; f < n; f++)
        for (size_t i = 0; i < row; i++)
            all[(size_t)(1 + f) * row + i] = (float)((double)ends[i] + (double)f / (n - 1) * ((double)ends[row + i] - (double)ends[i]));
    TRY(text_keys(j->im, all, n + 1, tokens, 1));
    engine_progress(j->im, IMAGO_READING_TEXT, 1, 1, begun);
    j->im->report.text_s += os_seconds() - begun;
out:
    mem_free(ends);
    mem_free(none);
    mem_free(all);
    return st;
}

static status encode(morph_job *j, int picture, float *z) {
    status st = OK;
    size_t n = (size_t)j->p.width * (size_t)j->p.height * 3;
    float *px = mem_alloc(sizeof *px * n);
    if (!px) return fail(E_HOST_MEMORY, "no host memory for a picture");
    for (size_t i = 0; i < n; i++) px[i] = image_unit(j->fitted[picture].px[i]);
    TRY(vae_encode_pixels(j->im, px, j->p.height, j->p.width, &j->gen, z));
out:
    mem_free(px);
    return st;
}

/* Fills the frames between the first and the last. */
static void interpolate(morph_job *j) {
    int n = j->p.frames, c = j->im->ck->vae.latent_channels;
    const float *a = j->x, *b = j->x + (size_t)(n - 1) * j->cells;
    for (int f = 1; f < n - 1; f++) morph_slerp(a, b, (double)f / (n - 1), j->h, j->w, c, j->x + (size_t)f * j->cells);
}

static status encode_ends(morph_job *j, int a, int b) {
    status st = OK;
    double begun = os_seconds();
    engine_progress(j->im, IMAGO_ENCODING, 0, 2, begun);
    TRY(encode(j, a, j->x));
    engine_progress(j->im, IMAGO_ENCODING, 1, 2, begun);
    TRY(encode(j, b, j->x + (size_t)(j->p.frames - 1) * j->cells));
    engine_progress(j->im, IMAGO_ENCODING, 2, 2, begun);
    j->im->report.encode_s += os_seconds() - begun;
out:
    return st;
}

/* ---- frames out ---- */
static status give(morph_job *j, image *frame) {
    imago_picture pic;
    status st = OK;
    picture_of(frame, &pic);
    pic.seed = j->p.seed;
    if (j->p.frame && !j->p.frame(j->p.frame_ctx, j->done, j->total, &pic)) st = fail(E_CANCELLED, "cancelled after %d of %d frames", j->done + 1, j->total);
    if (j->out && st == OK) j->out[j->done] = pic;
    else imago_clear_picture(&pic);
    j->done++;
    return st;
}

static status give_input(morph_job *j, int picture) {
    status st = OK;
    image copy = {0};
    TRY(image_create(j->p.width, j->p.height, 3, &copy));
    memcpy(copy.px, j->fitted[picture].px, (size_t)copy.w * (size_t)copy.h * 3);
    TRY(give(j, &copy));
out:
    image_free(&copy);
    return st;
}

static status decode(morph_job *j) {
    status st = OK;
    image frame = {0};
    double begun = os_seconds();
    int inner = j->p.frames - 2;
    for (int f = 1; f <= inner; f++) {
        engine_progress(j->im, IMAGO_DECODING, f - 1, inner, begun);
        TRY(vae_decode_picture(j->im, j->x + (size_t)f * j->cells, j->h, j->w, j->p.tile, &frame));
        TRY(give(j, &frame));
    }
    engine_progress(j->im, IMAGO_DECODING, inner, inner, begun);
    j->im->report.decode_s += os_seconds() - begun;
out:
    image_free(&frame);
    return st;
}

/* Every plan before the first step: memory is known, or refused, then. */
static status compile(morph_job *j) {
    status st = OK;
    double begun = os_seconds();
    plan *p;
    engine_progress(j->im, IMAGO_LOADING, 0, 1, begun);
    for (int i = 0; i < j->up.n_calls; i++) {
        morph_shape s = up_shape(j, i);
        if (!morph_idle(&j->up.call[i])) TRY(morph_compile(j->im, &s, 1, &p));
    }
    for (int i = 0; i < j->down.n_calls; i++) {
        morph_shape s = down_shape(j, i);
        if (!morph_idle(&j->down.call[i])) TRY(morph_compile(j->im, &s, j->p.guidance, &p));
    }
    engine_progress(j->im, IMAGO_LOADING, 1, 1, begun);
out:
    return st;
}

/* The frames between pictures a and b. */
static status morph_pair(morph_job *j, int a, int b) {
    status st = OK;
    imago *im = j->im;
    int c = im->ck->vae.latent_channels;
    TRY(read_text(j, a, b));
    TRY(encode_ends(j, a, b));
    interpolate(j);
    if (!j->begun) TRY(compile(j));
    double begun = os_seconds();
    if (!j->begun) j->begun = begun;
    TRY(array_write(im->lat.x, j->x));
    TRY(invert(j));
    TRY(array_read(im->lat.x, j->x));
    if (j->slerp) interpolate(j);
    for (int f = 1; f < j->p.frames - 1 && !j->slerp; f++)
        TRY(morph_inject(j->x + (size_t)f * j->cells, j->noise, morph_keep(f, j->p.frames), j->h, j->w, c));
    TRY(array_write(im->lat.x, j->x));
    TRY(denoise(j));
    TRY(array_read(im->lat.x, j->x));
    engine_progress(im, IMAGO_SAMPLING, j->evaluated, j->evaluations, j->begun);
    im->report.sample_s += os_seconds() - begun;
    TRY(decode(j));
out:
    return st;
}

static status prepare(morph_job *j) {
    status st = OK;
    imago *im = j->im;
    im->report = (imago_report){.load_s = im->report.load_s};
    j->evaluations = j->pairs * count_evaluations(j);
    j->fitted = mem_zalloc(sizeof *j->fitted * (size_t)j->p.n_pictures);
    j->x = mem_zalloc(sizeof *j->x * j->cells * (size_t)j->p.frames);
    j->noise = mem_alloc(sizeof *j->noise * j->cells);
    if (!j->fitted || !j->x || !j->noise) TRY(fail(E_HOST_MEMORY, "no host memory for %d frames of %dx%d", j->p.frames, j->p.width, j->p.height));
    for (int i = 0; i < j->p.n_pictures; i++) {
        image given = picture_image(&j->p.picture[i]);
        TRY(image_fit_to(&given, j->p.width, j->p.height, j->p.pad ? FIT_PAD : FIT_CROP, j->p.fill, &j->fitted[i]));
    }
    if (j->p.frames == 2) return OK;
    noise_init(&j->gen, NOISE_PHILOX, DT_F16, j->p.seed);
    TRY(latent_noise(im, &j->gen, j->h, j->w, j->noise));
    TRY(latents_prepare(im, j->p.frames, j->h, j->w));
out:
    return st;
}

imago_status imago_morph(imago *im, const imago_morph_params *p, imago_picture **out) {
    status st = OK;
    morph_job j = {.im = im, .p = *p};
    if (out) *out = NULL;
    TRY(settle(&j));
    TRY(prepare(&j));
    if (out && !(j.out = mem_zalloc(sizeof *j.out * (size_t)j.total))) TRY(fail(E_HOST_MEMORY, "no host memory for %d pictures", j.total));
    TRY(give_input(&j, 0));
    for (int i = 0; i < j.pairs; i++) {
        int next = (i + 1) % p->n_pictures;
        if (j.p.frames > 2) TRY(morph_pair(&j, i, next));
        if (next) TRY(give_input(&j, next));
    }
    im->report.steps = j.up.n_steps + j.down.n_steps;
    im->report.evaluations = j.evaluated;
    im->report.seconds_per_step = im->report.sample_s / (double)MAX(j.pairs * im->report.steps, 1);
    if (out) *out = j.out, j.out = NULL;
out:
    imago_free_pictures(j.out, j.total);
    for (int i = 0; j.fitted && i < p->n_pictures; i++) image_free(&j.fitted[i]);
    mem_free(j.fitted);
    mem_free(j.x);
    mem_free(j.noise);
    sampler_plan_fini(&j.up);
    sampler_plan_fini(&j.down);
    return ENGINE_STATUS(st);
}
