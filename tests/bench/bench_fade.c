/* bench_fade.c: what a morph has to be better than, made without a network: the cross-fade of pixels and of latents. Writes
 * OUT/fade/1 and OUT/lerp/1 (2, 3, ... for the next pairs) with 7 frames as imago morph names them, for imago eval morph.
 * usage: bench_fade MODEL OUT A B [A B ...]
 * SPDX-License-Identifier: MIT */
#include "engine/engine.h"
#include "test.h"
#include <stdio.h>
#include <stdlib.h>

static imago *im;
static int side;
enum { FRAMES = 7 };

static void save(const char *out, const char *kind, int id, int frame, const image *picture) {
    char dir[1000], path[1200];
    snprintf(dir, sizeof dir, "%s/%s/%d", out, kind, id);
    REQUIRE_OK(os_mkdir_p(dir));
    snprintf(path, sizeof path, "%s/frame-%04d.png", dir, frame + 1);
    REQUIRE_OK(image_save_png(path, picture, NULL, 0));
}

static void encode(const image *picture, float *z) {
    size_t n = (size_t)side * (size_t)side * 3;
    float *px = mem_alloc(n * sizeof *px);
    REQUIRE(px);
    for (size_t i = 0; i < n; i++) px[i] = image_unit(picture->px[i]);
    REQUIRE_OK(vae_encode_pixels(im, px, side, side, NULL, z));
    mem_free(px);
}

static void fade(const char *out, int id, char **path) {
    image whole, end[2] = {0}, mixed = {0};
    int cells = side / latent_factor(im);
    size_t n = (size_t)cells * (size_t)cells * (size_t)im->ck->vae.latent_channels;
    float *z = mem_alloc(3 * n * sizeof *z);
    REQUIRE(z);
    for (int e = 0; e < 2; e++) {
        REQUIRE_OK(image_load(path[e], &whole));
        REQUIRE_OK(image_flatten(&whole, (const uint8_t[]){255, 255, 255}));
        REQUIRE_OK(image_fit_to(&whole, side, side, FIT_CROP, (const uint8_t[]){255, 255, 255}, &end[e]));
        image_free(&whole);
        encode(&end[e], z + (size_t)e * n);
    }
    REQUIRE_OK(image_create(side, side, 3, &mixed));
    for (int f = 0; f < FRAMES; f++) {
        double w = (double)f / (FRAMES - 1);
        for (int i = 0; i < side * side * 3; i++) mixed.px[i] = (uint8_t)(0.5 + (1 - w) * end[0].px[i] + w * end[1].px[i]);
        save(out, "fade", id, f, &mixed);
        image lerp = {0};
        for (size_t i = 0; i < n; i++) z[2 * n + i] = (float)((1 - w) * (double)z[i] + w * (double)z[n + i]);
        REQUIRE_OK(vae_decode_picture(im, z + 2 * n, cells, cells, false, &lerp));
        save(out, "lerp", id, f, f == 0 ? &end[0] : f == FRAMES - 1 ? &end[1] : &lerp); /* as every method: the ends are the pictures */
        image_free(&lerp);
    }
    image_free(&mixed);
    image_free(&end[0]);
    image_free(&end[1]);
    mem_free(z);
}

int main(int argc, char **argv) {
    if (argc < 5 || argc % 2 == 0) return printf("usage: bench_fade MODEL OUT A B [A B ...]\n"), 2;
    if (imago_open(&IMAGO_OPEN(.model = argv[1], .device = "cpu"), &im) != IMAGO_OK) return printf("%s\n", imago_error_message()), 1;
    side = latent_side_px(im);
    for (int i = 3; i < argc; i += 2) fade(argv[2], i / 2, argv + i);
    imago_close(im);
    return 0;
}
