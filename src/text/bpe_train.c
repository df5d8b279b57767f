/* bpe_train.c: learns a CLIP-format vocabulary: 256 bytes, 256 bytes at the end of a word, merges,
 * two specials. Each step joins the pair of neighbours that is most frequent over all words, so
 * frequent words end as one token. Counts of pairs are kept up to date where a merge changes them;
 * a heap offers the best pair, with counts that may be out of date and are then put back. Ties go
 * to the smaller ids, so the result depends on the counts alone. source  Sennrich et al. 2016
 * SPDX-License-Identifier: MIT */
#include "text/text_internal.h"

#include <assert.h>

typedef struct word {
    size_t start; /* in symbols */
    uint32_t n;
    int64_t count;
} word;
typedef struct place { /* of a list of the words that a pair is in; NO_ID ends it */
    uint32_t word, next;
} place;
typedef struct pair {
    uint32_t left, right, places;
    int64_t count;
} pair;
typedef struct offer {
    int64_t count;
    uint32_t pair;
} offer;
typedef struct learned {
    uint32_t left, right;
} learned;
typedef struct trainer {
    arena mem;
    string_map word_ids, symbol_ids; /* of pieces; of symbols' texts */
    buffer words, symbols, texts;    /* of word, uint32_t, char * */
    buffer pairs, places;            /* of pair, place */
    buffer heap, merges;             /* of offer, learned */
    uint32_t n_words, n_texts, n_pairs, n_places, n_merges;
    uint32_t n_offered; /* pairs below it have been offered */
    size_t n_symbols, n_heap;
    int64_t total;      /* bytes of all words times their counts, which bounds all counts */
    merge_map pair_ids; /* id = index into pairs */
} trainer;

static status short_of_memory(void) {
    return fail(E_HOST_MEMORY, "no memory to learn a vocabulary");
}

/* ---- words ---- */
static status count_pieces(trainer *t, normalizer *z, const char *text, int64_t count) {
    status st = OK;
    pieces p = {0};
    TRY(text_normalize(z, text, strlen(text), &p.text, &p.bytes));
    while (piece_next(&p)) {
        if (count > (INT64_MAX / 4 - t->total) / (int64_t)p.length) {
            st =
                fail(E_USAGE,
                     "the counts of the words are too large: their bytes add up to more than 2^61");
            goto out;
        }
        t->total += count * (int64_t)p.length;
        uint32_t id = string_map_get(&t->word_ids, p.piece, p.length);
        if (id == NO_ID) {
            id = t->n_words;
            char *kept = arena_alloc(&t->mem, p.length);
            if (!kept || id == NO_ID - 1) return short_of_memory();
            memcpy(kept, p.piece, p.length);
            TRY(string_map_put(&t->word_ids, kept, p.length, id));
            TRY(buffer_room(&t->words, ((size_t)id + 1) * sizeof(word)));
            TRY(buffer_room(&t->symbols, (t->n_symbols + p.length) * sizeof(uint32_t)));
            ((word *)t->words.p)[id] = (word){t->n_symbols, (uint32_t)p.length, 0};
            for (size_t i = 0; i < p.length; i++)
                ((uint32_t *)t->symbols.p)[t->n_symbols++] =
                    (uint8_t)p.piece[i] + (i + 1 == p.length ? 256u : 0);
            t->n_words++;
        }
        word *w = (word *)t->words.p + id;
        w->count += count;
    }
out:
    return st;
}

/* ---- pairs and the heap of offers ---- */
static bool better(const trainer *t, offer a, offer b) {
    if (a.count != b.count) return a.count > b.count;
    const pair *p = t->pairs.p, *x = p + a.pair, *y = p + b.pair;
    return x->left != y->left ? x->left < y->left : x->right < y->right;
}

static status offer_pair(trainer *t, offer o) {
    status st = OK;
    TRY(buffer_room(&t->heap, (t->n_heap + 1) * sizeof(offer)));
    offer *h = t->heap.p;
    size_t i = t->n_heap++;
    for (size_t up; i > 0 && better(t, o, h[up = (i - 1) / 2]); i = up) h[i] = h[up];
    h[i] = o;
out:
    return st;
}

static offer best_offer(trainer *t) {
    offer *h = t->heap.p, top = h[0], last = h[--t->n_heap];
    size_t i = 0;
    for (size_t down = 1; down < t->n_heap; i = down, down = 2 * i + 1) {
        if (down + 1 < t->n_heap && better(t, h[down + 1], h[down])) down++;
        if (!better(t, h[down], last)) break;
        h[i] = h[down];
    }
    h[i] = last;
    return top;
}

/* The pair occurs `count` more often, all in one word; negative: less often. New pairs are offered
 * by offer_new. */
static status count_pair(trainer *t, uint32_t left, uint32_t right, int64_t count,
                         uint32_t in_word) {
    status st = OK;
    const merge *m = merge_map_get(&t->pair_ids, left, right);
    uint32_t id = m ? m->id : t->n_pairs;
    if (!m) {
        TRY(buffer_room(&t->pairs, ((size_t)id + 1) * sizeof(pair)));
        TRY(merge_map_put(&t->pair_ids, left, right, 0, id));
        ((pair *)t->pairs.p)[t->n_pairs++] = (pair){left, right, NO_ID, 0};
    }
    pair *p = (pair *)t->pairs.p + id;
    p->count += count;
    place *first = p->places != NO_ID ? (place *)t->places.p + p->places : NULL;
    if (count < 0) goto out;
    if (id < t->n_offered) TRY(offer_pair(t, (offer){p->count, id}));
    if (first && first->word == in_word) goto out;
    TRY(buffer_room(&t->places, ((size_t)t->n_places + 1) * sizeof(place)));
    ((place *)t->places.p)[t->n_places] = (place){in_word, p->places};
    p->places = t->n_places++;
out:
    return st;
}

static status offer_new(trainer *t) {
    status st = OK;
    for (; t->n_offered < t->n_pairs; t->n_offered++) {
        const int64_t count = ((const pair *)t->pairs.p)[t->n_offered].count;
        if (count > 0) TRY(offer_pair(t, (offer){count, t->n_offered}));
    }
out:
    return st;
}

static status count_all_pairs(trainer *t) {
    status st = OK;
    for (uint32_t i = 0; i < t->n_words; i++) {
        const word *w = (const word *)t->words.p + i;
        const uint32_t *s = (const uint32_t *)t->symbols.p + w->start;
        for (uint32_t k = 0; k + 1 < w->n; k++) TRY(count_pair(t, s[k], s[k + 1], w->count, i));
    }
    TRY(offer_new(t));
out:
    return st;
}

/* ---- merging ---- */
static status put_symbol(trainer *t, const char *left, const char *right, uint32_t *id) {
    status st = OK;
    char *text = arena_printf(&t->mem, "%s%s", left, right);
    if (!text) return short_of_memory();
    *id = string_map_get(&t->symbol_ids, text, strlen(text)); /* two ways may lead to one text */
    if (*id != NO_ID) return OK;
    *id = t->n_texts;
    TRY(buffer_room(&t->texts, ((size_t)*id + 1) * sizeof(char *)));
    TRY(string_map_put(&t->symbol_ids, text, strlen(text), *id));
    ((char **)t->texts.p)[t->n_texts++] = text;
out:
    return st;
}

#define FRESH 0x80000000u /* marks the symbols that a merge has just made */

/* Every occurrence in one word, leftmost first; only pairs next to an occurrence change their
 * counts. */
static status merge_in_word(trainer *t, uint32_t in_word, uint32_t left, uint32_t right,
                            uint32_t joined) {
    status st = OK;
    word *w = (word *)t->words.p + in_word;
    uint32_t *s = (uint32_t *)t->symbols.p + w->start, n = 0;
    bool second = false; /* s[i] is the right part of an occurrence */
    for (uint32_t i = 0; i + 1 < w->n; i++) {
        const bool here = !second && s[i] == left && s[i + 1] == right;
        const bool next = !here && i + 2 < w->n && s[i + 1] == left && s[i + 2] == right;
        if (here || next || second) TRY(count_pair(t, s[i], s[i + 1], -w->count, in_word));
        second = here;
    }
    for (uint32_t i = 0; i < w->n; i++) {
        const bool here = i + 1 < w->n && s[i] == left && s[i + 1] == right;
        s[n++] = here ? joined | FRESH : s[i];
        i += here;
    }
    w->n = n;
    for (uint32_t i = 0; i + 1 < n; i++)
        if ((s[i] | s[i + 1]) & FRESH)
            TRY(count_pair(t, s[i] & ~FRESH, s[i + 1] & ~FRESH, w->count, in_word));
    for (uint32_t i = 0; i < n; i++) s[i] &= ~FRESH;
out:
    return st;
}

/* Joins the best pair; *done where there is none left. */
static status merge_best(trainer *t, bool *done) {
    status st = OK;
    while (t->n_heap) {
        offer o = best_offer(t);
        const pair p = ((const pair *)t->pairs.p)[o.pair];
        if (p.count != o.count) {
            if (p.count > 0) TRY(offer_pair(t, (offer){p.count, o.pair}));
            continue;
        }
        const char *const *texts = t->texts.p;
        uint32_t joined;
        TRY(put_symbol(t, texts[p.left], texts[p.right], &joined));
        TRY(buffer_room(&t->merges, ((size_t)t->n_merges + 1) * sizeof(learned)));
        ((learned *)t->merges.p)[t->n_merges++] = (learned){p.left, p.right};
        for (uint32_t i = p.places; i != NO_ID; i = ((const place *)t->places.p)[i].next)
            TRY(merge_in_word(t, ((const place *)t->places.p)[i].word, p.left, p.right, joined));
        TRY(offer_new(t));
        return OK;
    }
    *done = true;
out:
    return st;
}

static status learn(trainer *t, uint32_t size) {
    status st = OK;
    bool done = false;
    /* While words are cut, symbol = byte, or byte + 256 at the end: this is also the order of bytes
     * here; ids in the files are given in CLIP's order when they are written. */
    for (uint32_t i = 0, id; i < 512; i++) {
        char s[4];
        byte_symbol((uint8_t)i, s);
        TRY(put_symbol(t, s, i < 256 ? "" : WORD_END, &id));
        assert(id == i);
    }
    TRY(count_all_pairs(t));
    while (!done && t->n_texts + 2 < size) TRY(merge_best(t, &done));
out:
    return st;
}

/* ---- files ---- */
static status append(buffer *b, size_t *used, const char *s) {
    size_t n = strlen(s);
    status st = buffer_room(b, *used + n);
    if (st == OK) memcpy((char *)b->p + *used, s, n), *used += n;
    return st;
}

static status write_folder(trainer *t, const char *folder) {
    status st = OK;
    buffer merges = {0};
    size_t used = 0;
    const char *const *texts = t->texts.p;
    uint32_t n = t->n_texts + 2;
    string_slot *token = mem_alloc(sizeof *token * n);
    if (!token) return short_of_memory();
    for (uint32_t id = 0; id < n; id++) {
        const char *s = id >= t->n_texts ? (id == t->n_texts ? CLIP_BOS : CLIP_EOS)
                                         : texts[id < 512 ? byte_in_order((int)id % 256) + (id & 256u) : id];
        token[id] = (string_slot){s, (uint32_t)strlen(s), id};
    }
    for (uint32_t i = 0; i < t->n_merges; i++) {
        const learned m = ((const learned *)t->merges.p)[i];
        TRY(append(&merges, &used, texts[m.left]));
        TRY(append(&merges, &used, " "));
        TRY(append(&merges, &used, texts[m.right]));
        TRY(append(&merges, &used, "\n"));
    }
    TRY(vocab_write(folder, token, n, merges.p, used, CLIP_EOS));
out:
    mem_free(token);
    mem_free(merges.p);
    return st;
}

status bpe_train(const bpe_sample *sample, int n, int size, const char *folder, int *learned_ids) {
    status st = OK;
    trainer t = {0};
    normalizer z = {0};
    *learned_ids = 0;
    if (size < 514 || (uint32_t)size > TEXT_MAX_IDS)
        return fail(E_USAGE, "a vocabulary of %d ids: expected 514 (bytes alone) to %u", size,
                    TEXT_MAX_IDS);
    for (int i = 0; i < n; i++) {
        assert(sample[i].count > 0);
        TRY(count_pieces(&t, &z, sample[i].text, sample[i].count));
    }
    TRY(learn(&t, (uint32_t)size));
    TRY(write_folder(&t, folder));
    *learned_ids = (int)t.n_texts + 2;
out:
    normalizer_fini(&z);
    string_map_fini(&t.word_ids), string_map_fini(&t.symbol_ids);
    merge_map_fini(&t.pair_ids);
    buffer *const all[] = {&t.words, &t.symbols, &t.texts, &t.pairs, &t.places, &t.heap, &t.merges};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) mem_free(all[i]->p);
    arena_fini(&t.mem);
    return st;
}
