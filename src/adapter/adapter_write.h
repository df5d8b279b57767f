/* adapter_write.h: adapters to disk, in the formats that other programs read.
 *   PEFT       a folder: adapter_config.json, adapter_model.safetensors. One part. lora, dora, oft, coft, oft_neumann, boft
 *   kohya      one file, lora_unet_… and lora_te_…, ss_* metadata. The same kinds. An exact oft is a series to kohya's scripts,
 *              so they turn by nearly the same angles; a note of ours tells us which it is
 *   diffusers  one file of LoRA, for load_lora_weights. lora only (dora is dropped by the loader of SD 1.5 itself)
 *   diff       one file of whole differences, of any adapter: exact, and as large as the layers
 *   svd        one kohya file of LoRA of a given rank, of any adapter: the nearest such; *kept says how near
 * SPDX-License-Identifier: MIT */
#pragma once
#include "adapter/adapter.h"
#include "file/file.h"

typedef enum adapter_format { ADAPTER_PEFT, ADAPTER_KOHYA, ADAPTER_DIFFUSERS, ADAPTER_DIFF, ADAPTER_SVD, ADAPTER_FORMAT_COUNT } adapter_format;
const char *adapter_format_name(adapter_format f);   /* "peft", "kohya", ... */

/* One part's adapters: one set, its trainables in set->ps. model: the layers, with the base's weights for diff and svd. */
typedef struct adapter_source { const char *part; const adapter_set *set; params *model; } adapter_source;

typedef struct adapter_write_params {
    const adapter_source *source; int n_sources;
    adapter_format format; dtype type;     /* f32, f16 or bf16 */
    int svd_rank;
    const char *base;                      /* PEFT: base_model_name_or_path; NULL */
    const safetensor_note *notes; int n_notes; /* what the caller knows: modelspec.*, ss_base_model_version, ss_steps, ... */
} adapter_write_params;

/* kept (may be NULL): svd: the share of the difference's squared norm that the file holds, of all layers together; else 1.
 *   errors  E_UNSUPPORTED: the format cannot say this (names layer and reason, and what can) */
status adapter_write(const char *path, const adapter_write_params *p, double *kept);
/* Best rank-r factors of d [o, c]: up [o, r], down [r, c], d ~ up down. *kept: |up down|^2 / |d|^2.
 * source  Halko, Martinsson & Tropp 2011 (subspace iteration) */
status adapter_factor(int64_t o, int64_t c, int64_t r, const float *d, float *up, float *down, double *kept);
