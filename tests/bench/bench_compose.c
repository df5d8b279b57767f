/* bench_compose.c: how fast training pictures are composed, and a sheet of them to look at.
 *   bench_compose FOLDER [autoencoder|a|b] [--seed N] [--count N] [--sheet FILE.png]
 * FOLDER is what examples/corpus/build.sh made. With --sheet the captions are printed row by row.
 * SPDX-License-Identifier: MIT */
#include "file/image.h"
#include "train/compose.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { COLUMNS = 8, GAP = 4, CELL = COMPOSE_SIDE + GAP };

static status measure(const composer *m, compose_work *w, int count) {
    status st = OK;
    static uint8_t rgb[COMPOSE_RGB_BYTES];
    compose_info info;
    clock_t start = clock(); /* processor time: the machine may be busy */
    for (int i = 0; i < count; i++) TRY(compose_sample(m, (uint64_t)i, w, rgb, &info));
    double s = (double)(clock() - start) / CLOCKS_PER_SEC;
    printf("%d pictures to draw from; %.0f samples/s on one core\n", composer_pictures(m),
           count / s);
out:
    return st;
}

static status sheet(const composer *m, compose_work *w, int count, const char *path) {
    status st = OK;
    static uint8_t rgb[COMPOSE_RGB_BYTES];
    image im = {0};
    TRY(image_create(COLUMNS * CELL + GAP, (count + COLUMNS - 1) / COLUMNS * CELL + GAP, 3, &im));
    memset(im.px, 96, (size_t)im.w * (size_t)im.h * 3);
    for (int i = 0; i < count; i++) {
        compose_info info;
        caption text;
        TRY(compose_sample(m, (uint64_t)i, w, rgb, &info));
        compose_caption(m, (uint64_t)i, 0, &info, &text);
        printf("%s%3d %s\n", i % COLUMNS ? "" : "\n", i, text.text);
        for (int y = 0; y < COMPOSE_SIDE; y++) {
            size_t row = (size_t)(GAP + i / COLUMNS * CELL + y) * (size_t)im.w;
            memcpy(im.px + (row + (size_t)(GAP + i % COLUMNS * CELL)) * 3,
                   rgb + y * COMPOSE_SIDE * 3, COMPOSE_SIDE * 3);
        }
    }
    TRY(image_save_png(path, &im, NULL, 0));
out:
    image_free(&im);
    return st;
}

int main(int argc, char **argv) {
    status st = OK;
    corpus *c = NULL;
    composer *m = NULL;
    compose_work *w = NULL;
    compose_params p = compose_stage_b;
    int count = 64;
    const char *path = NULL;
    if (argc < 2)
        return fputs("usage: bench_compose FOLDER [autoencoder|a|b] [--seed N] [--count N] "
                     "[--sheet FILE.png]\n",
                     stderr),
               2;
    for (int i = 2; i < argc; i++) {
        if (!strcmp(argv[i], "autoencoder"))
            p = compose_autoencoder;
        else if (!strcmp(argv[i], "a"))
            p = compose_stage_a;
        else if (!strcmp(argv[i], "b"))
            p = compose_stage_b;
        else if (i + 1 < argc && !strcmp(argv[i], "--seed"))
            p.seed[0] = (uint32_t)atol(argv[++i]);
        else if (i + 1 < argc && !strcmp(argv[i], "--count"))
            count = atoi(argv[++i]);
        else if (i + 1 < argc && !strcmp(argv[i], "--sheet"))
            path = argv[++i];
        else
            return fprintf(stderr, "bench_compose: %s?\n", argv[i]), 2;
    }
    count = MIN(MAX(count, 1), 4096);
    TRY(corpus_open(argv[1], &c));
    TRY(composer_create(c, &p, &m));
    TRY(compose_work_create(&w));
    if (path)
        TRY(sheet(m, w, count, path));
    else
        TRY(measure(m, w, MAX(count, 1000)));
out:
    if (st != OK) fprintf(stderr, "bench_compose: %s\n%s", error_message(), error_backtrace());
    compose_work_destroy(w);
    composer_destroy(m);
    corpus_close(c);
    return st != OK;
}
