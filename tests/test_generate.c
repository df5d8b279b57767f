/* test_generate.c: whole pipelines of imago_generate against diffusers: latents and pictures for every sampler, guidance
 * rescale, batches, image to image, inpainting with 4- and 9-channel networks; cancelling; wrong wishes.
 * usage: test_generate GOLDEN_DIR DEVICE PRECISION     Golden: tests/golden/make_pipelines.py
 * SPDX-License-Identifier: MIT */
#include "engine/engine.h"
#include "file/file.h"
#include "test.h"
#include <math.h>
#include <unistd.h>

static const char *g_dir, *g_device, *g_precision;
static int g_calls;
static imago_picture g_init, g_mask;

static imago *open_model(const char *name) {
    char path[1024];
    imago *im = NULL;
    snprintf(path, sizeof path, "%s/pipelines/%s", g_dir, name);
    if (imago_open(&IMAGO_OPEN(.model = path, .device = g_device, .precision = g_precision), &im) != IMAGO_OK)
        printf("%s\n", imago_error_message());
    REQUIRE(im);
    return im;
}

/* Relative difference of the final latents, and of the pictures in dB. */
static void compare(imago *im, const safetensors *f, const char *name, const imago_picture *pics, int n, double tol) {
    char key[128];
    snprintf(key, sizeof key, "%s.latent", name);
    const safetensor *z = safetensors_find(f, key);
    snprintf(key, sizeof key, "%s.image", name);
    const safetensor *px = safetensors_find(f, key);
    REQUIRE(z && px);
    int64_t count = safetensor_count(z), pixels = safetensor_count(px) / n;
    float *x = mem_alloc((size_t)count * sizeof *x);
    REQUIRE_EQ(array_count(im->lat.x), count);
    REQUIRE_OK(array_read(im->lat.x, x));
    double diff = 0, norm = 0, square = 0;
    for (int64_t i = 0; i < count; i++) {
        double v = safetensor_load(z, i);
        diff += ((double)x[i] - v) * ((double)x[i] - v);
        norm += v * v;
    }
    for (int i = 0; i < n; i++) {
        REQUIRE_EQ((int64_t)pics[i].width * pics[i].height * 3, pixels);
        for (int64_t k = 0; k < pixels; k++) {
            double d = (double)pics[i].rgb[k] - safetensor_load(px, i * pixels + k);
            square += d * d;
        }
    }
    double rel = sqrt(diff / norm), psnr = 10 * log10(255.0 * 255.0 * (double)(n * pixels) / (square + 1e-9));
    bool ok = rel <= tol && psnr >= (tol < 0.01 ? 45 : 25);
    printf("%-24s latent %.2e  picture %.1f dB%s\n", name, rel, psnr, ok ? "" : "   FAIL");
    g_failures += !ok;
    mem_free(x);
}

static void run(imago *im, const safetensors *f, const char *name, imago_generate_params p, double tol) {
    imago_picture *pics = NULL;
    p.prompt = "a red fox in the snow", p.negative = "a cat", p.steps = 10, p.width = 48, p.height = 64, p.seed = 7;
    if (p.guidance == 0) p.guidance = 5;
    if (!p.sampler) p.sampler = "ddim";
    p.plain_prompt = true;
    if (imago_generate(im, &p, &pics) != IMAGO_OK) {
        printf("%s: %s\n%s", name, imago_error_message(), error_backtrace());
        exit(1);
    }
    int n = p.batch ? p.batch : 1;
    compare(im, f, name, pics, n, tol);
    imago_free_pictures(pics, n);
}

static void samplers(const safetensors *f, double tol) {
    static const char *const all[] = {"ddim", "euler", "euler_a", "heun", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "lcm"};
    imago *im = open_model("sd1");
    char name[64];
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        snprintf(name, sizeof name, "sd1.%s", all[i]);
        run(im, f, name, IMAGO_GENERATE(.sampler = all[i]), tol);
    }
    run(im, f, "sd1.dpmpp_2m_karras", IMAGO_GENERATE(.sampler = "DPM++ 2M Karras"), tol);
    run(im, f, "sd1.batch", IMAGO_GENERATE(.batch = 2), tol);
    run(im, f, "sd1.eta", (imago_generate_params){.eta = 0.5f}, tol);
    run(im, f, "sd1.unguided", IMAGO_GENERATE(.guidance = 1), tol);
    imago_close(im);
}

static void pictures(const safetensors *f, double tol) {
    imago *im = open_model("sd1");
    run(im, f, "sd1.img2img", IMAGO_GENERATE(.init = &g_init, .strength = 0.6f), tol);
    run(im, f, "sd1.inpaint", IMAGO_GENERATE(.init = &g_init, .mask = &g_mask, .strength = 1), tol);
    run(im, f, "sd1.inpaint_part", IMAGO_GENERATE(.init = &g_init, .mask = &g_mask, .strength = 0.7f), tol);
    imago_close(im);
    im = open_model("inpaint");
    run(im, f, "inpaint.full", IMAGO_GENERATE(.init = &g_init, .mask = &g_mask, .strength = 1), tol);
    imago_close(im);
    im = open_model("sd2");
    run(im, f, "sd2.ddim", IMAGO_GENERATE(.sampler = "ddim"), tol);
    run(im, f, "sd2.rescale", IMAGO_GENERATE(.guidance_rescale = 0.7f), tol);
    imago_close(im);
}

/* An embedding that holds the row of a word stands for that word. */
static void embeddings(void) {
    imago *im = open_model("sd1"), *with = NULL;
    imago_picture *a = NULL, *b = NULL;
    arena mem = {0};
    uint32_t *ids = NULL;
    int n = 0, hidden = im->ck->text.hidden_size;
    static const char table[] = "text_model.embeddings.token_embedding.weight";
    char path[] = "test_embedding.XXXXXX", spec[64], model[1024];
    int64_t count = (int64_t)im->ck->text.vocab_size * hidden;
    float *rows = mem_alloc(sizeof *rows * (size_t)count);
    REQUIRE(rows && mkdtemp(path));
    REQUIRE_OK(params_get(&im->part[PART_TEXT], table, rows, count));
    REQUIRE_OK(tokenizer_encode(im->tok, "fox", 3, &mem, &ids, &n));
    REQUIRE_EQ(n, 1);
    snprintf(spec, sizeof spec, "%s/reynard.safetensors", path);
    safetensor t = {.name = "emb_params", .dtype = DT_F32, .n_dims = 2, .dim = {1, hidden}, .data = rows + (size_t)ids[0] * (size_t)hidden};
    REQUIRE_OK(safetensors_write(spec, &t, 1, NULL, 0));
    snprintf(model, sizeof model, "%s/pipelines/sd1", g_dir);
    REQUIRE(imago_open(&IMAGO_OPEN(.model = model, .device = g_device, .precision = g_precision, .embeddings = (const char *[]){spec}, .n_embeddings = 1), &with) == IMAGO_OK);
    REQUIRE(imago_generate(im, &IMAGO_GENERATE(.prompt = "a red fox", .width = 48, .height = 64, .steps = 2), &a) == IMAGO_OK);
    REQUIRE(imago_generate(with, &IMAGO_GENERATE(.prompt = "a red reynard", .width = 48, .height = 64, .steps = 2), &b) == IMAGO_OK);
    REQUIRE(memcmp(a->rgb, b->rgb, 48 * 64 * 3) == 0);
    imago_free_pictures(b, 1);
    REQUIRE(imago_generate(im, &IMAGO_GENERATE(.prompt = "a red reynard", .width = 48, .height = 64, .steps = 2), &b) == IMAGO_OK);
    REQUIRE(memcmp(a->rgb, b->rgb, 48 * 64 * 3) != 0);
    remove(spec);
    rmdir(path);
    imago_free_pictures(a, 1);
    imago_free_pictures(b, 1);
    imago_close(im);
    imago_close(with);
    mem_free(rows);
    arena_fini(&mem);
}

static void set_zero(imago *im, const char *name) {
    const param *p = params_find(&im->part[PART_UNET], name);
    REQUIRE(p);
    float *v = mem_zalloc(sizeof *v * (size_t)shape_count(&p->s));
    REQUIRE(v);
    REQUIRE_OK(params_set(&im->part[PART_UNET], name, v, shape_count(&p->s)));
    mem_free(v);
}

/* weight[o, first + o] = 1 at the centre, else 0. */
static void set_identity(imago *im, const char *name, int64_t first) {
    const param *p = params_find(&im->part[PART_UNET], name);
    REQUIRE(p && p->s.n == 4);
    int64_t taps = p->s.d[2] * p->s.d[3];
    float *v = mem_zalloc(sizeof *v * (size_t)shape_count(&p->s));
    REQUIRE(v);
    for (int64_t o = 0; o < p->s.d[0] && first + o < p->s.d[1]; o++) v[(o * p->s.d[1] + first + o) * taps + taps / 2] = 1;
    REQUIRE_OK(params_set(&im->part[PART_UNET], name, v, shape_count(&p->s)));
    mem_free(v);
}

/* Where no file says it, the network is asked: one that gives back its input predicts the noise, another v. */
static void probing(void) {
    imago *im = open_model("sd1");
    REQUIRE_OK(denoise_find_prediction(im));
    REQUIRE(im->ck->schedule.prediction_type == PREDICTION_V && im->ck->prediction_known);
    imago_close(im);
    im = open_model("sd1");
    set_identity(im, "conv_in.weight", 0);
    set_zero(im, "conv_in.bias");
    set_identity(im, "up_blocks.1.resnets.1.conv_shortcut.weight", 8); /* of (upward stream, skip) the skip, which is conv_in's */
    set_zero(im, "up_blocks.1.resnets.1.conv_shortcut.bias");
    set_zero(im, "up_blocks.1.resnets.1.conv2.weight");
    set_zero(im, "up_blocks.1.resnets.1.conv2.bias");
    set_zero(im, "up_blocks.1.attentions.1.proj_out.weight");
    set_zero(im, "up_blocks.1.attentions.1.proj_out.bias");
    set_identity(im, "conv_out.weight", 0);
    REQUIRE_OK(denoise_find_prediction(im));
    REQUIRE(im->ck->schedule.prediction_type == PREDICTION_EPSILON);
    imago_close(im);
}

/* LoRA files fold into the weights as they are fetched: W + sum of strength * alpha / rank * up down. */
static void adapters(void) {
    enum { D = 16, R = 2 };
    imago *im = open_model("sd1"), *with = NULL;
    static const char layer[] = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q";
    char path[] = "test_adapter.XXXXXX", file[64], twice[80], once[80], name[200], up_name[200], model[1024];
    float up[D * R], down[R * D], base[D * D], folded[D * D];
    REQUIRE(mkdtemp(path));
    for (int i = 0; i < D * R; i++) up[i] = 0.1f * (float)(i % 7 - 3), down[i] = 0.2f * (float)(i % 5 - 2);
    snprintf(name, sizeof name, "unet.%s.lora_A.weight", layer);
    snprintf(up_name, sizeof up_name, "unet.%s.lora_B.weight", layer);
    safetensor t[2] = {{.name = name, .dtype = DT_F32, .n_dims = 2, .dim = {R, D}, .data = down}, {.name = up_name, .dtype = DT_F32, .n_dims = 2, .dim = {D, R}, .data = up}};
    snprintf(file, sizeof file, "%s/q.safetensors", path);
    REQUIRE_OK(safetensors_write(file, t, 2, NULL, 0));
    snprintf(once, sizeof once, "%s:0.5", file);
    snprintf(twice, sizeof twice, "%s:-0.25", file);
    snprintf(model, sizeof model, "%s/pipelines/sd1", g_dir);
    snprintf(name, sizeof name, "%s.weight", layer);
    REQUIRE_OK(params_get(&im->part[PART_UNET], name, base, D * D));
    if (imago_open(&IMAGO_OPEN(.model = model, .device = g_device, .precision = g_precision, .adapters = (const char *[]){once, twice}, .n_adapters = 2), &with) != IMAGO_OK)
        printf("%s\n", imago_error_message());
    REQUIRE(with);
    REQUIRE_OK(params_get(&with->part[PART_UNET], name, folded, D * D));
    for (int o = 0; o < D; o++)
        for (int i = 0; i < D; i++) {
            double add = 0;
            for (int r = 0; r < R; r++) add += (double)up[o * R + r] * (double)down[r * D + i];
            REQUIRE(fabs((double)folded[o * D + i] - (double)base[o * D + i] - 0.25 * add) < 1e-6);
        }
    imago_close(with);
    with = NULL;
    REQUIRE(imago_open(&IMAGO_OPEN(.model = model, .device = g_device, .adapters = (const char *[]){model}, .n_adapters = 1), &with) != IMAGO_OK && !with);
    remove(file);
    rmdir(path);
    imago_close(im);
}

/* A picture decoded in tiles is nearly the one decoded whole. */
static void tiles(void) {
    imago *im = open_model("sd1");
    imago_picture *a = NULL, *b = NULL;
    imago_generate_params p = IMAGO_GENERATE(.prompt = "fox", .width = 528, .height = 520, .steps = 1);
    REQUIRE(imago_generate(im, &p, &a) == IMAGO_OK);
    p.tile = true;
    REQUIRE(imago_generate(im, &p, &b) == IMAGO_OK);
    double square = 0, n = 528 * 520 * 3;
    for (int i = 0; i < 528 * 520 * 3; i++) square += ((double)a->rgb[i] - b->rgb[i]) * ((double)a->rgb[i] - b->rgb[i]);
    printf("tiles                    %.1f dB\n", 10 * log10(255 * 255 * n / (square + 1e-9)));
    REQUIRE(square > 0 && 10 * log10(255 * 255 * n / square) > 25);
    imago_free_pictures(a, 1);
    imago_free_pictures(b, 1);
    imago_close(im);
}

static bool stop_soon(void *ctx) { (void)ctx; return ++g_calls > 3; }

static void refusals(void) {
    imago *im = open_model("sd1"), *other = NULL;
    imago_picture *pics = NULL;
    static const struct { imago_generate_params p; const char *says; } wrong[] = {
        {{.width = 60, .height = 64}, "multiples of 8"}, {{.steps = -1}, "steps -1"}, {{.sampler = "best"}, "'best'"}, {{.schedule = "odd"}, "'odd'"},
        {{.batch = 1000}, "batch 1000"}, {{.guidance = -1}, "guidance"}, {{.strength = 2}, "strength"}, {{.rng = "dice"}, "'dice'"},
        {{.rng_dtype = "f8"}, "'f8'"}, {{.clip_skip = 9}, "clip skip 9"}, {{.mask = &g_mask}, "init picture"}};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        imago_status st = imago_generate(im, &wrong[i].p, &pics);
        REQUIRE(st == IMAGO_E_USAGE && !pics);
        if (!strstr(imago_error_message(), wrong[i].says)) printf("'%s' does not say '%s'\n", imago_error_message(), wrong[i].says);
        REQUIRE(strstr(imago_error_message(), wrong[i].says));
    }
    imago_close(im);
    REQUIRE(imago_open(&IMAGO_OPEN(.model = "/nowhere/model", .device = g_device), &other) == IMAGO_E_IO && !other);
    REQUIRE(imago_open(&IMAGO_OPEN(.model = NULL), &other) == IMAGO_E_USAGE && !other);
}

static void cancelling(void) {
    char path[1024];
    imago *im = NULL;
    imago_picture *pics = NULL;
    snprintf(path, sizeof path, "%s/pipelines/sd1", g_dir);
    g_calls = 0;
    REQUIRE(imago_open(&IMAGO_OPEN(.model = path, .device = g_device, .cancelled = stop_soon), &im) == IMAGO_OK);
    REQUIRE(imago_generate(im, &IMAGO_GENERATE(.prompt = "x", .width = 64, .height = 64), &pics) == IMAGO_E_CANCELLED && !pics);
    imago_close(im);
}

int main(int argc, char **argv) {
    safetensors *f = NULL;
    char path[1024];
    if (argc != 4) return printf("usage: test_generate GOLDEN_DIR DEVICE PRECISION\n"), 2;
    g_dir = argv[1], g_device = argv[2], g_precision = argv[3];
    device *d = NULL;
    if (device_open(&(op_table){0}, &(device_params){.name = g_device}, &d) != OK) return printf("skipped: %s\n", error_message()), 77;
    device_close(d);
    int64_t live = mem_live();
    bool exact = strcmp(g_precision, "f32") == 0;
    double tol = exact ? 1e-3 : 0.1; /* half precision: ten steps of a network of random weights */
    snprintf(path, sizeof path, "%s/pipelines.safetensors", g_dir);
    REQUIRE_OK(safetensors_open(path, &f));
    snprintf(path, sizeof path, "%s/pipelines/init.png", g_dir);
    REQUIRE(imago_load_picture(path, &g_init) == IMAGO_OK);
    snprintf(path, sizeof path, "%s/pipelines/mask.png", g_dir);
    REQUIRE(imago_load_picture(path, &g_mask) == IMAGO_OK);
    samplers(f, tol);
    pictures(f, tol);
    if (exact) probing();
    if (exact) embeddings();
    if (exact) adapters();
    if (exact && strcmp(g_device, "cpu") == 0) tiles();
    if (exact) refusals();
    if (exact) cancelling();
    imago_clear_picture(&g_init);
    imago_clear_picture(&g_mask);
    safetensors_close(f);
    REQUIRE_EQ(mem_live(), live);
    printf("%s\n", g_failures ? "FAILED" : "passed");
    return g_failures != 0;
}
