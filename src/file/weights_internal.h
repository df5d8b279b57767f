/* weights_internal.h: what the files behind weights.h share.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "file/weights.h"

#define NAME(s) 200, (s) /* for %.*s: a hostile name may be long */

/* How elements lie in a file. */
typedef struct weight_type {
    const char *name;
    int gguf;          /* its number in GGUF; -1: in safetensors only */
    int per_block;     /* elements that share a scale; 1 for plain types */
    int block_bytes;
    dtype dtype;
    void (*load)(const uint8_t *p, int64_t n, float *restrict out); /* n elements, whole blocks; p has any alignment */
} weight_type;
const weight_type *weight_type_find(const char *name); /* NULL = cannot be read */
const weight_type *weight_type_of_gguf(uint32_t type);
const char *gguf_type_name(uint32_t type); /* also of those that cannot be read; "?" for unknown numbers */

typedef struct gguf_note { const char *key, *value; } gguf_note;

typedef struct gguf {
    const char *path;
    weight *tensor; int64_t n;                          /* in the order of the file; path is set */
    gguf_note *note; int64_t n_notes;                   /* keys with string values */
    file_map map; arena mem;                            /* what the pointers above point into */
} gguf;

/* Maps the file and checks all of it but the values: versions 2 and 3, little-endian.   errors  as weights_open */
status gguf_open(const char *path, gguf **out);
void   gguf_close(gguf *f);
