/* image_internal.h: what the readers of pictures share. Each decoder gives 3 or 4 channels as the file lies and
 * the EXIF orientation beside it (1 = upright); image_decode does the rest.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "file/image.h"

status png_decode(const uint8_t *data, size_t bytes, const char *what, image *out, int *orientation);
status jpeg_decode(const uint8_t *data, size_t bytes, const char *what, image *out, int *orientation);
status webp_decode(const uint8_t *data, size_t bytes, const char *what, image *out, int *orientation);

bool is_png(const uint8_t *data, size_t bytes);
bool is_webp(const uint8_t *data, size_t bytes);
/* Is this size within the limits? E_FORMAT for zero, E_UNSUPPORTED beyond. */
status image_check_size(const char *what, uint64_t w, uint64_t h);
/* 1..8 from the TIFF structure in an EXIF chunk, 1 where there is none that makes sense. */
int exif_orientation(const uint8_t *data, size_t bytes);
