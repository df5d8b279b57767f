/* vocab.c: vocabularies while they are loaded: tokens to ids, lists of merges, and the bundled one:
 * OpenAI's list of merges, as it came, linked into the library (so there is no file to find at run
 * time) and unpacked with zlib. SPDX-License-Identifier: MIT */
#include "text/text_internal.h"

#include <assert.h>
#include <stdio.h>
#include <zlib.h>

/* CLIP_MERGES is the path of assets/clip/bpe_simple_vocab_16e6.txt.gz; the build passes it. */
__asm__(".pushsection .rodata\n"
        ".balign 16\n"
        ".globl imago_clip_merges\n"
        ".globl imago_clip_merges_end\n"
        "imago_clip_merges:\n"
        ".incbin \"" CLIP_MERGES "\"\n"
        "imago_clip_merges_end:\n"
        ".byte 0\n"
        ".popsection\n");
extern const uint8_t imago_clip_merges[], imago_clip_merges_end[];

/* Ids: bytes, bytes at the end of a word, merges, two specials. Unpacked, the list has 3.2 MB; the
 * merges that CLIP uses are in the first CLIP_BYTES. */
#define CLIP_IDS      49408
#define CLIP_N_MERGES (CLIP_IDS - 512 - 2) /* bytes, bytes at the end of a word, merges, two specials */
#define CLIP_BYTES    ((size_t)600 << 10)  /* of the 3.2 MB of the list unpacked: what holds these merges */

status vocab_put(vocab *v, const char *s, size_t n, int64_t id, const char *what) {
    if (id < 0 || id >= TEXT_MAX_IDS)
        return fail(E_FORMAT, "%s: the id %lld of %.*s is not below %u", what, (long long)id,
                    (int)MIN(n, (size_t)100), s, TEXT_MAX_IDS);
    v->size = MAX(v->size, (uint32_t)id + 1);
    return string_map_put(&v->ids, s, n, (uint32_t)id);
}

status vocab_merge(const vocab *v, tokenizer *t, const char *left, size_t n_left, const char *right,
                   size_t n_right, uint32_t rank, const char *what, int line) {
    char small[256], *both = small;
    if (n_left > SIZE_MAX / 4 || n_right > SIZE_MAX / 4)
        return fail(E_FORMAT, "%s: merge %d is too long", what, line);
    if (n_left + n_right > sizeof small) both = mem_alloc(n_left + n_right);
    if (!both) return fail(E_HOST_MEMORY, "%s: no memory for merge %d", what, line);
    memcpy(both, left, n_left);
    memcpy(both + n_left, right, n_right);
    uint32_t a = string_map_get(&v->ids, left, n_left), b = string_map_get(&v->ids, right, n_right),
             c = string_map_get(&v->ids, both, n_left + n_right);
    status st;
    if (a != NO_ID && b != NO_ID && c != NO_ID)
        st = merge_map_put(&t->merges, a, b, rank, c);
    else
        st = fail(E_FORMAT, "%s: merge %d joins \"%.*s\" and \"%.*s\": %s is not in the vocabulary",
                  what, line, (int)MIN(n_left, (size_t)100), left, (int)MIN(n_right, (size_t)100),
                  right,
                  a == NO_ID   ? "the first"
                  : b == NO_ID ? "the second"
                               : "what comes of it");
    if (both != small) mem_free(both);
    return st;
}

status vocab_merge_lines(const vocab *v, tokenizer *t, const char *text, size_t bytes, int max,
                         const char *what, int line) {
    uint32_t rank = 0;
    for (const char *s = text, *end = text + bytes, *next; s < end && rank < (uint32_t)max;
         s = next, line++) {
        const char *stop = memchr(s, '\n', (size_t)(end - s));
        if (!stop) stop = end;
        next = stop + (stop < end);
        if (stop > s && stop[-1] == '\r') stop--;
        size_t n = (size_t)(stop - s);
        if (!n || (n >= 8 && !memcmp(s, "#version", 8))) continue;
        const char *gap = memchr(s, ' ', n);
        if (!gap || gap == s || gap + 1 == stop || memchr(gap + 1, ' ', (size_t)(stop - gap - 1)))
            return fail(E_FORMAT,
                        "%s: line %d is \"%.*s\": expected two tokens with one space between", what,
                        line, (int)MIN(n, (size_t)100), s);
        status st = vocab_merge(v, t, s, (size_t)(gap - s), gap + 1, (size_t)(stop - gap - 1),
                                rank++, what, line);
        if (st != OK) return st;
    }
    return OK;
}

/* ---- the bundled one ---- */
static voidpf zlib_alloc(voidpf unused, uInt n, uInt size) {
    (void)unused;
    return mem_alloc((size_t)n * size);
}

static void zlib_free(voidpf unused, voidpf p) {
    (void)unused;
    mem_free(p);
}

/* The beginning of the list: as much as fits. */
static status unpack(char *to, size_t room, size_t *bytes) {
    z_stream z = {.zalloc = zlib_alloc, .zfree = zlib_free};
    z.next_in = (z_const Bytef *)(uintptr_t)imago_clip_merges;
    z.avail_in = (uInt)(imago_clip_merges_end - imago_clip_merges);
    z.next_out = (Bytef *)to;
    z.avail_out = (uInt)room;
    int r = inflateInit2(&z, 15 + 16); /* + 16: a gzip header */
    if (r == Z_OK) r = inflate(&z, Z_SYNC_FLUSH);
    *bytes = room - z.avail_out;
    inflateEnd(&z);
    if (r == Z_MEM_ERROR) return fail(E_HOST_MEMORY, "no memory to unpack the bundled vocabulary");
    assert(r == Z_OK || r == Z_STREAM_END);
    return OK;
}

static status put_line(vocab *v, const char *line,
                       size_t n) { /* "left right": the token is "leftright" */
    const char *gap = memchr(line, ' ', n);
    size_t n_left = gap ? (size_t)(gap - line) : n;
    char *s = arena_alloc(&v->mem, n);
    if (!s) return fail(E_HOST_MEMORY, "no memory for the bundled vocabulary");
    memcpy(s, line, n_left);
    if (gap) memcpy(s + n_left, gap + 1, n - n_left - 1);
    return vocab_put(v, s, gap ? n - 1 : n, v->size, "the bundled vocabulary");
}

status vocab_bundled_list(vocab *v, char **text, const char **merges, size_t *merges_bytes) {
    status st = OK;
    size_t bytes = 0;
    char symbol[8];
    *text = mem_alloc(CLIP_BYTES);
    if (!*text) return fail(E_HOST_MEMORY, "no memory to unpack the bundled vocabulary");
    TRY(unpack(*text, CLIP_BYTES, &bytes));
    for (int i = 0; i < 512; i++) {
        byte_symbol(byte_in_order(i % 256), symbol);
        if (i >= 256) memcpy(symbol + strlen(symbol), WORD_END, sizeof WORD_END);
        TRY(put_line(v, symbol, strlen(symbol)));
    }
    const char *first = memchr(*text, '\n', bytes), *end = *text + bytes; /* line 1 names the version */
    assert(first);
    const char *line = ++first;
    for (int i = 0; i < CLIP_N_MERGES; i++) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        assert(stop);
        TRY(put_line(v, line, (size_t)(stop - line)));
        line = stop + 1;
    }
    TRY(put_line(v, CLIP_BOS, strlen(CLIP_BOS)));
    TRY(put_line(v, CLIP_EOS, strlen(CLIP_EOS)));
    *merges = first;
    *merges_bytes = (size_t)(line - first);
out:
    return st;
}

status vocab_bundled(tokenizer *t, vocab *v) {
    status st = OK;
    char *text = NULL;
    const char *merges = NULL;
    size_t bytes = 0;
    TRY(vocab_bundled_list(v, &text, &merges, &bytes));
    TRY(vocab_merge_lines(v, t, merges, bytes, CLIP_N_MERGES, "the bundled vocabulary", 2));
    t->next_id = v->size;
    t->bos = CLIP_IDS - 2;
    t->eos = t->pad = t->unk = CLIP_IDS - 1;
    t->max_length = 77;
    TRY(tokenizer_put_added(t, CLIP_BOS, false, t->bos, 1));
    TRY(tokenizer_put_added(t, CLIP_EOS, false, t->eos, 1));
out:
    mem_free(text);
    return st;
}
