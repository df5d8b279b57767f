/* write.c: see adapter_write.h: gathers the tensors of a file in memory (adapters are small), then
 * writes it at once. SPDX-License-Identifier: MIT */
#include "adapter/write.h"
#include <stdio.h>

static const char *const names[ADAPTER_FORMAT_COUNT] = {"peft", "kohya", "diffusers", "diff",
                                                        "svd"};
const char *adapter_format_name(adapter_format f) { return names[f]; }

status write_refuse(const writing *w, const adapter_site *s, const char *why) {
    return fail(E_UNSUPPORTED,
                "%s: %s cannot be written as %s: %s. The formats diff and svd take everything",
                s->layer, s->info->name, adapter_format_name(w->p->format), why);
}

static char *spelled(writing *w, const char *layer, const char *suffix) {
    const char *part = w->source->part;
    if (w->p->format == ADAPTER_PEFT)
        return arena_printf(&w->mem, "base_model.model.%s%s", layer, suffix);
    if (w->p->format == ADAPTER_DIFFUSERS)
        return arena_printf(&w->mem, "%s.%s%s", part, layer, suffix);
    const char *prefix = strcmp(part, "text_encoder") == 0     ? "lora_te"
                         : strcmp(part, "text_encoder_2") == 0 ? "lora_te2"
                                                               : "lora_unet";
    char *name = arena_printf(&w->mem, "%s_%s%s", prefix, layer, suffix);
    for (size_t i = strlen(prefix) + 1, n = i + strlen(layer); name && i < n; i++)
        if (name[i] == '.') name[i] = '_';
    return name;
}

status write_add(writing *w, const adapter_site *s, const char *suffix, shape dims,
                 const float *v) {
    int64_t n = dims.n ? shape_count(&dims) : 1;
    dtype type = dims.n ? w->p->type : DT_F32;
    char *name = spelled(w, s->layer, suffix);
    void *data = arena_alloc(&w->mem, (size_t)n * dtype_bytes(type));
    if (w->n == w->cap) {
        int64_t cap = w->cap ? 2 * w->cap : 64;
        safetensor *bigger =
            mem_realloc(w->t, (size_t)w->cap * sizeof *bigger, (size_t)cap * sizeof *bigger);
        if (bigger) w->t = bigger, w->cap = cap;
    }
    if (!name || !data || w->n == w->cap)
        return fail(E_HOST_MEMORY, "no host memory to write %s", w->path);
    for (int64_t i = 0; i < n; i++) dtype_store(data, type, i, (double)v[i]);
    w->t[w->n] = (safetensor){.name = name, .dtype = type, .n_dims = dims.n, .data = data};
    for (int i = 0; i < dims.n; i++) w->t[w->n].dim[i] = dims.d[i];
    w->n++;
    return OK;
}

/* What the adapter adds to the weight, as itself or as a pair of factors. */
static status write_difference(writing *w, const adapter_site *s, const param *p,
                               float *const v[]) {
    status st = OK;
    int64_t n = shape_count(&p->s), o = p->s.d[0], c = n / o,
            r = MIN((int64_t)w->p->svd_rank, MIN(o, c));
    float *base = arena_new(&w->mem, float, n), *d = arena_new(&w->mem, float, n), alpha = (float)r;
    double kept = 1, size = 0;
    if (!base || !d) return fail(E_HOST_MEMORY, "no host memory to write %s", w->path);
    TRY(params_get(w->source->model, p->name, base, n));
    memcpy(d, base, (size_t)n * sizeof *d);
    TRY(s->info->merge(s, (const float *const *)v, 1, false, d));
    for (int64_t i = 0; i < n; i++) d[i] -= base[i], size += (double)d[i] * (double)d[i];
    if (w->p->format == ADAPTER_DIFF) return write_add(w, s, ".diff", p->s, d);
    float *up = arena_new(&w->mem, float, o *r), *down = arena_new(&w->mem, float, r *c);
    if (!up || !down) TRY(fail(E_HOST_MEMORY, "no host memory to write %s", w->path));
    TRY(adapter_factor(o, c, r, d, up, down, &kept));
    w->total += size;
    w->kept += kept * size;
    bool conv = p->s.n == 4;
    TRY(write_add(w, s, ".lora_down.weight",
                  conv ? SHAPE(r, p->s.d[1], p->s.d[2], p->s.d[3]) : SHAPE(r, c), down));
    TRY(write_add(w, s, ".lora_up.weight", conv ? SHAPE(o, r, 1, 1) : SHAPE(o, r), up));
    TRY(write_add(w, s, ".alpha", (shape){0}, &alpha));
out:
    return st;
}

/* One config stands for all layers, so they must agree in all but rank, alpha and blocks, which it
 * can tell per layer. */
static status same_kind(writing *w, const adapter_site *s) {
    adapter_options a = *s->opts, b = w->opts;
    a.rank = b.rank, a.alpha = b.alpha, a.block = b.block;
    if (!w->info)
        w->info = s->info, w->opts = *s->opts;
    else if (w->p->format == ADAPTER_PEFT &&
             (s->info != w->info || a.rslora != b.rslora || a.dora != b.dora ||
              a.share != b.share || a.terms != b.terms || a.factors != b.factors))
        return write_refuse(w, s, "PEFT has one config, and the layers differ");
    return OK;
}

static status write_source(writing *w) {
    status st = OK;
    float *v[ADAPTER_MAX_TENSORS] = {0};
    params *model = w->source->model;
    for (int i = 0; i < model->n; i++) {
        char layer[128];
        adapter_site s;
        adapter_tensor t[ADAPTER_MAX_TENSORS];
        int n = 0;
        if (!adapter_site_at(w->source->set, model, i, layer, &s)) continue;
        mem_free(v[0]);
        TRY(adapter_values(&s, t, v, &n));
        TRY(same_kind(w, &s));
        if (w->p->format == ADAPTER_DIFF || w->p->format == ADAPTER_SVD)
            TRY(write_difference(w, &s, &model->p[i], v));
        else
            TRY(write_site(w, &s, v));
    }
out:
    mem_free(v[0]);
    return st;
}

static status write_folder(writing *w) {
    status st = OK;
    folder_out f = {0};
    char file[1200];
    const char *config = NULL;
    if (os_file_exists(w->path)) {
        snprintf(file, sizeof file, "%s/adapter_config.json", w->path);
        if (!os_file_exists(file))
            return fail(E_USAGE,
                        "%s exists and is no PEFT adapter: it is left alone; choose another name",
                        w->path);
    }
    TRY(write_peft_config(w, &config));
    TRY(folder_out_open(w->path, &f));
    snprintf(file, sizeof file, "%s/adapter_model.safetensors", f.temp);
    TRY(safetensors_write(file, w->t, w->n, w->note, w->n_notes));
    snprintf(file, sizeof file, "%s/adapter_config.json", f.temp);
    TRY(file_write_atomic(file, config, strlen(config)));
    return folder_out_commit(&f);
out:
    if (f.temp) folder_out_abort(&f);
    return st;
}

status adapter_write(const char *path, const adapter_write_params *p, double *kept) {
    status st = OK;
    writing w = {.p = p, .path = path};
    if (p->format == ADAPTER_PEFT && p->n_sources != 1)
        TRY(fail(E_UNSUPPORTED,
                 "%s: a PEFT folder holds the adapter of one part: write one for each", path));
    if (p->format == ADAPTER_SVD && p->svd_rank < 1)
        TRY(fail(E_USAGE, "%s: svd needs a rank of at least 1, not %d", path, p->svd_rank));
    for (int i = 0; i < p->n_sources; i++) {
        w.source = &p->source[i];
        TRY(write_source(&w));
    }
    if (w.n == 0)
        TRY(fail(E_USAGE, "%s: there is no adapter to write: no layer carries one", path));
    TRY(write_notes(&w));
    if (p->format == ADAPTER_PEFT)
        TRY(write_folder(&w));
    else
        TRY(safetensors_write(path, w.t, w.n, w.note, w.n_notes));
    if (kept) *kept = w.total > 0 ? w.kept / w.total : 1;
out:
    mem_free(w.t);
    arena_fini(&w.mem);
    return st;
}
