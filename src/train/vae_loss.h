/* vae_loss.h: what an autoencoder is trained by.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "family/squeezenet.h"
#include "family/vae.h"

typedef struct vae_loss_params { float edges, features, moments, squares; } vae_loss_params; /* weights beside the first term's 1 */
typedef enum vae_loss_term { VAE_LOSS_PIXELS, VAE_LOSS_EDGES, VAE_LOSS_FEATURES, VAE_LOSS_MOMENTS, VAE_LOSS_SQUARES, VAE_LOSS_COUNT } vae_loss_term;
typedef struct vae_loss_out {
    tensor *loss, *term[VAE_LOSS_COUNT];   /* [1] f32; terms unweighted */
    tensor *latent, *picture;              /* what the decoder saw, and gave */
} vae_loss_out;
/* image [N, H, W, 3] f32 in [-1, 1]; jitter [1] f32: standard deviation of the noise on the latents; seed u32 [2] and
 * sample u32 [N] key it; judge: SqueezeNet (frozen), or NULL where features is 0.
 *   pixels    mean |y - x|
 *   edges     mean |difference of neighbours, down and across|, the two added: sharp lines
 *   features  mean over SqueezeNet's taps of the squared difference, channels scaled to unit length (as LPIPS, unweighted)
 *   moments   mean over channels of mean^2 + (deviation - 1)^2 of the batch's latents: a denoiser wants unit variance, and
 *             StableDiffusionPipeline knows one scaling factor for all channels */
void vae_loss(nn *m, const vae_config *c, nn *judge, const vae_loss_params *p, tensor *image, tensor *jitter, tensor *seed, tensor *sample,
              vae_loss_out *out);
