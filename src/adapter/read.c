/* read.c: opens an adapter file, and applies what was read. See adapter_file.h.
 * SPDX-License-Identifier: MIT */
#include "adapter/read.h"
#include <cjson/cJSON.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#define CONFIG_MAX_BYTES ((size_t)8 << 20)

/* ---- for converters ---- */

void read_say(reading *r, const char *dialect, const char *fmt, ...) {
    va_list ap;
    if (r->f->dialect[0]) return;
    snprintf(r->f->dialect, sizeof r->f->dialect, "%s", dialect);
    va_start(ap, fmt);
    vsnprintf(r->f->why, sizeof r->f->why, fmt, ap);
    va_end(ap);
}

bool read_told(const reading *r, const char *dialect) {
    return r->told && strcmp(r->told, dialect) == 0;
}

const json *read_config(const reading *r, const layer_group *g, const char *field) {
    char name[96];
    if (r->config) return cJSON_GetObjectItemCaseSensitive(r->config, field);
    snprintf(name, sizeof name, "%s.%s", r->f->model[g->model].part, field);
    return r->metadata ? cJSON_GetObjectItemCaseSensitive(r->metadata, name) : NULL;
}

double read_number(const reading *r, const layer_group *g, const char *field, double otherwise) {
    const json *j = read_config(r, g, field);
    return cJSON_IsNumber(j) ? j->valuedouble : otherwise;
}

bool read_true(const reading *r, const layer_group *g, const char *field, bool otherwise) {
    const json *j = read_config(r, g, field);
    return cJSON_IsBool(j) ? cJSON_IsTrue(j) : otherwise;
}

status read_values(reading *r, const layer_group *g, role k, int64_t count, const float **out) {
    const safetensor *t = g->t[k];
    char text[96];
    int64_t n = safetensor_count(t);
    if (n != count)
        return fail(E_SHAPE, "%s is for another model: %s is %s, layer %s needs %lld numbers there",
                    r->f->path, t->name, safetensor_describe(t, text, sizeof text), g->layer,
                    (long long)count);
    if (t->dtype == DT_COUNT || t->dtype == DT_U32)
        return fail(E_UNSUPPORTED, "%s: %s is %s; expected floats", r->f->path, t->name,
                    safetensor_describe(t, text, sizeof text));
    float *v = arena_new(&r->f->mem, float, n);
    if (!v) return fail(E_HOST_MEMORY, "no host memory to read %s", r->f->path);
    safetensor_read_f32(t, v);
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(v[i]))
            return fail(E_FORMAT, "%s: %s holds NaN or infinity", r->f->path, t->name);
    *out = v;
    return OK;
}

status read_add(reading *r, const layer_group *g, const adapter_info *info,
                const adapter_options *o, float *v[ADAPTER_MAX_TENSORS],
                int64_t count[ADAPTER_MAX_TENSORS]) {
    status st = OK;
    adapter_file_part *part = &r->f->part[g->model];
    adapter_tensor t[ADAPTER_MAX_TENSORS];
    int n = 0;
    char *layer = arena_printf(&r->f->mem, "%s", g->layer);
    if (!layer) return fail(E_HOST_MEMORY, "no host memory to read %s", r->f->path);
    adapter_entry e = {layer, info, *o};
    adapter_site s = {.info = info, .opts = &e.opts, .layer = layer, .w = g->p->s, .at = HERE};
    if (g->p->vector || (g->p->s.n != 2 && g->p->s.n != 4))
        return fail(E_FORMAT,
                    "%s is for another model: %s is neither a linear layer nor a convolution here",
                    r->f->path, g->layer);
    TRY(info->tensors(&s, t, &n));
    adapter_entry *entry = mem_realloc(part->entry, (size_t)part->n * sizeof *entry,
                                       (size_t)(part->n + 1) * sizeof *entry);
    if (entry) part->entry = entry;
    float *(*value)[ADAPTER_MAX_TENSORS] = mem_realloc(part->value, (size_t)part->n * sizeof *value,
                                                       (size_t)(part->n + 1) * sizeof *value);
    if (value) part->value = value;
    if (!entry || !value) TRY(fail(E_HOST_MEMORY, "no host memory to read %s", r->f->path));
    for (int i = 0; i < ADAPTER_MAX_TENSORS; i++) {
        v[i] = NULL;
        count[i] = i < n ? shape_count(&t[i].s) : 0;
        if (i < n && !(v[i] = arena_new(&r->f->mem, float, count[i])))
            TRY(fail(E_HOST_MEMORY, "no host memory to read %s", r->f->path));
        part->value[part->n][i] = v[i];
    }
    part->entry[part->n++] = e;
out:
    return st;
}

/* ---- open ---- */

/* The file with the tensors, and PEFT's config where there is one. */
static status find_files(const char *path, char tensors[1100], json **config) {
    status st = OK;
    char beside[1200];
    uint8_t *text = NULL;
    size_t n = 0;
    const char *slash = strrchr(path, '/');
    if (os_is_folder(path)) {
        snprintf(tensors, 1100, "%s/adapter_model.safetensors", path);
        snprintf(beside, sizeof beside, "%s/adapter_config.json", path);
        if (!os_file_exists(tensors)) {
            char pickle[1100];
            snprintf(pickle, sizeof pickle, "%s/adapter_model.bin", path);
            if (os_file_exists(pickle))
                TRY(fail(
                    E_UNSUPPORTED,
                    "%s is a pickle, which can run any code: save the adapter again as safetensors",
                    pickle));
            TRY(fail(
                E_IO,
                "%s holds no adapter_model.safetensors; for another file, name the file itself",
                path));
        }
    } else {
        snprintf(tensors, 1100, "%s", path);
        snprintf(beside, sizeof beside, "%.*sadapter_config.json",
                 slash ? (int)(slash - path + 1) : 0, path);
        if (strcmp(slash ? slash + 1 : path, "adapter_model.safetensors") != 0) return OK;
    }
    if (!os_file_exists(beside)) return OK;
    TRY(file_read(beside, CONFIG_MAX_BYTES, &text, &n));
    TRY(json_parse((const char *)text, n, beside, config));
out:
    mem_free(text);
    return st;
}

static status refuse_config(const reading *r) {
    const json *kind = r->config ? cJSON_GetObjectItemCaseSensitive(r->config, "peft_type") : NULL;
    if (!kind) return OK;
    const char *name = cJSON_IsString(kind) ? kind->valuestring : "?";
    if (strcmp(name, "LORA") == 0 || strcmp(name, "OFT") == 0 || strcmp(name, "BOFT") == 0)
        return OK;
    return fail(E_UNSUPPORTED, "%s is PEFT's %s; LORA, OFT and BOFT are supported", r->f->path,
                name);
}

static status read_all(reading *r) {
    status st = OK;
    static const char *const known[] = {"peft-lora", "peft-oft", "peft-oft-0.16", "peft-oft-exact"};
    bool right = !r->told;
    for (size_t i = 0; i < ARRAY_LEN(known); i++) right |= read_told(r, known[i]);
    if (!right)
        TRY(fail(
            E_USAGE,
            "adapter dialect '%s': expected peft-lora, peft-oft, peft-oft-0.16 or peft-oft-exact",
            r->told));
    TRY(refuse_config(r));
    TRY(read_group_all(r));
    for (int i = 0; i < r->n_groups; i++) TRY(read_group_convert(r, &r->group[i]));
out:
    return st;
}

status adapter_file_open(const char *path, const adapter_model *models, int n, const char *dialect,
                         adapter_file **out) {
    status st = OK;
    safetensors *s = NULL;
    json *config = NULL, *metadata = NULL;
    char tensors[1100];
    reading r = {.told = dialect};
    *out = NULL;
    adapter_file *f = mem_zalloc(sizeof *f);
    if (!f) return fail(E_HOST_MEMORY, "no host memory to read %s", path);
    if (n > ADAPTER_MAX_MODELS)
        TRY(fail(E_USAGE, "an adapter for %d models: at most %d", n, ADAPTER_MAX_MODELS));
    snprintf(f->path, sizeof f->path, "%s", path);
    f->n_models = n;
    for (int i = 0; i < n; i++) f->model[i] = models[i];
    TRY(find_files(path, tensors, &config));
    TRY(safetensors_open(tensors, &s));
    if (safetensors_find_note(s, "imago.grid"))
        TRY(fail(E_UNSUPPORTED, "%s is a grid adapter: `imago grid --grid FILE` uses it", path));
    const char *note = safetensors_find_note(s, "lora_adapter_metadata");
    if (note) TRY(json_parse(note, strlen(note), "lora_adapter_metadata", &metadata));
    r.f = f;
    r.s = s;
    r.config = config;
    r.metadata = metadata;
    TRY(read_all(&r));
    *out = f;
out:
    mem_free(r.group);
    json_free(config);
    json_free(metadata);
    safetensors_close(s);
    if (st != OK) adapter_file_close(f);
    return st;
}

void adapter_file_close(adapter_file *f) {
    if (!f) return;
    for (int i = 0; i < f->n_models; i++) {
        mem_free(f->part[i].entry);
        mem_free(f->part[i].value);
        mem_free(f->part[i].delta);
    }
    arena_fini(&f->mem);
    mem_free(f);
}

const char *adapter_file_describe(const adapter_file *f, char *out, size_t bytes) {
    size_t used = (size_t)snprintf(out, bytes, "%s:", f->dialect);
    for (int i = 0; i < f->n_models && used < bytes; i++)
        if (f->part[i].n + f->part[i].n_deltas)
            used += (size_t)snprintf(out + used, bytes - used, " %d layers of %s,",
                                     f->part[i].n + f->part[i].n_deltas, f->model[i].part);
    if (used < bytes) snprintf(out + used, bytes - used, " because %s", f->why);
    return out;
}

/* ---- use ---- */

adapter_set adapter_file_set(const adapter_file *f, int model, params *ps) {
    return (adapter_set){.entry = f->part[model].entry, .n_entries = f->part[model].n, .ps = ps};
}

static status site_of_entry(const adapter_file *f, int model, int i, adapter_site *s,
                            adapter_tensor t[], int *n) {
    const adapter_entry *e = &f->part[model].entry[i];
    char name[160];
    snprintf(name, sizeof name, "%s.weight", e->layer);
    const param *p = params_find(f->model[model].ps, name);
    *s =
        (adapter_site){.info = e->info, .opts = &e->opts, .layer = e->layer, .w = p->s, .at = HERE};
    return e->info->tensors(s, t, n);
}

status adapter_file_fill(const adapter_file *f, int model, params *ps) {
    status st = OK;
    const adapter_file_part *part = &f->part[model];
    if (part->n_deltas)
        return fail(E_UNSUPPORTED,
                    "%s also changes biases or norms (%s): it can only be merged into the model",
                    f->path, part->delta[0].param);
    for (int i = 0; i < part->n; i++) {
        adapter_site s;
        adapter_tensor t[ADAPTER_MAX_TENSORS];
        int n = 0;
        char name[ADAPTER_KEY_BYTES];
        TRY(site_of_entry(f, model, i, &s, t, &n));
        for (int k = 0; k < n; k++) {
            snprintf(name, sizeof name, "%s%s", s.layer, t[k].key);
            TRY(params_set(ps, name, part->value[i][k], shape_count(&t[k].s)));
        }
    }
out:
    return st;
}

static status fold_entry(const adapter_file *f, int model, int i, double m, bool inverse,
                         float *w) {
    adapter_site s;
    adapter_tensor t[ADAPTER_MAX_TENSORS];
    int n = 0;
    status st = site_of_entry(f, model, i, &s, t, &n);
    if (st != OK) return st;
    return s.info->merge(&s, (const float *const *)f->part[model].value[i], m, inverse, w);
}

static bool is_weight_of(const char *name, const char *layer) {
    size_t n = strlen(layer);
    return strncmp(name, layer, n) == 0 && strcmp(name + n, ".weight") == 0;
}

bool adapter_file_touches(const adapter_file *f, int model, const char *name) {
    const adapter_file_part *part = &f->part[model];
    for (int i = 0; i < part->n; i++)
        if (is_weight_of(name, part->entry[i].layer)) return true;
    for (int i = 0; i < part->n_deltas; i++)
        if (strcmp(part->delta[i].param, name) == 0) return true;
    return false;
}

status adapter_file_fold(const adapter_file *f, int model, const char *name, double m, bool inverse,
                         float *w) {
    status st = OK;
    const adapter_file_part *part = &f->part[model];
    for (int i = 0; i < part->n; i++)
        if (is_weight_of(name, part->entry[i].layer)) TRY(fold_entry(f, model, i, m, inverse, w));
    for (int i = 0; i < part->n_deltas; i++)
        for (int64_t k = 0; strcmp(part->delta[i].param, name) == 0 && k < part->delta[i].n; k++)
            w[k] += (float)(inverse ? -m : m) * part->delta[i].value[k];
out:
    return st;
}

status adapter_file_merge(const adapter_file *f, int model, params *ps, double m, bool inverse) {
    status st = OK;
    float *w = NULL;
    for (int i = 0; i < ps->n; i++) {
        const param *p = &ps->p[i];
        int64_t n = shape_count(&p->s);
        if (!adapter_file_touches(f, model, p->name)) continue;
        mem_free(w);
        if (!(w = mem_alloc((size_t)n * sizeof *w)))
            TRY(fail(E_HOST_MEMORY, "no host memory to merge %s", p->name));
        TRY(params_get(ps, p->name, w, n));
        TRY(adapter_file_fold(f, model, p->name, m, inverse, w));
        TRY(params_set(ps, p->name, w, n));
    }
out:
    mem_free(w);
    return st;
}
