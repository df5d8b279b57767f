/* eval_corpus.c: pictures of the corpus as evaluations look at them: one at a size, and all of them as a
 * gallery. What SqueezeNet saw in the gallery is kept in the cache folder under a name that its files
 * and the weights decide. SPDX-License-Identifier: MIT */
#include "cli/eval.h"
#include "train/corpus.h"
#include <stdio.h>

status cli_corpus_picture(const corpus *c, int index, int side, image *out) {
    status st = OK;
    static const uint8_t white[3] = {255, 255, 255};
    image im = {0};
    TRY(image_create(CORPUS_SIDE, CORPUS_SIDE, 4, &im));
    TRY(corpus_decode(c, index, im.px));
    TRY(image_flatten(&im, white));
    TRY(image_resize(&im, side, side, out));
out:
    image_free(&im);
    return st;
}

typedef struct corpus_walk {
    corpus *c;
    progress bar;
    uint8_t rgba[CORPUS_RGBA_BYTES];
} corpus_walk;

static status next_picture(void *ctx, int i, uint8_t *rgb) {
    corpus_walk *w = ctx;
    if (os_cancelled()) return fail(E_CANCELLED, "stopped");
    if (i == 0) progress_begin(&w->bar, "looking at the corpus", w->c->n_pictures);
    status st = corpus_decode(w->c, i, w->rgba);
    if (st != OK) return st;
    corpus_on_white(w->rgba, rgb);
    progress_step(&w->bar, i + 1, NULL);
    if (i == w->c->n_pictures - 1) progress_end(&w->bar);
    return OK;
}

/* FNV-1a, 64 bits */
static status add_file(const char *path, uint64_t *hash) {
    uint8_t *data = NULL;
    size_t bytes = 0;
    status st = file_read(path, (size_t)1 << 30, &data, &bytes);
    for (size_t i = 0; i < bytes && st == OK; i++) *hash = (*hash ^ data[i]) * 0x100000001b3u;
    mem_free(data);
    return st;
}

static status hash_all(const corpus *c, const char *folder, const char *weights, uint64_t *hash) {
    status st = OK;
    char path[1400];
    *hash = 0xcbf29ce484222325u;
    TRY(add_file(weights, hash));
    snprintf(path, sizeof path, "%.1000s/index.tsv", folder);
    TRY(add_file(path, hash));
    for (int i = 0; i < c->n_styles; i++) {
        snprintf(path, sizeof path, "%.1000s/%.300s.pngs", folder, c->styles[i].name);
        TRY(add_file(path, hash));
    }
out:
    return st;
}

status cli_corpus_gallery(judge *j, const char *folder, const char *weights, gallery **out) {
    status st = OK;
    char cache[512], path[600], key[20];
    uint64_t hash = 0;
    corpus_walk *w = mem_zalloc(sizeof *w);
    *out = NULL;
    if (!w) return fail(E_HOST_MEMORY, "no host memory to look at the corpus");
    TRY(corpus_open(folder, &w->c));
    TRY(hash_all(w->c, folder, weights, &hash));
    snprintf(key, sizeof key, "%016llx", (unsigned long long)hash);
    const char *dir = cli_cache_dir(cache);
    if (dir && os_mkdir_p(dir) == OK)
        snprintf(path, sizeof path, "%s/corpus-%s.safetensors", dir, key);
    else
        dir = NULL;
    TRY(gallery_open(j, &(gallery_source){w->c->n_pictures, CORPUS_SIDE, next_picture, w},
                     dir ? path : NULL, key, out));
out:
    corpus_close(w->c);
    mem_free(w);
    return st;
}
