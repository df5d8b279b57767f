/* checkpoint.c: opening a checkpoint, and its values on the way into the parameters of a model.
 * What the files cannot say is decided here: the family, whether it inpaints, and what the network
 * predicts. SPDX-License-Identifier: MIT */
#include "family/checkpoint.h"
#include "family/checkpoint_parts.h"
#include <stdio.h>
#include <stdlib.h>

const char *part_name(part p) {
    static const char *const names[PART_COUNT] = {"unet", "vae", "text_encoder"};
    return names[p];
}

const char *layout_name(layout l) {
    static const char *const names[LAYOUT_COUNT] = {"diffusers folder", "single file", "GGUF"};
    return names[l];
}

/* ---- what the network predicts ---- */
static status set_prediction(checkpoint *c, const char *text, const char *source) {
    if (strcmp(text, "epsilon") == 0)
        c->schedule.prediction_type = PREDICTION_EPSILON;
    else if (strcmp(text, "v_prediction") == 0 || strcmp(text, "v") == 0)
        c->schedule.prediction_type = PREDICTION_V;
    else if (strcmp(text, "sample") == 0)
        c->schedule.prediction_type = PREDICTION_SAMPLE;
    else
        return fail(strncmp(source, "--", 2) ? E_FORMAT : E_USAGE,
                    "%s: '%.60s' is not a prediction; epsilon and v_prediction are", source, text);
    c->prediction_known = true;
    c->prediction_source = source;
    return OK;
}

/* A .yaml of the same name, as the first programs wanted it beside Stable Diffusion 2: its absence
 * of a parameterization means epsilon. */
static status prediction_from_yaml(checkpoint *c) {
    status st = OK;
    uint8_t *data = NULL;
    size_t bytes = 0;
    char path[1280];
    const char *slash = strrchr(c->path, '/'), *base = slash ? slash + 1 : c->path,
               *dot = strrchr(base, '.');
    snprintf(path, sizeof path, "%.*s.yaml", dot ? (int)(dot - c->path) : 1024, c->path);
    if (!os_file_exists(path)) return OK;
    TRY(file_read(path, (size_t)1 << 20, &data, &bytes));
    const char *at = strstr((const char *)data, "parameterization:"),
               *source = arena_printf(&c->mem, "%s", path + (base - c->path));
    if (!source) TRY(fail(E_HOST_MEMORY, "%s: no memory to open it", path));
    char word[32] = "epsilon";
    if (at) sscanf(at + strlen("parameterization:"), " %*[\"'] %30[a-z0-9_]", word);
    if (at && strcmp(word, "epsilon") == 0)
        sscanf(at + strlen("parameterization:"), " %30[a-z0-9_]", word);
    TRY(set_prediction(c,
                       strcmp(word, "eps") == 0  ? "epsilon"
                       : strcmp(word, "x0") == 0 ? "sample"
                                                 : word,
                       source));
out:
    mem_free(data);
    return st;
}

static status find_prediction(checkpoint *c, const checkpoint_options *o) {
    const weights *w = c->files[PART_UNET];
    const char *kind = weights_note(w, "modelspec.prediction_type"),
               *spec = weights_note(w, "modelspec.architecture");
    if (o->prediction) return set_prediction(c, o->prediction, "--prediction");
    if (c->prediction_known) return OK;
    if (kind) return set_prediction(c, kind, "modelspec metadata");
    if (spec && strstr(spec, "stable-diffusion-v2-768-v"))
        return set_prediction(c, "v_prediction", "modelspec metadata");
    if (weights_find(w, "v_pred")) return set_prediction(c, "v_prediction", "the tensor v_pred");
    return prediction_from_yaml(c);
}

/* ---- opening ---- */
/* L channels of latent; with a mask and the masked picture's latent 2 L + 1. */
static status check_channels(checkpoint *c) {
    int in = c->unet.in_channels, l = c->vae.latent_channels;
    const char *what = in == l + 1   ? "depth-guided"
                       : in == l + 3 ? "an upscaler"
                       : in == 2 * l ? "InstructPix2Pix"
                                     : "of a kind we do not know";
    c->inpainting = in == 2 * l + 1;
    if (in != l && !c->inpainting)
        return fail(E_UNSUPPORTED,
                    "%s: the UNet takes %d channels: this model is %s; %d (plain) and %d "
                    "(inpainting) are supported",
                    c->path, in, what, l, 2 * l + 1);
    if (c->unet.out_channels != l)
        return fail(E_UNSUPPORTED,
                    "%s: the UNet gives %d channels, the autoencoder's latent has %d: they do not "
                    "belong together",
                    c->path, c->unet.out_channels, l);
    if (c->unet.cross_attention_dim != c->text.hidden_size)
        return fail(E_FORMAT,
                    "%s: the UNet wants text of width %d, the text encoder gives %d: they do not "
                    "belong together",
                    c->path, c->unet.cross_attention_dim, c->text.hidden_size);
    return OK;
}

static status understand(checkpoint *c, const checkpoint_options *o) {
    status st = OK;
    TRY(check_channels(c));
    bool openclip = c->text.hidden_act == ACT_GELU_ERF;
    c->family = openclip ? "sd2" : "sd1";
    c->family_label = openclip ? "Stable Diffusion 2.x" : "Stable Diffusion 1.x";
    c->pad_zero = openclip && !c->tokenizer_dir[0]; /* a tokenizer's own files say how it pads */
    TRY(find_prediction(c, o));
    if (weights_find(c->files[PART_UNET], "ztsnr")) c->schedule.rescale_betas_zero_snr = true;
    bool usual = c->unet.levels == 4 && c->unet.block_out_channels[0] == 320;
    if (!c->sample_size && usual)
        c->sample_size = openclip && c->schedule.prediction_type == PREDICTION_V ? 96 : 64;
out:
    return st;
}

status checkpoint_open(const char *path, const checkpoint_options *o, checkpoint **out) {
    status st = OK;
    static const checkpoint_options none;
    *out = NULL;
    if (!o) o = &none;
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    if (n == 0 || n > 1000) return fail(E_USAGE, "a path of %zu bytes: 1 to 1000 are supported", n);
    checkpoint *c = mem_zalloc(sizeof *c);
    if (!c) return fail(E_HOST_MEMORY, "%s: no memory to open it", path);
    memcpy(c->path, path, n);
    c->schedule = schedule_sd1;
    if (!os_file_exists(c->path)) TRY(fail(E_IO, "%s: no such file or folder", c->path));
    if (os_is_folder(c->path))
        TRY(parts_open_folder(c, o));
    else
        TRY(parts_open_single(c, o));
    if (o->vae) TRY(parts_open_vae(c, o->vae));
    TRY(understand(c, o));
    *out = c;
    return OK;
out:
    checkpoint_close(c);
    return st;
}

void checkpoint_close(checkpoint *c) {
    if (!c) return;
    for (int p = 0; p < PART_COUNT; p++) {
        bool again = false;
        for (int k = 0; k < p; k++) again = again || c->files[k] == c->files[p];
        if (!again) weights_close(c->files[p]);
        mem_free(c->tensor[p]);
    }
    arena_fini(&c->mem);
    mem_free(c);
}

const char *checkpoint_describe(const checkpoint *c, char *out, size_t bytes) {
    static const char *const kinds[PREDICTION_COUNT] = {"epsilon", "v", "sample"};
    uint64_t total = 0;
    for (int p = 0; p < PART_COUNT; p++)
        for (int64_t i = 0; i < c->n_tensors[p]; i++)
            total += c->tensor[p][i].w->bytes /
                     (uint64_t)MAX(c->tensor[p][i].w->count / MAX(c->tensor[p][i].count, 1), 1);
    snprintf(
        out, bytes, "%s%s (%s, text width %d), %.1f MB, %s prediction (%s)", c->family_label,
        c->inpainting ? " for inpainting" : "", layout_name(c->layout), c->text.hidden_size,
        (double)total / 1e6, c->prediction_known ? kinds[c->schedule.prediction_type] : "unknown",
        c->prediction_known ? c->prediction_source : "the files do not say it; --prediction does");
    return out;
}

/* ---- values ---- */
status checkpoint_declare(const checkpoint *c, part p, params *ps) {
    switch (p) {
    case PART_UNET:
        return unet_declare(ps, &c->unet, NULL);
    case PART_VAE:
        return vae_declare(ps, &c->vae);
    case PART_TEXT:
        return text_declare(ps, &c->text, NULL);
    case PART_COUNT:
        break;
    }
    return OK;
}

part_tensor *checkpoint_find(const checkpoint *c, part p, const char *name) {
    int64_t lo = 0, hi = c->n_tensors[p];
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        int order = strcmp(name, c->tensor[p][mid].name);
        if (order == 0) return &c->tensor[p][mid];
        if (order < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

/* Equal but for dimensions of size 1, which carry no order: linear and 1x1 convolution, and what
 * GGUF drops. */
static bool same_shape(const part_tensor *t, const shape *s) {
    int a = 0, b = 0;
    for (;;) {
        while (a < t->n_dims && t->dim[a] == 1) a++;
        while (b < s->n && s->d[b] == 1) b++;
        if (a == t->n_dims || b == s->n) return a == t->n_dims && b == s->n;
        if (t->dim[a++] != s->d[b++]) return false;
    }
}

status checkpoint_check(const checkpoint *c, part p, const params *ps) {
    char seen[128], wanted[96];
    const char *path = c->n_tensors[p] ? c->tensor[p][0].w->path : c->path;
    for (int i = 0; i < ps->n; i++) {
        const part_tensor *t = checkpoint_find(c, p, ps->p[i].name);
        shape_text(&ps->p[i].s, wanted);
        if (!t)
            return fail(E_FORMAT, "%s: the %s has no tensor %s %s", path, part_name(p),
                        ps->p[i].name, wanted);
        if (!same_shape(t, &ps->p[i].s))
            return fail(E_FORMAT, "%s: tensor %s is %s, the %s's %s wants %s", t->w->path,
                        t->w->name, weight_describe(t->w, seen, sizeof seen), part_name(p), t->name,
                        wanted);
    }
    for (int64_t i = 0; i < c->n_tensors[p]; i++)
        if (!params_find(ps, c->tensor[p][i].name))
            return fail(E_FORMAT, "%s: tensor %s has no place in the %s that its config describes",
                        c->tensor[p][i].w->path, c->tensor[p][i].w->name, part_name(p));
    return OK;
}

/* Pieces of a tensor in threads: reading a model is otherwise half of the time to the first step. */
status part_tensor_fetch(const part_tensor *t, dtype type, void *dst) {
    enum { PIECE = 1 << 18 }; /* elements; a multiple of every block size */
    bool finite = true;
    char text[128];
    status st = OK;
#pragma omp parallel for schedule(static) reduction(&& : finite) if (t->count > PIECE)
    for (int64_t at = 0; at < t->count; at += PIECE) {
        int64_t n = MIN(t->count - at, (int64_t)PIECE);
        void *to = (char *)dst + (size_t)at * dtype_bytes(type);
        bool good = true;
        status piece = weight_read(t->w, t->begin + at, n, type, to, &good);
        finite = finite && good && piece == OK;
    }
    weight_release(t->w);
    if (st == OK && !finite)
        st = fail(E_FORMAT, "%s: tensor %s (%s) holds NaN, infinity, or values too large for %s%s",
                  t->w->path, t->w->name, weight_describe(t->w, text, sizeof text),
                  dtype_name(type), type == DT_F16 ? ": try bf16 or f32" : "");
    return st;
}

/* What a frozen array calls for its values, by its type; ctx is the part_tensor. */
static status fetch_f32(void *ctx, void *dst) { return part_tensor_fetch(ctx, DT_F32, dst); }
static status fetch_f16(void *ctx, void *dst) { return part_tensor_fetch(ctx, DT_F16, dst); }
static status fetch_bf16(void *ctx, void *dst) { return part_tensor_fetch(ctx, DT_BF16, dst); }
static const array_fetch fetch_as[DT_COUNT] = {
    [DT_F32] = fetch_f32, [DT_F16] = fetch_f16, [DT_BF16] = fetch_bf16};

static status load_trainable(const part_tensor *t, param *p) {
    status st = OK;
    float *values = mem_alloc((size_t)t->count * sizeof *values);
    if (!values) return fail(E_HOST_MEMORY, "no memory to load %s", t->name);
    TRY(part_tensor_fetch(t, DT_F32, values));
    TRY(array_write_f32(p->value, values));
    if (p->copy) TRY(array_write_f32(p->copy, values));
out:
    mem_free(values);
    return st;
}

status checkpoint_load(const checkpoint *c, part p, params *ps) {
    status st = OK;
    TRY(checkpoint_check(c, p, ps));
    for (int i = 0; i < ps->n; i++) {
        part_tensor *t = checkpoint_find(c, p, ps->p[i].name);
        array *a = ps->p[i].value;
        if (ps->p[i].trainable)
            TRY(load_trainable(t, &ps->p[i]));
        else if (array_is_empty(a))
            array_set_source(a, fetch_as[array_dtype(a)], t);
    }
out:
    return st;
}
