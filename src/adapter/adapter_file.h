/* adapter_file.h: adapters on disk. Reading recognises the dialect by names, shapes, config and metadata, says which and why,
 * and turns it into our own adapters of the layers of given models. What could be two things is refused unless told.
 *
 *     adapter_model m[] = {{"unet", &unet}, {"text_encoder", &text}};      // declared parameters: names and shapes
 *     TRY(adapter_file_open(path, m, 2, NULL, &f));
 *     TRY(adapter_file_merge(f, 0, &unet, 0.8, false));                    // into the weights, or as a layer of its own:
 *     adapter_set s = adapter_file_set(f, 0, &ps);                         // declare the model with it, params_allocate(&ps),
 *     TRY(adapter_file_fill(f, 0, &ps));                                   // then record with s (and its strength)
 *
 * SPDX-License-Identifier: MIT */
#pragma once
#include "adapter/adapter.h"
#include "file/file.h"

#define ADAPTER_MAX_MODELS 4
#define ADAPTER_EXACT_NOTE "imago.oft"     /* metadata of kohya files: "exact" = the Cayley transform, not the series */

typedef struct adapter_model {
    const char *part;                      /* diffusers' folder name: "unet", "text_encoder", "text_encoder_2", "transformer" */
    const params *ps;                      /* its declared parameters */
} adapter_model;

/* A change of a bias or of a norm's scale, which can only be merged. */
typedef struct adapter_delta { const char *param; const float *value; int64_t n; } adapter_delta;

/* What a file does to one model. value[i]: the trainables of entry[i], as info->tensors orders them. */
typedef struct adapter_file_part {
    adapter_entry *entry; float *(*value)[ADAPTER_MAX_TENSORS]; int n;
    adapter_delta *delta; int n_deltas;
} adapter_file_part;

typedef struct adapter_file {
    char path[1024], dialect[32], why[512];
    adapter_model model[ADAPTER_MAX_MODELS]; adapter_file_part part[ADAPTER_MAX_MODELS]; int n_models;
    int n_skipped;                         /* layers of parts that are not among the models */
    arena mem;
} adapter_file;

/* path: a .safetensors file, or a PEFT folder. dialect: NULL, or the name of one to be assumed where the file leaves it open.
 *   errors  E_FORMAT: not an adapter; for another model (names the first layer that does not fit); contradictory
 *           E_USAGE: ambiguous; the message lists the dialects to choose from
 *           E_UNSUPPORTED: pickles; kinds we do not run (LoHa, LoKr, ...) by name */
status adapter_file_open(const char *path, const adapter_model *models, int n, const char *dialect, adapter_file **out);
void   adapter_file_close(adapter_file *f);
/* One line: "kohya LoRA on 192 layers of unet, ...: because ..." */
const char *adapter_file_describe(const adapter_file *f, char *out, size_t bytes);
adapter_set adapter_file_set(const adapter_file *f, int model, params *ps);
/* errors E_UNSUPPORTED when the file also changes biases or norms, which a layer of its own cannot: merge it */
status adapter_file_fill(const adapter_file *f, int model, params *ps);
/* Is a parameter ("….to_q.weight") changed by the file, and the change itself on host values in checkpoint order: for
 * those who fetch weights when they are needed. fold leaves parameters alone that are not touched. */
bool   adapter_file_touches(const adapter_file *f, int model, const char *name);
status adapter_file_fold(const adapter_file *f, int model, const char *name, double m, bool inverse, float *w);
/* Folds into the model's weights with strength m, or takes out what was folded in. */
status adapter_file_merge(const adapter_file *f, int model, params *ps, double m, bool inverse);

/* What a tensor's name alone tells those who have no model at hand. Such a tensor is one of each adapted layer. false: it is not. */
typedef struct adapter_name {
    const char *kind, *layout;             /* "LoRA", "BOFT", also kinds we do not run; "kohya", "PEFT", ... */
    int rank;                              /* which of its dims is the rank; -1 none */
} adapter_name;
bool adapter_name_read(const char *name, adapter_name *out);
