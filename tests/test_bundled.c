/* test_bundled.c: the bundled model: pictures as diffusers makes them, and with an adapter as PEFT
 * does (tests/golden/make_bundled.py), by PSNR. usage: test_bundled MODEL GOLDEN_DIR cpu|vulkan
 * f32|bf16 SPDX-License-Identifier: MIT */
#include "file/safetensors.h"
#include "imago.h"
#include "test.h"
#include <math.h>
#include <stdio.h>

static const struct {
    const char *prompt;
    uint64_t seed;
    int steps;
    float guidance;
} calls[] = {{"a glossy 3D render of a grinning face", 1, 20, 4},
             {"a flat illustration of a red heart", 2, 20, 4},
             {"a black ink drawing of an automobile", 3, 20, 4},
             {"a shaded vector icon of a red apple", 4, 8, 1}};

static double psnr(const uint8_t *a, const uint8_t *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    return 10 * log10(255.0 * 255.0 / fmax(sum / (double)n, 0.01));
}

enum { PX = 128 };
static const size_t bytes = (size_t)PX * PX * 3;

/* Pictures of the first n calls against those that `golden` holds as `name`. 77: no such device. */
static int compare(const char *const *argv, const char *adapter, const safetensors *golden,
                   const char *name, int n) {
    /* measured: 68 dB in f32 (half a step of 255), 51 and more in bf16 */
    double least = strcmp(argv[4], "f32") == 0 ? 55 : 40;
    imago *im = NULL;
    const safetensor *t = golden ? safetensors_find(golden, name) : NULL;
    CHECK(t && t->n_dims == 4 && t->dim[0] == n && t->dim[1] == PX &&
              safetensor_bytes(t) == bytes * (size_t)n,
          "%s: no '%s' of this test", argv[2], name);
    imago_status st =
        imago_open(&IMAGO_OPEN(.model = argv[1], .device = argv[3], .precision = argv[4],
                               .adapters = &adapter, .n_adapters = adapter ? 1 : 0),
                   &im);
    if (st != IMAGO_OK && strcmp(argv[3], "vulkan") == 0 && st == IMAGO_E_UNSUPPORTED) {
        printf("skipped: %s\n", imago_error_message());
        return 77;
    }
    CHECK(st == IMAGO_OK, "%s", imago_error_message());
    for (int i = 0; im && t && i < n; i++) {
        imago_picture *pic = NULL;
        st = imago_generate(im,
                            &IMAGO_GENERATE(.prompt = calls[i].prompt, .plain_prompt = true,
                                            .sampler = "ddim", .steps = calls[i].steps,
                                            .guidance = calls[i].guidance, .seed = calls[i].seed),
                            &pic);
        CHECK(st == IMAGO_OK, "%s", imago_error_message());
        if (st != IMAGO_OK) break;
        CHECK(pic->width == PX && pic->height == PX, "%d x %d", pic->width, pic->height);
        double p = psnr(pic->rgb, (const uint8_t *)t->data + bytes * (size_t)i, bytes);
        CHECK(p >= least, "%s: '%s' on %s %s: %.1f dB beside diffusers, expected %.0f", name,
              calls[i].prompt, argv[3], argv[4], p, least);
        printf("%-9s %-45s %.1f dB\n", name, calls[i].prompt, p);
        imago_free_pictures(pic, 1);
    }
    imago_close(im);
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 5)
        return fprintf(stderr, "usage: test_bundled MODEL GOLDEN_DIR DEVICE PRECISION\n"), 2;
    safetensors *golden = NULL;
    char path[1200], adapter[1200];
    snprintf(path, sizeof path, "%s/bundled.safetensors", argv[2]);
    snprintf(adapter, sizeof adapter, "%s/bundled_adapter", argv[2]);
    CHECK(safetensors_open(path, &golden) == OK, "%s", error_message());
    const char *const *args = (const char *const *)argv;
    int code = compare(args, NULL, golden, "pictures", (int)ARRAY_LEN(calls));
    if (code == 0) code = compare(args, adapter, golden, "adapted", 2);
    safetensors_close(golden);
    return code ? code : g_failures != 0;
}
