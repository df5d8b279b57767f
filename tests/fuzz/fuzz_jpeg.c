/* fuzz_jpeg.c: any bytes as a JPEG, put back between its first and last mark in most inputs.
 * SPDX-License-Identifier: MIT */
#include "fuzz.h"
#include "file/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    uint8_t *copy =
        malloc(bytes + !bytes); /* its own block, so that sanitizers see a step too far */
    image im;
    if (!copy) abort();
    memcpy(copy, data, bytes);
    if (bytes > 8 && data[bytes / 2] % 8) {
        memcpy(copy, "\xff\xd8\xff", 3);
        memcpy(copy + bytes - 2, "\xff\xd9", 2);
    }
    status st = image_decode(copy, bytes, "fuzz", &im);
    if (st == OK) image_free(&im);
    free(copy);
    return st == OK;
}

#ifndef FUZZ_LIBFUZZER
int main(int argc, char **argv) {
    static const char *const names[] = {"images/grey.jpg",        "images/rgb444.jpg",
                                        "images/rgb422.jpg",      "images/rgb420.jpg",
                                        "images/progressive.jpg", "images/keep_rgb.jpg",
                                        "images/restart.jpg",     "images/cmyk.jpg",
                                        "images/exif5.jpg",       "images/exif3_little.jpg"};
    static const char *const words[] = {"\xff\xda", "\xff\xc4", "\xff\xdb", "\xff\xdd",
                                        "\xff\xc0", "\xff\xc2", "\xff\xd0", "\xff\xff",
                                        "\xff\xe1", "Exif",     "II*",      "\xff\xdc"};
    fuzz_seed seeds[FUZZ_MAX_SEEDS];
    uint32_t n = fuzz_load(names, ARRAY_LEN(names), seeds);
    return fuzz_main(argc, argv, seeds, n, words, ARRAY_LEN(words));
}
#endif
