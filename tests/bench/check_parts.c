/* check_parts.c: the parts of a checkpoint, one run each, against golden.safetensors of tests/golden/make_fullsize.py. For models too
 * large for ctest.   usage: check_parts MODEL GOLDEN [device] [precision]
 * SPDX-License-Identifier: MIT */
#include "engine/engine.h"
#include "file/file.h"
#include "op/op.h"
#include "test.h"
#include <math.h>

static const safetensor *want(const safetensors *f, const char *name) {
    const safetensor *t = safetensors_find(f, name);
    REQUIRE(t);
    return t;
}

static float *values(const safetensors *f, const char *name) {
    const safetensor *t = want(f, name);
    float *v = mem_alloc((size_t)safetensor_count(t) * sizeof *v);
    REQUIRE(v);
    safetensor_read_f32(t, v);
    return v;
}

static void compare(const safetensors *f, const char *name, plan *p) {
    const safetensor *t = want(f, name);
    char bf16[64];
    int64_t n = safetensor_count(t);
    float *a = values(f, name), *b = mem_alloc((size_t)n * sizeof *b);
    double start = os_seconds();
    REQUIRE_OK(plan_run(p, NULL, NULL));
    double first = os_seconds() - start;
    start = os_seconds();
    REQUIRE_OK(plan_run(p, NULL, NULL));
    double s = os_seconds() - start, diff = 0, norm = 0;
    REQUIRE_OK(plan_read(p, "y", b));
    for (int64_t i = 0; i < n; i++) {
        diff += (double)(a[i] - b[i]) * (double)(a[i] - b[i]);
        norm += (double)a[i] * (double)a[i];
    }
    snprintf(bf16, sizeof bf16, "%s.bf16_error", name);
    printf("%-11s relative error %.3g (PyTorch's own in bf16: %.3g), first run %.2f s, second %.2f s, %.2f TFLOP, activations %.0f MB\n", name, sqrt(diff / norm),
           safetensor_load(want(f, bf16), 0), first, s, plan_get_report(p)->work / 1e12, (double)plan_get_report(p)->activation_bytes / 1e6);
    mem_free(a);
    mem_free(b);
    plan_destroy(p);
}

static tensor *input(graph *g, const safetensors *f, const char *name, dtype t) {
    const safetensor *s = want(f, name);
    shape sh = {s->n_dims, {0}};
    for (int i = 0; i < s->n_dims; i++) sh.d[i] = s->dim[i];
    return graph_input(g, name, t, sh);
}

static plan *compile(graph *g, tensor *y, const safetensors *f, const char *const *inputs) {
    plan *p = NULL;
    graph_output(g, op_cast(g, y, DT_F32), "y");
    REQUIRE_OK(graph_compile(g, NULL, &p));
    for (int i = 0; inputs[i]; i++) {
        if (strcmp(inputs[i], "ids") == 0) {
            REQUIRE_OK(plan_write(p, "ids", want(f, "ids")->data));
            continue;
        }
        float *v = values(f, inputs[i]);
        REQUIRE_OK(plan_write(p, inputs[i], v));
        mem_free(v);
    }
    return p;
}

int main(int argc, char **argv) {
    imago *im = NULL;
    safetensors *f = NULL;
    if (argc < 3) return printf("usage: check_parts MODEL GOLDEN [device] [precision]\n"), 2;
    REQUIRE_OK(safetensors_open(argv[2], &f));
    if (imago_open(&IMAGO_OPEN(.model = argv[1], .device = argc > 3 ? argv[3] : "cpu", .precision = argc > 4 ? argv[4] : "f32"), &im) != IMAGO_OK)
        return printf("%s\n", imago_error_message()), 1;
    printf("%s\n", imago_describe_model(im));
    nn text = {graph_create(im->dev), &im->part[PART_TEXT], NULL};
    compare(f, "text", compile(text.g, text_encode(&text, &im->ck->text, input(text.g, f, "ids", DT_U32), NULL, 0), f, (const char *[]){"ids", NULL}));
    nn unet = {graph_create(im->dev), &im->part[PART_UNET], NULL};
    unet_text context = {.context = op_cast(unet.g, input(unet.g, f, "context", DT_F32), im->type)};
    tensor *x = op_cast(unet.g, input(unet.g, f, "x", DT_F32), im->type), *t = input(unet.g, f, "t", DT_F32);
    compare(f, "unet", compile(unet.g, unet_denoise(&unet, &im->ck->unet, x, t, &context, NULL), f, (const char *[]){"x", "t", "context", NULL}));
    nn enc = {graph_create(im->dev), &im->part[PART_VAE], NULL};
    tensor *image = op_cast(enc.g, input(enc.g, f, "image", DT_F32), im->type);
    compare(f, "vae_encode", compile(enc.g, vae_encode(&enc, &im->ck->vae, image), f, (const char *[]){"image", NULL}));
    nn dec = {graph_create(im->dev), &im->part[PART_VAE], NULL};
    tensor *latent = op_cast(dec.g, input(dec.g, f, "latent", DT_F32), im->type);
    compare(f, "vae_decode", compile(dec.g, vae_decode(&dec, &im->ck->vae, latent), f, (const char *[]){"latent", NULL}));
    printf("peak host memory %.0f MB\n", (double)os_peak_memory_bytes() / 1e6);
    safetensors_close(f);
    imago_close(im);
    return 0;
}
