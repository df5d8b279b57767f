/* safetensors.h: what the reader and the writer of safetensors share.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "file/file.h"

#define SAFETENSORS_NOTES "__metadata__" /* the one reserved name */

typedef struct element_type { const char *name; size_t bytes; dtype dtype; } element_type;
const element_type *element_type_find(const char *name); /* NULL = unknown */
const element_type *element_type_of(dtype t);
/* Product of the dimensions times element size; false on overflow or a negative dimension. */
bool safetensor_size(const int64_t *dim, int n_dims, size_t element_bytes, uint64_t *bytes);
/* safetensors_open, but align = false leaves misaligned tensors where they lie: nothing is copied. */
status safetensors_map(const char *path, bool align, safetensors **out);
