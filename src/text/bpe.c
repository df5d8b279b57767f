/* bpe.c: text -> ids. The oracle is transformers' fast CLIPTokenizer (CLIPTokenizerFast, since
 * version 5 the only CLIPTokenizer), not the slow one of old with ftfy or BasicTokenizer. Its order
 * of things: added tokens that are matched as given; then in each stretch between them NFC, white
 * space, lower case; added tokens matched in that; then pieces (contractions, runs of letters,
 * single digits, runs of other signs); then merges inside a piece, lowest rank first, leftmost
 * first. Merging keeps the pairs in a heap, so that a piece of n bytes takes n log n.
 * SPDX-License-Identifier: MIT */
#include "text/text_internal.h"

#include <assert.h>
#include <limits.h>
#include <stdlib.h>

#define TEXT_MAX_BYTES ((size_t)64 << 20)

/* ---- bytes as characters ---- */
static bool byte_shows(int b) {
    return (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
}

uint8_t byte_in_order(int i) {
    for (int pass = 1, seen = 0; pass >= 0; pass--)
        for (int b = 0; b < 256; b++)
            if (byte_shows(b) == pass && seen++ == i) return (uint8_t)b;
    assert(!"i is below 256");
    return 0;
}

void byte_symbol(uint8_t byte, char out[4]) {
    uint32_t hidden = 0;
    for (int b = 0; b < byte; b++) hidden += !byte_shows(b);
    out[utf8_encode(byte_shows(byte) ? byte : 256 + hidden, out)] = 0;
}

/* ---- pieces ---- */
static size_t starts_with_any(const char *s, size_t n, const char *const *words, size_t n_words) {
    for (size_t i = 0; i < n_words; i++) {
        size_t k = strlen(words[i]);
        if (n >= k && !memcmp(s, words[i], k)) return k;
    }
    return 0;
}

bool piece_next(pieces *p) {
    static const char *const contractions[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    static const char *const specials[] = {"<|startoftext|>", "<|endoftext|>"};
    size_t used = 0;
    char_class k = CHAR_SPACE;
    for (; p->at < p->bytes; p->at += used) {
        k = char_class_of(utf8_decode(p->text + p->at, p->bytes - p->at, &used));
        if (k != CHAR_SPACE) break;
    }
    if (p->at == p->bytes) return false;
    const char *s = p->piece = p->text + p->at;
    size_t left = p->bytes - p->at;
    /* The pattern takes a special as a whole and the pattern of the byte level, which comes after,
     * cuts that at
     * "<|" and "|>": what is left of it is that signs on both sides do not join. */
    if (p->at >= p->stop && *s == '<') {
        size_t special = starts_with_any(s, left, specials, ARRAY_LEN(specials));
        p->stop = special ? p->at + special : p->stop;
    }
    size_t end = p->at < p->stop ? p->stop : p->bytes;
    p->length = *s == '\'' ? starts_with_any(s, left, contractions, ARRAY_LEN(contractions)) : 0;
    if (!p->length)
        for (p->length = used; k != CHAR_NUMBER && p->at + p->length < end; p->length += used)
            if (char_class_of(utf8_decode(s + p->length, left - p->length, &used)) != k) break;
    p->at += p->length;
    return true;
}

/* ---- merges ---- */
typedef struct symbol {
    uint32_t id;
    int prev, next;
    bool gone;
} symbol;
typedef struct waiting { /* a merge of symbol `at` with its next one */
    uint32_t rank, id;
    int at;
} waiting;
typedef struct encoder {
    const tokenizer *t;
    normalizer normal;
    buffer symbols, heap, ids;
    size_t n_ids;
    int n_waiting;
} encoder;

static bool before(waiting a, waiting b) {
    return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

static void heap_push(encoder *e, waiting w) {
    waiting *h = e->heap.p;
    int i = e->n_waiting++;
    for (int up = (i - 1) / 2; i > 0 && before(w, h[up]); i = up, up = (i - 1) / 2) h[i] = h[up];
    h[i] = w;
}

static waiting heap_pop(encoder *e) {
    waiting *h = e->heap.p, top = h[0], w = h[--e->n_waiting];
    int i = 0;
    for (int down = 1; down < e->n_waiting; i = down, down = 2 * i + 1) {
        if (down + 1 < e->n_waiting && before(h[down + 1], h[down])) down++;
        if (!before(h[down], w)) break;
        h[i] = h[down];
    }
    h[i] = w;
    return top;
}

static void wait_for(encoder *e, const symbol *s, int at) {
    if (at < 0 || s[at].next < 0) return;
    const merge *m = merge_map_get(&e->t->merges, s[at].id, s[s[at].next].id);
    if (m) heap_push(e, (waiting){m->rank, m->id, at});
}

static status encode_piece(encoder *e, const char *piece, size_t bytes) {
    status st = OK;
    int n = 0;
    TRY(buffer_room(&e->symbols, bytes * sizeof(symbol)));
    /* n - 1 pairs, then two new ones for each merge */
    TRY(buffer_room(&e->heap, bytes * 3 * sizeof(waiting)));
    TRY(buffer_room(&e->ids, (e->n_ids + bytes) * sizeof(uint32_t)));
    symbol *s = e->symbols.p;
    for (size_t i = 0; i < bytes; i++) {
        uint32_t id = e->t->byte_id[i + 1 == bytes][(uint8_t)piece[i]];
        if (id == NO_ID) id = e->t->unk;
        if (id != NO_ID) s[n] = (symbol){id, n - 1, n + 1, false}, n++;
    }
    if (!n) goto out;
    s[n - 1].next = -1;
    e->n_waiting = 0;
    for (int i = 0; i < n; i++) wait_for(e, s, i);
    while (e->n_waiting) {
        waiting w = heap_pop(e);
        symbol *left = &s[w.at];
        if (left->gone || left->next < 0) continue;
        symbol *right = &s[left->next];
        const merge *now = merge_map_get(&e->t->merges, left->id, right->id);
        if (!now || now->id != w.id) continue; /* one of the two has changed since */
        left->id = w.id;
        left->next = right->next;
        right->gone = true;
        if (left->next >= 0) s[left->next].prev = w.at;
        wait_for(e, s, left->prev);
        wait_for(e, s, w.at);
    }
    for (int i = 0; i >= 0; i = s[i].next) ((uint32_t *)e->ids.p)[e->n_ids++] = s[i].id;
out:
    return st;
}

/* ---- added tokens, and the order of all ---- */
static const added_token *added_at(const tokenizer *t, bool normalized, const char *s, size_t n) {
    const added_token *best = NULL;
    for (const added_token *a = t->added; a < t->added + t->n_added; a++)
        if (*a->text == *s && a->normalized == normalized && a->bytes <= n &&
            (!best || a->bytes > best->bytes) && !memcmp(a->text, s, a->bytes))
            best = a;
    return best;
}

static status encode_normal(encoder *e, const char *s, size_t n) {
    status st = OK;
    pieces p = {.text = s, .bytes = n};
    while (piece_next(&p)) TRY(encode_piece(e, p.piece, p.length));
out:
    return st;
}

/* Text without tokens of the other kind: those of this kind, and what lies between. */
static status encode_between(encoder *e, bool normalized, const char *s, size_t n) {
    status st = OK;
    const char *text = s;
    size_t bytes = n, from = 0;
    for (size_t i = 0; i <= bytes;) {
        const added_token *a = i < bytes ? added_at(e->t, normalized, text + i, bytes - i) : NULL;
        if (i < bytes && !a) {
            i++;
            continue;
        }
        if (i > from && normalized)
            TRY(encode_normal(e, text + from, i - from));
        else if (i > from) {
            const char *normal;
            size_t normal_bytes;
            TRY(text_normalize(&e->normal, text + from, i - from, &normal, &normal_bytes));
            TRY(encode_between(e, true, normal, normal_bytes));
        }
        if (!a) break;
        TRY(buffer_room(&e->ids, (e->n_ids + (size_t)a->n) * sizeof(uint32_t)));
        for (int k = 0; k < a->n; k++) ((uint32_t *)e->ids.p)[e->n_ids++] = a->first + (uint32_t)k;
        from = i += a->bytes;
    }
out:
    return st;
}

status tokenizer_encode(const tokenizer *t, const char *text, size_t bytes, arena *a,
                        uint32_t **ids, int *n) {
    status st = OK;
    encoder e = {.t = t};
    *ids = NULL, *n = 0;
    if (bytes > TEXT_MAX_BYTES)
        return fail(E_USAGE, "a text of %zu bytes, at most %zu are accepted", bytes,
                    TEXT_MAX_BYTES);
    TRY(encode_between(&e, false, text, bytes));
    if (e.n_ids > INT_MAX) {
        st = fail(E_USAGE, "a text of %zu ids, at most %d are accepted", e.n_ids, INT_MAX);
        goto out;
    }
    *ids = arena_new(a, uint32_t, e.n_ids + 1);
    if (!*ids) {
        st = fail(E_HOST_MEMORY, "no memory for %zu ids of a text", e.n_ids);
        goto out;
    }
    if (e.n_ids) memcpy(*ids, e.ids.p, e.n_ids * sizeof **ids);
    *n = (int)e.n_ids;
out:
    normalizer_fini(&e.normal);
    mem_free(e.symbols.p);
    mem_free(e.heap.p);
    mem_free(e.ids.p);
    return st;
}
