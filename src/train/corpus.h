/* corpus.h: the packed picture corpus (examples/corpus makes it): things drawn in several styles,
 * each picture 128 x 128 with transparency. Opened whole and checked whole: every line, key and byte
 * range, and that the held-out pictures are those that the rule holds out.
 *
 * Folder: styles.tsv concepts.tsv index.tsv (tab-separated, one header line, no quoting) and one
 * STYLE.pngs for each style: its PNG files end to end in the order of index.tsv, nothing between.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "base/base.h"

#define CORPUS_SIDE        128 /* px */
#define CORPUS_MAX_STYLES  16
#define CORPUS_RGBA_BYTES  ((size_t)CORPUS_SIDE * CORPUS_SIDE * 4)

/* Held out: whole things (they serve personalization), and single pictures of things that are trained
 * in other styles, where the FNV-1a hash of "style:key" is a multiple of 20. */
typedef enum corpus_split { SPLIT_TRAIN, SPLIT_PAIR_HOLDOUT, SPLIT_SUBJECT_HOLDOUT, SPLIT_COUNT } corpus_split;
typedef enum corpus_group {
    CORPUS_SMILEYS, CORPUS_PEOPLE, CORPUS_ANIMALS, CORPUS_FOOD, CORPUS_TRAVEL, CORPUS_ACTIVITIES,
    CORPUS_OBJECTS, CORPUS_SYMBOLS, CORPUS_GROUP_COUNT
} corpus_group;

typedef struct corpus_style {
    const char *name, *phrase;           /* "3d", "a glossy 3D render" */
    const char *licence, *attribution;
    int n_pictures;
} corpus_style;

typedef struct corpus_concept {
    const char *key, *name;              /* "1f98a", "fox" */
    corpus_group group; corpus_split split; /* TRAIN or SUBJECT_HOLDOUT */
    const char *scene_phrase;            /* "on the beach" where the picture works as a background, else "" */
    const char *const *keywords; int n_keywords;
    int picture[CORPUS_MAX_STYLES];      /* by style; -1 = not drawn in it */
} corpus_concept;

typedef struct corpus_picture { int style, concept; corpus_split split; size_t offset, length; /* bytes */ } corpus_picture;

typedef struct corpus {
    int n_styles, n_concepts, n_pictures;
    corpus_style *styles; corpus_concept *concepts; corpus_picture *pictures;
    struct corpus_files *files;          /* the maps and the tables that all strings lie in */
} corpus;

/*   errors  E_IO; E_FORMAT naming file, line, what was seen and what was expected; E_HOST_MEMORY
 *   owner   caller: corpus_close (accepts NULL) */
status corpus_open(const char *folder, corpus **out);
void   corpus_close(corpus *c);

/* rgba [128, 128, 4] u8, straight alpha, colour 0 where alpha is 0. Any thread.
 *   errors  E_FORMAT: not a PNG of that size; E_HOST_MEMORY */
status corpus_decode(const corpus *c, int picture, uint8_t *rgba);

/* rgba [128, 128, 4] over white -> rgb [128, 128, 3] */
void corpus_on_white(const uint8_t *rgba, uint8_t *rgb);

int corpus_find_style(const corpus *c, const char *name);   /* -1 if there is none */
int corpus_find_concept(const corpus *c, const char *key);
/* The trained picture of a concept in a style, or -1: not drawn, or held out. */
int corpus_trained(const corpus *c, int concept, int style);
