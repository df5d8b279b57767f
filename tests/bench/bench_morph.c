/* bench_morph.c: what a morph costs on a checkpoint of any size, without running it: work of every kind of step, of the whole (up to 7
 * frames), and memory, by the methods freemorph and imago; with `time`, one call of every kind of the latter is run as well.
 * FreeMorph as released does 2.33 PMAC = 4.66 PFLOP of convolutions, matrix products and attention for 7 frames of SD 2.1 at 768 px.
 * usage: bench_morph MODEL [device] [precision] [side_px] [frames] [time]
 * SPDX-License-Identifier: MIT */
#include "engine/morph.h"
#include "op/op.h"
#include "test.h"

typedef struct kind { const char *name; morph_shape shape; float guidance; int calls; } kind;

/* 50 steps, 40 run, 5 iterations each; the first of either way is idle */
static const kind freemorph[] = {
    {"up plain", {MORPH_PLAIN, MORPH_ALL, true, false}, 1, 16 * 5}, {"up mean", {MORPH_MEAN, MORPH_ALL, true, false}, 1, 14 * 5},
    {"up ends", {MORPH_ENDS, MORPH_ALL, true, false}, 1, 9 * 5}, {"down blend", {MORPH_BLEND, MORPH_ALL, false, false}, 7.5f, 8},
    {"down fused", {MORPH_FUSED, MORPH_ALL, false, false}, 7.5f, 16}, {"down plain", {MORPH_PLAIN, MORPH_INNER, false, false}, 7.5f, 15}};
/* Two coarse runs of 4 steps and one of 8; at most 5 iterations of 8 steps up, of the ends alone. Of 4 coarse steps 1 is blend, 1 fused. */
static const kind imago_kinds[] = {
    {"up plain", {MORPH_PLAIN, MORPH_OUTER, true, false}, 1, 8 * 5}, {"down blend", {MORPH_BLEND, MORPH_ALL, false, true}, 2, 2 * 1 + 1},
    {"down fused", {MORPH_FUSED, MORPH_ALL, false, true}, 2, 2 * 1 + 3}, {"down plain", {MORPH_PLAIN, MORPH_ALL, false, true}, 2, 2 * 2 + 4}};

static void count(imago *im, const char *method, const kind *kinds, size_t n, bool time) {
    double total = 0, seconds = 0;
    for (size_t i = 0; i < n; i++) {
        plan *p = NULL;
        double start = os_seconds();
        REQUIRE_OK(morph_compile(im, &kinds[i].shape, kinds[i].guidance != 1, &p));
        const plan_report *r = plan_get_report(p);
        total += r->work * kinds[i].calls;
        printf("%-9s %-11s %4d calls of %8.2f TFLOP   activations %6.0f MB (%s)   compiled in %.1f s\n", method, kinds[i].name, kinds[i].calls,
               r->work / 1e12, (double)r->activation_bytes / 1e6, r->peak, os_seconds() - start);
        fflush(stdout);
        if (!time) continue;
        double one = 0;
        for (int k = 0; k < 2; k++) { /* the first of all also packs the weights */
            start = os_seconds();
            REQUIRE_OK(plan_run(p, NULL, NULL));
            one = os_seconds() - start;
            if (i > 0) break;
        }
        seconds += one * kinds[i].calls;
        printf("%-9s %-11s one call %.1f s, %.3f TFLOP/s\n", method, kinds[i].name, one, r->work / one / 1e12);
        fflush(stdout);
    }
    printf("%-9s one morph: %.3f PFLOP", method, total / 1e15);
    if (time) printf(", %.0f s of denoiser", seconds);
    printf("\n");
}

int main(int argc, char **argv) {
    imago *im = NULL;
    float *text = NULL;
    int entries, tokens, side = argc > 4 ? atoi(argv[4]) : 768, frames = argc > 5 ? atoi(argv[5]) : 7;
    if (argc < 2) return printf("usage: bench_morph MODEL [device] [precision] [side_px] [frames] [time]\n"), 2;
    if (imago_open(&IMAGO_OPEN(.model = argv[1], .device = argc > 2 ? argv[2] : "auto", .precision = argc > 3 ? argv[3] : "auto"), &im) != IMAGO_OK)
        return printf("%s\n", imago_error_message()), 1;
    printf("%s\n", imago_describe_model(im));
    int cells = side / latent_factor(im);
    REQUIRE_OK(latents_prepare(im, frames, cells, cells));
    REQUIRE_OK(text_features(im, &(text_params){.prompt = "", .plain = true}, &text, &entries, &tokens));
    float *all = mem_alloc(sizeof *all * (size_t)(1 + frames) * (size_t)tokens * (size_t)im->ck->text.hidden_size);
    REQUIRE(all);
    for (int i = 0; i <= frames; i++) memcpy(all + (size_t)i * (size_t)tokens * (size_t)im->ck->text.hidden_size, text, sizeof *all * (size_t)tokens * (size_t)im->ck->text.hidden_size);
    REQUIRE_OK(text_keys(im, all, 1 + frames, tokens, 1));
    count(im, "freemorph", freemorph, ARRAY_LEN(freemorph), false);
    count(im, "imago", imago_kinds, ARRAY_LEN(imago_kinds), argc > 6 && strcmp(argv[6], "time") == 0);
    imago_report r;
    imago_get_report(im, &r);
    printf("weights %.0f MB, compute %.0f MB, peak host memory %.0f MB\n", (double)r.weight_bytes / 1e6, (double)r.compute_bytes / 1e6,
           (double)os_peak_memory_bytes() / 1e6);
    mem_free(text);
    mem_free(all);
    imago_close(im);
    return 0;
}
