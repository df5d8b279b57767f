/* nearest.c: is there a real picture that looks like this one? What many pictures show, one vector
 * each, is kept, so that a frame costs one look and their dot products. Looking at ten thousand
 * takes minutes: the vectors may stay in a file, in halves, whose rounding is far below what tells
 * pictures apart. SPDX-License-Identifier: MIT */
#include "eval/eval.h"
#include "file/file.h"

static const double same = 0.01; /* resizing moves a picture by up to 0.004, siblings are 0.02 apart */

struct gallery {
    judge *j;
    int n, side, over[2]; /* passed over; -1 = none */
    uint16_t *v; /* [n, JUDGE_EMBED] f16 */
};

static status look_at_all(gallery *g, const gallery_source *s) {
    status st = OK;
    image im = {0};
    float *v = mem_alloc(JUDGE_EMBED * sizeof *v);
    if (!v) TRY(fail(E_HOST_MEMORY, "no host memory for features"));
    TRY(image_create(g->side, g->side, 3, &im));
    for (int i = 0; i < g->n; i++) {
        TRY(s->picture(s->ctx, i, im.px));
        TRY(judge_embed(g->j, &im, v));
        for (int k = 0; k < JUDGE_EMBED; k++)
            g->v[(size_t)i * JUDGE_EMBED + (size_t)k] = f32_to_f16(v[k]);
    }
out:
    mem_free(v);
    image_free(&im);
    return st;
}

static bool read_cache(gallery *g, const char *path, const char *key) {
    safetensors *f = NULL;
    if (!path || !os_file_exists(path)) return false;
    bool ok = safetensors_open(path, &f) == OK;
    const safetensor *t = ok ? safetensors_find(f, "features") : NULL;
    const char *made_of = ok ? safetensors_find_note(f, "key") : NULL;
    ok = t && made_of && strcmp(made_of, key) == 0 && t->dtype == DT_F16 && t->n_dims == 2 &&
         t->dim[0] == g->n && t->dim[1] == JUDGE_EMBED;
    if (ok) memcpy(g->v, t->data, safetensor_bytes(t));
    safetensors_close(f);
    error_clear();
    return ok;
}

static void write_cache(const gallery *g, const char *path, const char *key) {
    safetensor t = {.name = "features", .dtype = DT_F16, .n_dims = 2, .data = g->v};
    safetensor_note note = {"key", key};
    t.dim[0] = g->n, t.dim[1] = JUDGE_EMBED;
    if (!path || safetensors_write(path, &t, 1, &note, 1) == OK) return;
    log_warn("features are not kept: %s", error_message());
    error_clear();
}

status gallery_open(judge *j, const gallery_source *s, const char *cache, const char *key,
                    gallery **out) {
    status st = OK;
    gallery *g = mem_zalloc(sizeof *g);
    *out = NULL;
    if (!g) return fail(E_HOST_MEMORY, "no host memory for features");
    g->j = j, g->n = s->n, g->side = s->side, g->over[0] = g->over[1] = -1;
    g->v = mem_alloc((size_t)g->n * JUDGE_EMBED * sizeof *g->v);
    if (!g->v) TRY(fail(E_HOST_MEMORY, "no host memory for the features of %d pictures", g->n));
    if (!read_cache(g, cache, key)) {
        TRY(look_at_all(g, s));
        write_cache(g, cache, key);
    }
    *out = g;
    g = NULL;
out:
    gallery_close(g);
    return st;
}

void gallery_close(gallery *g) {
    if (!g) return;
    mem_free(g->v);
    mem_free(g);
}

static double likeness(const uint16_t *kept, const float *v) {
    double sum = 0;
    for (int k = 0; k < JUDGE_EMBED; k++) sum += (double)(f16_to_f32(kept[k]) * v[k]);
    return sum;
}

status gallery_nearest(gallery *g, const image *im, double *distance, int *which) {
    static const uint8_t white[3] = {255, 255, 255};
    status st = OK;
    image fitted = {0};
    double best = 0; /* likeness is never less */
    float *v = mem_alloc(JUDGE_EMBED * sizeof *v);
    if (!v) TRY(fail(E_HOST_MEMORY, "no host memory for features"));
    TRY(image_fit_to(im, g->side, g->side, FIT_PAD, white, &fitted));
    TRY(judge_embed(g->j, &fitted, v));
    *which = 0;
    for (int i = 0; i < g->n; i++) {
        double like = likeness(g->v + (size_t)i * JUDGE_EMBED, v);
        if (like > best && i != g->over[0] && i != g->over[1]) best = like, *which = i;
    }
    *distance = best < 1 ? 1 - best : 0;
out:
    mem_free(v);
    image_free(&fitted);
    return st;
}

status gallery_pass_over(gallery *g, const image *a, const image *b) {
    status st = OK;
    int which[2];
    double d[2];
    g->over[0] = g->over[1] = -1;
    TRY(gallery_nearest(g, a, &d[0], &which[0]));
    TRY(gallery_nearest(g, b, &d[1], &which[1]));
    for (int i = 0; i < 2; i++) g->over[i] = d[i] < same ? which[i] : -1;
out:
    return st;
}
