/* compose_words.h: the caption of a sample from what it shows, and what names forbid.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "train/compose.h"

/* Keywords that can stand in a caption, by concept. */
typedef struct compose_words compose_words;
status compose_words_create(const corpus *c, compose_words **out);
void   compose_words_destroy(compose_words *w); /* accepts NULL */

typedef struct compose_wording {
    rng_key lots;
    uint64_t sample, visit;
    double no_caption, no_style, keyword, say_white;
} compose_wording;
void compose_words_write(const compose_words *w, const compose_wording *how, const compose_info *info, caption *out);

bool compose_words_may_mirror(const corpus_concept *k);  /* no letters, no left and right */
bool compose_words_may_recolor(const corpus_concept *k); /* its name says no colour, and it is nobody */
bool compose_words_short(const char *name);              /* at most 4 words: four fit a text encoder */
