/* compose_internal.h: between compose*.c: the canvas on which a sample is drawn.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "train/compose.h"

enum { SIDE = COMPOSE_SIDE };

typedef struct draw_rect { int x0, y0, x1, y1; } draw_rect; /* [x0, x1) x [y0, y1) px of the canvas */
typedef struct draw_place {
    float scale;               /* canvas px a picture px */
    float x, y;                /* canvas px of the picture's centre */
    bool mirror;
} draw_place;
typedef struct draw_hue {      /* of a picture, weighted by opacity and colourfulness */
    float degrees;             /* mean HSV hue */
    float chroma;              /* mean of max - min, [0, 1] */
    float focus;               /* 1 = all of one hue, 0 = of all hues */
    float value;               /* mean HSV value, [0, 1] */
} draw_hue;

struct compose_work {
    uint8_t rgba[CORPUS_RGBA_BYTES];      /* the picture at hand: straight alpha */
    float src[SIDE * SIDE * 4];           /* the same, premultiplied, 0..255 */
    float mid[SIDE * SIDE * 4];           /* [picture rows, canvas columns, 4]: resized along x */
    float canvas[SIDE * SIDE * 3];        /* 0..255 */
    draw_rect box;                        /* of what is not transparent, in picture px */
};

#define DRAW_SCALE_MIN 0.25f
#define DRAW_SCALE_MAX 4.0f

void draw_fill(compose_work *w, draw_rect r, const uint8_t rgb[3]);
/* rgba has changed: makes src and box of it. */
void draw_prepare(compose_work *w);
/* Composites the picture at hand, clipped to r; scale within the limits above. */
void draw_picture(compose_work *w, draw_rect r, draw_place p);
void draw_finish(const compose_work *w, uint8_t *rgb);

void draw_measure_hue(const compose_work *w, draw_hue *out);
/* Rotates every pixel of rgba and scales its saturation. */
void draw_turn_hue(compose_work *w, float degrees, float saturation);
/* Share of the picture's opaque pixels that can hardly be told from rgb. */
double draw_likeness(const compose_work *w, const uint8_t rgb[3]);
/* Smallest alpha in the part of the picture that fills a canvas when drawn `scale` times as large. */
uint8_t draw_least_alpha(const compose_work *w, float scale);
