/* morph_run.h: what the tests of imago_morph share: the tiny models, two pictures, and memory that ends.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "engine/morph.h"
#include "test.h"
#include <string.h>

static const char *g_dir, *g_device;
static const char *const g_prompts[] = {"a red fox in the snow", "at the foot of it"};
static imago_picture g_picture[2];

static imago *open_model(const char *name) {
    char path[1024];
    imago *im = NULL;
    snprintf(path, sizeof path, "%s/pipelines/%s", g_dir, name);
    if (imago_open(&IMAGO_OPEN(.model = path, .device = g_device, .precision = "f32"), &im) != IMAGO_OK) printf("%s\n", imago_error_message());
    REQUIRE(im);
    return im;
}

/* Memory that ends somewhere in a morph of three frames of 48x64: a clean failure, and the model still works. */
static void morph_faults(imago *im, const imago_morph_params *p) {
    imago_picture *out = NULL, *want = NULL;
    int failures = 0;
    REQUIRE(imago_morph(im, p, &want) == IMAGO_OK);
    for (int64_t n = 1;; n += 1 + n / 6) {
        REQUIRE_OK(engine_forget_plans(im));
        fault_arm(n);
        imago_status st = imago_morph(im, p, &out);
        bool hit = fault_count() >= n;
        fault_arm(0);
        if (!hit) {
            REQUIRE(st == IMAGO_OK);
            break;
        }
        failures += st != IMAGO_OK;
        REQUIRE((st == IMAGO_OK) == (out != NULL)); /* a failure may be stepped around, as by decoding in tiles */
        imago_free_pictures(out, 3);
    }
    printf("faults       %d\n", failures);
    REQUIRE(failures > 20);
    for (int i = 0; i < 3; i++) REQUIRE(memcmp(out[i].rgb, want[i].rgb, 48 * 64 * 3) == 0);
    imago_free_pictures(out, 3);
    imago_free_pictures(want, 3);
}
