/* checkpoint_parts.c: which tensor of which file is which parameter of which part: a diffusers folder part by part, and
 * single files (safetensors or GGUF) by the prefix of their names. Every tensor finds a place, is known not to be needed,
 * or is an error: a file that we half understand is not opened.
 * SPDX-License-Identifier: MIT */
#include "family/checkpoint_parts.h"
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>

#define JSON_CONFIG_BYTES ((size_t)1 << 20)

/* Tensors of one part within w: those whose names begin with prefix; map NULL = the rest is diffusers' name. */
typedef struct source { part p; const weights *w; const char *prefix; const name_map *map; } source;

status parts_read_json(const char *path, json **out) {
    status st = OK;
    uint8_t *data = NULL;
    size_t bytes = 0;
    *out = NULL;
    TRY(file_read(path, JSON_CONFIG_BYTES, &data, &bytes));
    TRY(json_parse((const char *)data, bytes, path, out));
out:
    mem_free(data);
    return st;
}

/* ---- the list of a part ---- */
static bool ends_with(const char *s, const char *tail) {
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && strcmp(s + n - k, tail) == 0;
}

/* 1x1 convolutions and linear layers stand for one another on disk; here they get the rank that diffusers gives them. */
static void usual_rank(const checkpoint *c, part p, part_tensor *t) {
    bool linear = false, conv = false;
    if (!ends_with(t->name, ".weight")) return;
    if (p == PART_VAE) {
        linear = strstr(t->name, ".attentions.") != NULL;
        conv = ends_with(t->name, "quant_conv.weight") || ends_with(t->name, ".conv_shortcut.weight");
    } else if (p == PART_UNET) {
        bool proj = ends_with(t->name, ".proj_in.weight") || ends_with(t->name, ".proj_out.weight");
        linear = proj && c->unet.use_linear_projection;
        conv = ends_with(t->name, ".conv_shortcut.weight") || (proj && !linear);
    }
    if (linear && t->n_dims == 4 && t->dim[2] == 1 && t->dim[3] == 1) t->n_dims = 2;
    if (conv && t->n_dims == 2) t->n_dims = 4, t->dim[2] = t->dim[3] = 1;
}

static status append(checkpoint *c, part p, const part_tensor *t) {
    int64_t n = c->n_tensors[p];
    if (n == 0 || (n >= 64 && (n & (n - 1)) == 0)) {
        part_tensor *more = mem_realloc(c->tensor[p], sizeof *more * (size_t)n, sizeof *more * (size_t)MAX(64, 2 * n));
        if (!more) return fail(E_HOST_MEMORY, "%s: no memory for a list of its tensors", c->path);
        c->tensor[p] = more;
    }
    c->tensor[p][n] = *t;
    usual_rank(c, p, &c->tensor[p][n]);
    c->n_tensors[p] = n + 1;
    return OK;
}

/* name may hold "*": the tensor is q, k and v, one above the other. */
static status add_tensor(checkpoint *c, part p, const weight *w, const char *name) {
    status st = OK;
    part_tensor t = {.w = w, .count = w->count, .n_dims = w->n_dims};
    memcpy(t.dim, w->dim, sizeof t.dim);
    snprintf(t.name, sizeof t.name, "%s", name);
    char *star = strchr(t.name, '*');
    if (!star) return append(c, p, &t);
    if (w->n_dims < 1 || w->dim[0] % 3) {
        char text[128];
        return fail(E_FORMAT, "%s: tensor %s is %s; q, k and v in one need a first dimension that divides by 3", w->path, w->name,
                    weight_describe(w, text, sizeof text));
    }
    t.dim[0] /= 3;
    t.count /= 3;
    for (int i = 0; i < 3; i++) {
        *star = "qkv"[i];
        t.begin = i * t.count;
        TRY(append(c, p, &t));
    }
out:
    return st;
}

/* The last layer of OpenCLIP-H, which Stable Diffusion 2 does not run (checkpoint_infer.c). */
static bool beyond_last_layer(const checkpoint *c, const char *rest) {
    int layer = -1;
    if (c->text.num_hidden_layers != 23) return false;
    if (sscanf(rest, "transformer.resblocks.%d.", &layer) != 1) sscanf(rest, "encoder.layers.%d.", &layer);
    return layer == c->text.num_hidden_layers;
}

static status add_from(checkpoint *c, const source *s, const weight *w) {
    char name[128];
    const char *rest = w->name + strlen(s->prefix);
    if (names_ignored(rest)) return OK;
    if (s->p == PART_TEXT && c->layout != LAYOUT_DIFFUSERS && beyond_last_layer(c, rest)) return OK;
    bool found = s->map ? names_to_hf(s->map, rest, name) : names_modern(s->p, rest, name);
    if (!found) return fail(E_FORMAT, "%s: tensor %.200s belongs to no part of a %s we know", w->path, w->name, part_name(s->p));
    return add_tensor(c, s->p, w, name);
}

static int by_name(const void *a, const void *b) { return strcmp(((const part_tensor *)a)->name, ((const part_tensor *)b)->name); }

static status sort_part(checkpoint *c, part p) {
    int64_t n = c->n_tensors[p];
    if (n) qsort(c->tensor[p], (size_t)n, sizeof *c->tensor[p], by_name);
    for (int64_t i = 1; i < n; i++) {
        const part_tensor *t = &c->tensor[p][i];
        if (strcmp(t->name, t[-1].name) == 0)
            return fail(E_FORMAT, "%s: tensors %.120s and %.120s are both %s", t->w->path, t[-1].w->name, t->w->name, t->name);
    }
    return OK;
}

static status gather(checkpoint *c, const source *s, int n) {
    status st = OK;
    for (int64_t i = 0; i < weights_count(s->w); i++) {
        const weight *w = weights_at(s->w, i);
        const source *hit = NULL;
        for (int k = 0; k < n && !hit; k++)
            if (strncmp(w->name, s[k].prefix, strlen(s[k].prefix)) == 0) hit = &s[k];
        if (hit && c->files[hit->p] != s->w) continue; /* replaced by --vae */
        if (hit) TRY(add_from(c, hit, w));
        else if (!names_ignored(w->name)) TRY(fail(E_FORMAT, "%s: tensor %.200s belongs to no part that we know", w->path, w->name));
    }
    for (int k = 0; k < n; k++) TRY(sort_part(c, s[k].p));
out:
    return st;
}

/* ---- diffusers folders ---- */
static status open_files(const char *folder, const char *stem, weights **out) {
    static const char *const forms[] = {"%s/%s.safetensors", "%s/%s.safetensors.index.json", "%s/%s.fp16.safetensors",
                                        "%s/%s.safetensors.index.fp16.json", "%s/%s.fp16.safetensors.index.json",
                                        "%s/%s.bin", "%s/%s.fp16.bin", "%s/pytorch_%s.bin"}; /* the last: refused, with why */
    char path[1280];
    const char *list[] = {path};
    for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
        char form[1280];
        const char *after = strstr(forms[i], "/") + 1;
        snprintf(form, sizeof form, "%s/%.*s%s%s", folder, (int)strcspn(after, "%"), after, stem, strstr(after, "%s") + 2);
        snprintf(path, sizeof path, "%s", form);
        if (os_file_exists(path)) return weights_open(list, 1, out);
    }
    return fail(E_IO, "%s: no weights: expected %s.safetensors or its parts with %s.safetensors.index.json", folder, stem, stem);
}

static status read_config(checkpoint *c, part p, const json *j, const char *what) {
    switch (p) {
    case PART_UNET: return config_read_unet(j, what, &c->unet, &c->sample_size);
    case PART_VAE: return config_read_vae(j, what, &c->vae);
    case PART_TEXT: return config_read_text(j, what, &c->text);
    case PART_COUNT: break;
    }
    return OK;
}

static status open_part(checkpoint *c, part p, const char *folder) {
    status st = OK;
    json *j = NULL;
    char path[1280];
    snprintf(path, sizeof path, "%s/config.json", folder);
    TRY(parts_read_json(path, &j));
    TRY(read_config(c, p, j, path));
    TRY(open_files(folder, p == PART_TEXT ? "model" : "diffusion_pytorch_model", &c->files[p]));
    TRY(gather(c, &(source){p, c->files[p], "", NULL}, 1));
out:
    json_free(j);
    return st;
}

/* model_index.json: the classes of the parts. */
static status check_index(const char *path, const json *j, const checkpoint_options *o) {
    static const struct { const char *begins, *what; } foreign[] = {
        {"StableDiffusionXL", "Stable Diffusion XL"}, {"StableDiffusion3", "Stable Diffusion 3"}, {"Flux", "Flux"},
        {"StableDiffusionInstructPix2Pix", "InstructPix2Pix"}, {"StableDiffusionDepth2Img", "a depth-guided Stable Diffusion 2"},
        {"StableDiffusionUpscale", "the Stable Diffusion upscaler"}, {"StableDiffusionLatentUpscale", "the latent upscaler"}};
    static const struct { const char *part, *class[2]; } wanted[] = {
        {"unet", {"UNet2DConditionModel"}}, {"vae", {"AutoencoderKL", "AutoencoderTiny"}}, {"text_encoder", {"CLIPTextModel", "CLIPTextModelWithProjection"}}};
    const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(j, "_class_name"));
    for (size_t i = 0; name && i < ARRAY_LEN(foreign); i++)
        if (strncmp(name, foreign[i].begins, strlen(foreign[i].begins)) == 0)
            return fail(E_UNSUPPORTED, "%s: this is %s (%.80s); Stable Diffusion 1.x and 2.x are supported", path, foreign[i].what, name);
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
        if (i == PART_VAE && o->vae) continue;
        const json *row = cJSON_GetObjectItemCaseSensitive(j, wanted[i].part);
        const char *class = cJSON_GetStringValue(cJSON_GetArrayItem(row, 1));
        if (!class) return fail(E_UNSUPPORTED, "%s: the pipeline (%.80s) has no %s: not a Stable Diffusion 1.x or 2.x", path, name ? name : "?", wanted[i].part);
        bool good = false;
        for (int k = 0; k < 2; k++) good = good || (wanted[i].class[k] && strcmp(class, wanted[i].class[k]) == 0);
        if (!good) return fail(E_UNSUPPORTED, "%s: %s is a %.80s; %s is supported", path, wanted[i].part, class, wanted[i].class[0]);
    }
    const json *second = cJSON_GetObjectItemCaseSensitive(j, "text_encoder_2");
    if (cJSON_GetStringValue(cJSON_GetArrayItem(second, 1)))
        return fail(E_UNSUPPORTED, "%s: the pipeline has two text encoders, as Stable Diffusion XL; Stable Diffusion 1.x and 2.x are supported", path);
    return OK;
}

static status read_scheduler(checkpoint *c) {
    status st = OK;
    json *j = NULL;
    char path[1280];
    snprintf(path, sizeof path, "%s/scheduler/scheduler_config.json", c->path);
    if (!os_file_exists(path)) return OK;
    TRY(parts_read_json(path, &j));
    TRY(schedule_config_parse(j, &c->schedule));
    c->has_schedule = c->prediction_known = true; /* a config without prediction_type means epsilon: diffusers' default */
    c->prediction_source = "scheduler_config.json";
out:
    json_free(j);
    return st;
}

status parts_open_folder(checkpoint *c, const checkpoint_options *o) {
    status st = OK;
    json *j = NULL;
    char path[1280];
    c->layout = LAYOUT_DIFFUSERS;
    snprintf(path, sizeof path, "%s/model_index.json", c->path);
    if (!os_file_exists(path)) {
        snprintf(path, sizeof path, "%s/config.json", c->path);
        return os_file_exists(path) ? fail(E_FORMAT, "%s: a folder of one part only: give the folder that holds model_index.json (an autoencoder goes to --vae)", c->path)
                                    : fail(E_FORMAT, "%s: no model_index.json in it: not a diffusers model", c->path);
    }
    TRY(parts_read_json(path, &j));
    TRY(check_index(path, j, o));
    for (int p = 0; p < PART_COUNT; p++) {
        if (p == PART_VAE && o->vae) continue;
        snprintf(path, sizeof path, "%s/%s", c->path, part_name((part)p));
        TRY(open_part(c, (part)p, path));
    }
    TRY(read_scheduler(c));
    snprintf(path, sizeof path, "%s/tokenizer", c->path);
    if (os_file_exists(path)) snprintf(c->tokenizer_dir, sizeof c->tokenizer_dir, "%.1010s/tokenizer", c->path);
out:
    json_free(j);
    return st;
}

/* ---- single files ---- */
static bool has(const weights *w, const char *prefix, const char *name) {
    char text[256];
    snprintf(text, sizeof text, "%s%s", prefix, name);
    return weights_find(w, text) != NULL;
}

/* The config that our own writer (checkpoint_write.c) put into the metadata; *found false when there is none. */
static status note_config(checkpoint *c, part p, const weights *w, const char *key, bool *found) {
    status st = OK;
    json *j = NULL;
    const char *text = weights_note(w, key);
    *found = text != NULL;
    if (!text) return OK;
    TRY(json_parse(text, strlen(text), key, &j));
    TRY(read_config(c, p, j, key));
out:
    json_free(j);
    return st;
}

static status note_schedule(checkpoint *c, const weights *w) {
    status st = OK;
    json *j = NULL;
    const char *text = weights_note(w, "imago.scheduler");
    if (!text) return OK;
    TRY(json_parse(text, strlen(text), "imago.scheduler", &j));
    TRY(schedule_config_parse(j, &c->schedule));
    c->has_schedule = true;
out:
    json_free(j);
    return st;
}

static status open_weights(const char *path, weights **out) { return weights_open(&path, 1, out); }

static status text_prefix(const weights *w, const char **prefix, bool *openclip) {
    static const char *const nested = "cond_stage_model.transformer.text_model.", *const flat = "cond_stage_model.transformer.",
                      *const open = "cond_stage_model.model.", *const token = "embeddings.token_embedding.weight";
    *openclip = has(w, open, "token_embedding.weight");
    *prefix = *openclip ? open : has(w, nested, token) ? nested : has(w, flat, token) ? flat : NULL;
    if (!*prefix) return fail(E_FORMAT, "%s: no CLIP text encoder in it (cond_stage_model.…)", weights_at(w, 0)->path);
    return OK;
}

static status single_layout(const char *path, layout *out) {
    file_map m;
    status st = file_map_open(path, &m);
    *out = st == OK && m.bytes >= 4 && memcmp(m.data, "GGUF", 4) == 0 ? LAYOUT_GGUF : LAYOUT_SINGLE;
    if (st == OK) file_map_close(&m);
    return st;
}

status parts_open_single(checkpoint *c, const checkpoint_options *o) {
    status st = OK;
    weights *w = NULL;
    bool openclip = false, found = false;
    const char *text = NULL;
    static const char unet[] = "model.diffusion_model.", vae[] = "first_stage_model.";
    name_map maps[PART_COUNT] = {0};
    TRY(open_weights(c->path, &w));
    c->files[PART_UNET] = w; /* closed with the checkpoint from here on */
    TRY(single_layout(c->path, &c->layout));
    const char *what = names_foreign(w);
    if (what) TRY(fail(E_UNSUPPORTED, "%s: this is %s; Stable Diffusion 1.x and 2.x are supported", c->path, what));
    if (!has(w, unet, "input_blocks.0.0.weight"))
        TRY(fail(E_FORMAT, "%s: no Stable Diffusion model in it: there is no tensor %sinput_blocks.0.0.weight", c->path, unet));
    TRY(text_prefix(w, &text, &openclip));
    c->files[PART_TEXT] = w;
    if (!o->vae) c->files[PART_VAE] = w;
    TRY(note_config(c, PART_UNET, w, "imago.unet", &found));
    if (!found) TRY(config_infer_unet(w, unet, &c->unet));
    TRY(note_config(c, PART_TEXT, w, "imago.text_encoder", &found));
    if (!found) TRY(config_infer_text(w, text, openclip, &c->text));
    if (!o->vae) TRY(note_config(c, PART_VAE, w, "imago.vae", &found));
    if (!o->vae && !found) TRY(config_infer_vae(w, vae, &c->vae));
    TRY(note_schedule(c, w));
    TRY(names_unet(&c->unet, &maps[PART_UNET]));
    if (!o->vae) TRY(names_vae(&c->vae, &maps[PART_VAE]));
    if (openclip) TRY(names_openclip(&c->text, &maps[PART_TEXT]));
    source s[PART_COUNT] = {{PART_UNET, w, unet, &maps[PART_UNET]}, {PART_VAE, w, vae, &maps[PART_VAE]}, {PART_TEXT, w, text, openclip ? &maps[PART_TEXT] : NULL}};
    TRY(gather(c, s, PART_COUNT));
out:
    for (int p = 0; p < PART_COUNT; p++) names_fini(&maps[p]);
    return st;
}

/* ---- --vae ---- */
static status open_vae_file(checkpoint *c, const char *path) {
    status st = OK;
    bool found = false;
    name_map map = {0};
    json *j = NULL;
    char config[1280];
    weights *w = NULL;
    TRY(open_weights(path, &w));
    c->files[PART_VAE] = w;
    const char *prefix = has(w, "first_stage_model.", "encoder.conv_in.weight") ? "first_stage_model." : "";
    bool original = has(w, prefix, "encoder.mid.block_1.norm1.weight");
    const char *slash = strrchr(path, '/');
    snprintf(config, sizeof config, "%.*sconfig.json", slash ? (int)(slash + 1 - path) : 0, path);
    TRY(note_config(c, PART_VAE, w, "imago.vae", &found));
    if (!found && !original && os_file_exists(config)) {
        TRY(parts_read_json(config, &j));
        TRY(read_config(c, PART_VAE, j, config));
    } else if (!found) TRY(config_infer_vae(w, prefix, &c->vae));
    if (original) TRY(names_vae(&c->vae, &map));
    source s = {PART_VAE, w, prefix, original ? &map : NULL};
    for (int64_t i = 0; i < weights_count(w); i++) /* a whole model may be given: its autoencoder is taken */
        if (strncmp(weights_at(w, i)->name, prefix, strlen(prefix)) == 0) TRY(add_from(c, &s, weights_at(w, i)));
    TRY(sort_part(c, PART_VAE));
out:
    names_fini(&map);
    json_free(j);
    return st;
}

status parts_open_vae(checkpoint *c, const char *path) {
    char name[1280];
    if (strlen(path) > 1000) return fail(E_USAGE, "--vae: the path is longer than 1000 bytes");
    if (!os_is_folder(path)) return open_vae_file(c, path);
    snprintf(name, sizeof name, "%s/config.json", path);
    if (os_file_exists(name)) return open_part(c, PART_VAE, path);
    snprintf(name, sizeof name, "%s/vae", path);
    if (os_is_folder(name)) return open_part(c, PART_VAE, name);
    return fail(E_FORMAT, "--vae %s: neither config.json nor vae/ in it: not a diffusers autoencoder", path);
}
