/* png.c: PNG by libpng, which jumps out of its calls when something is wrong: `attempt` catches
 * that around a function that does all the work, so no local of ours lives across a jump. Chunks
 * are measured against the file first: libpng allocates what a chunk claims.
 * SPDX-License-Identifier: MIT */
#include "file/image_internal.h"
#include "file/utf8.h"

#define png_text libpng_text /* both call it that */
#include <png.h>
#undef png_text

#include <assert.h>
#include <setjmp.h>
#include <stdio.h>

#define HEADER_BYTES ((size_t)33) /* signature and IHDR */
#define KEY_MAX      79
#define CACHE_SPARE  2 /* libpng counts its limit down to 1, not to 0, and before it stores */

typedef struct session {
    const char *what;
    png_structp png;
    png_infop info;
    jmp_buf jump;
    char message[128]; /* libpng's */
    bool short_of_memory;
    status st; /* of our own calls within */
    const uint8_t *data;
    size_t bytes, at; /* reading */
    uint8_t *written;
    size_t used, room; /* writing */
    image *im;
    int orientation;
    const png_text *given;
    png_text *found;
    int n_text;
    arena *mem;
} session;

/* ---- libpng's calls to us ---- */
static void on_error(png_structp png, png_const_charp message) {
    session *s = png_get_error_ptr(png);
    snprintf(s->message, sizeof s->message, "%s", message);
    longjmp(s->jump, 1);
}

static void on_warning(png_structp png, png_const_charp message) {
    const session *s = png_get_error_ptr(png);
    log_debug("%s: %s", s->what, message);
}

static png_voidp allocate(png_structp png, png_alloc_size_t bytes) {
    session *s = png_get_mem_ptr(png);
    void *p = mem_alloc(bytes);
    s->short_of_memory |= !p;
    return p;
}

static void release(png_structp png, png_voidp p) {
    (void)png;
    mem_free(p);
}

static void feed(png_structp png, png_bytep to, size_t bytes) {
    session *s = png_get_io_ptr(png);
    if (bytes > s->bytes - s->at) png_error(png, "truncated");
    memcpy(to, s->data + s->at, bytes);
    s->at += bytes;
}

static void take(png_structp png, png_bytep from, size_t bytes) {
    session *s = png_get_io_ptr(png);
    if (bytes > s->room - s->used) {
        size_t room = MAX(2 * s->room, s->used + bytes + ((size_t)16 << 10));
        uint8_t *more = mem_realloc(s->written, s->used, room);
        s->short_of_memory |= !more;
        if (!more) png_error(png, "no memory");
        s->written = more, s->room = room;
    }
    memcpy(s->written + s->used, from, bytes);
    s->used += bytes;
}

static void flush(png_structp png) { (void)png; }

/* ---- a session ---- */
static void give_up(session *s, status st) {
    s->st = st;
    longjmp(s->jump, 1);
}

static void no_memory(session *s) {
    s->short_of_memory = true;
    longjmp(s->jump, 1);
}

static status attempt(session *s, void (*work)(session *)) {
    if (!setjmp(s->jump)) {
        work(s);
        return OK;
    }
    if (s->st != OK) return s->st;
    if (s->short_of_memory) return fail(E_HOST_MEMORY, "%s: no memory for the PNG", s->what);
    return fail(E_FORMAT, "%s: PNG: %s", s->what, s->message);
}

static void start_reading(session *s) {
    s->png = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, s, on_error, on_warning, s, allocate,
                                      release);
    s->info = s->png ? png_create_info_struct(s->png) : NULL;
    if (!s->info) no_memory(s);
    png_set_read_fn(s->png, s, feed);
    png_set_benign_errors(s->png, 1);
    png_set_user_limits(s->png, IMAGE_MAX_SIDE, IMAGE_MAX_SIDE);
}

/* ---- reading ---- */
bool is_png(const uint8_t *data, size_t bytes) {
    return bytes >= 8 && !memcmp(data, "\x89PNG\r\n\x1a\n", 8);
}

static uint32_t big_endian(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* All chunks lie within the file, to the end mark. */
static status check_chunks(const char *what, const uint8_t *data, size_t bytes) {
    size_t at = 8;
    while (bytes - at >= 12) {
        size_t n = big_endian(data + at);
        if (n > bytes - at - 12) break;
        if (!memcmp(data + at + 4, "IEND", 4)) return OK;
        at += 12 + n;
    }
    return fail(E_FORMAT, "%s: PNG of %zu bytes without its end: truncated", what, bytes);
}

static status check_png(const char *what, const uint8_t *data, size_t bytes) {
    status st = check_chunks(what, data, bytes);
    if (st != OK) return st;
    if (bytes < HEADER_BYTES || memcmp(data + 12, "IHDR", 4))
        return fail(E_FORMAT, "%s: PNG without its header: damaged", what);
    return image_check_size(what, big_endian(data + 16), big_endian(data + 20));
}

static void read_pixels(session *s) {
    /* Not used here: profiles and texts would be inflated for nothing. */
    static const uint8_t skipped[] = "iCCP\0sPLT\0tEXt\0zTXt\0iTXt";
    png_uint_32 exif_bytes;
    png_bytep exif;
    start_reading(s);
    png_set_keep_unknown_chunks(s->png, PNG_HANDLE_CHUNK_NEVER, skipped, sizeof skipped / 5);
    png_read_info(s->png, s->info);
    png_set_expand(s->png);
    png_set_scale_16(s->png);
    png_set_gray_to_rgb(s->png);
    int passes = png_set_interlace_handling(s->png);
    png_read_update_info(s->png, s->info);
    int w = (int)png_get_image_width(s->png, s->info),
        h = (int)png_get_image_height(s->png, s->info);
    status st = image_create(w, h, png_get_channels(s->png, s->info), s->im);
    if (st != OK) give_up(s, st);
    size_t row = (size_t)w * (size_t)s->im->channels;
    assert(png_get_rowbytes(s->png, s->info) == row);
    for (int pass = 0; pass < passes; pass++)
        for (int y = 0; y < h; y++) png_read_row(s->png, s->im->px + (size_t)y * row, NULL);
    png_read_end(s->png, s->info);
    if (png_get_eXIf_1(s->png, s->info, &exif_bytes, &exif))
        s->orientation = exif_orientation(exif, exif_bytes);
}

status png_decode(const uint8_t *data, size_t bytes, const char *what, image *out,
                  int *orientation) {
    session s = {.what = what, .data = data, .bytes = bytes, .im = out, .orientation = 1};
    status st = check_png(what, data, bytes);
    if (st != OK) return st;
    st = attempt(&s, read_pixels);
    png_destroy_read_struct(&s.png, &s.info, NULL);
    *orientation = s.orientation;
    return st;
}

/* ---- texts ---- */
/* A copy as UTF-8: text that already is, or Latin-1. */
static const char *to_utf8(session *s, const char *text, bool latin1) {
    size_t n = strlen(text);
    uint8_t *out = arena_alloc(s->mem, 2 * n + 1), *o = out;
    if (!out) no_memory(s);
    if (!latin1 && is_utf8(text)) return memcpy(out, text, n);
    for (const uint8_t *p = (const uint8_t *)text; *p; p++) {
        if (*p >= 0x80) *o++ = (uint8_t)(0xc0 | *p >> 6);
        *o++ = *p < 0x80 ? *p : (uint8_t)(0x80 | (*p & 0x3f));
    }
    return (const char *)out;
}

static void read_texts(session *s) {
    libpng_text *t;
    start_reading(s);
    png_set_keep_unknown_chunks(s->png, PNG_HANDLE_CHUNK_NEVER, (const uint8_t *)"iCCP\0sPLT", 2);
    png_set_chunk_cache_max(s->png, PNG_TEXT_MAX_CHUNKS + CACHE_SPARE);
    png_set_chunk_malloc_max(s->png, PNG_TEXT_MAX_BYTES);
    png_read_info(s->png, s->info);
    int passes = png_set_interlace_handling(s->png);
    png_read_update_info(s->png, s->info);
    png_uint_32 h = png_get_image_height(s->png, s->info);
    uint8_t *row = arena_alloc(s->mem, png_get_rowbytes(s->png, s->info));
    if (!row) no_memory(s);
    /* Texts may come after the rows, which libpng does not pass over unread. */
    for (int pass = 0; pass < passes; pass++)
        for (png_uint_32 y = 0; y < h; y++) png_read_row(s->png, row, NULL);
    png_read_end(s->png, s->info);
    int n = png_get_text(s->png, s->info, &t, NULL);
    s->found = arena_new(s->mem, png_text, n);
    if (!s->found) no_memory(s);
    for (int i = 0; i < n; i++)
        s->found[s->n_text++] =
            (png_text){to_utf8(s, t[i].key, true),
                       to_utf8(s, t[i].text, t[i].compression < PNG_ITXT_COMPRESSION_NONE)};
}

status png_read_text(const char *path, arena *a, png_text **text, int *n_text) {
    status st = OK;
    file_map m;
    session s = {.what = path, .mem = a};
    *text = NULL, *n_text = 0;
    TRY(file_map_open(path, &m));
    s.data = m.data, s.bytes = m.bytes;
    if (!is_png(m.data, m.bytes)) {
        st = fail(E_FORMAT, "%s: not a PNG", path);
        goto out;
    }
    TRY(check_png(path, m.data, m.bytes));
    TRY(attempt(&s, read_texts));
    *text = s.found, *n_text = s.n_text;
out:
    png_destroy_read_struct(&s.png, &s.info, NULL);
    file_map_close(&m);
    return st;
}

/* ---- writing ---- */
/* What tEXt may hold, as Latin-1; NULL when it needs iTXt. */
static char *to_latin1(session *s, const char *text) {
    char *out = arena_alloc(s->mem, strlen(text) + 1), *o = out;
    if (!out) no_memory(s);
    for (const uint8_t *p = (const uint8_t *)text; *p; p++) {
        unsigned c = *p;
        if (c >= 0xc4) return NULL; /* beyond U+00ff */
        if (c >= 0x80) c = (c & 3) << 6 | (*++p & 0x3f);
        if (c >= 0x7f && c < 0xa0) return NULL;
        *o++ = (char)c;
    }
    return out;
}

static status check_texts(const char *what, const png_text *text, int n) {
    for (int i = 0; i < n; i++) {
        const char *key = text[i].key;
        size_t length = strlen(key);
        bool good = length >= 1 && length <= KEY_MAX && key[0] != ' ' && key[length - 1] != ' ' &&
                    !strstr(key, "  ");
        for (size_t k = 0; k < length; k++) good &= key[k] >= ' ' && key[k] <= '~';
        if (!good)
            return fail(E_FORMAT,
                        "%s: the text key \"%.100s\" is not 1 to %d printable ASCII characters "
                        "with single spaces inside",
                        what, key, KEY_MAX);
        if (!is_utf8(text[i].text))
            return fail(E_FORMAT, "%s: the text of \"%s\" is not valid UTF-8", what, key);
    }
    return OK;
}

static void write_all(session *s) {
    const image *im = s->im;
    int type = im->channels == 1   ? PNG_COLOR_TYPE_GRAY
               : im->channels == 3 ? PNG_COLOR_TYPE_RGB
                                   : PNG_COLOR_TYPE_RGB_ALPHA;
    s->png = png_create_write_struct_2(PNG_LIBPNG_VER_STRING, s, on_error, on_warning, s, allocate,
                                       release);
    s->info = s->png ? png_create_info_struct(s->png) : NULL;
    libpng_text *t = arena_new(s->mem, libpng_text, s->n_text);
    if (!s->info || !t) no_memory(s);
    png_set_write_fn(s->png, s, take, flush);
    png_set_IHDR(s->png, s->info, (png_uint_32)im->w, (png_uint_32)im->h, 8, type,
                 PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    for (int i = 0; i < s->n_text; i++) {
        char *latin1 = to_latin1(s, s->given[i].text);
        t[i] = (libpng_text){.compression =
                                 latin1 ? PNG_TEXT_COMPRESSION_NONE : PNG_ITXT_COMPRESSION_NONE,
                             .key = (char *)(uintptr_t)s->given[i].key,
                             .text = latin1 ? latin1 : (char *)(uintptr_t)s->given[i].text};
    }
    png_set_text(s->png, s->info, t, s->n_text);
    png_write_info(s->png, s->info);
    for (int y = 0; y < im->h; y++)
        png_write_row(s->png, im->px + (size_t)y * (size_t)im->w * (size_t)im->channels);
    png_write_end(s->png, NULL);
}

static status encode(const char *what, const image *im, const png_text *text, int n_text,
                     uint8_t **data, size_t *bytes) {
    arena mem = {0};
    image in = *im;
    session s = {.what = what, .im = &in, .given = text, .n_text = n_text, .mem = &mem};
    *data = NULL, *bytes = 0;
    status st = check_texts(what, text, n_text);
    if (st != OK) return st;
    st = attempt(&s, write_all);
    png_destroy_write_struct(&s.png, &s.info);
    arena_fini(&mem);
    if (st == OK)
        *data = s.written, *bytes = s.used;
    else
        mem_free(s.written);
    return st;
}

status image_encode_png(const image *im, const png_text *text, int n_text, uint8_t **data,
                        size_t *bytes) {
    return encode("the PNG to be written", im, text, n_text, data, bytes);
}

status image_save_png(const char *path, const image *im, const png_text *text, int n_text) {
    uint8_t *data;
    size_t bytes;
    status st = encode(path, im, text, n_text, &data, &bytes);
    if (st == OK) st = file_write_atomic(path, data, bytes);
    mem_free(data);
    return st;
}
