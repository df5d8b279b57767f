/* init.h: first values of networks that are trained from scratch. All keyed by (seed, name): equal on every device.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "graph/params.h"

/* AutoencoderTiny has no norms, so that the size of its signals is up to these: normal, std fan_in^-1/2; the last
 * convolution of a block (the branch beside its skip) starts at zero; biases zero. */
status init_vae_tiny(params *ps, uint32_t seed);
