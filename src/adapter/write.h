/* write.h: what the files that write adapters share: the tensors of the file to be.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "adapter/adapter_file.h"
#include "adapter/adapter_write.h"

typedef struct writing {
    const adapter_write_params *p; const adapter_source *source; const char *path;
    safetensor *t; int64_t n, cap;
    safetensor_note note[64]; int n_notes;
    const adapter_info *info; adapter_options opts; /* of the first layer: what a config or metadata says of all */
    double kept, total;                    /* svd: squared norms */
    arena mem;
} writing;

/* Adds "<layer as the format spells it><suffix>"; values are copied and converted. n_dims 0: a scalar, kept f32. */
status write_add(writing *w, const adapter_site *s, const char *suffix, shape dims, const float *v);
status write_refuse(const writing *w, const adapter_site *s, const char *why);
/* write_kinds.c: the tensors of one site in PEFT's, kohya's or diffusers' format. */
status write_site(writing *w, const adapter_site *s, float *const v[]);
/* write_config.c: PEFT's adapter_config.json, in w->mem; and kohya's metadata. */
status write_peft_config(writing *w, const char **text);
status write_notes(writing *w);
