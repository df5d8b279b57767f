/* train_data.c: the corpus as a stream of pictures. Pictures are composed ahead by a thread, in the order of their numbers;
 * who asks for another number than the next one (a resumed run) starts the stream anew from there.
 * SPDX-License-Identifier: MIT */
#include "engine/train.h"

struct corpus_source { corpus *c; composer *m; compose_feed *feed; uint64_t next; compose_info *info; int n_info; };

status corpus_source_open(const char *folder, const compose_params *compose, uint32_t seed, corpus_source **out) {
    status st = OK;
    compose_params p = *compose;
    corpus_source *s = *out = mem_zalloc(sizeof *s);
    if (!s) return fail(E_HOST_MEMORY, "no host memory for the corpus");
    p.seed[0] = seed;
    TRY(corpus_open(folder, &s->c));
    TRY(composer_create(s->c, &p, &s->m));
out:
    if (st != OK) corpus_source_close(s), *out = NULL;
    return st;
}

void corpus_source_close(corpus_source *s) {
    if (!s) return;
    compose_feed_close(s->feed);
    composer_destroy(s->m);
    corpus_close(s->c);
    mem_free(s->info);
    mem_free(s);
}

const corpus *corpus_source_corpus(const corpus_source *s) { return s->c; }

static status next(void *ctx, uint64_t first, int n, uint8_t *rgb) {
    status st = OK;
    corpus_source *s = ctx;
    if (s->n_info < n) {
        mem_free(s->info);
        s->n_info = 0;
        if (!(s->info = mem_alloc(sizeof *s->info * (size_t)n))) return fail(E_HOST_MEMORY, "no host memory for %d captions", n);
        s->n_info = n;
    }
    if (!s->feed || s->next != first) {
        compose_feed_close(s->feed);
        s->feed = NULL;
        TRY(compose_feed_open(s->m, 1, 2 * n, first, &s->feed));
        s->next = first;
    }
    TRY(compose_feed_next(s->feed, n, rgb, s->info));
    s->next += (uint64_t)n;
out:
    return st;
}

picture_source corpus_source_pictures(corpus_source *s) { return (picture_source){next, s}; }

static void on_white(const uint8_t *rgba, uint8_t *rgb) {
    for (size_t i = 0; i < (size_t)CORPUS_SIDE * CORPUS_SIDE; i++)
        for (int c = 0; c < 3; c++) rgb[3 * i + (size_t)c] = (uint8_t)((rgba[4 * i + (size_t)c] * rgba[4 * i + 3] + 255 * (255 - rgba[4 * i + 3]) + 127) / 255);
}

status corpus_source_held_out(const corpus_source *s, int *n, uint8_t **rgb, int **style) {
    status st = OK;
    const corpus *c = s->c;
    int all = 0, seen = 0, taken = 0;
    uint8_t *rgba = mem_alloc(CORPUS_RGBA_BYTES);
    for (int i = 0; i < c->n_pictures; i++) all += c->pictures[i].split != SPLIT_TRAIN;
    *n = MIN(*n, all);
    *rgb = mem_alloc(COMPOSE_RGB_BYTES * (size_t)MAX(*n, 1));
    *style = mem_alloc(sizeof **style * (size_t)MAX(*n, 1));
    if (!rgba || !*rgb || !*style) TRY(fail(E_HOST_MEMORY, "no host memory for %d held-out pictures", *n));
    for (int i = 0; i < c->n_pictures && taken < *n; i++) {
        if (c->pictures[i].split == SPLIT_TRAIN || (int64_t)seen++ * *n / all < taken) continue;
        TRY(corpus_decode(c, i, rgba));
        on_white(rgba, *rgb + COMPOSE_RGB_BYTES * (size_t)taken);
        (*style)[taken++] = c->pictures[i].style;
    }
    *n = taken;
out:
    mem_free(rgba);
    return st;
}
