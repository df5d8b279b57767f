/* fuzz_gguf.c: any bytes as a GGUF file, and every value of what is accepted is read.
 * SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "fuzz.h"
#include "file/weights.h"
#include <sys/mman.h>
#include <unistd.h>

static void read_values(const weight *t) {
    enum { STEP = 1024 };
    float out[STEP];
    char text[32];
    bool finite = true;
    weight_describe(t, text, sizeof text);
    for (int64_t at = 0; at < t->count; at += STEP)
        if (weight_read(t, at, MIN(t->count - at, STEP), (dtype)(at / STEP % 3), out, &finite) !=
            OK)
            abort();
    weight_release(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    char path[64];
    const char *const paths[] = {path};
    weights *w;
    int fd = memfd_create("fuzz", 0);
    if (fd < 0 || write(fd, data, bytes) != (ssize_t)bytes) abort();
    if (bytes > 8 && data[bytes / 2] % 4 && pwrite(fd, "GGUF\3\0\0\0", 8, 0) != 8) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    status st = weights_open(paths, 1, &w);
    for (int64_t i = 0; st == OK && i < weights_count(w); i++) {
        if (weights_find(w, weights_at(w, i)->name) != weights_at(w, i)) abort();
        read_values(weights_at(w, i));
    }
    if (st == OK) weights_note(w, "general.name");
    weights_close(st == OK ? w : NULL);
    close(fd);
    return st == OK;
}

#ifndef FUZZ_LIBFUZZER
int main(int argc, char **argv) {
    static const char *const names[] = {"small.gguf"};
    static const char *const words[] = {"\x20",
                                        "\xff\xff\xff\xff\xff\xff\xff\xff",
                                        "\x08",
                                        "\x09",
                                        "general.alignment",
                                        "comfy.gguf.orig_shape.f32",
                                        "\x80",
                                        "GGUF"};
    static uint8_t pair[FUZZ_MAX]; /* small: one tensor, so that changes hit what matters */
    static const uint8_t head[] =
        "GGUF\3\0\0\0\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0k\4\0\0\0\7\0\0\0"
        "\1\0\0\0\0\0\0\0w\2\0\0\0\40\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0\10\0\0\0\0\0\0\0\0\0\0";
    memcpy(pair, head, sizeof head);
    fuzz_seed seeds[FUZZ_MAX_SEEDS];
    uint32_t n = fuzz_load(names, ARRAY_LEN(names), seeds);
    seeds[n++] = (fuzz_seed){pair, 256};
    return fuzz_main(argc, argv, seeds, n, words, ARRAY_LEN(words));
}
#endif
