/* personalize_run.h: what the tests of personalizing share: pictures to learn from, wishes that a
 * network of random weights fulfils in no time, and looks at what came out. The test says DIR
 * first. SPDX-License-Identifier: MIT */
#pragma once
#include "engine/personalize.h"
#include "test.h"
#include <math.h>

static const char *g_golden, *g_device;
static char g_model[1024]; /* one thread: these networks are too small for more */

static inline void write_text(const char *path, const char *text) {
    REQUIRE_OK(file_write_atomic(path, text, strlen(text)));
}

/* A disc of some colour, not square. */
static inline void draw(const char *path, int w, int h, int red) {
    image im;
    REQUIRE_OK(image_create(w, h, 3, &im));
    for (int i = 0; i < w * h; i++) {
        int x = i % w - w / 2, y = i / w - h / 2;
        bool in = x * x + y * y < h * h / 9;
        im.px[3 * i] = (uint8_t)(in ? red : 240), im.px[3 * i + 1] = (uint8_t)(in ? 60 : 240),
                  im.px[3 * i + 2] = (uint8_t)(x + 100);
    }
    REQUIRE_OK(image_save_png(path, &im, NULL, 0));
    image_free(&im);
}

static inline void make_pictures(void) {
    char path[1100];
    uint8_t *data;
    size_t bytes;
    REQUIRE_OK(os_mkdir_p(DIR "/photos"));
    snprintf(path, sizeof path, "%s/pipelines/init.png", g_golden);
    REQUIRE_OK(file_read(path, (size_t)1 << 24, &data, &bytes));
    REQUIRE_OK(file_write_atomic(DIR "/photos/a.PNG", data, bytes));
    mem_free(data);
    draw(DIR "/photos/b.png", 80, 48, 200);
    draw(DIR "/photos/c.png", 40, 70, 20);
    write_text(DIR "/photos/b.txt", "  a sks disc\nin red \n");
}

static inline bool never(void *ctx) {
    (void)ctx;
    return false;
}

static inline personalize_params wish(const char *adapter, const char *out) {
    return (personalize_params){
        .open = {.model = g_model, .device = g_device, .precision = "f32", .threads = 1},
        .pictures = DIR "/photos",
        .token = "sks",
        .class_word = "disc",
        .adapter = adapter,
        .options = {.rank = strcmp(adapter, "lora") ? 0 : 4,
                    .block = 4,
                    .factors = strcmp(adapter, "boft") ? 0 : 2},
        .out = out,
        .side = 32,
        .flip = true,
        .run = {.batch = 4,
                .accumulate = 2,
                .seed = 3,
                .log_every = 1,
                .cancelled = never,
                .lr = {.kind = LR_CONSTANT, .lr = 1e-2, .steps = 6},
                .adam = {OPTIMIZER_DEFAULTS, .max_norm = 1}}};
}

/* Mean of "loss" over lines [from, to) of a log. */
static inline double mean_loss(const char *path, int from, int to) {
    uint8_t *data;
    size_t bytes;
    double sum = 0;
    int line = 0;
    REQUIRE_OK(file_read(path, (size_t)1 << 22, &data, &bytes));
    for (const char *p = (const char *)data; (p = strstr(p, "\"loss\":")); p++, line++)
        if (line >= from && line < to) sum += strtod(p + 7, NULL);
    REQUIRE(line >= to);
    mem_free(data);
    return sum / (to - from);
}

static inline void picture_of_model(const char *adapter, uint8_t rgb[32 * 32 * 3]) {
    imago *im = NULL;
    imago_picture *pic = NULL;
    REQUIRE_OK((status)imago_open(&IMAGO_OPEN(.model = g_model, .device = g_device,
                                              .precision = "f32", .threads = 1,
                                              .adapters = &adapter, .n_adapters = adapter ? 1 : 0),
                                  &im));
    REQUIRE_OK((status)imago_generate(
        im, &IMAGO_GENERATE(.prompt = "a photo of sks disc", .width = 32, .height = 32, .steps = 4),
        &pic));
    memcpy(rgb, pic->rgb, 32 * 32 * 3);
    imago_free_pictures(pic, 1);
    imago_close(im);
}

static inline int differing(const uint8_t *a, const uint8_t *b) {
    int n = 0;
    for (int i = 0; i < 32 * 32 * 3; i++) n += abs(a[i] - b[i]) > 1;
    return n;
}

/* ---- stopping ---- */
static int g_lines; /* stop once the log has so many; 0 = never */
static inline bool stop(void *ctx) {
    uint8_t *data;
    size_t bytes;
    int n = 0;
    if (!g_lines || !os_file_exists(ctx) || file_read(ctx, (size_t)1 << 20, &data, &bytes) != OK)
        return false;
    for (size_t i = 0; i < bytes; i++) n += data[i] == '\n';
    mem_free(data);
    return n >= g_lines;
}

static inline void same_file(const char *a, const char *b) {
    uint8_t *x, *y;
    size_t nx, ny;
    REQUIRE_OK(file_read(a, (size_t)1 << 26, &x, &nx));
    REQUIRE_OK(file_read(b, (size_t)1 << 26, &y, &ny));
    REQUIRE_EQ(nx, ny);
    REQUIRE(memcmp(x, y, nx) == 0);
    mem_free(x);
    mem_free(y);
}

/* Arguments, the device (exit code 77 where there is none), the folder with pictures. */
static inline int begin(int argc, char **argv) {
    if (argc != 3) return printf("usage: %s GOLDEN_DIR DEVICE\n", argv[0]), 2;
    g_golden = argv[1], g_device = argv[2];
    device *d = NULL;
    if (device_open(&(op_table){0}, &(device_params){.name = g_device}, &d) != OK)
        return printf("skipped: %s\n", error_message()), 77;
    device_close(d);
    snprintf(g_model, sizeof g_model, "%s/pipelines/sd1", g_golden);
    REQUIRE(system("rm -rf " DIR " && mkdir " DIR) == 0);
    make_pictures();
    return 0;
}
