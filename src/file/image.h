/* image.h: pictures on disk <-> 8-bit sRGB in memory. PNG by libpng, JPEG by stb_image, WebP by libwebp; resizing by
 * stb_image_resize. Files come from strangers: sizes are checked before memory is taken.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "base/base.h"

#define IMAGE_MAX_SIDE   32768
#define IMAGE_MAX_PIXELS ((int64_t)100 << 20)

typedef struct image { int w, h, channels; uint8_t *px; } image; /* [h, w, channels]; channels 1 grey, 3 RGB, 4 RGBA (straight alpha) */

/* Loads PNG, JPEG or WebP, told apart by content. Palettes are expanded, 16 bits reduced to 8, CMYK converted, EXIF
 * rotation applied. Result: 3 channels, or 4 where the file has transparency (any pixel's alpha below 255).
 *   errors  E_IO; E_FORMAT: not a picture, truncated, corrupt (the name and what was seen); E_UNSUPPORTED: larger than
 *           the limits above; E_HOST_MEMORY.   owner  caller: image_free (accepts zero) */
status image_load(const char *path, image *out);
status image_decode(const uint8_t *data, size_t bytes, const char *what, image *out); /* what: name for messages */
void   image_free(image *im);
status image_create(int w, int h, int channels, image *out);   /* zeroed */

typedef struct png_text { const char *key, *text; } png_text;   /* UTF-8; non-Latin-1 text goes to iTXt */
/* Atomic; 1, 3 or 4 channels. */
status image_save_png(const char *path, const image *im, const png_text *text, int n_text);
status image_encode_png(const image *im, const png_text *text, int n_text, uint8_t **data, size_t *bytes); /* mem_alloc'ed */
/* tEXt, zTXt and iTXt chunks of a PNG, texts in `a`. errors E_FORMAT when it is no PNG. */
status png_read_text(const char *path, arena *a, png_text **text, int *n_text);

/* Puts RGBA on a flat colour -> RGB (in place when 3 channels already). */
status image_flatten(image *im, const uint8_t rgb[3]);
/* Lanczos-3 with antialiasing as PIL's LANCZOS; alpha is premultiplied while scaling. */
status image_resize(const image *im, int w, int h, image *out);
typedef enum image_fit { FIT_CROP, FIT_PAD, FIT_STRETCH } image_fit; /* crop: centre; pad: with `fill` */
status image_fit_to(const image *im, int w, int h, image_fit fit, const uint8_t fill[3], image *out);
