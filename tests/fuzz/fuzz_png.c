/* fuzz_png.c: any bytes as a PNG: its pixels, and its texts. Checksums are put right in three of
 * four inputs, or little would get past them; pictures of more than a megapixel are left out, they
 * only cost time. SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "fuzz.h"
#include "file/image.h"
#include <sys/mman.h>
#include <unistd.h>

static uint32_t crc(const uint8_t *p, size_t n) {
    uint32_t c = ~0u;
    for (size_t i = 0; i < n; i++) {
        c ^= p[i];
        for (int k = 0; k < 8; k++) c = c >> 1 ^ (c & 1 ? 0xedb88320u : 0);
    }
    return ~c;
}

static uint32_t big_endian(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void fix_checksums(uint8_t *p, size_t bytes) {
    for (size_t at = 8; bytes - at >= 12;) {
        size_t n = big_endian(p + at);
        if (n > bytes - at - 12) return;
        uint32_t c = crc(p + at + 4, n + 4);
        for (int i = 0; i < 4; i++) p[at + 8 + n + (size_t)i] = (uint8_t)(c >> (24 - 8 * i));
        at += 12 + n;
    }
}

static status read_text(const uint8_t *data, size_t bytes) {
    char path[64];
    arena a = {0};
    png_text *t;
    int n;
    int fd = memfd_create("fuzz", 0);
    if (fd < 0 || write(fd, data, bytes) != (ssize_t)bytes) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    status st = png_read_text(path, &a, &t, &n);
    for (int i = 0; st == OK && i < n; i++)
        if (strlen(t[i].key) + strlen(t[i].text) > 2 * (PNG_TEXT_MAX_BYTES + 80)) abort();
    arena_fini(&a);
    close(fd);
    return st;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    uint8_t *copy =
        malloc(bytes + !bytes); /* its own block, so that sanitizers see a step too far */
    image im;
    if (!copy) abort();
    memcpy(copy, data, bytes);
    if (bytes > 12 && data[bytes / 2] % 4) fix_checksums(copy, bytes);
    bool large = bytes >= 24 && (uint64_t)big_endian(copy + 16) * big_endian(copy + 20) > 1u << 20;
    status st = large ? E_UNSUPPORTED : image_decode(copy, bytes, "fuzz", &im);
    if (st == OK) image_free(&im);
    if (!large && bytes && data[bytes / 3] % 4 == 0 && read_text(copy, bytes) == OK) st = OK;
    free(copy);
    return st == OK;
}

#ifndef FUZZ_LIBFUZZER
int main(int argc, char **argv) {
    static const char *const names[] = {
        "images/grey1.png",         "images/grey2i.png",     "images/grey16_trns.png",
        "images/palette4_trns.png", "images/palette2.png",   "images/grey_alpha16i.png",
        "images/rgba8.png",         "images/rgb16_trns.png", "images/exif6.png",
        "images/text.png",          "images/gamma.png",      "images/pixel.png"};
    static const char *const words[] = {"IDAT",
                                        "IEND",
                                        "PLTE",
                                        "tRNS",
                                        "tEXt",
                                        "zTXt",
                                        "iTXt",
                                        "eXIf",
                                        "gAMA",
                                        "\xff\xff\xff\xff",
                                        "\x7f\xff\xff\xff",
                                        "iCCP"};
    fuzz_seed seeds[FUZZ_MAX_SEEDS];
    uint32_t n = fuzz_load(names, ARRAY_LEN(names), seeds);
    return fuzz_main(argc, argv, seeds, n, words, ARRAY_LEN(words));
}
#endif
