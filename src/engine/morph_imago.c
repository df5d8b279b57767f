/* morph_imago.c: the method imago. FreeMorph inverts and denoises all frames together, which mixes them; here only the two ends
 * are inverted, exactly, and every frame between is denoised by itself from a point between what they became, while it looks
 * at the ends' keys as in FreeMorph. So a frame depends on its share of the way alone: shares can be chosen so that frames
 * lie equally far apart, frames can come in batches of any size, and the ends come back as they were.
 *   steps      at equal angles, few: eight do
 *   inversion  solves the very step that denoising takes, until the answer stands still
 *   guidance   1 at the ends, which it would move away from the pictures, rising to the middle
 *   shares     from coarse runs: what lies between two frames, as SqueezeNet sees it, is cut evenly
 *   detail     what the autoencoder loses of the pictures is handed on to the frames near them
 * What each is worth, and what was tried and left out: tests/bench/LOG.md. FreeMorph's inversion of all frames with its modes MEAN
 * and ENDS, and its injected noise, went together: nothing is left that they would act on.
 * SPDX-License-Identifier: MIT */
#include "engine/morph.h"
#include <math.h>

#define BATCH_FRAMES   7     /* between the ends, at most, in one batch: memory does not grow with their number */
#define PILOTS         2     /* coarse runs that find the shares */
#define PILOT_STRIDE   2     /* steps they take at once */
#define STILL          2e-3  /* relative change of a latent between iterations: below it bf16 is all that moves (3e-4 there) */
#define DETAIL_POWER   3     /* share s of the way keeps (1 - s)^3 of the first picture's detail: a half of it at 0.2, an eighth in the middle */

int morph_imago_batch(int frames) {
    int between = MAX(frames - 2, 1), batches = (int)div_up(between, BATCH_FRAMES);
    return 2 + (int)div_up(between, batches);
}

typedef struct imago_pair {
    morph_job *j; int a, b, batch;         /* which pictures; frames in a batch, ends included */
    float *top, *end;                      /* [2, h, w, C]: what the ends became; what came back of them */
    double *share, *gap, *guidance;        /* [batch]: of the frames in the batch; [batch - 1] */
    double *place;                         /* [frames]: where frames are to lie */
    float *detail;                         /* [2, H, W, 3]: picture - what the autoencoder makes of it, 0 ... 255 */
    image *frame;                          /* [batch]: decoded ones; the ends' are empty */
} imago_pair;

/* ---- the steps ---- */
static bool guided(const morph_job *j) { return j->p.guidance != 1 && !j->im->ck->unet.time_cond_proj_dim; }

/* In shares of the way down, as FreeMorph's. */
static morph_shape down_shape(const morph_job *j, int left) {
    int done = j->p.steps - left;
    return (morph_shape){j->p.own_keys ? MORPH_PLAIN : morph_mode_down(done, j->p.steps), MORPH_ALL, false, guided(j)};
}

static const morph_shape up_shape = {MORPH_PLAIN, MORPH_OUTER, true, false};

static int rows(const morph_job *j) { return guided(j) ? 2 * j->batch - 2 : j->batch; }
static int batches(const morph_job *j) { return (int)div_up(j->p.frames - 2, j->batch - 2); }

int morph_imago_evaluations(const morph_job *j) {
    int steps = j->p.steps, pilot = j->p.uneven ? 0 : PILOTS * (int)div_up(steps, PILOT_STRIDE);
    return steps * j->p.inner * 2 + (pilot + steps * batches(j)) * rows(j);
}

status morph_imago_compile(morph_job *j) {
    status st = OK;
    plan *p;
    TRY(morph_compile(j->im, &up_shape, false, &p));
    for (int i = j->p.steps; i > 0; i--) {
        morph_shape s = down_shape(j, i);
        TRY(morph_compile(j->im, &s, guided(j), &p));
    }
out:
    return st;
}

static double change(const float *x, const float *old, size_t n) {
    double diff = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)x[i] - (double)old[i];
        diff += d * d, norm += (double)x[i] * (double)x[i];
    }
    return norm > 0 ? sqrt(diff / norm) : 0;
}

/* One step up: x is found such that the step down from it leads back here. now: [batch] latents, the ends' to be moved. */
static status climb(imago_pair *p, int i, float *now, float *old) {
    status st = OK;
    morph_job *j = p->j;
    latents *l = &j->im->lat;
    size_t all = (size_t)p->batch * j->cells, last = all - j->cells;
    morph_update u = morph_up(j->schedule.prediction_type, j->ladder[i], j->ladder[i + 1]);
    TRY(array_write(l->kept[0], now));
    for (int k = 0; k < j->p.inner; k++) {
        memcpy(old, now, all * sizeof *old);
        TRY(morph_advance(j, &up_shape, &u, &(morph_dials){.guidance = 1}, 2));
        TRY(array_read(l->x, now));
        if (fmax(change(now, old, j->cells), change(now + last, old + last, j->cells)) > STILL) continue;
        j->evaluations -= 2 * (j->p.inner - 1 - k);
        break;
    }
out:
    return st;
}

static status invert_ends(imago_pair *p) {
    status st = OK;
    morph_job *j = p->j;
    size_t last = (size_t)(p->batch - 1) * j->cells;
    float *old = mem_alloc(sizeof *old * j->cells * (size_t)p->batch);
    if (!old) return fail(E_HOST_MEMORY, "no host memory for the latents of %d frames", p->batch);
    TRY(array_write(j->im->lat.x, j->x));
    for (int i = 0; i < j->p.steps; i++) TRY(climb(p, i, j->x, old));
    memcpy(p->top, j->x, j->cells * sizeof *old);
    memcpy(p->top + j->cells, j->x + last, j->cells * sizeof *old);
out:
    mem_free(old);
    return st;
}

/* ---- from shares to pictures ---- */
static void add_detail(const imago_pair *p, double share, image *frame) {
    size_t n = (size_t)frame->w * (size_t)frame->h * 3;
    double first = pow(1 - share, DETAIL_POWER), last = pow(share, DETAIL_POWER);
    for (size_t i = 0; i < n; i++) {
        double v = frame->px[i] + first * (double)p->detail[i] + last * (double)p->detail[n + i];
        frame->px[i] = (uint8_t)lround(MIN(MAX(v, 0), 255));
    }
}

static status find_detail(imago_pair *p) {
    status st = OK;
    morph_job *j = p->j;
    image back = {0};
    size_t n = (size_t)j->p.width * (size_t)j->p.height * 3;
    for (int e = 0; e < 2; e++) {
        const image *given = &j->fitted[e ? p->b : p->a];
        TRY(vae_decode_picture(j->im, p->end + (e ? j->cells : 0), j->h, j->w, j->p.tile, &back));
        for (size_t i = 0; i < n; i++) p->detail[(size_t)e * n + i] = (float)given->px[i] - (float)back.px[i];
        image_free(&back);
    }
out:
    image_free(&back);
    return st;
}

/* Denoises frames at p->share, the ends with them. */
static status descend(imago_pair *p, int stride) {
    status st = OK;
    morph_job *j = p->j;
    imago *im = j->im;
    TRY(morph_text(j, p->share, p->batch));
    for (int f = 0; f < p->batch; f++) {
        double s = p->share[f];
        morph_slerp(p->top, p->top + j->cells, s, j->h, j->w, im->ck->vae.latent_channels, j->x + (size_t)f * j->cells);
        p->guidance[f] = 1 + ((double)j->p.guidance - 1) * 4 * s * (1 - s);
    }
    morph_dials dials = {j->p.guidance, p->guidance, p->share};
    TRY(array_write(im->lat.x, j->x));
    for (int i = j->p.steps; i > 0; i -= stride) {
        morph_shape shape_now = down_shape(j, i);
        morph_update u = morph_down(j->schedule.prediction_type, j->ladder[i], j->ladder[MAX(i - stride, 0)]);
        TRY(morph_advance(j, &shape_now, &u, &dials, rows(j)));
    }
    TRY(array_read(im->lat.x, j->x));
out:
    return st;
}

static status decode_frame(imago_pair *p, int f) {
    status st = OK;
    morph_job *j = p->j;
    double begun = os_seconds();
    image_free(&p->frame[f]);
    TRY(vae_decode_picture(j->im, j->x + (size_t)f * j->cells, j->h, j->w, j->p.tile, &p->frame[f]));
    if (!j->p.no_detail) add_detail(p, p->share[f], &p->frame[f]);
    j->im->report.decode_s += os_seconds() - begun;
out:
    return st;
}

/* ---- even shares ---- */
/* The judge's distance is a square, like LPIPS: roots add up along a way. */
static status measure(imago_pair *p) {
    status st = OK;
    morph_job *j = p->j;
    for (int i = 0; i < p->batch - 1; i++) {
        const image *from = i ? &p->frame[i] : &j->fitted[p->a], *to = i < p->batch - 2 ? &p->frame[i + 1] : &j->fitted[p->b];
        double d = 0;
        if (j->judge) TRY(judge_distance(j->judge, from, to, &d));
        p->gap[i] = j->judge ? sqrt(fmax(d, 0)) : pixel_distance(from, to);
    }
out:
    return st;
}

static void spread(double *share, int n) {
    for (int f = 0; f < n; f++) share[f] = (double)f / (n - 1);
}

/* Fills p->place. */
static status find_places(imago_pair *p) {
    status st = OK;
    int n = p->j->p.frames;
    double old[BATCH_FRAMES + 2];
    spread(p->place, n);
    spread(p->share, p->batch);
    for (int k = 0; k < PILOTS && !p->j->p.uneven; k++) {
        TRY(descend(p, PILOT_STRIDE));
        for (int f = 1; f < p->batch - 1; f++) TRY(decode_frame(p, f));
        TRY(measure(p));
        memcpy(old, p->share, sizeof *old * (size_t)p->batch);
        if (k < PILOTS - 1) morph_even(p->gap, old, p->batch - 1, p->batch - 1, p->share);
        else morph_even(p->gap, old, p->batch - 1, n - 1, p->place);
    }
out:
    return st;
}

/* ---- the pair ---- */
static status prepare(imago_pair *p, morph_job *j) {
    size_t n = (size_t)p->batch, px = (size_t)j->p.width * (size_t)j->p.height * 3;
    p->top = mem_zalloc(sizeof *p->top * 4 * j->cells);
    p->share = mem_zalloc(sizeof *p->share * (3 * n + (size_t)j->p.frames));
    p->detail = mem_zalloc(sizeof *p->detail * 2 * px);
    p->frame = mem_zalloc(sizeof *p->frame * n);
    if (!p->top || !p->share || !p->detail || !p->frame) return fail(E_HOST_MEMORY, "no host memory for frames of %dx%d", j->p.width, j->p.height);
    p->end = p->top + 2 * j->cells;
    p->gap = p->share + n, p->guidance = p->gap + n, p->place = p->guidance + n;
    memcpy(p->end, j->x, sizeof *p->end * j->cells);
    memcpy(p->end + j->cells, j->x + (n - 1) * j->cells, sizeof *p->end * j->cells);
    return OK;
}

/* Frames of the batch that begins with frame `first`; the last batch is filled up with its last frame. */
static status give_batch(imago_pair *p, int first) {
    status st = OK;
    int n = p->j->p.frames;
    p->share[0] = 0, p->share[p->batch - 1] = 1;
    for (int f = 1; f < p->batch - 1; f++) p->share[f] = p->place[MIN(first + f - 1, n - 2)];
    TRY(descend(p, 1));
    for (int f = 1; f < p->batch - 1 && first + f - 1 < n - 1; f++) {
        TRY(decode_frame(p, f));
        TRY(morph_give(p->j, &p->frame[f]));
    }
out:
    return st;
}

status morph_imago(morph_job *j, int a, int b) {
    status st = OK;
    imago_pair p = {.j = j, .a = a, .b = b, .batch = j->batch};
    double begun = os_seconds(), decoded = j->im->report.decode_s;
    TRY(prepare(&p, j));
    if (!j->p.no_detail) TRY(find_detail(&p));
    TRY(invert_ends(&p));
    TRY(find_places(&p));
    for (int first = 1; first < j->p.frames - 1; first += p.batch - 2) TRY(give_batch(&p, first));
    engine_progress(j->im, IMAGO_SAMPLING, j->evaluated, j->evaluations, j->begun);
    j->im->report.sample_s += os_seconds() - begun - (j->im->report.decode_s - decoded);
out:
    for (int f = 0; p.frame && f < p.batch; f++) image_free(&p.frame[f]);
    mem_free(p.top);
    mem_free(p.share);
    mem_free(p.detail);
    mem_free(p.frame);
    return st;
}
