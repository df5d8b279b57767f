/* weights.h: the tensors of a checkpoint, by the names in its files: one or many safetensors files, or GGUF. Knows no
 * model. Values are read where they lie (memory-mapped), converted on the way out, and their pages given back.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "base/dtype.h"

#define WEIGHT_MAX_DIMS 8

typedef struct weight {
    const char *name, *type;               /* type as the file spells it: "F16", "Q8_0" */
    dtype dtype;                           /* DT_COUNT for types no device has (Q8_0, I64, ...) */
    int n_dims; int64_t dim[WEIGHT_MAX_DIMS]; /* outermost first, also for GGUF (which stores innermost first) */
    int64_t count;                         /* elements */
    const void *data; uint64_t bytes;      /* in the mapped file; may be misaligned (old writers): use weight_read */
    const char *path;                      /* the file it lies in, for messages */
} weight;

typedef struct weights weights;

/* Opens every path (safetensors or GGUF by content; *.index.json: its shards, all checked to be there) as one set.
 * GGUF tensors that a converter reshaped ("comfy.gguf.orig_shape.NAME") have their first shape here.
 *   errors  E_IO: a file or shard that is not there; E_FORMAT: truncated, overlapping, a name in two files (the tensor is
 *           named); E_UNSUPPORTED: a pickle (.ckpt, .bin, .pt by content), with why and how to convert; a GGUF type we
 *           do not read, by name; E_HOST_MEMORY.   owner  caller: weights_close (accepts NULL) */
status weights_open(const char *const *paths, int n, weights **out);
void   weights_close(weights *w);
int64_t weights_count(const weights *w);
const weight *weights_at(const weights *w, int64_t i);            /* sorted by name */
const weight *weights_find(const weights *w, const char *name);   /* NULL = not there */
/* safetensors __metadata__ or GGUF string key, from the first file that has it; NULL = in none. */
const char *weights_note(const weights *w, const char *key);
uint64_t weights_bytes(const weights *w);                          /* of all tensors, as stored */

/* Elements [begin, begin + n) in row-major order, as f32, f16 or bf16 (dequantising); begin and n multiples of 32 or
 * reaching the end where the type is a block type. *finite (may be NULL) is cleared when a NaN or infinity comes out:
 * the file holds one, or a value too large for `to` (f16: 65504). */
status weight_read(const weight *t, int64_t begin, int64_t n, dtype to, void *out, bool *finite);
/* The pages of t may leave memory (they stay in the file). */
void   weight_release(const weight *t);
const char *weight_describe(const weight *t, char *out, size_t bytes); /* "F32[320, 4, 3, 3]", cut to fit; returns out */
