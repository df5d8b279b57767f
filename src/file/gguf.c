/* gguf.c: the reader of GGUF, versions 2 and 3: a count of tensors and of keys, the keys with typed
 * values, a line per tensor, then the data. Every number is checked against the bytes that are left
 * before it is used, so nothing larger than the file is ever allocated or walked.
 * source  the format description of ggml (docs/gguf.md)
 * SPDX-License-Identifier: MIT */
#include "file/weights_internal.h"

#include <stdlib.h>

#define RESHAPED                                                                                   \
    "comfy.gguf.orig_shape." /* ComfyUI-GGUF: rows that no block divides are folded; this is the   \
                                shape before */
#define KEY_MAX       ((uint64_t)65535)   /* bytes, the longest key that the format allows */
#define NOTE_MAX      ((uint64_t)1 << 20) /* longer strings (merged tokenizers) are passed over */
#define COUNT_MAX     ((uint64_t)1 << 20) /* keys or tensors; the largest checkpoints have 10^4 */
#define DEFAULT_ALIGN 32

enum {
    V_U8,
    V_I8,
    V_U16,
    V_I16,
    V_U32,
    V_I32,
    V_F32,
    V_BOOL,
    V_STRING,
    V_ARRAY,
    V_U64,
    V_I64,
    V_F64,
    V_COUNT
};
static const uint8_t value_bytes[V_COUNT] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

/* The numbers up to 39 that ggml has used; those without a name were taken back. */
static const char *const type_names[] = {
    "F32",   "F16",        "Q4_0",       "Q4_1",       "Q4_2",     "Q4_3",     "Q5_0",
    "Q5_1",  "Q8_0",       "Q8_1",       "Q2_K",       "Q3_K",     "Q4_K",     "Q5_K",
    "Q6_K",  "Q8_K",       "IQ2_XXS",    "IQ2_XS",     "IQ3_XXS",  "IQ1_S",    "IQ4_NL",
    "IQ3_S", "IQ2_S",      "IQ4_XS",     "I8",         "I16",      "I32",      "I64",
    "F64",   "IQ1_M",      "BF16",       "Q4_0_4_4",   "Q4_0_4_8", "Q4_0_8_8", "TQ1_0",
    "TQ2_0", "IQ4_NL_4_4", "IQ4_NL_4_8", "IQ4_NL_8_8", "MXFP4",
};

const char *gguf_type_name(uint32_t type) {
    return type < ARRAY_LEN(type_names) ? type_names[type] : "?";
}

typedef struct shape {
    const char *name;
    int n_dims;
    int64_t dim[WEIGHT_MAX_DIMS];
} shape;

typedef struct cursor {
    gguf *f;
    uint64_t at; /* next byte; never past the end */
    uint64_t align;
    shape *reshaped;
    int64_t n_reshaped, room;
} cursor;

static uint64_t left(const cursor *c) { return c->f->map.bytes - c->at; }

static status cut_short(const cursor *c, const char *where) {
    return fail(E_FORMAT, "%s: ends within %s, at byte %llu: truncated or damaged", c->f->path,
                where, (unsigned long long)c->at);
}

static status no_memory(const gguf *f) {
    return fail(E_HOST_MEMORY, "%s: no memory for its header", f->path);
}

/* The next bytes as an unsigned number. */
static status get(cursor *c, size_t bytes, const char *where, uint64_t *out) {
    if (left(c) < bytes) return cut_short(c, where);
    *out = 0;
    memcpy(out, c->f->map.data + c->at,
           bytes); /* little-endian hosts only, as everywhere in this program */
    c->at += bytes;
    return OK;
}

static status get_string(cursor *c, const char *where, const char **text, uint64_t *bytes) {
    status st = get(c, 8, where, bytes);
    if (st != OK) return st;
    if (left(c) < *bytes) return cut_short(c, where);
    *text = (const char *)c->f->map.data + c->at;
    c->at += *bytes;
    return OK;
}

/* A string that becomes a C string: bounded, nothing after a NUL. */
static status get_name(cursor *c, const char *where, const char **out) {
    const char *text = NULL;
    uint64_t bytes = 0;
    status st = get_string(c, where, &text, &bytes);
    if (st != OK) return st;
    if (bytes > KEY_MAX || memchr(text, 0, (size_t)bytes))
        return fail(E_FORMAT, "%s: %s at byte %llu is no name: damaged", c->f->path, where,
                    (unsigned long long)(c->at - bytes));
    *out = arena_printf(&c->f->mem, "%.*s", (int)bytes, text);
    return *out ? OK : no_memory(c->f);
}

/* ---- keys and values ---- */
/* Element `i` of a packed array of 32- or 64-bit integers; a negative one is a huge one. */
static int64_t element(const uint8_t *p, uint64_t type, uint64_t i) {
    int32_t narrow;
    int64_t wide;
    if (value_bytes[type] == 8) return memcpy(&wide, p + 8 * i, 8), wide;
    memcpy(&narrow, p + 4 * i, 4);
    return narrow;
}

static status keep_shape(cursor *c, const char *key, const uint8_t *p, uint64_t type, uint64_t n) {
    bool integers = type == V_I32 || type == V_U32 || type == V_I64 || type == V_U64;
    if (!integers || n > WEIGHT_MAX_DIMS)
        return fail(E_FORMAT, "%s: %.*s is not a list of at most %d sizes", c->f->path, NAME(key),
                    WEIGHT_MAX_DIMS);
    if (c->n_reshaped == c->room) {
        int64_t room = MAX(64, 2 * c->room);
        shape *more =
            mem_realloc(c->reshaped, (size_t)c->room * sizeof *more, (size_t)room * sizeof *more);
        if (!more) return no_memory(c->f);
        c->reshaped = more, c->room = room;
    }
    shape *s = &c->reshaped[c->n_reshaped++];
    *s = (shape){.name = key + strlen(RESHAPED), .n_dims = (int)n};
    for (uint64_t i = 0; i < n; i++) s->dim[i] = element(p, type, i);
    return OK;
}

static status read_array(cursor *c, const char *key) {
    uint64_t type = 0, n = 0, bytes = 0;
    const char *text = NULL;
    status st = get(c, 4, key, &type);
    if (st == OK) st = get(c, 8, key, &n);
    if (st != OK) return st;
    if (type >= V_COUNT || type == V_ARRAY)
        return fail(E_FORMAT, "%s: %.*s is an array of type %llu, which does not exist", c->f->path,
                    NAME(key), (unsigned long long)type);
    if (type == V_STRING) {
        for (uint64_t i = 0; i < n && st == OK; i++) st = get_string(c, key, &text, &bytes);
        return st;
    }
    if (n > left(c) / value_bytes[type]) return cut_short(c, key);
    const uint8_t *p = c->f->map.data + c->at;
    c->at += n * value_bytes[type];
    return strncmp(key, RESHAPED, strlen(RESHAPED)) ? OK : keep_shape(c, key, p, type, n);
}

static status read_note(cursor *c, const char *key) {
    const char *text = NULL;
    uint64_t bytes = 0;
    status st = get_string(c, key, &text, &bytes);
    if (st != OK || bytes > NOTE_MAX) return st;
    gguf_note *n = &c->f->note[c->f->n_notes++];
    *n = (gguf_note){key, arena_printf(&c->f->mem, "%.*s", (int)bytes, text)};
    return n->value ? OK : no_memory(c->f);
}

static status read_key(cursor *c) {
    const char *key = "";
    uint64_t type = 0, value = 0;
    status st = get_name(c, "a key", &key);
    if (st == OK) st = get(c, 4, key, &type);
    if (st != OK) return st;
    if (type == V_STRING) return read_note(c, key);
    if (type == V_ARRAY) return read_array(c, key);
    if (type >= V_COUNT)
        return fail(E_FORMAT, "%s: %.*s has the type %llu, which does not exist", c->f->path,
                    NAME(key), (unsigned long long)type);
    st = get(c, value_bytes[type], key, &value);
    if (st != OK || strcmp(key, "general.alignment")) return st;
    if (type != V_U32 || !value || (value & (value - 1)) || value > 1u << 20)
        return fail(E_FORMAT, "%s: general.alignment is %llu: not a power of two", c->f->path,
                    (unsigned long long)value);
    c->align = value;
    return OK;
}

/* ---- tensors ---- */
static status read_shape(cursor *c, weight *t, const weight_type *type, uint64_t *dim) {
    uint64_t blocks = 1;
    t->count = 1;
    for (int i = 0; i < t->n_dims; i++) {
        t->dim[t->n_dims - 1 - i] = (int64_t)dim[i];
        if (i == 0 && dim[i] % (uint64_t)type->per_block)
            return fail(
                E_FORMAT,
                "%s: tensor %.*s: rows of %llu elements are not whole blocks of %s, which hold %d",
                c->f->path, NAME(t->name), (unsigned long long)dim[i], type->name, type->per_block);
        if (dim[i] > INT64_MAX ||
            __builtin_mul_overflow(blocks, i ? dim[i] : dim[i] / (uint64_t)type->per_block,
                                   &blocks) ||
            __builtin_mul_overflow(t->count, (int64_t)dim[i], &t->count))
            return fail(E_FORMAT, "%s: tensor %.*s: its sizes are impossible: damaged", c->f->path,
                        NAME(t->name));
    }
    if (!t->n_dims && type->per_block > 1)
        return fail(E_FORMAT, "%s: tensor %.*s is one number and of type %s, which comes in blocks",
                    c->f->path, NAME(t->name), type->name);
    if (__builtin_mul_overflow(blocks, (uint64_t)type->block_bytes, &t->bytes))
        return fail(E_FORMAT, "%s: tensor %.*s: its sizes are impossible: damaged", c->f->path,
                    NAME(t->name));
    return OK;
}

/* The line of a tensor; its offset is kept in `begin` until the start of the data is known. */
static status read_tensor(cursor *c, weight *t, uint64_t *begin) {
    status st = OK;
    uint64_t n_dims = 0, id = 0, dim[WEIGHT_MAX_DIMS] = {0};
    t->path = c->f->path;
    TRY(get_name(c, "a tensor's name", &t->name));
    TRY(get(c, 4, t->name, &n_dims));
    if (n_dims > WEIGHT_MAX_DIMS)
        return fail(E_UNSUPPORTED, "%s: tensor %.*s has %llu dimensions, at most %d are read",
                    c->f->path, NAME(t->name), (unsigned long long)n_dims, WEIGHT_MAX_DIMS);
    t->n_dims = (int)n_dims;
    for (int i = 0; i < t->n_dims; i++) TRY(get(c, 8, t->name, &dim[i]));
    TRY(get(c, 4, t->name, &id));
    TRY(get(c, 8, t->name, begin));
    const weight_type *type = weight_type_of_gguf((uint32_t)id);
    if (!type)
        return fail(E_UNSUPPORTED,
                    "%s: tensor %.*s has the type %s (%llu), which imago does not read: take the "
                    "F16, BF16, Q8_0, Q5_1, Q5_0, Q4_1 or "
                    "Q4_0 file of this model",
                    c->f->path, NAME(t->name), gguf_type_name((uint32_t)id),
                    (unsigned long long)id);
    t->type = type->name, t->dtype = type->dtype;
    TRY(read_shape(c, t, type, dim));
out:
    return st;
}

typedef struct range {
    uint64_t begin;
    const weight *t;
} range;

static int by_begin(const void *a, const void *b) {
    const range *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->t->bytes < y->t->bytes
               ? -1
               : x->t->bytes > y->t->bytes; /* empty ones first: they overlap nothing */
}

/* Sets the data pointers; ranges are then sorted, and each must end before the next begins. */
static status place(cursor *c, range *r) {
    gguf *f = c->f;
    uint64_t start = align_up(c->at, c->align), end = 0;
    uint64_t have = start < f->map.bytes ? f->map.bytes - start : 0;
    for (int64_t i = 0; i < f->n; i++) {
        weight *t = &f->tensor[i];
        if (r[i].begin % c->align)
            return fail(
                E_FORMAT,
                "%s: tensor %.*s begins at byte %llu of the data, not at a multiple of %llu",
                f->path, NAME(t->name), (unsigned long long)r[i].begin,
                (unsigned long long)c->align);
        if (r[i].begin > have || t->bytes > have - r[i].begin)
            return fail(E_FORMAT,
                        "%s: tensor %.*s takes %llu bytes from byte %llu of the data, the file has "
                        "%llu: truncated, download it again",
                        f->path, NAME(t->name), (unsigned long long)t->bytes,
                        (unsigned long long)r[i].begin, (unsigned long long)have);
        t->data = f->map.data + MIN(start, f->map.bytes) + r[i].begin;
    }
    if (f->n) qsort(r, (size_t)f->n, sizeof *r, by_begin);
    for (int64_t i = 0; i < f->n; i++) {
        if (r[i].begin < end)
            return fail(E_FORMAT, "%s: tensor %.*s overlaps the one before it: damaged", f->path,
                        NAME(r[i].t->name));
        end = r[i].begin + r[i].t->bytes;
    }
    return OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const shape *)a)->name, ((const shape *)b)->name);
}

static status reshape(cursor *c, weight *t) {
    shape key = {.name = t->name};
    const shape *s = c->n_reshaped
                         ? bsearch(&key, c->reshaped, (size_t)c->n_reshaped, sizeof key, by_name)
                         : NULL;
    int64_t count = 1;
    if (!s) return OK;
    for (int i = 0; i < s->n_dims; i++)
        if (s->dim[i] < 0 || __builtin_mul_overflow(count, s->dim[i], &count))
            count = -1, i = s->n_dims;
    if (count != t->count)
        return fail(E_FORMAT,
                    "%s: tensor %.*s has %lld elements, its first shape in " RESHAPED
                    "* another number",
                    c->f->path, NAME(t->name), (long long)t->count);
    t->n_dims = s->n_dims;
    memcpy(t->dim, s->dim, sizeof t->dim);
    return OK;
}

static status read_all(cursor *c) {
    status st = OK;
    gguf *f = c->f;
    range *r = NULL;
    uint64_t version = 0, tensors = 0, keys = 0;
    c->at = 4; /* after "GGUF" */
    TRY(get(c, 4, "the version", &version));
    if (version < 2 || version > 3)
        return fail(E_UNSUPPORTED, "%s: GGUF version %llu%s; versions 2 and 3 are read", f->path,
                    (unsigned long long)version,
                    version && !(version & 0xffffff) ? " (big-endian)" : "");
    TRY(get(c, 8, "the header", &tensors));
    TRY(get(c, 8, "the header", &keys));
    if (tensors > COUNT_MAX || keys > COUNT_MAX)
        return fail(
            E_FORMAT,
            "%s: claims %llu tensors and %llu keys, at most %llu are accepted: damaged or hostile",
            f->path, (unsigned long long)tensors, (unsigned long long)keys,
            (unsigned long long)COUNT_MAX);
    f->note = arena_new(&f->mem, gguf_note, keys);
    f->tensor = arena_new(&f->mem, weight, tensors);
    r = mem_alloc((size_t)tensors * sizeof *r);
    if (!f->note || !f->tensor || !r) {
        st = no_memory(f);
        goto out;
    }
    for (uint64_t i = 0; i < keys; i++) TRY(read_key(c));
    for (; f->n < (int64_t)tensors; f->n++) {
        r[f->n].t = &f->tensor[f->n];
        TRY(read_tensor(c, &f->tensor[f->n], &r[f->n].begin));
    }
    TRY(place(c, r));
    if (c->n_reshaped) qsort(c->reshaped, (size_t)c->n_reshaped, sizeof *c->reshaped, by_name);
    for (int64_t i = 0; i < f->n; i++) TRY(reshape(c, &f->tensor[i]));
out:
    mem_free(r);
    return st;
}

status gguf_open(const char *path, gguf **out) {
    status st = OK;
    cursor c = {.align = DEFAULT_ALIGN};
    *out = NULL;
    gguf *f = mem_zalloc(sizeof *f);
    if (!f) return fail(E_HOST_MEMORY, "%s: no memory to open it", path);
    c.f = f;
    f->path = arena_printf(&f->mem, "%s", path);
    if (!f->path) {
        st = fail(E_HOST_MEMORY, "%s: no memory to open it", path);
        goto out;
    }
    TRY(file_map_open(path, &f->map));
    if (f->map.bytes < 4 || memcmp(f->map.data, "GGUF", 4)) {
        st = fail(E_FORMAT, "%s: not a GGUF file", path);
        goto out;
    }
    TRY(read_all(&c));
    *out = f;
    f = NULL;
out:
    mem_free(c.reshaped);
    gguf_close(f);
    return st;
}

void gguf_close(gguf *f) {
    if (!f) return;
    file_map_close(&f->map);
    arena_fini(&f->mem);
    mem_free(f);
}
