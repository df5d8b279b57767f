/* weights.c: files of weights as one set. A file is told by its first bytes, not by its name, and
 * what is no checkpoint but often taken for one gets its own answer. Tensors of all files are
 * sorted by name together, which finds names that occur twice, and then the ones that an index
 * promised. SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* memmem */
#include "file/weights_internal.h"
#include "file/safetensors.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>

#define INDEX_SUFFIX ".index.json"
#define ZIP_SEARCH                                                                                 \
    ((size_t)64                                                                                    \
     << 10) /* bytes at the start and the end of a zip file that are searched for names */

typedef struct source { /* one of the two */
    safetensors *s;
    gguf *g;
} source;

typedef struct promise { /* a line of an index */
    const char *tensor, *path;
} promise;

struct weights {
    weight *tensor;
    int64_t n;
    uint64_t bytes;
    source *source;
    int64_t n_sources, sources_room;
    promise *promise;
    int64_t n_promises;
    arena mem; /* paths, names of promises */
};

static status no_memory(const char *path) {
    return fail(E_HOST_MEMORY, "%s: no memory to open it", path);
}

/* ---- what kind of file ---- */
#define WHY_NO_PICKLE                                                                              \
    "is a pickle, which runs whatever program its author put in: imago does not open those. "      \
    "Convert it to safetensors "                                                                   \
    "(diffusers' scripts/convert_original_stable_diffusion_to_diffusers.py with "                  \
    "--to_safetensors, or safetensors.torch.save_file) "                                           \
    "or download the .safetensors file of the model"

typedef struct file_kind {
    const char *magic;
    size_t bytes;
    status st;
    const char *says;
} file_kind;

static const file_kind not_weights[] = {
    {"\x80\x02", 2, E_UNSUPPORTED, WHY_NO_PICKLE},
    {"\x80\x03", 2, E_UNSUPPORTED, WHY_NO_PICKLE},
    {"\x80\x04", 2, E_UNSUPPORTED, WHY_NO_PICKLE},
    {"\x80\x05", 2, E_UNSUPPORTED, WHY_NO_PICKLE},
    {"version https://git-lfs", 23, E_FORMAT,
     "is a Git LFS pointer, not the file itself: run `git lfs pull`, or download the file"},
    {"<", 1, E_FORMAT, "is a web page: the download failed, or asks for a login"},
    {"PK\3\4", 4, E_FORMAT,
     "is a zip archive without weights that can be read: unpack it and give the .safetensors files "
     "in it"},
};

/* PyTorch's zip files hold NAME/data.pkl; the list of names is at the end, the first one also at
 * the start. */
static bool is_zipped_pickle(const file_map *m) {
    size_t n = MIN(m->bytes, ZIP_SEARCH);
    if (m->bytes < 4 || memcmp(m->data, "PK\3\4", 4)) return false;
    return memmem(m->data, n, ".pkl", 4) || memmem(m->data + m->bytes - n, n, ".pkl", 4);
}

/* A header of 640 bytes also begins like a pickle: what looks like safetensors is. */
static bool looks_like_safetensors(const file_map *m) {
    uint64_t length;
    if (m->bytes < 10) return false;
    memcpy(&length, m->data, 8);
    return length <= m->bytes - 8 && m->data[8] == '{';
}

/* OK: *is_gguf says which of the two it is, damaged perhaps. */
static status check_kind(const char *path, bool *is_gguf) {
    status st = OK;
    file_map m = {0};
    TRY(file_map_open(path, &m));
    *is_gguf = m.bytes >= 4 && !memcmp(m.data, "GGUF", 4);
    if (*is_gguf || looks_like_safetensors(&m)) goto out;
    if (is_zipped_pickle(&m)) {
        st = fail(E_UNSUPPORTED, "%s " WHY_NO_PICKLE, path);
        goto out;
    }
    for (size_t i = 0; i < ARRAY_LEN(not_weights) && st == OK; i++) {
        const file_kind *k = &not_weights[i];
        if (m.bytes >= k->bytes && !memcmp(m.data, k->magic, k->bytes))
            st = fail(k->st, "%s %s", path, k->says);
    }
out:
    file_map_close(&m);
    return st;
}

/* ---- one file ---- */
static weight from_safetensor(const safetensor *t, const char *path) {
    weight w = {.name = t->name,
                .type = t->type,
                .dtype = t->dtype,
                .n_dims = t->n_dims,
                .count = safetensor_count(t),
                .data = t->data,
                .bytes = safetensor_bytes(t),
                .path = path};
    memcpy(w.dim, t->dim, sizeof w.dim);
    return w;
}

static status open_file(weights *w, const char *path) {
    status st = OK;
    bool is_gguf;
    TRY(check_kind(path, &is_gguf));
    if (w->n_sources == w->sources_room) {
        int64_t room = MAX(8, 2 * w->sources_room);
        source *more = mem_realloc(w->source, (size_t)w->sources_room * sizeof *more,
                                   (size_t)room * sizeof *more);
        if (!more) return no_memory(path);
        w->source = more, w->sources_room = room;
    }
    source *s = &w->source[w->n_sources];
    *s = (source){0};
    if (is_gguf)
        TRY(gguf_open(path, &s->g));
    else
        TRY(safetensors_map(path, false, &s->s)); /* misaligned or not: weight_read takes both */
    w->n_sources++;
out:
    return st;
}

/* ---- shards ---- */
/* Shards lie beside their index; a name that leads elsewhere is refused. */
static status shard_path(weights *w, const char *index, const char *shard, const char **out) {
    const char *slash = strrchr(index, '/');
    if (!*shard || *shard == '/' || strstr(shard, "..") || strchr(shard, '\\'))
        return fail(E_FORMAT, "%s: the shard name %.*s leads out of its folder", index,
                    NAME(shard));
    *out = arena_printf(&w->mem, "%.*s%s", slash ? (int)(slash + 1 - index) : 0, index, shard);
    if (!*out) return no_memory(index);
    return OK;
}

static int by_path(const void *a, const void *b) {
    return strcmp(((const promise *)a)->path, ((const promise *)b)->path);
}

static status read_index(weights *w, const char *path, const json *map) {
    status st = OK;
    int64_t first = w->n_promises, n = first;
    if (!cJSON_IsObject(map))
        return fail(E_FORMAT, "%s: has no weight_map: not the index of a sharded checkpoint", path);
    for (const json *j = map->child; j; j = j->next) n++;
    promise *more = mem_realloc(w->promise, (size_t)first * sizeof *more, (size_t)n * sizeof *more);
    if (!more) return no_memory(path);
    w->promise = more;
    for (const json *j = map->child; j; j = j->next) {
        if (!cJSON_IsString(j))
            return fail(E_FORMAT, "%s: weight_map: %.*s is not the name of a file", path,
                        NAME(j->string));
        promise *p = &w->promise[w->n_promises];
        p->tensor = arena_printf(&w->mem, "%s", j->string);
        if (!p->tensor) return no_memory(path);
        TRY(shard_path(w, path, j->valuestring, &p->path));
        w->n_promises++;
    }
    if (n > first) qsort(w->promise + first, (size_t)(n - first), sizeof *w->promise, by_path);
    for (int64_t i = first; i < n; i++) {
        const promise *p = &w->promise[i];
        if (i > first && !strcmp(p->path, p[-1].path)) continue;
        if (!os_file_exists(p->path))
            return fail(E_IO, "%s: not there, but %s lists it: download all shards into one folder",
                        p->path, path);
        TRY(open_file(w, p->path));
    }
out:
    return st;
}

static status open_index(weights *w, const char *path) {
    status st = OK;
    uint8_t *text = NULL;
    size_t bytes;
    json *j = NULL;
    TRY(file_read(path, JSON_MAX_BYTES, &text, &bytes));
    TRY(json_parse((const char *)text, bytes, path, &j));
    TRY(read_index(w, path, cJSON_GetObjectItemCaseSensitive(j, "weight_map")));
out:
    json_free(j);
    mem_free(text);
    return st;
}

/* ---- the set ---- */
static int by_name(const void *a, const void *b) {
    return strcmp(((const weight *)a)->name, ((const weight *)b)->name);
}

static status collect(weights *w, const char *path) {
    int64_t n = 0;
    for (int64_t i = 0; i < w->n_sources; i++)
        n += w->source[i].s ? w->source[i].s->n : w->source[i].g->n;
    w->tensor = mem_alloc((size_t)n * sizeof *w->tensor);
    if (!w->tensor) return no_memory(path);
    for (int64_t i = 0; i < w->n_sources; i++) {
        const safetensors *s = w->source[i].s;
        const gguf *g = w->source[i].g;
        for (int64_t k = 0; k < (s ? s->n : g->n); k++)
            w->tensor[w->n++] = s ? from_safetensor(&s->tensor[k], s->path) : g->tensor[k];
    }
    if (n) qsort(w->tensor, (size_t)n, sizeof *w->tensor, by_name);
    for (int64_t i = 0; i < n; i++) {
        const weight *t = &w->tensor[i];
        w->bytes += t->bytes;
        if (i && !strcmp(t->name, t[-1].name))
            return fail(
                E_FORMAT,
                "tensor %.*s is in %s and again in %s: give the files of one model, each once",
                NAME(t->name), t[-1].path, t->path);
    }
    return OK;
}

static status check_promises(const weights *w) {
    for (int64_t i = 0; i < w->n_promises; i++) {
        const promise *p = &w->promise[i];
        const weight *t = weights_find(w, p->tensor);
        if (!t || strcmp(t->path, p->path))
            return fail(E_FORMAT,
                        "%s: tensor %.*s should be in it by the index, and is not: the shards are "
                        "of different versions",
                        p->path, NAME(p->tensor));
    }
    return OK;
}

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

status weights_open(const char *const *paths, int n, weights **out) {
    status st = OK;
    *out = NULL;
    if (n < 1) return fail(E_USAGE, "no file of weights was given");
    weights *w = mem_zalloc(sizeof *w);
    if (!w) return no_memory(paths[0]);
    for (int i = 0; i < n; i++)
        if (ends_with(paths[i], INDEX_SUFFIX))
            TRY(open_index(w, paths[i]));
        else
            TRY(open_file(w, paths[i]));
    TRY(collect(w, paths[0]));
    TRY(check_promises(w));
    *out = w;
    w = NULL;
out:
    weights_close(w);
    return st;
}

void weights_close(weights *w) {
    if (!w) return;
    for (int64_t i = 0; i < w->n_sources; i++) {
        safetensors_close(w->source[i].s);
        gguf_close(w->source[i].g);
    }
    mem_free(w->source);
    mem_free(w->promise);
    mem_free(w->tensor);
    arena_fini(&w->mem);
    mem_free(w);
}

int64_t weights_count(const weights *w) { return w->n; }
const weight *weights_at(const weights *w, int64_t i) { return &w->tensor[i]; }
uint64_t weights_bytes(const weights *w) { return w->bytes; }

const weight *weights_find(const weights *w, const char *name) {
    const weight key = {.name = name};
    return w->n ? bsearch(&key, w->tensor, (size_t)w->n, sizeof key, by_name) : NULL;
}

const char *weights_note(const weights *w, const char *key) {
    for (int64_t i = 0; i < w->n_sources; i++) {
        const gguf *g = w->source[i].g;
        const char *found = w->source[i].s ? safetensors_find_note(w->source[i].s, key) : NULL;
        for (int64_t k = 0; g && k < g->n_notes && !found; k++)
            if (!strcmp(g->note[k].key, key)) found = g->note[k].value;
        if (found) return found;
    }
    return NULL;
}

const char *weight_describe(const weight *t, char *out, size_t bytes) {
    size_t used = 0;
    for (int i = -1; i <= t->n_dims && used < bytes; i++) {
        int n = i < 0            ? snprintf(out + used, bytes - used, "%s[", t->type)
                : i == t->n_dims ? snprintf(out + used, bytes - used, "]")
                                 : snprintf(out + used, bytes - used, "%s%lld", i ? ", " : "",
                                            (long long)t->dim[i]);
        used += n > 0 ? (size_t)n : 0;
    }
    return out;
}
