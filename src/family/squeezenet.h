/* squeezenet.h: SqueezeNet v1.0 as a judge of likeness: its features say how alike two pictures look.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "nn/nn.h"

#define SQUEEZENET_TAPS 9              /* conv1, fire2 ... fire9, all after relu */

/* Declares, allocates (frozen) and fills ps, which params_init has prepared; conv1 is changed to read RGB in [-1, 1].
 *   errors  E_IO; E_FORMAT: a tensor that is missing or has another shape; those of memory */
status squeezenet_load(params *ps, const char *path);
/* x [N, H, W, 3] T, RGB in [-1, 1], sides of 31 px or more -> tap[i] [N, h, w, C] T.   source  Iandola et al. 2016 */
void squeezenet_features(nn *m, tensor *x, tensor *tap[SQUEEZENET_TAPS]);
/* tap: what squeezenet_features gave -> [N, 1000] f32, ImageNet classes before softmax */
tensor *squeezenet_logits(nn *m, tensor *const tap[SQUEEZENET_TAPS]);
