/* file.h: bytes on disk <-> host arrays. Knows no model.
 * safetensors: eight bytes of header length, a JSON header (name -> dtype, shape, byte range), the data.
 * Files come from strangers: every number is checked before it is used, and an error names the tensor,
 * what was seen and what was expected.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "base/dtype.h"

#define SAFETENSOR_MAX_DIMS 8

typedef struct safetensor {
    const char *name;
    const char *type;               /* as the file spells it: "F32", "BF16", "I64"; when writing NULL = that of dtype */
    dtype dtype;                    /* DT_COUNT for the types no device has: I64 I32 I16 U16 I8 U8 BOOL U64 */
    int n_dims;                     /* 0 = a scalar */
    int64_t dim[SAFETENSOR_MAX_DIMS];
    const void *data;               /* aligned for its type; count * size bytes, little-endian */
} safetensor;

typedef struct safetensor_note { const char *key, *value; } safetensor_note; /* an entry of __metadata__ */

typedef struct safetensors {
    const char *path;
    safetensor *tensor; int64_t n;          /* sorted by name */
    safetensor_note *note; int64_t n_notes; /* sorted by key */
    uint64_t data_bytes;                    /* all tensors together */
    file_map map; arena mem;                /* what the pointers above point into */
} safetensors;

/* Maps the file and checks all of it but the values. Pointers live until safetensors_close (NULL is accepted).
 *   errors  E_IO; E_FORMAT: truncated, ranges out of the file, overlapping or with holes, shape and range that
 *           disagree, a name twice, bad JSON; E_UNSUPPORTED: a type or rank unknown here; E_HOST_MEMORY */
status safetensors_open(const char *path, safetensors **out);
void   safetensors_close(safetensors *f);
const safetensor *safetensors_find(const safetensors *f, const char *name);      /* NULL = not there */
const char       *safetensors_find_note(const safetensors *f, const char *key); /* NULL = not there */

int64_t safetensor_count(const safetensor *t);              /* elements; 1 for a scalar */
size_t  safetensor_bytes(const safetensor *t);
double  safetensor_load(const safetensor *t, int64_t i);    /* any type; I64 and U64 rounded to double */
void    safetensor_read_f32(const safetensor *t, float *out); /* every element */
/* "F32[320, 4, 3, 3]" for messages; returns out. */
const char *safetensor_describe(const safetensor *t, char *out, size_t bytes);

/* Writes atomically, large types first and by name within, so the same tensors give the same bytes and every
 * tensor is aligned for its type. notes may be NULL.
 *   errors  E_FORMAT for a name or note that is repeated, reserved or not UTF-8; E_IO; E_HOST_MEMORY */
status safetensors_write(const char *path, const safetensor *t, int64_t n, const safetensor_note *notes, int64_t n_notes);
/* The same without the data pointers: fetch fills dst with the whole data of tensor i when its turn comes. */
typedef status (*safetensor_fetch)(void *ctx, int64_t i, void *dst);
status safetensors_write_streamed(const char *path, const safetensor *t, int64_t n, const safetensor_note *notes, int64_t n_notes,
                                  safetensor_fetch fetch, void *ctx);
