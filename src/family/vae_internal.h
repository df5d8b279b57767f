/* vae_internal.h: the bodies behind vae.h.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "family/vae.h"

tensor *vae_kl_encode(nn *m, const vae_config *c, tensor *image);
tensor *vae_kl_decode(nn *m, const vae_config *c, tensor *latent);
tensor *vae_tiny_encode(nn *m, const vae_config *c, tensor *image);
tensor *vae_tiny_decode(nn *m, const vae_config *c, tensor *latent);
