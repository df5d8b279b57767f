/* vae_loss.c: see vae_loss.h. Pictures are compared in f32: at 30 dB and above the rounding of a
 * bf16 target would be part of the error. source: base recipe of this project; Zhang et al. 2018
 * (LPIPS) for the features SPDX-License-Identifier: MIT */
#include "train/vae_loss.h"

static tensor *step_along(graph *g, tensor *x, int dim) {
    int64_t n = x->s.d[dim];
    return op_sub(g, op_slice(g, x, dim, 1, n), op_slice(g, x, dim, 0, n - 1));
}

static tensor *edges(graph *g, tensor *y, tensor *x) {
    tensor *down = op_l1(g, step_along(g, y, 1), step_along(g, x, 1), NULL, NULL);
    return op_add(g, down, op_l1(g, step_along(g, y, 2), step_along(g, x, 2), NULL, NULL));
}

/* 1 beside activations of tens: what is silent in both pictures should not be made loud. */
static const float quiet = 1.0f;

static tensor *features(nn *judge, tensor *y, tensor *x) {
    graph *g = judge->g;
    tensor *of_y[SQUEEZENET_TAPS], *of_x[SQUEEZENET_TAPS], *sum = NULL;
    squeezenet_features(judge, op_cast(g, y, judge->ps->type), of_y);
    squeezenet_features(judge, op_cast(g, x, judge->ps->type), of_x);
    for (int i = 0; i < SQUEEZENET_TAPS; i++) {
        tensor *d = op_mse(g, op_rms_norm(g, of_y[i], NULL, quiet),
                           op_rms_norm(g, of_x[i], NULL, quiet), NULL, NULL);
        sum = sum ? op_add(g, sum, d) : d;
    }
    return op_scale(g, sum, 1.0f / SQUEEZENET_TAPS);
}

/* Of the deviation, not the variance: where that is near zero the variance has no slope to climb
 * by. */
static tensor *moments(graph *g, tensor *z) {
    uint32_t pixels = 1u << 0 | 1u << 1 | 1u << 2;
    tensor *off = op_affine(g, op_std(g, z, pixels), 1.0f, -1.0f), *mean = op_mean(g, z, pixels);
    return op_reshape(g, op_mean(g, op_add(g, op_square(g, mean), op_square(g, off)), DIMS_ALL), 1);
}

void vae_loss(nn *m, const vae_config *c, nn *judge, const vae_loss_params *p, tensor *image,
              tensor *jitter, tensor *seed, tensor *sample, vae_loss_out *out) {
    graph *g = m->g;
    dtype t = m->ps->type;
    tensor *z = vae_encode(m, c, op_cast(g, image, t));
    tensor *noise = op_randn(g, seed, sample, rng_stream("latent jitter"), z->s, DT_F32);
    out->latent =
        op_add(g, op_cast(g, z, DT_F32), op_mul(g, noise, op_reshape(g, jitter, 1, 1, 1, 1)));
    out->picture = op_cast(g, vae_decode(m, c, op_cast(g, out->latent, t)), DT_F32);
    out->term[VAE_LOSS_PIXELS] = op_l1(g, out->picture, image, NULL, NULL);
    out->term[VAE_LOSS_EDGES] = edges(g, out->picture, image);
    out->term[VAE_LOSS_FEATURES] =
        judge ? features(judge, out->picture, image) : op_zeros(g, DT_F32, SHAPE(1));
    out->term[VAE_LOSS_MOMENTS] = moments(g, z);
    out->term[VAE_LOSS_SQUARES] = op_mse(g, out->picture, image, NULL, NULL);
    const float weight[VAE_LOSS_COUNT] = {1.0f, p->edges, p->features, p->moments, p->squares};
    out->loss = out->term[0];
    for (int i = 1; i < VAE_LOSS_COUNT; i++)
        if (weight[i] > 0) out->loss = op_add(g, out->loss, op_scale(g, out->term[i], weight[i]));
}
