/* export.h: trained weights as a part of a diffusers folder.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "family/checkpoint.h"

/* FOLDER/vae (unet, text_encoder): every parameter of ps under its own name in f16, and config.json as c's config says.
 *   errors  E_FORMAT: a value that f16 cannot hold, by name; E_IO; E_HOST_MEMORY */
status export_part(const params *ps, const checkpoint *c, part p, const char *folder);
/* The way back. ps is declared and allocated; f16 and f32 files.
 *   errors  E_IO; E_FORMAT: a tensor that is missing or of another shape, by name */
status import_part(params *ps, part p, const char *folder);
status import_vae_config(const char *folder, vae_config *out); /* FOLDER/vae/config.json */
/* model_index.json and scheduler/scheduler_config.json, beside parts and tokenizer: the folder is then a StableDiffusionPipeline. */
status export_index(const checkpoint *c, const char *folder);
