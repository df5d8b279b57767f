/* picture.c: pictures at the border of the library: files in and out, and the texts a PNG carries: "parameters" as A1111
 * writes and reads it, and "imago", a JSON object from which the picture can be made again.
 * SPDX-License-Identifier: MIT */
#include "engine/engine.h"
#include <cjson/cJSON.h>
#include <stdio.h>

imago_status imago_load_picture(const char *path, imago_picture *out) {
    status st = OK;
    image im = {0};
    *out = (imago_picture){0};
    TRY(image_load(path, &im));
    TRY(image_flatten(&im, (const uint8_t[]){255, 255, 255}));
    picture_of(&im, out);
out:
    image_free(&im);
    return ENGINE_STATUS(st);
}

void picture_of(image *im, imago_picture *out) {
    *out = (imago_picture){.width = im->w, .height = im->h, .rgb = im->px};
    *im = (image){0};
}

image picture_image(const imago_picture *p) { return (image){p->width, p->height, 3, p->rgb}; }

imago_status imago_save_picture(const imago_picture *p, const char *path) {
    image im = picture_image(p);
    png_text text[2];
    int n = 0;
    if (p->parameters) text[n++] = (png_text){"parameters", p->parameters};
    if (p->json) text[n++] = (png_text){"imago", p->json};
    return ENGINE_STATUS(image_save_png(path, &im, text, n));
}

void imago_clear_picture(imago_picture *p) {
    mem_free(p->rgb);
    mem_free(p->parameters);
    mem_free(p->json);
    *p = (imago_picture){0};
}

void imago_free_pictures(imago_picture *p, int n) {
    for (int i = 0; p && i < n; i++) imago_clear_picture(&p[i]);
    mem_free(p);
}

static char *copy_text(const char *s) {
    size_t n = strlen(s) + 1;
    char *c = mem_alloc(n);
    return c ? memcpy(c, s, n) : NULL;
}

/* "/models/dir/name.safetensors" -> "name" */
static void model_name(const checkpoint *c, char out[128]) {
    const char *end = c->path + strlen(c->path), *base, *dot;
    while (end > c->path + 1 && end[-1] == '/') end--;
    for (base = end; base > c->path && base[-1] != '/'; base--) {}
    for (dot = end; dot > base && *dot != '.'; dot--) {}
    int n = (int)((dot > base && c->layout != LAYOUT_DIFFUSERS ? dot : end) - base);
    snprintf(out, 128, "%.*s", MIN(n, 127), base);
}

static const char *schedule_name(const sampler_params *sp) {
    static const char *const grids[GRID_COUNT] = {"model", "karras", "exponential"};
    static const char *const spacings[SPACING_COUNT] = {"leading", "trailing", "linspace"};
    return sp->spacing >= 0 ? spacings[sp->spacing] : grids[sp->grid];
}

static status write_parameters(const imago *im, const imago_generate_params *p, const sampler_info *s, const sampler_params *sp, imago_picture *pic) {
    status st = OK;
    arena mem = {0};
    char name[128];
    model_name(im->ck, name);
    const char *denoising = "", *skip = "", *negative = "";
    if (p->init) denoising = arena_printf(&mem, ", Denoising strength: %g", (double)p->strength);
    if (p->clip_skip > 1) skip = arena_printf(&mem, ", Clip skip: %d", p->clip_skip);
    if (p->negative && p->negative[0]) negative = arena_printf(&mem, "Negative prompt: %s\n", p->negative);
    const char *text = arena_printf(&mem, "%s\n%sSteps: %d, Sampler: %s, Schedule type: %s, CFG scale: %g, Seed: %llu, Size: %dx%d, Model: %s%s%s, RNG: %s, Version: imago 0.1.0",
        p->prompt, negative, p->steps, sampler_label(s), schedule_name(sp), (double)p->guidance, (unsigned long long)pic->seed,
        p->width, p->height, name, denoising, skip, strcmp(p->rng, "cpu") == 0 ? "CPU" : "NV");
    if (!text || !denoising || !skip || !negative || !(pic->parameters = copy_text(text))) TRY(fail(E_HOST_MEMORY, "no host memory for the picture's texts"));
out:
    arena_fini(&mem);
    return st;
}

static status write_json(const imago *im, const imago_generate_params *p, const sampler_info *s, const sampler_params *sp, imago_picture *pic) {
    status st = OK;
    char number[32], name[128], *text = NULL;
    model_name(im->ck, name);
    cJSON *o = cJSON_CreateObject();
    snprintf(number, sizeof number, "%llu", (unsigned long long)pic->seed); /* 64 bits do not fit a JSON number */
    cJSON_AddStringToObject(o, "program", "imago 0.1.0");
    cJSON_AddStringToObject(o, "model", name);
    cJSON_AddStringToObject(o, "prompt", p->prompt);
    if (p->negative) cJSON_AddStringToObject(o, "negative", p->negative);
    cJSON_AddStringToObject(o, "seed", number);
    cJSON_AddNumberToObject(o, "width", p->width);
    cJSON_AddNumberToObject(o, "height", p->height);
    cJSON_AddNumberToObject(o, "steps", p->steps);
    cJSON_AddNumberToObject(o, "cfg", (double)p->guidance);
    if (p->guidance_rescale > 0) cJSON_AddNumberToObject(o, "cfg_rescale", (double)p->guidance_rescale);
    cJSON_AddStringToObject(o, "sampler", sampler_name(s));
    cJSON_AddStringToObject(o, "schedule", schedule_name(sp));
    if (p->eta >= 0) cJSON_AddNumberToObject(o, "eta", (double)p->eta);
    cJSON_AddStringToObject(o, "rng", p->rng);
    cJSON_AddStringToObject(o, "rng_dtype", p->rng_dtype);
    if (p->clip_skip) cJSON_AddNumberToObject(o, "clip_skip", p->clip_skip);
    if (p->plain_prompt) cJSON_AddBoolToObject(o, "plain_prompt", true);
    if (p->init) cJSON_AddNumberToObject(o, "strength", (double)p->strength);
    if (p->mask) cJSON_AddBoolToObject(o, "mask", true);
    cJSON *list = im->n_adapters ? cJSON_AddArrayToObject(o, "adapters") : NULL;
    for (int i = 0; list && i < im->n_adapters; i++) cJSON_AddItemToArray(list, cJSON_CreateString(im->adapter[i].name));
    cJSON_AddStringToObject(o, "device", device_id(im->dev));
    cJSON_AddStringToObject(o, "precision", dtype_name(im->type));
    text = o ? cJSON_PrintUnformatted(o) : NULL;
    if (!text || !(pic->json = copy_text(text))) TRY(fail(E_HOST_MEMORY, "no host memory for the picture's texts"));
out:
    cJSON_free(text);
    cJSON_Delete(o);
    return st;
}

status picture_describe(const imago *im, const imago_generate_params *p, const sampler_info *s, const sampler_params *sp, imago_picture *pic) {
    status st = OK;
    TRY(write_parameters(im, p, s, sp, pic));
    TRY(write_json(im, p, s, sp, pic));
out:
    return st;
}
