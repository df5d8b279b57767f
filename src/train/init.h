/* init.h: first values of networks that are trained from scratch. All keyed by (seed, name): equal on every device.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "graph/params.h"

/* AutoencoderTiny has no norms, so that the size of its signals is up to these: normal, std (2 / fan_in)^1/2, which keeps
 * it through convolution and relu (He et al. 2015), without the 2 at the first layer and a tenth at the last, whose pictures
 * then start out grey; the last convolution of a block (the branch beside its skip) starts at zero; biases zero. */
status init_vae_tiny(params *ps, uint32_t seed);
/* Networks with norms: normal, std (3 fan_in)^-1/2 (the variance of PyTorch's default), norms 1, biases 0. UNet: the last layer of
 * every residual block and transformer, and conv_out, start at zero. Text encoder: embeddings 0.02, positions 0.01, as CLIP. */
status init_unet(params *ps, uint32_t seed);
status init_text(params *ps, uint32_t seed);
