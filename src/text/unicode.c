/* unicode.c: UTF-8, and the normal form that CLIP's tokenizer works on: NFC, runs of white space as
 * one space, lower case. Tables are utf8proc's (Unicode 15 in Debian 12). The transformers we
 * follow has Unicode 9 for NFC, hence `newer` below, and Unicode 16 for the rest: letters that are
 * newer than the library are other signs here. The ordering of marks is ours, since utf8proc's
 * takes quadratic time on long runs of marks. SPDX-License-Identifier: MIT */
#include "text/text_internal.h"

#include <utf8proc.h>

#define NFC_OPTIONS    (UTF8PROC_STABLE | UTF8PROC_COMPOSE)
#define DECOMPOSED_MAX 8      /* of one code point; the longest canonical one has 4 */
#define FIRST_MARK     0x300u /* text of lower code points is in NFC */

status buffer_room(buffer *b, size_t bytes) {
    if (bytes <= b->bytes) return OK;
    size_t want = MAX(MAX(bytes, b->bytes * 2), (size_t)1024);
    void *p = mem_realloc(b->p, b->bytes, want);
    if (!p) return fail(E_HOST_MEMORY, "no memory for %zu bytes of text", want);
    *b = (buffer){p, want};
    return OK;
}

char_class char_class_of(uint32_t c) {
    if (c < 0x80) {
        if ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') return CHAR_LETTER;
        if (c >= '0' && c <= '9') return CHAR_NUMBER;
        return c == ' ' || (c >= 9 && c <= 13) ? CHAR_SPACE : CHAR_OTHER;
    }
    if (c == 0x85) return CHAR_SPACE;
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    if (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO) return CHAR_LETTER;
    if (k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO) return CHAR_NUMBER;
    return k >= UTF8PROC_CATEGORY_ZS && k <= UTF8PROC_CATEGORY_ZP ? CHAR_SPACE : CHAR_OTHER;
}

uint32_t utf8_decode(const char *s, size_t n, size_t *used) {
    const uint8_t *u = (const uint8_t *)s;
    uint32_t c = u[0];
    *used = 1;
    if (c < 0x80) return c;
    size_t more = c >= 0xc2 && c <= 0xdf   ? 1
                  : c >= 0xe0 && c <= 0xef ? 2
                  : c >= 0xf0 && c <= 0xf4 ? 3
                                           : 0;
    if (!more) return 0xfffd;
    /* the second byte's range excludes overlong forms, surrogates and what is over U+10FFFF */
    uint32_t low = c == 0xe0   ? 0xa0
                   : c == 0xf0 ? 0x90
                               : 0x80,
             high = c == 0xed   ? 0x9f
                    : c == 0xf4 ? 0x8f
                                : 0xbf;
    c &= 0x3fu >> more;
    for (size_t i = 1; i <= more; i++) {
        if (i >= n || u[i] < low || u[i] > high) return 0xfffd;
        c = c << 6 | (u[i] & 0x3fu);
        *used = i + 1;
        low = 0x80, high = 0xbf;
    }
    return c;
}

size_t utf8_encode(uint32_t c, char out[4]) {
    if (c < 0x80) return out[0] = (char)c, 1;
    size_t more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    for (size_t i = more; i > 0; i--, c >>= 6) out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)((0xff00u >> (more + 1) & 0xff) | c);
    return more + 1;
}

/* ---- NFC ---- */
/* Marks of Unicode 10 to 15: the oracle's NFC takes them for characters of their own. */
static bool is_newer(uint32_t c) {
    static const struct {
        uint32_t first, last;
    } newer[] = {
        {0x7fd, 0x7fd},     {0x898, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},
        {0xc3c, 0xc3c},     {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0x1715, 0x1715},
        {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},   {0xa82c, 0xa82c},   {0x10d24, 0x10d27},
        {0x10eab, 0x10eac}, {0x10efd, 0x10eff}, {0x10f46, 0x10f50}, {0x10f82, 0x10f85},
        {0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x1145e, 0x1145e}, {0x11839, 0x1183a},
        {0x11930, 0x11930}, {0x11938, 0x11938}, {0x1193d, 0x1193e}, {0x11943, 0x11943},
        {0x119e0, 0x119e0}, {0x11a34, 0x11a34}, {0x11a47, 0x11a47}, {0x11a99, 0x11a99},
        {0x11d42, 0x11d42}, {0x11d44, 0x11d45}, {0x11d97, 0x11d97}, {0x11f41, 0x11f42},
        {0x16ff0, 0x16ff1}, {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae},
        {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef},
    };
    size_t low = 0, high = ARRAY_LEN(newer);
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (newer[mid].last < c)
            low = mid + 1;
        else
            high = mid;
    }
    return low < ARRAY_LEN(newer) && newer[low].first <= c;
}

static int mark_class(uint32_t c) {
    int k = c < FIRST_MARK ? 0 : utf8proc_get_property((utf8proc_int32_t)c)->combining_class;
    return k && is_newer(c) ? 0 : k;
}

/* In place; returns how many are left. Nothing composes across a newer mark. */
static size_t compose(uint32_t *p, size_t n) {
    size_t to = 0;
    for (size_t i = 0, end; i < n; i = end) {
        for (end = i; end < n && !is_newer(p[end]);) end++;
        utf8proc_ssize_t k =
            utf8proc_normalize_utf32((int32_t *)p + i, (utf8proc_ssize_t)(end - i), NFC_OPTIONS);
        size_t kept = k < 0 ? end - i : (size_t)k;
        memmove(p + to, p + i, kept * sizeof *p);
        to += kept;
        if (end < n) p[to++] = p[end++];
    }
    return to;
}

/* A run of marks in the order of their classes, equal ones as they stand: counting sort. */
static void sort_marks(uint32_t *run, size_t n, uint32_t *spare) {
    size_t start[257] = {0};
    for (size_t i = 0; i < n; i++) start[mark_class(run[i]) + 1]++;
    for (int k = 0; k < 256; k++) start[k + 1] += start[k];
    for (size_t i = 0; i < n; i++) spare[start[mark_class(run[i])]++] = run[i];
    memcpy(run, spare, n * sizeof *run);
}

static status to_nfc(normalizer *z, size_t *n) {
    status st = OK;
    size_t used = 0;
    TRY(buffer_room(&z->spare, (*n + DECOMPOSED_MAX) * sizeof(uint32_t)));
    for (size_t i = 0; i < *n; i++) {
        int bound = 0;
        TRY(buffer_room(&z->spare, (used + DECOMPOSED_MAX) * sizeof(uint32_t)));
        int32_t c = ((const int32_t *)z->points.p)[i], *to = (int32_t *)z->spare.p + used;
        utf8proc_ssize_t k = utf8proc_decompose_char(c, to, DECOMPOSED_MAX, NFC_OPTIONS, &bound);
        if (k < 1 || k > DECOMPOSED_MAX || is_newer((uint32_t)c))
            *to = c, k = 1; /* stays as it is */
        used += (size_t)k;
    }
    TRY(buffer_room(&z->points, used * sizeof(uint32_t)));
    uint32_t *p = z->spare.p;
    for (size_t i = 0, end; i < used; i = end) {
        bool sorted = true;
        int last = mark_class(p[i]), k;
        for (end = i + 1; last && end < used && (k = mark_class(p[end])); last = k, end++)
            sorted &= k >= last;
        if (!sorted) sort_marks(p + i, end - i, z->points.p);
    }
    *n = compose(p, used);
    memcpy(z->points.p, p, *n * sizeof *p);
out:
    return st;
}

/* ---- the normal form ---- */
/* Rust's mapping of single characters: U+0130 is the one that becomes two; no final sigma. */
static size_t put_lower(uint32_t c, char *out) {
    if (c < 0x80) return *out = (char)(c >= 'A' && c <= 'Z' ? c | 0x20 : c), 1;
    if (c == 0x130) return memcpy(out, "i\xcc\x87", 3), 3;
    return utf8_encode((uint32_t)utf8proc_tolower((utf8proc_int32_t)c), out);
}

status text_normalize(normalizer *z, const char *s, size_t n, const char **out, size_t *out_bytes) {
    status st = OK;
    size_t n_points = 0, used = 0, bytes = 0;
    bool composed = true, in_space = false;
    TRY(buffer_room(&z->points, (n + 1) * sizeof(uint32_t)));
    for (size_t i = 0; i < n; i += used) {
        uint32_t c = utf8_decode(s + i, n - i, &used);
        composed &= c < FIRST_MARK;
        ((uint32_t *)z->points.p)[n_points++] = c;
    }
    if (!composed) TRY(to_nfc(z, &n_points));
    TRY(buffer_room(&z->text, n_points * 4 + 1));
    char *to = z->text.p;
    for (size_t i = 0; i < n_points; i++) {
        uint32_t c = ((const uint32_t *)z->points.p)[i];
        bool space = char_class_of(c) == CHAR_SPACE;
        if (!space)
            bytes += put_lower(c, to + bytes);
        else if (!in_space)
            to[bytes++] = ' ';
        in_space = space;
    }
    *out = to, *out_bytes = bytes;
out:
    return st;
}

void normalizer_fini(normalizer *z) {
    mem_free(z->points.p);
    mem_free(z->spare.p);
    mem_free(z->text.p);
    *z = (normalizer){0};
}
