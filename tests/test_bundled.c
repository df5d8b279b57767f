/* test_bundled.c: the bundled model: pictures as diffusers makes them (tests/golden/make_bundled.py),
 * by PSNR. usage: test_bundled MODEL GOLDEN cpu|vulkan f32|bf16
 * SPDX-License-Identifier: MIT */
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

int main(int argc, char **argv) {
    if (argc < 5) return fprintf(stderr, "usage: test_bundled MODEL GOLDEN DEVICE PRECISION\n"), 2;
    /* measured: 68 dB in f32 (half a step of 255), 51 and more in bf16 */
    double least = strcmp(argv[4], "f32") == 0 ? 55 : 40;
    safetensors *golden = NULL;
    imago *im = NULL;
    CHECK(safetensors_open(argv[2], &golden) == OK, "%s", error_message());
    const safetensor *t = golden ? safetensors_find(golden, "pictures") : NULL;
    CHECK(t && t->n_dims == 4 && t->dim[0] == (int64_t)ARRAY_LEN(calls) && t->dim[1] == 128,
          "%s: not the pictures of this test", argv[2]);
    imago_status st = imago_open(
        &IMAGO_OPEN(.model = argv[1], .device = argv[3], .precision = argv[4]), &im);
    if (st != IMAGO_OK && strcmp(argv[3], "vulkan") == 0 && st == IMAGO_E_UNSUPPORTED)
        return printf("skipped: %s\n", imago_error_message()), 77;
    CHECK(st == IMAGO_OK, "%s", imago_error_message());
    for (size_t i = 0; im && t && i < ARRAY_LEN(calls); i++) {
        imago_picture *pic = NULL;
        st = imago_generate(im,
                            &IMAGO_GENERATE(.prompt = calls[i].prompt, .plain_prompt = true,
                                            .sampler = "ddim", .steps = calls[i].steps,
                                            .guidance = calls[i].guidance, .seed = calls[i].seed),
                            &pic);
        CHECK(st == IMAGO_OK, "%s", imago_error_message());
        if (st != IMAGO_OK) break;
        CHECK(pic->width == 128 && pic->height == 128, "%d x %d", pic->width, pic->height);
        size_t n = (size_t)128 * 128 * 3;
        double p = psnr(pic->rgb, (const uint8_t *)t->data + n * i, n);
        CHECK(p >= least, "'%s' on %s %s: %.1f dB beside diffusers, expected %.0f",
              calls[i].prompt, argv[3], argv[4], p, least);
        printf("%-45s %.1f dB\n", calls[i].prompt, p);
        imago_free_pictures(pic, 1);
    }
    imago_close(im);
    safetensors_close(golden);
    return g_failures != 0;
}
