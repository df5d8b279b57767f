/* checkpoint_write.c: a checkpoint as a diffusers folder or as one file in the original layout.
 * Tensors stream from the source to the new file one by one, so no copy of a model is ever in
 * memory. SPDX-License-Identifier: MIT */
#include "family/checkpoint_parts.h"
#include "file/file.h"
#include <stdio.h>

#define TOKENIZER_FILE_BYTES ((size_t)64 << 20)

/* One tensor to be written: of one parameter, or of q, k and v that the original layout joins. */
typedef struct out_tensor {
    const part_tensor *from[3];
    int n;
} out_tensor;
typedef struct out_file {
    safetensor *t;
    out_tensor *o;
    int64_t n;
    dtype type;
    const struct folding *folding; /* NULL = as they are */
    arena mem;
} out_file;

typedef struct folding {
    checkpoint_fold fold;
    void *ctx;
} folding;

static status fetch_folded(const out_file *f, const part_tensor *t, uint8_t *to) {
    status st = OK;
    double most = f->type == DT_F16 ? 65504 : 3.4e38;
    float *w = mem_alloc(sizeof *w * (size_t)t->count);
    if (!w) return fail(E_HOST_MEMORY, "no host memory for %s", t->name);
    TRY(part_tensor_fetch(t, DT_F32, w));
    TRY(f->folding->fold(f->folding->ctx, t, w));
    for (int64_t i = 0; i < t->count; i++) {
        if (!((double)w[i] >= -most && (double)w[i] <= most))
            TRY(fail(E_FORMAT, "%s: %g cannot be written as %s", t->name, (double)w[i],
                     dtype_name(f->type)));
        dtype_store(to, f->type, i, (double)w[i]);
    }
out:
    mem_free(w);
    return st;
}

static status fetch(void *ctx, int64_t i, void *dst) {
    status st = OK;
    const out_file *f = ctx;
    uint8_t *to = dst;
    for (int k = 0; k < f->o[i].n; k++) {
        const part_tensor *t = f->o[i].from[k];
        if (!t) return fail(E_FORMAT, "%s: of q, k and v, %c is missing", f->t[i].name, "qkv"[k]);
        TRY(f->folding ? fetch_folded(f, t, to) : part_tensor_fetch(t, f->type, to));
        to += (size_t)t->count * dtype_bytes(f->type);
    }
out:
    return st;
}

static status out_file_init(out_file *f, int64_t room, dtype type, const folding *fo) {
    *f = (out_file){.type = type, .folding = fo};
    f->t = arena_new(&f->mem, safetensor, room);
    f->o = arena_new(&f->mem, out_tensor, room);
    return f->t && f->o
               ? OK
               : fail(E_HOST_MEMORY, "no memory for a list of %lld tensors", (long long)room);
}

static status out_file_add(out_file *f, const part_tensor *t, const char *name, int slot) {
    safetensor *s = &f->t[f->n];
    for (int64_t i = 0; slot >= 0 && i < f->n; i++)
        if (f->o[i].n == 3 && strcmp(f->t[i].name, name) == 0) {
            f->o[i].from[slot] = t;
            return OK;
        }
    s->name = arena_printf(&f->mem, "%s", name);
    if (!s->name) return fail(E_HOST_MEMORY, "no memory for the names of tensors");
    s->dtype = f->type;
    s->n_dims = t->n_dims;
    memcpy(s->dim, t->dim, sizeof t->dim);
    if (slot >= 0) s->dim[0] *= 3;
    f->o[f->n].n = slot >= 0 ? 3 : 1;
    f->o[f->n].from[MAX(slot, 0)] = t;
    f->n++;
    return OK;
}

/* ---- one file in the original layout ---- */
static status add_unet_vae(const checkpoint *c, part p, out_file *f) {
    status st = OK;
    name_map map = {0};
    char ldm[128], name[192];
    TRY(p == PART_UNET ? names_unet(&c->unet, &map) : names_vae(&c->vae, &map));
    for (int64_t i = 0; i < c->n_tensors[p]; i++) {
        part_tensor *t = &c->tensor[p][i];
        if (!names_to_ldm(&map, t->name, ldm))
            TRY(fail(E_FORMAT, "%s: tensor %s has no name in the original layout", t->w->path,
                     t->name));
        snprintf(name, sizeof name, "%s%s",
                 p == PART_UNET ? "model.diffusion_model." : "first_stage_model.", ldm);
        TRY(out_file_add(f, t, name, -1));
        safetensor *s = &f->t[f->n - 1];
        if (p == PART_VAE && s->n_dims == 2)
            s->n_dims = 4, s->dim[2] = s->dim[3] = 1; /* its attention is of convolutions there */
    }
out:
    names_fini(&map);
    return st;
}

static status add_text(const checkpoint *c, out_file *f) {
    status st = OK;
    name_map map = {0};
    char ldm[128], name[192];
    bool openclip = c->text.hidden_act == ACT_GELU_ERF;
    TRY(names_openclip(&c->text, &map));
    for (int64_t i = 0; i < c->n_tensors[PART_TEXT]; i++) {
        const part_tensor *t = &c->tensor[PART_TEXT][i];
        int slot = -1;
        snprintf(name, sizeof name, "cond_stage_model.transformer.%s", t->name);
        if (openclip) {
            const char *proj = strstr(t->name, "_proj."), *letter = proj ? proj - 1 : "";
            if (!names_to_ldm(&map, t->name, ldm))
                TRY(fail(E_FORMAT, "%s: tensor %s has no name in the original layout", t->w->path,
                         t->name));
            snprintf(name, sizeof name, "cond_stage_model.model.%s", ldm);
            if (strstr(ldm, "in_proj_")) slot = *letter == 'q' ? 0 : *letter == 'k' ? 1 : 2;
        }
        TRY(out_file_add(f, t, name, slot));
    }
out:
    names_fini(&map);
    return st;
}

/* modelspec 1.0.0 (Stability AI), and the configs for our own reader: shapes do not tell heads. */
static status add_notes(const checkpoint *c, const char *path, arena *a, safetensor_note *note,
                        int *n) {
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path,
               *dot = strrchr(base, '.');
    bool v = c->schedule.prediction_type == PREDICTION_V, sd2 = c->text.hidden_act == ACT_GELU_ERF;
    int side = c->sample_size * vae_factor(&c->vae);
    const safetensor_note list[] = {
        {"modelspec.sai_model_spec", "1.0.0"},
        {"modelspec.architecture", !sd2 ? "stable-diffusion-v1"
                                   : v  ? "stable-diffusion-v2-768-v"
                                        : "stable-diffusion-v2-512"},
        {"modelspec.implementation", "https://github.com/Stability-AI/generative-models"},
        {"modelspec.title", arena_printf(a, "%.*s", dot ? (int)(dot - base) : 255, base)},
        {"imago.unet", checkpoint_config(c, PART_UNET, a)},
        {"imago.vae", checkpoint_config(c, PART_VAE, a)},
        {"imago.text_encoder", checkpoint_config(c, PART_TEXT, a)},
        {"modelspec.prediction_type",
         c->prediction_known ? (v                                                  ? "v"
                                : c->schedule.prediction_type == PREDICTION_SAMPLE ? "sample"
                                                                                   : "epsilon")
                             : ""},
        {"imago.scheduler", c->has_schedule ? checkpoint_config(c, PART_COUNT, a) : ""},
        {"modelspec.resolution", side ? arena_printf(a, "%dx%d", side, side) : ""}};
    for (size_t i = 0; i < ARRAY_LEN(list); i++) {
        if (!list[i].value) return fail(E_HOST_MEMORY, "%s: no memory for its metadata", path);
        if (list[i].value[0]) note[(*n)++] = list[i]; /* "" = not known */
    }
    return OK;
}

static status write_single(const checkpoint *c, dtype type, const char *path, const folding *fo) {
    status st = OK;
    safetensor_note note[16];
    int n_notes = 0;
    out_file f = {0};
    if (c->vae.kind != VAE_KL)
        return fail(E_UNSUPPORTED,
                    "%s: the original layout has no tiny autoencoder: write a folder", path);
    TRY(out_file_init(
        &f, c->n_tensors[PART_UNET] + c->n_tensors[PART_VAE] + c->n_tensors[PART_TEXT], type, fo));
    TRY(add_unet_vae(c, PART_UNET, &f));
    TRY(add_unet_vae(c, PART_VAE, &f));
    TRY(add_text(c, &f));
    TRY(add_notes(c, path, &f.mem, note, &n_notes));
    TRY(safetensors_write_streamed(path, f.t, f.n, note, n_notes, fetch, &f));
out:
    arena_fini(&f.mem);
    return st;
}

/* ---- a diffusers folder ---- */
static status write_text(const char *folder, const char *name, const char *text) {
    char path[1280];
    if (!text) return fail(E_HOST_MEMORY, "%s: no memory to write %s", folder, name);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return file_write_atomic(path, text, strlen(text));
}

static status write_part(const checkpoint *c, part p, dtype type, const char *folder,
                         const folding *fo) {
    status st = OK;
    char sub[1200], path[1280];
    out_file f = {0};
    static const safetensor_note note = {"format", "pt"}; /* transformers asks for it */
    snprintf(sub, sizeof sub, "%s/%s", folder, part_name(p));
    snprintf(path, sizeof path, "%s/%s.safetensors", sub,
             p == PART_TEXT ? "model" : "diffusion_pytorch_model");
    TRY(os_mkdir_p(sub));
    TRY(out_file_init(&f, c->n_tensors[p], type, fo));
    for (int64_t i = 0; i < c->n_tensors[p]; i++)
        TRY(out_file_add(&f, &c->tensor[p][i], c->tensor[p][i].name, -1));
    TRY(safetensors_write_streamed(path, f.t, f.n, &note, 1, fetch, &f));
    TRY(write_text(sub, "config.json", checkpoint_config(c, p, &f.mem)));
out:
    arena_fini(&f.mem);
    return st;
}

static status copy_file(const char *from, const char *to) {
    uint8_t *data = NULL;
    size_t bytes = 0;
    status st = file_read(from, TOKENIZER_FILE_BYTES, &data, &bytes);
    if (st == OK) st = file_write_atomic(to, data, bytes);
    mem_free(data);
    return st;
}

static status write_tokenizer(const checkpoint *c, const char *folder) {
    static const char *const files[] = {"vocab.json",
                                        "merges.txt",
                                        "tokenizer.json",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "added_tokens.json"};
    status st = OK;
    char sub[1200], from[1280], to[1280];
    snprintf(sub, sizeof sub, "%s/tokenizer", folder);
    TRY(os_mkdir_p(sub));
    if (!c->tokenizer_dir[0]) return tokenizer_write(sub, c->pad_zero);
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        snprintf(from, sizeof from, "%s/%s", c->tokenizer_dir, files[i]);
        snprintf(to, sizeof to, "%s/%s", sub, files[i]);
        if (os_file_exists(from)) TRY(copy_file(from, to));
    }
out:
    return st;
}

/* The scheduler's class is not ours to judge: its config is copied where there is one and
 * --prediction did not overrule it. */
static status write_scheduler(const checkpoint *c, const char *folder) {
    status st = OK;
    arena a = {0};
    char sub[1200], from[1280], to[1280];
    snprintf(sub, sizeof sub, "%s/scheduler", folder);
    snprintf(from, sizeof from, "%s/scheduler/scheduler_config.json", c->path);
    snprintf(to, sizeof to, "%s/scheduler_config.json", sub);
    TRY(os_mkdir_p(sub));
    bool copy = c->layout == LAYOUT_DIFFUSERS && c->has_schedule &&
                strcmp(c->prediction_source, "--prediction") != 0;
    if (copy)
        TRY(copy_file(from, to));
    else
        TRY(write_text(sub, "scheduler_config.json", checkpoint_config(c, PART_COUNT, &a)));
out:
    arena_fini(&a);
    return st;
}

static status write_index(const checkpoint *c, const char *folder) {
    arena a = {0};
    char path[1280];
    snprintf(path, sizeof path, "%s/scheduler/scheduler_config.json", folder);
    const char *scheduler = "DDIMScheduler";
    json *j = NULL;
    status st = OK;
    TRY(parts_read_json(path, &j));
    scheduler = config_class(j, scheduler);
    TRY(write_text(
        folder, "model_index.json",
        arena_printf(&a,
                     "{\n  \"_class_name\": \"%s\",\n  \"_diffusers_version\": \"0.30.0\",\n  "
                     "\"feature_extractor\": [null, null],\n"
                     "  \"image_encoder\": [null, null],\n  \"requires_safety_checker\": false,\n  "
                     "\"safety_checker\": [null, null],\n"
                     "  \"scheduler\": [\"diffusers\", \"%s\"],\n  \"text_encoder\": "
                     "[\"transformers\", \"CLIPTextModel\"],\n"
                     "  \"tokenizer\": [\"transformers\", \"CLIPTokenizer\"],\n  \"unet\": "
                     "[\"diffusers\", \"UNet2DConditionModel\"],\n"
                     "  \"vae\": [\"diffusers\", \"%s\"]\n}\n",
                     c->inpainting ? "StableDiffusionInpaintPipeline" : "StableDiffusionPipeline",
                     scheduler, c->vae.kind == VAE_KL ? "AutoencoderKL" : "AutoencoderTiny")));
out:
    json_free(j);
    arena_fini(&a);
    return st;
}

static status write_folder(const checkpoint *c, dtype type, const char *path, const folding *fo) {
    status st = OK;
    char index[1280];
    folder_out f;
    if (!c->prediction_known && c->text.hidden_act == ACT_GELU_ERF)
        return fail(E_USAGE,
                    "%s: whether this Stable Diffusion 2 predicts epsilon or v is not in the file, "
                    "and a folder must say it: give --prediction epsilon or v_prediction",
                    c->path);
    snprintf(index, sizeof index, "%s/model_index.json", path);
    if (os_file_exists(path) && !os_file_exists(index))
        return fail(E_IO, "%s: exists and is not a model (no model_index.json): give another name",
                    path);
    st = folder_out_open(path, &f);
    if (st != OK) return st;
    for (int p = 0; p < PART_COUNT; p++) TRY(write_part(c, (part)p, type, f.temp, fo));
    TRY(write_tokenizer(c, f.temp));
    TRY(write_scheduler(c, f.temp));
    TRY(write_index(c, f.temp));
    return folder_out_commit(&f);
out:
    folder_out_abort(&f);
    return st;
}

static status write_any(const checkpoint *c, layout l, dtype type, const char *path,
                        const folding *fo) {
    if (strlen(path) > 900) return fail(E_USAGE, "the path to write is longer than 900 bytes");
    if (type != DT_F32 && !dtype_is_half(type))
        return fail(E_USAGE, "weights are written as f32, f16 or bf16");
    return l == LAYOUT_DIFFUSERS ? write_folder(c, type, path, fo)
                                 : write_single(c, type, path, fo);
}

status checkpoint_write(const checkpoint *c, layout l, dtype type, const char *path) {
    return write_any(c, l, type, path, NULL);
}

status checkpoint_write_folded(const checkpoint *c, layout l, dtype type, const char *path,
                               checkpoint_fold fold, void *ctx) {
    return write_any(c, l, type, path, &(folding){fold, ctx});
}
