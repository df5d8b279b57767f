/* text.h: strings -> token ids. CLIP's byte-pair encoding, as transformers' fast CLIPTokenizer does it; prompts with
 * A1111 weights cut into chunks of one encoder length; and learning a vocabulary of one's own.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "base/base.h"

typedef struct tokenizer tokenizer;
/* From a diffusers `tokenizer/` folder (vocab.json + merges.txt, or tokenizer.json; special_tokens_map.json and
 * tokenizer_config.json for bos, eos, pad and model_max_length), or NULL: the bundled CLIP vocabulary.
 *   errors  E_IO, E_FORMAT naming file and line, E_UNSUPPORTED for a tokenizer of another kind */
status tokenizer_open(const char *folder, tokenizer **out);
/* The bundled vocabulary as such a folder. pad_zero: Stable Diffusion 2's, which pads with "!". */
status tokenizer_write(const char *folder, bool pad_zero);
void   tokenizer_close(tokenizer *t);
uint32_t tokenizer_bos(const tokenizer *t), tokenizer_eos(const tokenizer *t), tokenizer_pad(const tokenizer *t);
int    tokenizer_size(const tokenizer *t);          /* ids are below it, before additions */
int    tokenizer_max_length(const tokenizer *t);    /* of the encoder, in ids: model_max_length, 77 where there is none */
void   tokenizer_set_pad(tokenizer *t, uint32_t id); /* SD 2: 0, "!" */
/* The string `text` becomes n new ids (textual inversion), *first and those after it. It is found before words are
 * cut, upper or lower case, the longest string first. Errors: E_USAGE for a text that is there already or empty. */
status tokenizer_add(tokenizer *t, const char *text, int n, uint32_t *first);
/* Ids of a text without bos, eos and padding; any length. ids in `a`. Invalid UTF-8 is replaced by U+FFFD. */
status tokenizer_encode(const tokenizer *t, const char *text, size_t bytes, arena *a, uint32_t **ids, int *n);

/* One prompt for an encoder of tokenizer_max_length ids: chunks of bos, up to length - 2 ids, eos, padding. */
typedef struct prompt_tokens { int n_chunks, length; uint32_t *ids; float *weight; } prompt_tokens; /* [n_chunks, length] each */
typedef struct prompt_options {
    bool plain;        /* no weights syntax: ( ) [ ] BREAK are text, as in diffusers */
    bool truncate;     /* one chunk, the rest is dropped (diffusers), BREAK only cuts words; else as many as it takes, broken
                          as A1111 does: at BREAK, and at the last comma within 20 ids of the end */
    int min_chunks;    /* pads with empty chunks, so that prompt and negative prompt match */
} prompt_options;
/* out's arrays are in `a`. The ids of one placeholder stay in one chunk where they can.
 *   errors  E_USAGE: a weight that is no number, more than 256 brackets open at once, over 16 MB */
status prompt_tokenize(const tokenizer *t, const char *prompt, const prompt_options *o, arena *a, prompt_tokens *out);

/* Learns a CLIP-format vocabulary of `size` ids (514 = single bytes and the two specials; fewer than `size` where the
 * texts have no more to learn: *learned) from texts (words or whole captions) and how often each occurs, and writes
 * vocab.json, merges.txt, tokenizer_config.json and special_tokens_map.json to `folder`, for tokenizer_open and for
 * transformers' CLIPTokenizer.from_pretrained. The order of the samples does not matter.
 *   errors  E_USAGE, E_IO, E_HOST_MEMORY */
typedef struct bpe_sample { const char *text; int64_t count; } bpe_sample; /* count > 0 */
status bpe_train(const bpe_sample *sample, int n, int size, const char *folder, int *learned);
