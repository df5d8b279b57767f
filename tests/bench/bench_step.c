/* bench_step.c: where the time of one sampling step goes, by class of op, and the decode: a checkpoint of any size.
 * usage: bench_step MODEL [device] [precision] [side_px] [steps]       Both halves of guidance, as `imago generate` runs it.
 * SPDX-License-Identifier: MIT */
#include "engine/engine.h"
#include "op/op.h"
#include "test.h"

typedef struct class_row { const char *name; const char *ops[12]; } class_row;
static const class_row classes[] = {
    {"convolutions", {"conv2d"}}, {"linear", {"matmul"}}, {"attention", {"attention"}},
    {"norms", {"group_norm", "layer_norm"}}, {"elementwise", {"binary", "unary", "geglu", "scale", "mix"}},
    {"movement", {"concat", "upsample", "cast", "slice", "transpose", "store"}}, {"other", {"time_embedding", "embedding", "zeros"}}};

static double class_ms(const plan *p, const class_row *c, double *work) {
    double total = 0;
    *work = 0;
    for (int i = 0; i < 12 && c->ops[i]; i++) {
        double ms = 0, w = 0, bytes = 0;
        if (plan_op_time(p, c->ops[i], &ms, &w, &bytes)) total += ms, *work += w;
    }
    return total;
}

static void table(const char *what, const plan *p, double s) {
    double known = 0, work;
    printf("%s: %.2f s, %.2f TFLOP, %.0f GFLOP/s, activations %.0f MB\n", what, s, plan_get_report(p)->work / 1e12, plan_get_report(p)->work / s / 1e9,
           (double)plan_get_report(p)->activation_bytes / 1e6);
    for (size_t i = 0; i < ARRAY_LEN(classes); i++) {
        double ms = class_ms(p, &classes[i], &work);
        known += ms;
        if (ms > 0) printf("  %-13s %8.1f ms  %5.1f %%  %7.0f GFLOP/s\n", classes[i].name, ms, ms / s / 10, work / ms / 1e6);
    }
    printf("  %-13s %8.1f ms\n", "outside", s * 1e3 - known);
}

int main(int argc, char **argv) {
    imago *im = NULL;
    plan *p = NULL;
    float *text = NULL;
    int entries, tokens, side = argc > 4 ? atoi(argv[4]) : 512, steps = argc > 5 ? atoi(argv[5]) : 3;
    if (argc < 2) return printf("usage: bench_step MODEL [device] [precision] [side_px] [steps]\n"), 2;
    double start = os_seconds();
    if (imago_open(&IMAGO_OPEN(.model = argv[1], .device = argc > 2 ? argv[2] : "auto", .precision = argc > 3 ? argv[3] : "auto"), &im) != IMAGO_OK)
        return printf("%s\n", imago_error_message()), 1;
    printf("%s\n", imago_describe_model(im));
    int cells = side / latent_factor(im);
    float *x = mem_zalloc(sizeof *x * (size_t)(cells * cells * im->ck->vae.latent_channels));
    noise_gen gen;
    noise_init(&gen, NOISE_CPU, DT_F32, 0);
    REQUIRE(x);
    REQUIRE_OK(latents_prepare(im, 1, cells, cells));
    REQUIRE_OK(text_features(im, &(text_params){.prompt = "a red fox", .negative = "", .want_negative = true}, &text, &entries, &tokens));
    REQUIRE_OK(text_keys(im, text, entries, tokens, 1));
    REQUIRE_OK(latent_noise(im, &gen, cells, cells, x));
    REQUIRE_OK(array_write(im->lat.x, x));
    denoise_shape s = {.guided = true};
    REQUIRE_OK(denoise_plan(im, &s, &p));
    printf("from nothing to the first step %.2f s\n", os_seconds() - start);
    sampler_call call = {.at = {981, 0.07, 0.9975}, .mix = {.x = 1}};
    denoise_inputs in = {.call = &call, .next = call.at, .guidance = 7};
    device_set_checks(im->dev, (device_checks){.profile = false});
    double best = 1e30;
    for (int i = 0; i < steps; i++) {
        start = os_seconds();
        REQUIRE_OK(denoise_run(im, p, &s, &in));
        double took = os_seconds() - start;
        printf("step %d: %.3f s\n", i, took);
        best = MIN(best, took);
    }
    printf("best step %.3f s\n", best);
    fflush(stdout);
    if (debug_get()->profile) { /* IMAGO_PROFILE=1: once more, timed node by node */
        device_set_checks(im->dev, (device_checks){.profile = true});
        start = os_seconds();
        REQUIRE_OK(denoise_run(im, p, &s, &in));
        table("step", p, os_seconds() - start);
        device_set_checks(im->dev, (device_checks){.profile = false});
    }
    for (int i = 0; i < 2; i++) {
        image out = {0};
        start = os_seconds();
        REQUIRE_OK(vae_decode_picture(im, x, cells, cells, false, &out));
        printf("decode %d: %.2f s%s\n", i, os_seconds() - start, i ? "" : " (with reading its weights)");
        image_free(&out);
    }
    imago_report r;
    imago_get_report(im, &r);
    printf("weights %.0f MB, compute %.0f MB, peak host memory %.0f MB\n", (double)r.weight_bytes / 1e6, (double)r.compute_bytes / 1e6, (double)os_peak_memory_bytes() / 1e6);
    mem_free(text);
    mem_free(x);
    imago_close(im);
    return 0;
}
