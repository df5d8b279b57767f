/* tokenizer.c: opens a tokenizer and keeps its added tokens. Where a vocabulary comes from is
 * vocab.c and vocab_folder.c; what is done with it bpe.c. SPDX-License-Identifier: MIT */
#include "text/text_internal.h"

#include <assert.h>

static char *keep(tokenizer *t, const char *s, size_t n) {
    char *to = arena_alloc(&t->mem, n + 1);
    if (to) memcpy(to, s, n);
    return to;
}

const added_token *tokenizer_find_added(const tokenizer *t, const char *given) {
    for (int i = 0; i < t->n_added; i++)
        if (!strcmp(t->added[i].given, given)) return &t->added[i];
    return NULL;
}

const added_token *tokenizer_added_at(const tokenizer *t, uint32_t first) {
    for (int i = 0; i < t->n_added; i++)
        if (t->added[i].first == first) return &t->added[i];
    return NULL;
}

status tokenizer_put_added(tokenizer *t, const char *given, bool normalized, uint32_t first,
                           int n) {
    status st = OK;
    normalizer z = {0};
    const char *text = given;
    size_t bytes = strlen(given);
    added_token *a = NULL;
    if (!bytes) return fail(E_USAGE, "an added token without text");
    if (normalized) TRY(text_normalize(&z, given, bytes, &text, &bytes));
    for (int i = 0; i < t->n_added && !a; i++)
        if (!strcmp(t->added[i].given, given)) a = &t->added[i];
    if (!a && t->n_added == t->room_added) {
        int room = MAX(16, t->room_added * 2);
        added_token *more =
            mem_realloc(t->added, sizeof *more * (size_t)t->n_added, sizeof *more * (size_t)room);
        if (!more) goto memory;
        t->added = more, t->room_added = room;
    }
    char *kept = keep(t, text, bytes), *kept_given = keep(t, given, strlen(given));
    if (!kept || !kept_given) goto memory;
    if (!a) a = &t->added[t->n_added++];
    *a = (added_token){kept, bytes, kept_given, normalized, first, n};
    t->next_id = MAX(t->next_id, first + (uint32_t)n);
out:
    normalizer_fini(&z);
    return st;
memory:
    st = fail(E_HOST_MEMORY, "no memory for the added token %s", given);
    goto out;
}

status tokenizer_add(tokenizer *t, const char *text, int n, uint32_t *first) {
    assert(n > 0);
    *first = NO_ID;
    if (tokenizer_find_added(t, text))
        return fail(E_USAGE, "the placeholder %s is there already: choose another one", text);
    if ((uint32_t)n > TEXT_MAX_IDS - t->next_id)
        return fail(E_USAGE, "%d ids for %s after %u: at most %u in all", n, text, t->next_id,
                    TEXT_MAX_IDS);
    uint32_t id = t->next_id;
    status st = tokenizer_put_added(t, text, true, id, n);
    if (st == OK) *first = id;
    return st;
}

/* What the vocabulary and the special tokens leave to be filled in. */
static status complete(tokenizer *t, const vocab *v, const char *what) {
    for (int b = 0; b < 256; b++) {
        char s[8];
        byte_symbol((uint8_t)b, s);
        t->byte_id[0][b] = string_map_get(&v->ids, s, strlen(s));
        memcpy(s + strlen(s), WORD_END, sizeof WORD_END);
        t->byte_id[1][b] = string_map_get(&v->ids, s, strlen(s));
    }
    bool any = false;
    for (int b = 0; b < 256; b++) any |= t->byte_id[1][b] != NO_ID;
    if (!any)
        return fail(E_UNSUPPORTED, "%s: no token ends in %s: this is not a CLIP vocabulary", what,
                    WORD_END);
    t->comma = t->byte_id[1][','];
    t->size = (int)t->next_id;
    return OK;
}

status tokenizer_open(const char *folder, tokenizer **out) {
    status st = OK;
    vocab v = {0};
    *out = NULL;
    tokenizer *t = mem_zalloc(sizeof *t);
    if (!t) return fail(E_HOST_MEMORY, "no memory for a tokenizer");
    if (folder)
        TRY(vocab_folder(t, &v, folder));
    else
        TRY(vocab_bundled(t, &v));
    TRY(complete(t, &v, folder ? folder : "the bundled vocabulary"));
    *out = t, t = NULL;
out:
    string_map_fini(&v.ids);
    arena_fini(&v.mem);
    json_free(v.file);
    tokenizer_close(t);
    return st;
}

void tokenizer_close(tokenizer *t) {
    if (!t) return;
    merge_map_fini(&t->merges);
    mem_free(t->added);
    arena_fini(&t->mem);
    mem_free(t);
}

uint32_t tokenizer_bos(const tokenizer *t) { return t->bos; }
uint32_t tokenizer_eos(const tokenizer *t) { return t->eos; }
uint32_t tokenizer_pad(const tokenizer *t) { return t->pad; }
int tokenizer_size(const tokenizer *t) { return t->size; }
int tokenizer_max_length(const tokenizer *t) { return t->max_length; }
void tokenizer_set_pad(tokenizer *t, uint32_t id) {
    assert(id < t->next_id);
    t->pad = id;
}
