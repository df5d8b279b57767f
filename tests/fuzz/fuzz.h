/* fuzz.h: mutates seeds for some seconds and feeds them to LLVMFuzzerTestOneInput, so that fuzzing
 * needs no special compiler; the debug build gives it sanitizers. The sequence is the same on every
 * machine. With clang: -DFUZZ_LIBFUZZER -fsanitize=fuzzer drops this main. usage: fuzz_NAME
 * [seconds] [file ...]     files: run each once instead (a crash to look at)
 * SPDX-License-Identifier: MIT */
#pragma once
#include "base/base.h"
#include <stdio.h>
#include <stdlib.h>

#define FUZZ_MAX 4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

#ifndef FUZZ_LIBFUZZER
#define FUZZ_MAX_SEEDS 32

typedef struct fuzz_seed {
    const void *data;
    size_t bytes;
} fuzz_seed;

static uint32_t fuzz_random(uint32_t below) {
    static uint32_t counter;
    const uint32_t ctr[4] = {counter++, 0, 0, 0}, key[2] = {1, 2};
    uint32_t out[4];
    rng_philox(ctr, key, out);
    return out[0] % below;
}

/* One change: a byte, a word of the dictionary, a part removed, or a part repeated. */
static size_t fuzz_mutate(uint8_t *p, size_t n, const char *const *words, uint32_t n_words) {
    size_t at = fuzz_random((uint32_t)n + 1), room = FUZZ_MAX - n, len;
    const char *word = words[fuzz_random(n_words)];
    switch (fuzz_random(5)) {
    case 0:
        if (at < n) p[at] = (uint8_t)fuzz_random(256);
        return n;
    case 1:
        if (at < n) p[at] ^= (uint8_t)(1u << fuzz_random(8));
        return n;
    case 2:
        len = MIN(strlen(word), room);
        memmove(p + at + len, p + at, n - at);
        memcpy(p + at, word, len);
        return n + len;
    case 3:
        len = fuzz_random((uint32_t)(n - at) + 1) % 32;
        memmove(p + at, p + at + len, n - at - len);
        return n - len;
    default:
        len = fuzz_random((uint32_t)(n - at) + 1); /* not inside MIN, which would draw twice */
        len = MIN(len, room);
        memmove(p + at + len, p + at, n - at);
        return n + len;
    }
}

/* Seeds that are files of the golden folder; returns how many. Their memory is not mem_alloc's,
 * whose count finds leaks. */
static inline uint32_t fuzz_load(const char *const *names, size_t n, fuzz_seed *seeds) {
    static uint8_t pool[FUZZ_MAX_SEEDS][FUZZ_MAX];
    for (size_t i = 0; i < n && i < FUZZ_MAX_SEEDS; i++) {
        char path[4096];
        snprintf(path, sizeof path, FUZZ_GOLDEN "/%s", names[i]);
        FILE *f = fopen(path, "rb");
        if (!f) printf("cannot open the seed %s\n", path), exit(1);
        seeds[i] = (fuzz_seed){pool[i], fread(pool[i], 1, FUZZ_MAX, f)};
        fclose(f);
    }
    return (uint32_t)MIN(n, FUZZ_MAX_SEEDS);
}

static int fuzz_files(int n, char **paths) {
    for (int i = 0; i < n; i++) {
        uint8_t *data;
        size_t bytes;
        if (file_read(paths[i], 1 << 24, &data, &bytes) != OK)
            return printf("%s\n", error_message()), 1;
        LLVMFuzzerTestOneInput(data, bytes);
        mem_free(data);
    }
    return 0;
}

static int fuzz_main(int argc, char **argv, const fuzz_seed *seeds, uint32_t n_seeds,
                     const char *const *words, uint32_t n_words) {
    static uint8_t buf[FUZZ_MAX];
    double stop = os_seconds() + (argc > 1 ? atof(argv[1]) : 5);
    int64_t runs = 0, good = 0;
    if (argc > 2) return fuzz_files(argc - 2, argv + 2);
    for (; os_seconds() < stop; runs++) {
        const fuzz_seed *s = &seeds[(uint64_t)runs % n_seeds];
        size_t n = MIN(s->bytes, FUZZ_MAX);
        memcpy(buf, s->data, n);
        uint32_t changes = runs < n_seeds ? 0 : 1 + fuzz_random(6); /* the seeds themselves first */
        while (changes--) n = fuzz_mutate(buf, n, words, n_words);
        good += LLVMFuzzerTestOneInput(buf, n);
        if (mem_live()) return printf("FAIL: input %lld leaks\n", (long long)runs), 1;
    }
    printf("%lld inputs, %lld of them accepted\n", (long long)runs, (long long)good);
    return good ? 0 : 1; /* none accepted: the seeds are stale and nothing was tested */
}
#endif
