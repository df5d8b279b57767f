/* train_words.c: the vocabulary of the base model, learned from its captions, so that a word is one
 * token. SPDX-License-Identifier: MIT */
#include "engine/train.h"
#include <cjson/cJSON.h>
#include <stdio.h>

enum { COMPOSED = 6000, VISITS = 4, AT_ONCE = 64 };

typedef struct texts {
    bpe_sample *s;
    int n, cap;
    arena mem;
} texts;

static status add(texts *t, const char *text) {
    if (!text[0]) return OK;
    if (t->n == t->cap) return fail(E_HOST_MEMORY, "more captions than counted");
    if (!(t->s[t->n].text = arena_printf(&t->mem, "%s", text)))
        return fail(E_HOST_MEMORY, "no host memory for %d captions", t->n);
    t->s[t->n++].count = 1;
    return OK;
}

/* The length that pipelines pad to is in the tokenizer's config. */
static status set_length(const char *folder, int length) {
    status st = OK;
    char path[1280], *text = NULL;
    uint8_t *data = NULL;
    size_t bytes = 0;
    json *j = NULL;
    snprintf(path, sizeof path, "%s/tokenizer_config.json", folder);
    TRY(file_read(path, (size_t)1 << 20, &data, &bytes));
    TRY(json_parse((const char *)data, bytes, path, &j));
    cJSON *old = cJSON_GetObjectItemCaseSensitive(j, "model_max_length");
    if (!old || !cJSON_SetNumberHelper(old, length) || !(text = cJSON_Print(j)))
        TRY(fail(E_HOST_MEMORY, "no host memory to write %s", path));
    TRY(file_write_atomic(path, text, strlen(text)));
out:
    cJSON_free(text);
    json_free(j);
    mem_free(data);
    return st;
}

status train_make_words(corpus_source *s, int size, int length, const char *folder, int *learned) {
    status st = OK;
    const corpus *c = corpus_source_corpus(s);
    texts t = {.cap = c->n_pictures + COMPOSED * VISITS};
    uint8_t *rgb = mem_alloc(COMPOSE_RGB_BYTES * AT_ONCE);
    compose_info info[AT_ONCE];
    caption text;
    t.s = mem_alloc(sizeof *t.s * (size_t)t.cap);
    if (!rgb || !t.s) TRY(fail(E_HOST_MEMORY, "no host memory for %d captions", t.cap));
    for (int i = 0; i < c->n_pictures; i++) {
        compose_plain_caption(c, i, &text);
        TRY(add(&t, text.text));
    }
    for (int at = 0; at < COMPOSED; at += AT_ONCE) {
        int n = MIN(AT_ONCE, COMPOSED - at);
        TRY(corpus_source_next(s, (uint64_t)at, n, rgb, info));
        for (int i = 0; i < n * VISITS; i++) {
            compose_caption(corpus_source_composer(s), (uint64_t)(at + i / VISITS),
                            (uint64_t)(i % VISITS), &info[i / VISITS], &text);
            TRY(add(&t, text.text));
        }
    }
    TRY(bpe_train(t.s, t.n, size, folder, learned));
    TRY(set_length(folder, length));
out:
    mem_free(t.s);
    mem_free(rgb);
    arena_fini(&t.mem);
    return st;
}
