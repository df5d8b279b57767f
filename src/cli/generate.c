/* generate.c: imago generate: prompts to PNG files.
 * SPDX-License-Identifier: MIT */
#include "cli/generate.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const stage_names[IMAGO_STAGE_COUNT] = {"loading", "reading text", "encoding", "sampling", "decoding"};

static void show_progress(void *ctx, const imago_progress *p) {
    generate_job *j = ctx;
    if (j->json) {
        printf("{\"event\":\"progress\",\"stage\":\"%s\",\"step\":%d,\"steps\":%d,\"seconds\":%.3f}\n", stage_names[p->stage], p->step, p->steps, p->stage_seconds);
        fflush(stdout);
    } else if (p->stage == IMAGO_SAMPLING) {
        if (p->step == 0) progress_begin(&j->bar, "sampling", p->steps);
        progress_step(&j->bar, p->step, NULL);
        if (p->step == p->steps) progress_end(&j->bar);
    }
}

static bool write_preview(void *ctx, int step, const imago_picture *x0) {
    generate_job *j = ctx;
    (void)step;
    return imago_save_picture(x0, j->preview_path) == IMAGO_OK && !os_cancelled();
}

static status load_pictures(generate_job *j) {
    if (j->init_path && imago_load_picture(j->init_path, &j->init) != IMAGO_OK) return fail(E_IO, "%s", error_message());
    if (j->mask_path && imago_load_picture(j->mask_path, &j->mask) != IMAGO_OK) return fail(E_IO, "%s", error_message());
    j->p.init = j->init_path ? &j->init : NULL;
    j->p.mask = j->mask_path ? &j->mask : NULL;
    return OK;
}

static void print_json_string(const char *s) {
    cJSON *o = cJSON_CreateString(s);
    char *text = o ? cJSON_PrintUnformatted(o) : NULL;
    fputs(text ? text : "\"\"", stdout);
    cJSON_free(text);
    cJSON_Delete(o);
}

static status save(generate_job *j, const imago_picture *pic, int number) {
    char path[1200];
    output_path(j, number, path);
    if (imago_save_picture(pic, path) != IMAGO_OK) return fail(E_IO, "%s", error_message());
    if (!j->json) return printf("%s  seed %llu\n", path, (unsigned long long)pic->seed), OK;
    printf("{\"event\":\"picture\",\"path\":");
    print_json_string(path);
    printf(",\"seed\":\"%llu\",\"width\":%d,\"height\":%d}\n", (unsigned long long)pic->seed, pic->width, pic->height);
    return OK;
}

/* Picture `number` of `total`, all of one size, into a sheet about as wide as high. */
static status add_to_sheet(generate_job *j, const imago_picture *pic, int number, int total) {
    status st = OK;
    int columns = (int)ceil(sqrt(total));
    if (!j->sheet.px) TRY(image_sheet(total, columns, pic->width, pic->height, &j->sheet));
    image_sheet_put(&j->sheet, columns, number, pic->width, pic->height, pic->rgb);
out:
    return st;
}

static void print_report(const generate_job *j) {
    imago_report r;
    imago_get_report(j->im, &r);
    double peak = (double)os_peak_memory_bytes() / 1e6;
    if (j->json)
        printf("{\"event\":\"done\",\"load_s\":%.3f,\"text_s\":%.3f,\"encode_s\":%.3f,\"seconds_per_step\":%.4f,\"steps\":%d,\"evaluations\":%d,\"decode_s\":%.3f,"
               "\"weights_mb\":%.1f,\"compute_mb\":%.1f,\"peak_host_mb\":%.1f}\n", r.load_s, r.text_s, r.encode_s, r.seconds_per_step, r.steps, r.evaluations, r.decode_s,
               (double)r.weight_bytes / 1e6, (double)r.compute_bytes / 1e6, peak);
    else
        fprintf(stderr, "load %.1f s, text %.2f s, %d steps of %.2f s, decode %.2f s; weights %.0f MB, compute %.0f MB, peak host memory %.0f MB\n",
                r.load_s, r.text_s, r.steps, r.seconds_per_step, r.decode_s, (double)r.weight_bytes / 1e6, (double)r.compute_bytes / 1e6, peak);
}

static status run(generate_job *j) {
    status st = OK;
    int batch = j->p.batch > 0 ? j->p.batch : 1;
    TRY(check_outputs(j, batch));
    TRY(load_pictures(j));
    imago_open_params o = j->open;
    o.progress = show_progress;
    o.cancelled = cli_cancelled;
    o.ctx = j;
    st = (status)imago_open(&o, &j->im);
    if (st != OK) return st;
    if (!j->json) fprintf(stderr, "%s\n", imago_describe_model(j->im));
    for (int i = 0; i < j->n_prompts; i++) {
        imago_picture *pics = NULL;
        j->p.prompt = j->prompt[i];
        st = (status)imago_generate(j->im, &j->p, &pics);
        for (int b = 0; st == OK && b < batch; b++) {
            st = save(j, &pics[b], i * batch + b);
            if (st == OK && j->sheet_path) st = add_to_sheet(j, &pics[b], i * batch + b, j->n_prompts * batch);
        }
        imago_free_pictures(pics, batch);
        if (st != OK) goto out;
    }
    if (j->sheet_path) TRY(image_save_png(j->sheet_path, &j->sheet, NULL, 0));
    print_report(j);
out:
    return st;
}

int cmd_generate(int argc, char **argv) {
    static const command self = {"generate", "Makes pictures from a prompt, or from a picture and a prompt.", NULL};
    generate_job j = {.p = IMAGO_GENERATE(.batch = 1), .output = NULL};
    string_list embeddings = {0}, adapters = {0};
    const char *size = NULL, *seed = NULL, *prompt = NULL;
    int width = 0, height = 0;
    bool help = false, preview = false;
    const option options[] = {
        {"model", OPT_STRING, &j.open.model, "diffusers folder, .safetensors or .gguf (the bundled one)", "m"},
        {"prompt", OPT_STRING, &prompt, "text; @FILE: a prompt a line; -: the same from stdin", "p"},
        {"output", OPT_STRING, &j.output, "PNG to write; %d is the number (imago-%04d.png, first free)", "o"},
        {"sheet", OPT_STRING, &j.sheet_path, "PNG with all pictures of the run side by side, beside the single ones", NULL},
        {"negative", OPT_STRING, &j.p.negative, "what should not be seen", "n negative-prompt"},
        {"steps", OPT_INT, &j.p.steps, "sampling steps (20)", "num-inference-steps"},
        {"cfg", OPT_FLOAT, &j.p.guidance, "guidance scale (7); 1 or 0 = none", "cfg-scale guidance-scale"},
        {"cfg-rescale", OPT_FLOAT, &j.p.guidance_rescale, "guidance rescale, 0 to 1 (0)", "guidance-rescale"},
        {"sampler", OPT_STRING, &j.p.sampler, "ddim, euler, euler_a (default), heun, dpmpp_2m, dpmpp_2m_sde, unipc, lcm; A1111's and diffusers' names too", "sampling-method"},
        {"schedule", OPT_STRING, &j.p.schedule, "model, karras, exponential, leading, trailing, linspace", "scheduler"},
        {"eta", OPT_FLOAT, &j.p.eta, "share of fresh noise of ddim and ancestral samplers", NULL},
        {"seed", OPT_STRING, &seed, "of the first picture (0); -1 = random", "s"},
        {"size", OPT_STRING, &size, "WxH in pixels, multiples of 8 (the model's own)", NULL},
        {"width", OPT_INT, &width, "the same, apart", "W"},
        {"height", OPT_INT, &height, "", "H"},
        {"batch", OPT_INT, &j.p.batch, "pictures at once, seeds counting up (1)", "b batch-count"},
        {"init", OPT_STRING, &j.init_path, "picture to start from (PNG, JPEG, WebP)", "i init-img"},
        {"strength", OPT_FLOAT, &j.p.strength, "how much of it is made anew, 0 to 1 (0.75)", NULL},
        {"mask", OPT_STRING, &j.mask_path, "inpainting: white is painted, black kept", NULL},
        {"vae", OPT_STRING, &j.open.vae, "another autoencoder", NULL},
        {"adapter", OPT_LIST, &adapters, "LoRA, OFT, BOFT, ... FILE or FILE:STRENGTH; may be repeated, applied in order", "lora"},
        {"embedding", OPT_LIST, &embeddings, "textual inversion, FILE or NAME=FILE; may be repeated", NULL},
        {"prediction", OPT_STRING, &j.open.prediction, "epsilon or v_prediction, where the files do not say", NULL},
        {"clip-skip", OPT_INT, &j.p.clip_skip, "1 = last layer of the text encoder (the model's own)", NULL},
        {"plain-prompt", OPT_FLAG, &j.p.plain_prompt, "no (emphasis:1.2), one chunk of tokens: as diffusers", NULL},
        {"rng", OPT_STRING, &j.p.rng, "cpu (default) or philox: PyTorch's generators", NULL},
        {"rng-dtype", OPT_STRING, &j.p.rng_dtype, "f32 (default), f16, bf16: type PyTorch would draw in", NULL},
        {"tile", OPT_FLAG, &j.p.tile, "decode in tiles, for large pictures", "vae-tiling"},
        {"preview", OPT_FLAG, &preview, "write OUTPUT.preview.png every few steps", NULL},
        {"like", OPT_STRING, &j.like, "take everything not given here from a PNG made by imago or A1111", NULL},
        {"device", OPT_STRING, &j.open.device, "auto, cpu, vulkan, vulkan:N", NULL},
        {"precision", OPT_STRING, &j.open.precision, "auto, f32, f16, bf16", "type"},
        {"threads", OPT_INT, &j.open.threads, "cpu threads (all cores)", "t"},
        {"overwrite", OPT_FLAG, &j.overwrite, "replace existing files", NULL},
        {"json", OPT_FLAG, &j.json, "events as JSON lines on stdout", NULL}};
    char cache[512], model[1200];
    j.p.steps = -1, j.p.guidance = -1, j.p.strength = -1; /* as not given: a given 0 is another thing */
    status st = like_read(&j, argc, argv);
    if (st == OK) st = cli_parse(&self, argc, argv, options, ARRAY_LEN(options), NULL, &help);
    if (st == OK && help) goto done;
    j.open.adapters = adapters.value;
    j.open.n_adapters = adapters.n;
    j.open.embeddings = embeddings.value;
    j.open.n_embeddings = embeddings.n;
    j.open.cache_dir = cli_cache_dir(cache);
    if (!j.open.model) j.open.model = cli_default_model(model);
    j.p.preview = preview ? write_preview : NULL;
    j.p.preview_ctx = &j;
    if (st == OK) st = settle(&j, prompt, seed, size, width, height);
    if (st == OK) st = run(&j);
done:;
    int code = st == OK ? 0 : cli_fail(st);
    imago_close(j.im);
    imago_clear_picture(&j.init);
    imago_clear_picture(&j.mask);
    image_free(&j.sheet);
    arena_fini(&j.mem);
    return code;
}
