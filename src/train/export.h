/* export.h: trained weights as a part of a diffusers folder.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "family/checkpoint.h"

/* FOLDER/vae (unet, text_encoder): every parameter of ps under its own name in f16, and config.json as c's config says.
 *   errors  E_FORMAT: a value that f16 cannot hold, by name; E_IO; E_HOST_MEMORY */
status export_part(const params *ps, const checkpoint *c, part p, const char *folder);
