/* morph.c: pictures -> latents -> noise -> latents -> frames: FreeMorph (Cao et al. 2025) as its code was released, for any
 * number of frames, size and model. Per pair: both latents and all between (slerp) are inverted together with fixed-point
 * DDIM, their high frequencies replaced by noise, and denoised with guidance, while frames look at the ends' keys.
 * Method slerp, the baseline: the two ends are inverted, slerp lies between what came of them, frames are denoised alone.
 * Method imago, the default: morph_imago.c.
 * Order of random numbers, as released: the noise to inject, once; then per pair the posterior of the left and right picture,
 * CUDA's generator drawing in f16.
 * SPDX-License-Identifier: MIT */
#include "engine/morph.h"
#include <math.h>

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
    if (strcmp(p->method, "imago") != 0 && strcmp(p->method, "freemorph") != 0 && strcmp(p->method, "slerp") != 0)
        return fail(E_USAGE, "method '%s': expected imago, freemorph or slerp", p->method);
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

static status make_ladder(morph_job *j) {
    j->schedule = j->im->ck->schedule;
    j->ladder = mem_alloc(sizeof *j->ladder * (size_t)(j->p.steps + 1));
    if (!j->ladder) return fail(E_HOST_MEMORY, "no host memory for %d steps", j->p.steps);
    return morph_ladder(&j->schedule, j->p.steps, (double)j->p.strength, j->ladder);
}

static status settle(morph_job *j) {
    status st = OK;
    imago_morph_params *p = &j->p;
    if (!p->frames) p->frames = 7;
    if (!p->method) p->method = "imago";
    j->imago = strcmp(p->method, "imago") == 0, j->slerp = strcmp(p->method, "slerp") == 0;
    if (!p->steps) p->steps = j->imago ? 8 : 50;
    if (p->strength == 0) p->strength = j->imago ? 0.7f : 0.8f;
    if (!p->inner) p->inner = 5;
    if (p->guidance == 0) p->guidance = j->imago ? 2.0f : 7.5f;
    TRY(check_wishes(p));
    TRY(check_size(j));
    if (j->im->ck->inpainting) TRY(fail(E_UNSUPPORTED, "this is an inpainting model: a morph needs one that makes whole pictures"));
    TRY(j->imago ? make_ladder(j) : expand(j));
    j->batch = j->imago ? morph_imago_batch(p->frames) : p->frames;
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
    if (j->imago) return j->p.frames > 2 ? morph_imago_evaluations(j) : 0;
    for (int i = 0; i < j->up.n_calls; i++)
        if (!morph_idle(&j->up.call[i])) n += j->p.inner * morph_rows(j->p.frames, up_shape(j, i).part);
    for (int i = 0; i < j->down.n_calls; i++)
        if (!morph_idle(&j->down.call[i])) n += halves(j) * morph_rows(j->p.frames, down_shape(j, i).part);
    return j->p.frames > 2 ? n : 0;
}

status morph_advance(morph_job *j, const morph_shape *s, const morph_update *u, const morph_dials *d, int rows) {
    status st = OK;
    engine_progress(j->im, IMAGO_SAMPLING, j->evaluated, j->evaluations, j->begun);
    TRY(morph_step(j->im, s, u, d));
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
        morph_update u = morph_update_of(j->im, &j->up.call[i]);
        for (int k = 0; k < j->p.inner; k++) TRY(morph_advance(j, &s, &u, &(morph_dials){.guidance = 1}, morph_rows(j->p.frames, s.part)));
    }
out:
    return st;
}

static status denoise(morph_job *j) {
    status st = OK;
    for (int i = 0; i < j->down.n_calls; i++) {
        morph_shape s = down_shape(j, i);
        if (morph_idle(&j->down.call[i])) continue;
        morph_update u = morph_update_of(j->im, &j->down.call[i]);
        TRY(morph_advance(j, &s, &u, &(morph_dials){.guidance = j->p.guidance}, halves(j) * morph_rows(j->p.frames, s.part)));
    }
out:
    return st;
}

/* ---- what a pair starts from ---- */

/* One encoder length, as released. */
static status read_text(morph_job *j, int a, int b) {
    status st = OK;
    const char *const *prompt = j->p.prompt;
    const char *text[3] = {"", prompt && prompt[a] ? prompt[a] : "", prompt && prompt[b] ? prompt[b] : ""};
    int entries = 0;
    float *one = NULL;
    double begun = os_seconds();
    engine_progress(j->im, IMAGO_READING_TEXT, 0, 1, begun);
    for (int i = 0; i < 3; i++) {
        TRY(text_features(j->im, &(text_params){.prompt = text[i], .plain = true}, &one, &entries, &j->tokens));
        size_t row = (size_t)j->tokens * (size_t)j->im->ck->text.hidden_size;
        if (!j->text && !(j->text = mem_alloc(3 * row * sizeof *one))) TRY(fail(E_HOST_MEMORY, "no host memory for texts"));
        memcpy(j->text + (size_t)i * row, one, row * sizeof *one);
        mem_free(one);
        one = NULL;
    }
    engine_progress(j->im, IMAGO_READING_TEXT, 1, 1, begun);
    j->im->report.text_s += os_seconds() - begun;
out:
    mem_free(one);
    return st;
}

status morph_text(morph_job *j, const double *share, int n) {
    status st = OK;
    size_t row = (size_t)j->tokens * (size_t)j->im->ck->text.hidden_size;
    const float *first = j->text + row, *last = first + row;
    float *all = mem_alloc(sizeof *all * row * (size_t)(n + 1));
    if (!all) return fail(E_HOST_MEMORY, "no host memory for the texts of %d frames", n);
    memcpy(all, j->text, row * sizeof *all);
    for (int f = 0; f < n; f++)
        for (size_t i = 0; i < row; i++)
            all[(size_t)(1 + f) * row + i] = (float)((double)first[i] + share[f] * ((double)last[i] - (double)first[i]));
    TRY(text_keys(j->im, all, n + 1, j->tokens, 1));
out:
    mem_free(all);
    return st;
}

static status even_text(morph_job *j) {
    double *share = mem_alloc(sizeof *share * (size_t)j->batch);
    if (!share) return fail(E_HOST_MEMORY, "no host memory for %d frames", j->batch);
    for (int f = 0; f < j->batch; f++) share[f] = (double)f / (j->batch - 1);
    status st = morph_text(j, share, j->batch);
    mem_free(share);
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
    TRY(encode(j, b, j->x + (size_t)(j->batch - 1) * j->cells));
    engine_progress(j->im, IMAGO_ENCODING, 2, 2, begun);
    j->im->report.encode_s += os_seconds() - begun;
out:
    return st;
}

/* ---- frames out ---- */
status morph_give(morph_job *j, image *frame) {
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
    TRY(morph_give(j, &copy));
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
        TRY(morph_give(j, &frame));
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
    if (j->imago) TRY(morph_imago_compile(j));
    for (int i = 0; i < j->up.n_calls; i++) {
        morph_shape s = up_shape(j, i);
        if (!morph_idle(&j->up.call[i])) TRY(morph_compile(j->im, &s, false, &p));
    }
    for (int i = 0; i < j->down.n_calls; i++) {
        morph_shape s = down_shape(j, i);
        if (!morph_idle(&j->down.call[i])) TRY(morph_compile(j->im, &s, j->p.guidance != 1, &p));
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
    TRY(even_text(j));
    TRY(encode_ends(j, a, b));
    if (!j->begun) TRY(compile(j));
    double begun = os_seconds();
    if (!j->begun) j->begun = begun;
    if (j->imago) return morph_imago(j, a, b);
    interpolate(j);
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
    j->x = mem_zalloc(sizeof *j->x * j->cells * (size_t)j->batch);
    j->noise = mem_alloc(sizeof *j->noise * j->cells);
    if (!j->fitted || !j->x || !j->noise) TRY(fail(E_HOST_MEMORY, "no host memory for %d frames of %dx%d", j->p.frames, j->p.width, j->p.height));
    for (int i = 0; i < j->p.n_pictures; i++) {
        image given = picture_image(&j->p.picture[i]);
        TRY(image_fit_to(&given, j->p.width, j->p.height, j->p.pad ? FIT_PAD : FIT_CROP, j->p.fill, &j->fitted[i]));
    }
    if (j->p.frames == 2) return OK;
    if (j->imago && j->p.judge && MIN(j->p.width, j->p.height) >= JUDGE_MIN_SIDE) TRY(judge_open(im->dev, j->p.judge, &j->judge));
    noise_init(&j->gen, NOISE_PHILOX, DT_F16, j->p.seed);
    TRY(latent_noise(im, &j->gen, j->h, j->w, j->noise));
    TRY(latents_prepare(im, j->batch, j->h, j->w));
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
    im->report.steps = j.imago ? 2 * j.p.steps : j.up.n_steps + j.down.n_steps;
    im->report.evaluations = j.evaluated;
    im->report.seconds_per_step = im->report.sample_s / (double)MAX(j.pairs * im->report.steps, 1);
    if (out) *out = j.out, j.out = NULL;
out:
    imago_free_pictures(j.out, j.total);
    for (int i = 0; j.fitted && i < p->n_pictures; i++) image_free(&j.fitted[i]);
    mem_free(j.fitted);
    mem_free(j.x);
    mem_free(j.noise);
    mem_free(j.text);
    mem_free(j.ladder);
    judge_close(j.judge);
    sampler_plan_fini(&j.up);
    sampler_plan_fini(&j.down);
    return ENGINE_STATUS(st);
}
