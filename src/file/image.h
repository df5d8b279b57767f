/* image.h: pictures on disk <-> 8-bit sRGB in memory. PNG by libpng, JPEG by stb_image, WebP by libwebp. Files come
 * from strangers: sizes are checked before memory is taken. Colour profiles and gamma are ignored.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "base/base.h"
#include <math.h>

#define IMAGE_MAX_SIDE   32768
#define IMAGE_MAX_PIXELS ((int64_t)100 << 20)

typedef struct image { int w, h, channels; uint8_t *px; } image; /* [h, w, channels]; channels 1 grey, 3 RGB, 4 RGBA (straight alpha) */

/* One sample, 0..255 and a network's -1..1. To bytes as diffusers: clamped, halves to even; NaN becomes 0. */
static inline float image_unit(uint8_t v) { return (float)v / 127.5f - 1.0f; }
static inline uint8_t image_byte(float x) {
    float v = x * 0.5f + 0.5f;
    v = v > 0 ? (v < 1 ? v : 1) : 0;
    return (uint8_t)lrintf(v * 255.0f);
}

/* Loads PNG, JPEG or WebP, told apart by content. Palettes are expanded, 16 bits reduced to 8, CMYK converted, EXIF
 * rotation applied. Result: 3 channels, or 4 where the file has transparency (any pixel's alpha below 255).
 *   errors  E_IO; E_FORMAT: not a picture, truncated, corrupt (the name and what was seen); E_UNSUPPORTED: larger than
 *           the limits above, an animated WebP, a rare kind of JPEG; E_HOST_MEMORY.
 *   owner   caller: image_free (accepts zero); *out is zero after an error */
status image_load(const char *path, image *out);
status image_decode(const uint8_t *data, size_t bytes, const char *what, image *out); /* what: name for messages */
void   image_free(image *im);
status image_create(int w, int h, int channels, image *out);   /* zeroed; errors E_UNSUPPORTED: no such size */

typedef struct png_text { const char *key, *text; } png_text;   /* UTF-8; non-Latin-1 text goes to iTXt */
#define PNG_TEXT_MAX_CHUNKS 64
#define PNG_TEXT_MAX_BYTES  ((size_t)4 << 20) /* of one text, expanded */
/* Atomic; 1, 3 or 4 channels.
 *   errors  E_FORMAT: a key that is not 1 to 79 printable ASCII characters, text that is not UTF-8; E_IO; E_HOST_MEMORY */
status image_save_png(const char *path, const image *im, const png_text *text, int n_text);
status image_encode_png(const image *im, const png_text *text, int n_text, uint8_t **data, size_t *bytes); /* mem_alloc'ed */
/* tEXt, zTXt and iTXt chunks of a PNG, in the order of the file, as UTF-8, texts in `a`. Those beyond the limits above
 * are left out.   errors  E_FORMAT when it is no PNG or damaged; E_IO; E_HOST_MEMORY */
status png_read_text(const char *path, arena *a, png_text **text, int *n_text);

/* An animated WebP that plays for ever, frame by frame: add RGB pictures of one size, each with the time it stands, then save
 * (atomic) once.   errors  E_UNSUPPORTED: a side above 16383; E_SHAPE; E_IO; E_HOST_MEMORY   owner  caller: close (accepts NULL) */
typedef struct webp_animation webp_animation;
status webp_animation_open(int w, int h, webp_animation **out);
status webp_animation_add(webp_animation *a, const image *im, int ms);
status webp_animation_save(webp_animation *a, const char *path);
void   webp_animation_close(webp_animation *a);

/* Puts RGBA on a flat colour -> RGB (nothing to do when 3 channels already; grey becomes RGB). */
status image_flatten(image *im, const uint8_t rgb[3]);
/* dB between two pictures of n values each; an error below 0.01 levels counts as that. */
double image_psnr(const uint8_t *a, const uint8_t *b, size_t n);
/* A sheet of n pictures of w x h, 3 channels, `columns` side by side, white between and behind; image_sheet_put places number i. */
status image_sheet(int n, int columns, int w, int h, image *out);
void   image_sheet_put(image *sheet, int columns, int i, int w, int h, const uint8_t *rgb);
/* Lanczos-3 with antialiasing, bit for bit PIL's LANCZOS; alpha is premultiplied while scaling.   errors as image_create */
status image_resize(const image *im, int w, int h, image *out);
/* crop: the largest centred part of the right shape; pad: the whole picture, centred on `fill` (opaque; grey takes
 * fill[0]). As PIL's ImageOps.fit and ImageOps.pad. */
typedef enum image_fit { FIT_CROP, FIT_PAD, FIT_STRETCH } image_fit;
status image_fit_to(const image *im, int w, int h, image_fit fit, const uint8_t fill[3], image *out);
