/* safetensors_write.c: the writer. Header text first in one growing buffer, then the data straight
 * from the callers' memory: no copy of a checkpoint is ever made. SPDX-License-Identifier: MIT */
#include "file/safetensors.h"
#include "file/utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define DATA_ALIGN                                                                                 \
    64 /* where the data begins: vector loads from the mapping; the format asks for 8 */

typedef struct text {
    char *p;
    size_t used, room;
    bool short_of_memory;
} text;
typedef struct entry {
    const safetensor *t;
    const element_type *e;
    uint64_t bytes;
} entry;

static void text_reserve(text *x, size_t more) {
    if (x->short_of_memory || x->room - x->used > more) return;
    size_t room = MAX(x->room * 2, x->used + more + 4096);
    char *p = mem_realloc(x->p, x->used, room);
    if (!p) {
        x->short_of_memory = true;
        return;
    }
    x->p = p, x->room = room;
}

static void text_add(text *x, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void text_add(text *x, const char *fmt, ...) {
    text_reserve(x, 256); /* all formats here stay below that */
    if (x->short_of_memory) return;
    va_list args;
    va_start(args, fmt);
    x->used += (size_t)vsnprintf(x->p + x->used, x->room - x->used, fmt, args);
    va_end(args);
}

static void text_add_quoted(text *x, const char *s) {
    text_reserve(x, strlen(s) * 6 + 2);
    if (x->short_of_memory) return;
    x->p[x->used++] = '"';
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\') x->p[x->used++] = '\\';
        if (c >= 0x20)
            x->p[x->used++] = (char)c;
        else
            x->used += (size_t)snprintf(x->p + x->used, 7, "\\u%04x", c);
    }
    x->p[x->used++] = '"';
}

static int by_size_then_name(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (x->e->bytes != y->e->bytes) return x->e->bytes > y->e->bytes ? -1 : 1;
    return strcmp(x->t->name, y->t->name);
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(const entry *const *)a)->t->name, (*(const entry *const *)b)->t->name);
}

/* Sorts of the same entries: e by layout, order by name. */
static status check_entries(const char *path, const safetensor *t, int64_t n, entry *e,
                            entry **order) {
    for (int64_t i = 0; i < n; i++) {
        e[i] = (entry){&t[i],
                       t[i].type ? element_type_find(t[i].type) : element_type_of(t[i].dtype), 0};
        if (!is_utf8(t[i].name) || !strcmp(t[i].name, SAFETENSORS_NOTES))
            return fail(E_FORMAT, "%s: \"%.200s\" cannot be the name of a tensor", path, t[i].name);
        if (!e[i].e || t[i].n_dims < 0 || t[i].n_dims > SAFETENSOR_MAX_DIMS ||
            !safetensor_size(t[i].dim, t[i].n_dims, e[i].e->bytes, &e[i].bytes))
            return fail(E_FORMAT, "%s: tensor %.200s has no valid type and shape", path, t[i].name);
    }
    if (n) qsort(e, (size_t)n, sizeof *e, by_size_then_name);
    for (int64_t i = 0; i < n; i++) order[i] = &e[i];
    if (n) qsort(order, (size_t)n, sizeof *order, by_name);
    for (int64_t i = 1; i < n; i++)
        if (!strcmp(order[i]->t->name, order[i - 1]->t->name))
            return fail(E_FORMAT, "%s: two tensors are named %.200s", path, order[i]->t->name);
    return OK;
}

static status add_notes(const char *path, text *x, const safetensor_note *notes, int64_t n) {
    text_add(x, "\"" SAFETENSORS_NOTES "\":{");
    for (int64_t i = 0; i < n; i++) {
        if (!is_utf8(notes[i].key) || !is_utf8(notes[i].value))
            return fail(E_FORMAT, "%s: metadata %.200s is not valid UTF-8", path, notes[i].key);
        for (int64_t k = 0; k < i; k++)
            if (!strcmp(notes[i].key, notes[k].key))
                return fail(E_FORMAT, "%s: metadata %.200s is given twice", path, notes[i].key);
        if (i) text_add(x, ",");
        text_add_quoted(x, notes[i].key);
        text_add(x, ":");
        text_add_quoted(x, notes[i].value);
    }
    text_add(x, "}");
    return OK;
}

static void add_tensor(text *x, const entry *e, uint64_t begin) {
    text_add_quoted(x, e->t->name);
    text_add(x, ":{\"dtype\":\"%s\",\"shape\":[", e->e->name);
    for (int i = 0; i < e->t->n_dims; i++)
        text_add(x, "%s%lld", i ? "," : "", (long long)e->t->dim[i]);
    text_add(x, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)begin,
             (unsigned long long)(begin + e->bytes));
}

static status build_header(const char *path, text *x, const entry *e, int64_t n,
                           const safetensor_note *notes, int64_t n_notes) {
    uint64_t at = 0;
    text_add(x, "%8s{", ""); /* room for the length */
    if (n_notes) {
        status st = add_notes(path, x, notes, n_notes);
        if (st != OK) return st;
    }
    for (int64_t i = 0; i < n; i++) {
        if (i || n_notes) text_add(x, ",");
        add_tensor(x, &e[i], at);
        at += e[i].bytes;
    }
    text_add(x, "}");
    while (!x->short_of_memory && x->used % DATA_ALIGN) text_add(x, " ");
    if (x->short_of_memory) return fail(E_HOST_MEMORY, "%s: no memory for the header", path);
    uint64_t length = x->used - 8;
    if (length > JSON_MAX_BYTES)
        return fail(E_FORMAT, "%s: a header of %llu bytes, at most %zu are readable", path,
                    (unsigned long long)length, JSON_MAX_BYTES);
    memcpy(x->p, &length, 8);
    return OK;
}

/* Where the data comes from: fetch, or where it is NULL the callers' memory. */
typedef struct supply {
    const safetensor *first;
    safetensor_fetch fetch;
    void *ctx, *buffer;
} supply;

static status write_all(const char *path, const text *x, const entry *e, int64_t n,
                        const supply *s) {
    status st = OK;
    file_out f;
    st = file_out_open(path, &f);
    if (st != OK) return st;
    TRY(file_out_write(&f, x->p, x->used));
    for (int64_t i = 0; i < n; i++) {
        if (s->fetch && e[i].bytes) TRY(s->fetch(s->ctx, e[i].t - s->first, s->buffer));
        TRY(file_out_write(&f, s->fetch ? s->buffer : e[i].t->data, (size_t)e[i].bytes));
    }
    return file_out_commit(&f);
out:
    file_out_abort(&f);
    return st;
}

status safetensors_write(const char *path, const safetensor *t, int64_t n,
                         const safetensor_note *notes, int64_t n_notes) {
    return safetensors_write_streamed(path, t, n, notes, n_notes, NULL, NULL);
}

status safetensors_write_streamed(const char *path, const safetensor *t, int64_t n,
                                  const safetensor_note *notes, int64_t n_notes,
                                  safetensor_fetch fetch, void *ctx) {
    status st = OK;
    text x = {0};
    supply s = {t, fetch, ctx, NULL};
    uint64_t largest = 0;
    entry *e = mem_alloc((size_t)n * sizeof *e), **order = mem_alloc((size_t)n * sizeof *order);
    if (!e || !order) {
        st = fail(E_HOST_MEMORY, "%s: no memory for a list of %lld tensors", path, (long long)n);
        goto out;
    }
    TRY(check_entries(path, t, n, e, order));
    TRY(build_header(path, &x, e, n, notes, notes ? n_notes : 0));
    for (int64_t i = 0; fetch && i < n; i++) largest = MAX(largest, e[i].bytes);
    if (largest && !(s.buffer = mem_alloc((size_t)largest))) {
        st = fail(E_HOST_MEMORY, "%s: no memory for a tensor of %llu bytes", path,
                  (unsigned long long)largest);
        goto out;
    }
    TRY(write_all(path, &x, e, n, &s));
out:
    mem_free(s.buffer);
    mem_free(x.p);
    mem_free(order);
    mem_free(e);
    return st;
}
