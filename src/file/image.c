/* image.c: pictures whatever their format: which one it is, limits, turning by EXIF, dropping alpha
 * that hides nothing, flattening, sheets of many. The formats are png.c, jpeg.c and webp.c; sizes are resize.c.
 * SPDX-License-Identifier: MIT */
#include "file/image_internal.h"

#include <assert.h>
#include <math.h>

status image_check_size(const char *what, uint64_t w, uint64_t h) {
    if (!w || !h)
        return fail(E_FORMAT, "%s: a picture of %llu x %llu pixels", what, (unsigned long long)w,
                    (unsigned long long)h);
    if (w > IMAGE_MAX_SIDE || h > IMAGE_MAX_SIDE || w * h > (uint64_t)IMAGE_MAX_PIXELS)
        return fail(E_UNSUPPORTED,
                    "%s: %llu x %llu pixels, at most %d on a side and %lld in all are accepted: "
                    "make it smaller",
                    what, (unsigned long long)w, (unsigned long long)h, IMAGE_MAX_SIDE,
                    (long long)IMAGE_MAX_PIXELS);
    return OK;
}

status image_create(int w, int h, int channels, image *out) {
    assert(channels == 1 || channels == 3 || channels == 4);
    *out = (image){0};
    if (w < 1 || h < 1)
        return fail(E_UNSUPPORTED, "a picture of %d x %d pixels cannot be made", w, h);
    status st = image_check_size("a picture to be made", (uint64_t)w, (uint64_t)h);
    if (st != OK) return st;
    size_t bytes = (size_t)w * (size_t)h * (size_t)channels;
    uint8_t *px = mem_zalloc(bytes);
    if (!px)
        return fail(E_HOST_MEMORY, "no memory for a picture of %d x %d pixels (%zu bytes)", w, h,
                    bytes);
    *out = (image){w, h, channels, px};
    return OK;
}

void image_free(image *im) {
    mem_free(im->px);
    *im = (image){0};
}

/* RGBA whose every pixel is opaque becomes RGB, in place. */
static void drop_opaque_alpha(image *im) {
    int64_t n = (int64_t)im->w * im->h;
    if (im->channels != 4) return;
    uint8_t all = 255;
    for (int64_t i = 0; i < n; i++) all &= im->px[4 * i + 3];
    if (all != 255) return;
    for (int64_t i = 0; i < n; i++) memmove(im->px + 3 * i, im->px + 4 * i, 3);
    im->channels = 3;
}

/* EXIF says how the camera was held: 2 mirrored, 3 upside down, 4 both, 5..8 the same with rows and
 * columns exchanged. source  EXIF 2.3, tag 0x0112 */
static status turn_upright(image *im, int orientation) {
    image up;
    bool swap = orientation >= 5;
    bool flip_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
    bool flip_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    size_t c = (size_t)im->channels;
    if (orientation <= 1) return OK;
    status st = image_create(swap ? im->h : im->w, swap ? im->w : im->h, im->channels, &up);
    if (st != OK) return st;
    for (int y = 0; y < up.h; y++)
        for (int x = 0; x < up.w; x++) {
            int sx = swap ? y : x, sy = swap ? x : y;
            sx = flip_x ? im->w - 1 - sx : sx;
            sy = flip_y ? im->h - 1 - sy : sy;
            memcpy(up.px + ((size_t)y * (size_t)up.w + (size_t)x) * c,
                   im->px + ((size_t)sy * (size_t)im->w + (size_t)sx) * c, c);
        }
    image_free(im);
    *im = up;
    return OK;
}

status image_decode(const uint8_t *data, size_t bytes, const char *what, image *out) {
    status st = OK;
    int orientation = 1;
    *out = (image){0};
    if (is_png(data, bytes))
        TRY(png_decode(data, bytes, what, out, &orientation));
    else if (bytes >= 3 && !memcmp(data, "\xff\xd8\xff", 3))
        TRY(jpeg_decode(data, bytes, what, out, &orientation));
    else if (is_webp(data, bytes))
        TRY(webp_decode(data, bytes, what, out, &orientation));
    else {
        uint8_t b[4] = {0};
        if (bytes) memcpy(b, data, MIN(bytes, sizeof b));
        st = fail(
            E_FORMAT,
            "%s: not a PNG, JPEG or WebP picture: %zu bytes that begin with %02x %02x %02x %02x",
            what, bytes, b[0], b[1], b[2], b[3]);
        goto out;
    }
    drop_opaque_alpha(out);
    TRY(turn_upright(out, orientation));
out:
    if (st != OK) image_free(out);
    return st;
}

status image_load(const char *path, image *out) {
    file_map m;
    *out = (image){0};
    status st = file_map_open(path, &m);
    if (st == OK) st = image_decode(m.data, m.bytes, path, out);
    file_map_close(&m);
    return st;
}

status image_flatten(image *im, const uint8_t rgb[3]) {
    int64_t n = (int64_t)im->w * im->h;
    if (im->channels == 1) {
        image wide;
        status st = image_create(im->w, im->h, 3, &wide);
        if (st != OK) return st;
        for (int64_t i = 0; i < n; i++) memset(wide.px + 3 * i, im->px[i], 3);
        image_free(im);
        *im = wide;
    }
    if (im->channels != 4) return OK;
    for (int64_t i = 0; i < n; i++) {
        int a = im->px[4 * i + 3];
        for (int c = 0; c < 3; c++)
            im->px[3 * i + c] = (uint8_t)((im->px[4 * i + c] * a + rgb[c] * (255 - a) + 127) / 255);
    }
    im->channels = 3;
    return OK;
}

double image_psnr(const uint8_t *a, const uint8_t *b, size_t n) {
    double error = 0;
    for (size_t i = 0; i < n; i++)
        error += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    return 10 * log10(255.0 * 255.0 / MAX(error / (double)n, 0.01));
}

enum { SHEET_GAP = 2 }; /* px */

status image_sheet(int n, int columns, int w, int h, image *out) {
    int rows = (n + columns - 1) / columns;
    status st = image_create(columns * (w + SHEET_GAP) - SHEET_GAP,
                             rows * (h + SHEET_GAP) - SHEET_GAP, 3, out);
    if (st == OK) memset(out->px, 255, 3 * (size_t)out->w * (size_t)out->h);
    return st;
}

void image_sheet_put(image *sheet, int columns, int i, int w, int h, const uint8_t *rgb) {
    for (int y = 0; y < h; y++)
        memcpy(sheet->px + 3 * ((size_t)(i / columns * (h + SHEET_GAP) + y) * (size_t)sheet->w +
                                (size_t)(i % columns * (w + SHEET_GAP))),
               rgb + 3 * (size_t)y * (size_t)w, 3 * (size_t)w);
}
