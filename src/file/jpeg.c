/* jpeg.c: JPEG by stb_image. It decodes what is cut short to grey, oversteps its memory at odd
 * sampling ratios and oversized tables, and has no limits; so the markers are walked first, and
 * what would lead there is refused. Its memory is ours and zeroed: tables and parts of the picture
 * that a damaged file leaves out are then the same on every run. SPDX-License-Identifier: MIT */
#include "file/image_internal.h"

#include <limits.h>

/* stb_image's own reason may be that of an earlier call. */
static _Thread_local bool short_of_memory;

static void *jpeg_alloc(size_t bytes) {
    void *p = mem_zalloc(bytes);
    short_of_memory |= !p;
    return p;
}

#define STBI_ONLY_JPEG
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
#define STBI_NO_HDR
#define STBI_MALLOC(n)                   jpeg_alloc(n)
#define STBI_REALLOC_SIZED(p, old, new_) mem_realloc(p, old, new_)
#define STBI_FREE(p)                     mem_free(p)
#define STBI_ASSERT(x)                   ((void)0) /* files from strangers must not end the program */
#define STBI_MAX_DIMENSIONS              IMAGE_MAX_SIDE
#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
#pragma GCC diagnostic ignored "-Wunused-function" /* to the end: it declares all its formats */
#include <stb_image.h>

#define MAX_SCANS       100 /* progressive files have about ten; each costs a pass over the picture */
#define PIXELS_PER_BYTE 512 /* at best: a bit for each block of 8 x 8 */

enum {
    M_SOF0 = 0xc0,
    M_SOF2 = 0xc2,
    M_DHT = 0xc4,
    M_JPG = 0xc8,
    M_DAC = 0xcc,
    M_SOF15 = 0xcf,
    M_RST0 = 0xd0,
    M_RST7 = 0xd7,
    M_SOI = 0xd8,
    M_EOI = 0xd9,
    M_SOS = 0xda,
    M_APP1 = 0xe1,
    M_APP14 = 0xee,
    M_TEM = 0x01
};

typedef struct outline {
    const char *what;
    uint32_t w, h;
    int components, scans, orientation;
    bool adobe, whole;
} outline;

/* Planes must be whole fractions of the picture. */
static bool sampling_fits(const uint8_t *p, int n) {
    int h_max = 1, v_max = 1;
    for (int i = 0; i < n; i++)
        h_max = MAX(h_max, p[3 * i + 1] >> 4), v_max = MAX(v_max, p[3 * i + 1] & 15);
    for (int i = 0; i < n; i++) {
        int h = p[3 * i + 1] >> 4, v = p[3 * i + 1] & 15;
        if (!h || !v || h_max > 4 || v_max > 4 || h_max % h || v_max % v) return false;
    }
    return true;
}

static status read_frame(outline *o, int marker, const uint8_t *p, size_t n) {
    if (marker != M_SOF0 && marker != M_SOF0 + 1 && marker != M_SOF2)
        return fail(E_UNSUPPORTED,
                    "%s: a JPEG of the rare kind SOF%d (lossless or arithmetic coding): save it as "
                    "a common one",
                    o->what, marker - M_SOF0);
    if (o->components) return fail(E_FORMAT, "%s: JPEG with two frames: damaged", o->what);
    if (n < 6 || n < 6 + 3 * (size_t)p[5])
        return fail(E_FORMAT, "%s: JPEG frame header of %zu bytes: damaged", o->what, n);
    if (p[0] != 8)
        return fail(E_UNSUPPORTED, "%s: a JPEG of %d bits per channel, only 8 are read", o->what,
                    p[0]);
    o->h = (uint32_t)p[1] << 8 | p[2], o->w = (uint32_t)p[3] << 8 | p[4], o->components = p[5];
    if (o->components != 1 && o->components != 3 && o->components != 4)
        return fail(E_UNSUPPORTED, "%s: a JPEG of %d channels, 1, 3 or 4 are read", o->what,
                    o->components);
    if (!sampling_fits(p + 6, o->components))
        return fail(E_UNSUPPORTED,
                    "%s: a JPEG with odd sampling of its channels: save it with 4:4:4 or 4:2:0",
                    o->what);
    return image_check_size(o->what, o->w, o->h);
}

/* Tables of at most 256 codes: stb_image writes past its own for more. */
static status check_tables(const outline *o, const uint8_t *p, size_t n) {
    while (n >= 17) {
        size_t codes = 0;
        for (int i = 1; i <= 16; i++) codes += p[i];
        if (codes > 256 || 17 + codes > n) break;
        p += 17 + codes, n -= 17 + codes;
    }
    return n ? fail(E_FORMAT, "%s: JPEG with an impossible Huffman table: damaged", o->what) : OK;
}

/* `n` bytes at p are the content of a segment. */
static status read_segment(outline *o, int marker, const uint8_t *p, size_t n) {
    if (marker >= M_SOF0 && marker <= M_SOF15 && marker != M_DHT && marker != M_JPG &&
        marker != M_DAC)
        return read_frame(o, marker, p, n);
    if (marker == M_DHT) return check_tables(o, p, n);
    if (marker == M_APP1 && n >= 6 && !memcmp(p, "Exif\0\0", 6) && o->orientation == 1)
        o->orientation = exif_orientation(p, n);
    if (marker == M_APP14 && n >= 12 && !memcmp(p, "Adobe", 5)) o->adobe = true;
    if (marker == M_SOS && ++o->scans > MAX_SCANS)
        return fail(E_FORMAT, "%s: JPEG with more than %d scans: damaged or hostile", o->what,
                    MAX_SCANS);
    return OK;
}

/* Segment by segment to the end marker. Between segments lies coded data, where ff is followed by 0
 * or a restart. */
static status walk(outline *o, const uint8_t *p, size_t bytes) {
    size_t at = 2;
    while (at + 1 < bytes) {
        int marker = p[at + 1];
        if (p[at] != 0xff || marker == 0 || marker == 0xff || marker == M_TEM ||
            (marker >= M_RST0 && marker <= M_RST7)) {
            at += p[at] == 0xff && marker != 0xff ? 2 : 1;
            continue;
        }
        if (marker == M_EOI) {
            o->whole = true;
            return OK;
        }
        size_t n = at + 4 <= bytes ? (size_t)p[at + 2] << 8 | p[at + 3] : 0;
        if (n < 2 || n > bytes - at - 2) return OK; /* not whole */
        status st = read_segment(o, marker, p + at + 4, n - 2);
        if (st != OK) return st;
        at += 2 + n;
    }
    return OK;
}

static status check(outline *o, const uint8_t *data, size_t bytes) {
    status st = walk(o, data, bytes);
    if (st != OK) return st;
    if (!o->whole) return fail(E_FORMAT, "%s: JPEG without its end: truncated", o->what);
    if (!o->components || !o->scans)
        return fail(E_FORMAT, "%s: JPEG without a picture: damaged", o->what);
    if (bytes > INT_MAX || (uint64_t)o->w * o->h / PIXELS_PER_BYTE > bytes)
        return fail(E_FORMAT,
                    "%s: JPEG of %zu bytes that claims %u x %u pixels: damaged or hostile", o->what,
                    bytes, o->w, o->h);
    /* Whether 0 or 255 is full ink is known by Adobe's mark only. */
    if (o->components == 4 && !o->adobe)
        return fail(E_UNSUPPORTED,
                    "%s: a CMYK JPEG that does not say which way its inks count: save it as RGB",
                    o->what);
    return OK;
}

status jpeg_decode(const uint8_t *data, size_t bytes, const char *what, image *out,
                   int *orientation) {
    outline o = {.what = what, .orientation = 1};
    int w, h, n;
    status st = check(&o, data, bytes);
    if (st != OK) return st;
    short_of_memory = false;
    uint8_t *px = stbi_load_from_memory(data, (int)bytes, &w, &h, &n, 3);
    if (!px && short_of_memory)
        return fail(E_HOST_MEMORY, "%s: no memory to decode the JPEG", what);
    if (!px) return fail(E_FORMAT, "%s: damaged JPEG", what);
    *out = (image){w, h, 3, px};
    *orientation = o.orientation;
    return OK;
}
