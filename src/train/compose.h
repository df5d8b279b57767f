/* compose.h: an endless stream of captioned training pictures made from the corpus: a thing on white,
 * on a named colour or in a scene; turned to another colour; two things; grids of four.
 *
 * Sample i of a seed is the same picture and caption, whoever computes it and when: all draws are
 * keyed by (seed, sample, decision). Held-out pictures are never drawn, not even as scenes.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "train/caption.h"
#include "train/corpus.h"

#define COMPOSE_SIDE      CORPUS_SIDE
#define COMPOSE_RGB_BYTES ((size_t)COMPOSE_SIDE * COMPOSE_SIDE * 3)

/* Shares are probabilities in [0, 1]. */
typedef struct compose_params {
    uint32_t seed[2];
    double group_weight[CORPUS_GROUP_COUNT]; /* of a picture to be drawn; 0 leaves the group out */
    double line_weight;     /* factor for the style "line": the hardest for an autoencoder */
    /* what is composed; the rest of the samples shows one thing */
    double grid;            /* 2 x 2 cells of 64 px */
    double grid_same;       /* of grids: one thing on four grounds; else two things in two styles */
    double pair;            /* two things side by side */
    /* one thing: */
    double flat, scene;     /* of these: on a flat colour, in a scene; the rest is on white */
    bool   any_color;       /* flat grounds of any colour, unnamed in the caption */
    double hue;             /* turned to a named colour, where it has one clear colour to turn */
    double aligned;         /* as drawn; else mirrored, scaled and shifted: */
    double scale_min, scale_max;
    double shift_px;        /* at most, either way */
    bool   inside;          /* and never so that a part is cut off */
    double mirror;          /* of all, where a mirror image is right (no letters, no left and right) */
    /* captions */
    double no_caption;      /* empty, for guidance */
    double no_style;        /* without the style's phrase */
    double keyword;         /* with a keyword at the end */
    double say_white;       /* "on a white background", of those on white */
} compose_params;

extern const compose_params compose_autoencoder; /* crops, any colour, `line` twice */
extern const compose_params compose_stage_a;     /* one thing, on white and on named colours */
extern const compose_params compose_stage_b;     /* all of it */

typedef enum compose_kind { COMPOSE_ONE, COMPOSE_PAIR, COMPOSE_STYLE_GRID, COMPOSE_SAME_GRID, COMPOSE_KIND_COUNT } compose_kind;
#define COMPOSE_UNNAMED (-1)
typedef struct compose_part {
    int picture;            /* of the corpus: it knows concept and style */
    int scene;              /* the picture behind it, or -1 */
    int ground;             /* index of caption_colors (0 white), or COMPOSE_UNNAMED */
    int hue;                /* index of caption_hues, or -1 */
} compose_part;
/* What a sample shows. Enough to write its caption again. */
typedef struct compose_info {
    compose_kind kind;
    int n_parts;            /* 1, 2, or the 4 cells row by row; a style grid is thing 1 in styles A, B, thing 2 in A, B */
    compose_part part[4];
} compose_info;

typedef struct composer composer;   /* read-only once created: any number of threads */
/*   errors  E_USAGE: a parameter out of range, or nothing left to draw; E_FORMAT (a scene does not decode); E_HOST_MEMORY
 *   c must stay open longer.   owner  caller: composer_destroy (accepts NULL) */
status composer_create(const corpus *c, const compose_params *p, composer **out);
void   composer_destroy(composer *m);
int    composer_pictures(const composer *m);     /* that can be drawn */

typedef struct compose_work compose_work;        /* scratch of one thread */
status compose_work_create(compose_work **out);
void   compose_work_destroy(compose_work *w);

/* rgb [128, 128, 3] u8 sRGB.   errors  E_FORMAT: a picture does not decode; E_HOST_MEMORY */
status compose_sample(const composer *m, uint64_t sample, compose_work *w, uint8_t *rgb, compose_info *info);
/* The caption of a sample at its visit'th use: dropout, keywords and the like differ from visit to visit. */
void   compose_caption(const composer *m, uint64_t sample, uint64_t visit, const compose_info *info, caption *out);
/* "a glossy 3D render of a fox": the full caption of one picture on white, nothing drawn by lot. */
void   compose_plain_caption(const corpus *c, int picture, caption *out);

/* ---- composed ahead, in threads, in the order of samples ---- */
typedef struct compose_feed compose_feed;
/* threads >= 1; ahead: samples kept ready, 49 KB each.   errors  E_USAGE, E_HOST_MEMORY
 * m must stay longer.   owner  caller: compose_feed_close (accepts NULL; waits for its threads) */
status compose_feed_open(const composer *m, int threads, int ahead, uint64_t first, compose_feed **out);
/* The next n samples: rgb [n, 128, 128, 3], info [n]; sample i of the feed is first + i. Waits where it must.
 *   errors  those of compose_sample; the feed then stays failed */
status compose_feed_next(compose_feed *f, int n, uint8_t *rgb, compose_info *info);
void   compose_feed_close(compose_feed *f);
