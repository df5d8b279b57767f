/* caption.h: the words of captions: articles, colours, and a text that grows. The colours here are
 * the only place where a colour and its word meet.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "base/base.h"

#define CAPTION_BYTES 1024

/* Named flat grounds. Entry 0 is white. */
typedef struct caption_color { const char *word; uint8_t rgb[3]; bool light; /* black ink is legible on it */ } caption_color;
#define CAPTION_COLORS 13
extern const caption_color caption_colors[CAPTION_COLORS];

/* Colours that a thing can be turned to by rotating its hue. */
typedef struct caption_hue {
    const char *word;
    float degrees;              /* HSV hue */
    float saturation;           /* factor on the thing's own */
    float value_min;            /* mean HSV value that the word needs: a dark orange is called brown */
} caption_hue;
#define CAPTION_HUES 7
extern const caption_hue caption_hues[CAPTION_HUES];

typedef struct caption { char text[CAPTION_BYTES]; size_t used; } caption;
/* Appends; typographic quotes become plain ones. Text must fit: limits on names see to it. */
void caption_add(caption *c, const char *text);
/* Appends "a fox", "an owl", "ballet shoes", "the Statue of Liberty"; adjective may be NULL. */
void caption_add_thing(caption *c, const char *adjective, const char *name);
/* Does the name hold the word of a colour ("red apple")? */
bool caption_names_color(const char *name);
/* Does the word stand in the name? Words end at anything but a letter, a digit or an apostrophe. */
bool caption_has_word(const char *name, const char *word);
