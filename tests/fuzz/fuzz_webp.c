/* fuzz_webp.c: any bytes as a WebP. Pictures of more than a megapixel are left out, they only cost
 * time. SPDX-License-Identifier: MIT */
#include "fuzz.h"
#include "file/image.h"
#include <webp/decode.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    uint8_t *copy =
        malloc(bytes + !bytes); /* its own block, so that sanitizers see a step too far */
    image im;
    int w = 0, h = 0;
    if (!copy) abort();
    memcpy(copy, data, bytes);
    bool large = WebPGetInfo(copy, bytes, &w, &h) && (int64_t)w * h > 1 << 20;
    status st = large ? E_UNSUPPORTED : image_decode(copy, bytes, "fuzz", &im);
    if (st == OK) image_free(&im);
    free(copy);
    return st == OK;
}

#ifndef FUZZ_LIBFUZZER
int main(int argc, char **argv) {
    static const char *const names[] = {"images/lossy.webp",       "images/lossless.webp",
                                        "images/lossy_alpha.webp", "images/lossless_alpha.webp",
                                        "images/exif8.webp",       "images/pixel.webp",
                                        "images/animated.webp"};
    static const char *const words[] = {"VP8 ", "VP8L", "VP8X", "ALPH", "EXIF",
                                        "ANIM", "ANMF", "RIFF", "WEBP", "\xff\xff\xff\xff",
                                        "ICCP"};
    fuzz_seed seeds[FUZZ_MAX_SEEDS];
    uint32_t n = fuzz_load(names, ARRAY_LEN(names), seeds);
    return fuzz_main(argc, argv, seeds, n, words, ARRAY_LEN(words));
}
#endif
