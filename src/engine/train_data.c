/* train_data.c: the corpus as a stream of pictures. Pictures are composed ahead by threads, in the
 * order of their numbers; who asks for another number than the next one (a resumed run) starts the
 * stream anew from there. SPDX-License-Identifier: MIT */
#include "engine/train.h"
#include "train/pool.h"

struct corpus_source {
    corpus *c;
    composer *m;
    compose_feed *feed;
    uint64_t next;
    int threads;
    compose_info *info;
    int n_info;
};

status corpus_source_open(const char *folder, const compose_params *compose, uint32_t seed,
                          int threads, corpus_source **out) {
    status st = OK;
    compose_params p = *compose;
    corpus_source *s = *out = mem_zalloc(sizeof *s);
    if (!s) return fail(E_HOST_MEMORY, "no host memory for the corpus");
    p.seed[0] = seed;
    s->threads = threads;
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

status corpus_source_next(corpus_source *s, uint64_t first, int n, uint8_t *rgb,
                          compose_info *info) {
    status st = OK;
    if (!s->feed || s->next != first) {
        compose_feed_close(s->feed);
        s->feed = NULL;
        TRY(compose_feed_open(s->m, s->threads, 2 * n, first, &s->feed));
        s->next = first;
    }
    TRY(compose_feed_next(s->feed, n, rgb, info));
    s->next += (uint64_t)n;
out:
    return st;
}

static status next(void *ctx, uint64_t first, int n, uint8_t *rgb) {
    corpus_source *s = ctx;
    if (s->n_info < n) {
        mem_free(s->info);
        s->n_info = 0;
        if (!(s->info = mem_alloc(sizeof *s->info * (size_t)n)))
            return fail(E_HOST_MEMORY, "no host memory for %d captions", n);
        s->n_info = n;
    }
    return corpus_source_next(s, first, n, rgb, s->info);
}

const composer *corpus_source_composer(const corpus_source *s) { return s->m; }

picture_source corpus_source_pictures(corpus_source *s) { return (picture_source){next, s}; }

static bool held_out(const corpus *c, const corpus_picture *p, bool pairs) {
    if (pairs && c->concepts[p->concept].group == CORPUS_SYMBOLS) return false;
    return p->split == SPLIT_PAIR_HOLDOUT || (!pairs && p->split == SPLIT_SUBJECT_HOLDOUT);
}

status corpus_source_held_out(const corpus_source *s, bool pairs, int *n, uint8_t **rgb,
                              int **picture) {
    status st = OK;
    const corpus *c = s->c;
    int all = 0, seen = 0, taken = 0;
    uint8_t *rgba = mem_alloc(CORPUS_RGBA_BYTES);
    for (int i = 0; i < c->n_pictures; i++) all += held_out(c, &c->pictures[i], pairs);
    *n = MIN(*n, all);
    *rgb = mem_alloc(COMPOSE_RGB_BYTES * (size_t)MAX(*n, 1));
    *picture = mem_alloc(sizeof **picture * (size_t)MAX(*n, 1));
    if (!rgba || !*rgb || !*picture)
        TRY(fail(E_HOST_MEMORY, "no host memory for %d held-out pictures", *n));
    for (int i = 0; i < c->n_pictures && taken < *n; i++) {
        if (!held_out(c, &c->pictures[i], pairs) || (int64_t)seen++ * *n / all < taken) continue;
        TRY(corpus_decode(c, i, rgba));
        corpus_on_white(rgba, *rgb + COMPOSE_RGB_BYTES * (size_t)taken);
        (*picture)[taken++] = i;
    }
    *n = taken;
out:
    mem_free(rgba);
    return st;
}

static status next_latents(void *ctx, uint64_t first, int n, float *latents, caption *captions) {
    const pool_source *from = ctx;
    const pool *p = from->p;
    size_t one = (size_t)p->h * (size_t)p->w * (size_t)p->channels;
    for (int i = 0; i < n; i++) {
        uint64_t sample = first + (uint64_t)i;
        int64_t at = pool_pick(p, from->seed, sample);
        compose_info info;
        for (size_t k = 0; k < one; k++)
            latents[one * (size_t)i + k] = f16_to_f32(p->latents[one * (size_t)at + k]);
        pool_info(p, at, &info);
        compose_caption(from->s->m, p->first + (uint64_t)at, sample, &info, &captions[i]);
    }
    return OK;
}

latent_source pool_source_latents(pool_source *p) { return (latent_source){next_latents, p}; }
