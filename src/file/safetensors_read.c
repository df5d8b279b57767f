/* safetensors_read.c: the reader. The file is mapped, never copied (but for tensors that lie
 * misaligned for their type, which old writers made); only the header is parsed. The format forbids
 * overlaps and holes in the data, so the sum of ranges must be the file, byte for byte: that also
 * finds every truncated download. source  the format description of the safetensors project
 * SPDX-License-Identifier: MIT */
#include "file/safetensors.h"

#include <cjson/cJSON.h>
#include <stdlib.h>

#define LENGTH_BYTES ((size_t)8)
#define NAME(s)      200, (s) /* for %.*s: a hostile name may be megabytes long */

typedef struct range {
    uint64_t begin, end;
    safetensor *t;
} range;

/* A non-negative integer that a double holds exactly. */
static bool read_integer(const json *j, int64_t *out) {
    if (!cJSON_IsNumber(j) || !(j->valuedouble >= 0 && j->valuedouble <= 0x1p53)) return false;
    *out = (int64_t)j->valuedouble;
    return (double)*out == j->valuedouble;
}

static status read_shape(const safetensors *f, const json *j, safetensor *t) {
    if (!cJSON_IsArray(j))
        return fail(E_FORMAT, "%s: tensor %.*s has no shape", f->path, NAME(t->name));
    for (const json *d = j->child; d; d = d->next) {
        if (t->n_dims == SAFETENSOR_MAX_DIMS)
            return fail(E_UNSUPPORTED, "%s: tensor %.*s has more than %d dimensions", f->path,
                        NAME(t->name), SAFETENSOR_MAX_DIMS);
        if (!read_integer(d, &t->dim[t->n_dims++]))
            return fail(E_FORMAT, "%s: tensor %.*s: dimension %d is not a size", f->path,
                        NAME(t->name), t->n_dims - 1);
    }
    return OK;
}

static status read_tensor(safetensors *f, const json *j, safetensor *t, range *r) {
    const json *type = cJSON_GetObjectItemCaseSensitive(j, "dtype");
    const json *at = cJSON_GetObjectItemCaseSensitive(j, "data_offsets");
    int64_t begin, end;
    uint64_t need;
    t->name = arena_printf(&f->mem, "%s", j->string);
    if (!t->name) return fail(E_HOST_MEMORY, "%s: no memory for the names in its header", f->path);
    if (!cJSON_IsObject(j) || !cJSON_IsString(type))
        return fail(E_FORMAT, "%s: tensor %.*s has no dtype", f->path, NAME(t->name));
    const element_type *e = element_type_find(type->valuestring);
    if (!e)
        return fail(E_UNSUPPORTED,
                    "%s: tensor %.*s has the dtype %.20s, which is not one of F64 F32 F16 BF16 "
                    "I64 I32 I16 I8 U64 U32 U16 U8 BOOL",
                    f->path, NAME(t->name), type->valuestring);
    t->type = e->name, t->dtype = e->dtype;
    status st = read_shape(f, cJSON_GetObjectItemCaseSensitive(j, "shape"), t);
    if (st != OK) return st;
    if (!cJSON_IsArray(at) || cJSON_GetArraySize(at) != 2 || !read_integer(at->child, &begin) ||
        !read_integer(at->child->next, &end) || begin > end)
        return fail(E_FORMAT, "%s: tensor %.*s: data_offsets is not [begin, end]", f->path,
                    NAME(t->name));
    if ((uint64_t)end > f->data_bytes)
        return fail(E_FORMAT,
                    "%s: tensor %.*s ends at byte %lld of the data, the file has %llu: truncated, "
                    "fetch it again",
                    f->path, NAME(t->name), (long long)end, (unsigned long long)f->data_bytes);
    char text[128];
    if (!safetensor_size(t->dim, t->n_dims, e->bytes, &need) || need != (uint64_t)(end - begin))
        return fail(E_FORMAT, "%s: tensor %.*s: %s does not fill its %lld bytes", f->path,
                    NAME(t->name), safetensor_describe(t, text, sizeof text),
                    (long long)(end - begin));
    *r = (range){(uint64_t)begin, (uint64_t)end, t};
    return OK;
}

static status read_notes(safetensors *f, const json *j) {
    if (!cJSON_IsObject(j))
        return fail(E_FORMAT, "%s: " SAFETENSORS_NOTES " is not an object", f->path);
    if (f->note) return fail(E_FORMAT, "%s: " SAFETENSORS_NOTES " occurs twice", f->path);
    f->note = arena_new(&f->mem, safetensor_note, cJSON_GetArraySize(j) + 1);
    if (!f->note) return fail(E_HOST_MEMORY, "%s: no memory for its metadata", f->path);
    for (const json *c = j->child; c; c = c->next) {
        if (!cJSON_IsString(c))
            return fail(E_FORMAT, "%s: metadata %.*s is not a string", f->path, NAME(c->string));
        safetensor_note *n = &f->note[f->n_notes++];
        n->key = arena_printf(&f->mem, "%s", c->string);
        n->value = arena_printf(&f->mem, "%s", c->valuestring);
        if (!n->key || !n->value)
            return fail(E_HOST_MEMORY, "%s: no memory for its metadata", f->path);
    }
    return OK;
}

static int by_begin(const void *a, const void *b) {
    const range *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const safetensor *)a)->name, ((const safetensor *)b)->name);
}

static int by_key(const void *a, const void *b) {
    return strcmp(((const safetensor_note *)a)->key, ((const safetensor_note *)b)->key);
}

/* Ranges are sorted, then each must begin where the one before ended. Sets the data pointers. */
static status place(safetensors *f, range *r, const uint8_t *data, bool align) {
    uint64_t at = 0;
    if (f->n) qsort(r, (size_t)f->n, sizeof *r, by_begin);
    for (int64_t i = 0; i < f->n; i++) {
        safetensor *t = r[i].t;
        if (r[i].begin != at)
            return fail(
                E_FORMAT, "%s: tensor %.*s begins at byte %llu of the data, expected %llu: %s",
                f->path, NAME(t->name), (unsigned long long)r[i].begin, (unsigned long long)at,
                r[i].begin < at ? "it overlaps the one before" : "there is a hole");
        at = r[i].end;
        size_t bytes = (size_t)(r[i].end - r[i].begin);
        t->data = data + r[i].begin;
        if (!align || (uintptr_t)t->data % element_type_find(t->type)->bytes == 0) continue;
        void *copy = arena_alloc(&f->mem, bytes);
        if (!copy)
            return fail(E_HOST_MEMORY, "%s: no memory to align tensor %.*s (%zu bytes)", f->path,
                        NAME(t->name), bytes);
        t->data = memcpy(copy, t->data, bytes);
    }
    if (at != f->data_bytes)
        return fail(E_FORMAT,
                    "%s: its tensors take %llu bytes, the file has %llu: cut short or appended to",
                    f->path, (unsigned long long)at, (unsigned long long)f->data_bytes);
    return OK;
}

static status read_header(safetensors *f, const json *header, const uint8_t *data, bool align) {
    status st = OK;
    int64_t n = 0;
    if (!cJSON_IsObject(header))
        return fail(E_FORMAT, "%s: the header is not a JSON object", f->path);
    for (const json *j = header->child; j; j = j->next) n++;
    range *r = mem_alloc((size_t)n * sizeof *r);
    f->tensor = arena_new(&f->mem, safetensor, n);
    if (!r || !f->tensor) {
        st = fail(E_HOST_MEMORY, "%s: no memory for a list of %lld tensors", f->path, (long long)n);
        goto out;
    }
    for (const json *j = header->child; j; j = j->next) {
        if (!strcmp(j->string, SAFETENSORS_NOTES))
            TRY(read_notes(f, j));
        else {
            TRY(read_tensor(f, j, &f->tensor[f->n], &r[f->n]));
            f->n++;
        }
    }
    TRY(place(f, r, data, align));
    if (f->n) qsort(f->tensor, (size_t)f->n, sizeof *f->tensor, by_name);
    if (f->n_notes) qsort(f->note, (size_t)f->n_notes, sizeof *f->note, by_key);
    for (int64_t i = 1; i < f->n; i++)
        if (!strcmp(f->tensor[i].name, f->tensor[i - 1].name)) {
            st = fail(E_FORMAT, "%s: tensor %.*s occurs twice", f->path, NAME(f->tensor[i].name));
            goto out;
        }
out:
    mem_free(r);
    return st;
}

status safetensors_map(const char *path, bool align, safetensors **out) {
    status st = OK;
    json *header = NULL;
    *out = NULL;
    safetensors *f = mem_zalloc(sizeof *f);
    if (!f) return fail(E_HOST_MEMORY, "%s: no memory to open it", path);
    f->path = arena_printf(&f->mem, "%s", path);
    if (!f->path) {
        st = fail(E_HOST_MEMORY, "%s: no memory to open it", path);
        goto out;
    }
    TRY(file_map_open(path, &f->map));
    uint64_t length = 0;
    size_t bytes = f->map.bytes;
    if (bytes >= LENGTH_BYTES) memcpy(&length, f->map.data, LENGTH_BYTES);
    if (bytes < LENGTH_BYTES || length > bytes - LENGTH_BYTES || length > JSON_MAX_BYTES ||
        length < 2) {
        st = fail(
            E_FORMAT,
            "%s: not a whole safetensors file: %zu bytes, of which it claims %llu for the header",
            path, bytes, (unsigned long long)length);
        goto out;
    }
    f->data_bytes = bytes - LENGTH_BYTES - length;
    TRY(json_parse((const char *)f->map.data + LENGTH_BYTES, (size_t)length, path, &header));
    TRY(read_header(f, header, f->map.data + LENGTH_BYTES + length, align));
    *out = f;
    f = NULL;
out:
    json_free(header);
    safetensors_close(f);
    return st;
}

status safetensors_open(const char *path, safetensors **out) {
    return safetensors_map(path, true, out);
}

void safetensors_close(safetensors *f) {
    if (!f) return;
    file_map_close(&f->map);
    arena_fini(&f->mem);
    mem_free(f);
}
