/* morph.c: measures the frames of a folder, two in memory at a time. SPDX-License-Identifier: MIT
 */
#include "eval/eval.h"
#include <math.h>
#include <stdio.h>

#define MAX_FRAMES (1 << 16) /* gaps are compared two by two */
#define PATH_BYTES 1200
static const uint8_t white[3] = {255, 255, 255};

static bool frame_exists(const char *dir, int frame, char path[PATH_BYTES]) {
    snprintf(path, PATH_BYTES, "%.1000s/frame-%04d.png", dir, frame + 1);
    return os_file_exists(path);
}

static status count_frames(const char *dir, int *n) {
    char path[PATH_BYTES], next[PATH_BYTES];
    if (strlen(dir) > 1000)
        return fail(E_USAGE, "%.60s...: too long for the name of a folder", dir);
    if (!os_is_folder(dir))
        return fail(E_IO, "%s: no such folder: expected one that imago morph wrote", dir);
    for (*n = 0; *n < MAX_FRAMES && frame_exists(dir, *n, path);) ++*n;
    if (*n == MAX_FRAMES) return fail(E_UNSUPPORTED, "%s: %d frames or more", dir, MAX_FRAMES);
    if (frame_exists(dir, *n + 1, next))
        return fail(E_FORMAT, "%s is missing, but %s is there: an incomplete morph", path, next);
    if (*n < 2)
        return fail(E_FORMAT, "%s: %s: a morph has two or more, frame-0001.png and on", dir,
                    *n ? "one frame" : "no frame");
    return OK;
}

static status load_rgb(const char *path, image *out) {
    status st = image_load(path, out);
    if (st == OK) st = image_flatten(out, white);
    if (st != OK) image_free(out);
    return st;
}

static status distances(judge *j, const image *a, const image *b, double d[EVAL_KINDS]) {
    d[BY_PIXELS] = pixel_distance(a, b);
    return judge_distance(j, a, b, &d[BY_FEATURES]);
}

/* From the picture at path, fitted to the frame, to the frame. */
static status fidelity(judge *j, const char *path, image_fit fit, const image *frame,
                       double d[EVAL_KINDS]) {
    status st = OK;
    image whole = {0}, fitted = {0};
    for (int k = 0; k < EVAL_KINDS; k++) d[k] = NAN;
    if (!path) return OK;
    TRY(load_rgb(path, &whole));
    TRY(image_fit_to(&whole, frame->w, frame->h, fit, white, &fitted));
    TRY(distances(j, &fitted, frame, d));
out:
    image_free(&whole);
    image_free(&fitted);
    return st;
}

/* The next frame in *now, the one before in *before. */
static status advance(const char *dir, int frame, image *before, image *now) {
    char path[PATH_BYTES];
    image_free(before);
    *before = *now;
    *now = (image){0};
    frame_exists(dir, frame, path);
    status st = load_rgb(path, now);
    if (st != OK) return st;
    if (now->w < JUDGE_MIN_SIDE || now->h < JUDGE_MIN_SIDE)
        return fail(E_UNSUPPORTED, "%s is %d x %d: features need sides of %d px or more", path,
                    now->w, now->h, JUDGE_MIN_SIDE);
    if (frame && (now->w != before->w || now->h != before->h))
        return fail(E_FORMAT,
                    "%s is %d x %d, the frame before it %d x %d: frames of one morph have one size",
                    path, now->w, now->h, before->w, before->h);
    return OK;
}

static status begin_scores(const frame_score *score, const char *dir, int frames) {
    status st = OK;
    image first = {0}, last = {0};
    char path[PATH_BYTES];
    for (int k = 0; k < EVAL_SCORES; k++) {
        if (!score || !score[k].begin) continue;
        if (!first.px) {
            frame_exists(dir, 0, path);
            TRY(load_rgb(path, &first));
            frame_exists(dir, frames - 1, path);
            TRY(load_rgb(path, &last));
        }
        TRY(score[k].begin(score[k].ctx, &first, &last));
    }
out:
    image_free(&first);
    image_free(&last);
    return st;
}

/* Adds the frame's scores to the means that they are part of. */
static status add_scores(const frame_score *score, int i, const image *frame, morph_measures *out) {
    status st = OK;
    double one;
    bool end = i == 0 || i == out->frames - 1;
    for (int k = 0; k < EVAL_SCORES; k++) {
        score_measures *m = &out->score[k];
        if (!score || !score[k].of) {
            *m = (score_measures){NAN, NAN};
            continue;
        }
        if (out->frames == 2) m->between = NAN;
        TRY(score[k].of(score[k].ctx, frame, &one));
        if (end) m->ends += one / 2;
        else m->between += one / (out->frames - 2);
    }
out:
    return st;
}

status morph_measure(judge *j, const char *dir, const morph_inputs *in, const frame_score *score,
                     arena *a, morph_measures *out) {
    status st = OK;
    image before = {0}, now = {0};
    double d[EVAL_KINDS];
    *out = (morph_measures){.dir = dir};
    TRY(count_frames(dir, &out->frames));
    TRY(begin_scores(score, dir, out->frames));
    for (int k = 0; k < EVAL_KINDS; k++) {
        out->by[k].gap = arena_new(a, double, out->frames - 1);
        if (!out->by[k].gap) TRY(fail(E_HOST_MEMORY, "no host memory for %d frames", out->frames));
    }
    for (int i = 0; i < out->frames; i++) {
        if (os_cancelled()) TRY(fail(E_CANCELLED, "stopped"));
        TRY(advance(dir, i, &before, &now));
        TRY(add_scores(score, i, &now, out));
        if (i == 0) {
            TRY(fidelity(j, in->first, in->fit, &now, d));
            for (int k = 0; k < EVAL_KINDS; k++) out->by[k].to_first = d[k];
            continue;
        }
        TRY(distances(j, &before, &now, d));
        for (int k = 0; k < EVAL_KINDS; k++) out->by[k].gap[i - 1] = d[k];
    }
    TRY(fidelity(j, in->last, in->fit, &now, d));
    out->w = now.w, out->h = now.h;
    for (int k = 0; k < EVAL_KINDS; k++) {
        out->by[k].to_last = d[k];
        out->by[k].of = gaps_measure(out->by[k].gap, out->frames - 1);
    }
out:
    image_free(&before);
    image_free(&now);
    return st;
}
