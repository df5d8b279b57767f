/* text_internal.h: what the files of this room share.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "text/text.h"

#define NO_ID UINT32_MAX
#define TEXT_MAX_IDS (1u << 20) /* the largest vocabulary accepted */

/* A block that grows by doubling and keeps what is in it; released with mem_free(b.p). */
typedef struct buffer { void *p; size_t bytes; } buffer;
status buffer_room(buffer *b, size_t bytes); /* at least so many; E_HOST_MEMORY */

/* ---- unicode.c ---- */
typedef enum char_class { CHAR_OTHER, CHAR_LETTER, CHAR_NUMBER, CHAR_SPACE } char_class;
char_class char_class_of(uint32_t c); /* \p{L}, \p{N}, \s, neither */
/* One code point from s[0..n), n > 0; *used bytes, at least 1. Invalid UTF-8: U+FFFD for each maximal part
 * of a valid sequence, as Python and Rust replace it. */
uint32_t utf8_decode(const char *s, size_t n, size_t *used);
size_t   utf8_encode(uint32_t c, char out[4]);
typedef struct normalizer { buffer points, spare, text; } normalizer;
/* NFC, white space collapsed to one space, lower case. *out points into z until the next call. */
status text_normalize(normalizer *z, const char *s, size_t n, const char **out, size_t *out_bytes);
void   normalizer_fini(normalizer *z);

/* ---- strings.c ---- */
typedef struct string_slot { const char *s; uint32_t n, value; } string_slot;
typedef struct string_map { string_slot *slot; size_t mask, n; } string_map; /* keeps pointers, not copies */
status      string_map_put(string_map *m, const char *s, size_t n, uint32_t value); /* replaces */
uint32_t    string_map_get(const string_map *m, const char *s, size_t n);           /* NO_ID = not there */
void        string_map_fini(string_map *m);

/* ---- bpe.c ---- */
#define WORD_END "</w>"
/* The printable character that stands for a byte in vocabulary files: UTF-8, 1 or 2 bytes, NUL after. */
void byte_symbol(uint8_t byte, char out[4]);
/* The byte whose symbol is the i-th of a CLIP vocabulary: printable ones first. */
uint8_t byte_in_order(int i);
typedef struct merge { uint64_t pair; uint32_t rank, id; } merge; /* pair = left << 32 | right */
typedef struct merge_map { merge *slot; size_t mask, n; } merge_map;
status merge_map_put(merge_map *m, uint32_t left, uint32_t right, uint32_t rank, uint32_t id);
const merge *merge_map_get(const merge_map *m, uint32_t left, uint32_t right); /* NULL = not there */
void merge_map_fini(merge_map *m);
/* The pieces of a normalised text, which no merge crosses: words, digits, runs of signs. Starts as {text, bytes}. */
typedef struct pieces {
    const char *text; size_t bytes;
    size_t at, stop;                  /* stop: pieces before it end there at the latest */
    const char *piece; size_t length; /* what piece_next found */
} pieces;
bool piece_next(pieces *p); /* false at the end */

/* ---- tokenizer ---- */
typedef struct added_token {
    const char *text; size_t bytes; /* as it is matched: normalised where `normalized` says so */
    const char *given;              /* as it was asked for */
    bool normalized;                /* matched in the normalised text, else in the text as given */
    uint32_t first; int n;          /* ids */
} added_token;

struct tokenizer {
    arena mem;
    uint32_t byte_id[2][256]; /* of a byte's symbol; [1]: at the end of a word. NO_ID = none */
    merge_map merges;
    added_token *added; int n_added, room_added; /* in the order of their coming */
    uint32_t bos, eos, pad, unk, comma; /* unk, comma: NO_ID = none */
    int size, max_length;
    uint32_t next_id;
};
/* given becomes ids first..first+n-1; a text that is there already gets the new ids and flag. */
status tokenizer_put_added(tokenizer *t, const char *given, bool normalized, uint32_t first, int n);
const added_token *tokenizer_find_added(const tokenizer *t, const char *given); /* NULL = not there */
const added_token *tokenizer_added_at(const tokenizer *t, uint32_t first);      /* the one of this first id */

/* ---- vocab.c, vocab_folder.c, vocab_write.c ---- */
#define CLIP_BOS "<|startoftext|>"
#define CLIP_EOS "<|endoftext|>"
typedef struct vocab {
    string_map ids; uint32_t size;
    arena mem; json *file; /* what holds the strings */
} vocab;
status vocab_put(vocab *v, const char *s, size_t n, int64_t id, const char *what);
/* One merge "left right"; `what` and `line` name it in messages. */
status vocab_merge(const vocab *v, tokenizer *t, const char *left, size_t n_left, const char *right,
                   size_t n_right, uint32_t rank, const char *what, int line);
/* Lines of merges from `text` (line `line` of the file), at most `max`; blank lines and "#version" are skipped. */
status vocab_merge_lines(const vocab *v, tokenizer *t, const char *text, size_t bytes, int max,
                         const char *what, int line);
status vocab_bundled(tokenizer *t, vocab *v);
/* Its tokens in v, its lines of merges within *text, which the caller releases with mem_free also after a failure. */
status vocab_bundled_list(vocab *v, char **text, const char **merges, size_t *merges_bytes);
/* token[id] for all n ids, the last two bos and eos; value is not looked at. */
status vocab_write(const char *folder, const string_slot *token, uint32_t n, const char *merges, size_t merges_bytes,
                   const char *pad);
status vocab_folder(tokenizer *t, vocab *v, const char *folder);
