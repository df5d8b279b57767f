/* vae.c: picks an autoencoder's body by its kind, and what the kinds share.
 * SPDX-License-Identifier: MIT */
#include "family/vae_internal.h"

static const struct {
    tensor *(*encode)(nn *, const vae_config *, tensor *);
    tensor *(*decode)(nn *, const vae_config *, tensor *);
} bodies[VAE_KIND_COUNT] = {[VAE_KL] = {vae_kl_encode, vae_kl_decode}, [VAE_TINY] = {vae_tiny_encode, vae_tiny_decode}};

int vae_factor(const vae_config *c) { return 1 << (c->levels - 1); }

static bool fits(graph *g, const vae_config *c) {
    if (c->levels >= 1 && c->levels <= VAE_MAX_LEVELS) return true;
    graph_fail(g, HERE, E_UNSUPPORTED, "an autoencoder of %d levels: 1 to %d", c->levels, VAE_MAX_LEVELS);
    return false;
}

tensor *vae_encode(nn *m, const vae_config *c, tensor *image) {
    if (!fits(m->g, c)) return image;
    int64_t f = vae_factor(c), h = image->s.d[1], w = image->s.d[2];
    if (h % f || w % f)
        graph_fail(m->g, HERE, E_SHAPE, "image of %lld x %lld: both sides must be multiples of %lld", (long long)w, (long long)h, (long long)f);
    return bodies[c->kind].encode(m, c, image);
}

tensor *vae_decode(nn *m, const vae_config *c, tensor *latent) {
    if (!fits(m->g, c)) return latent;
    return bodies[c->kind].decode(m, c, latent);
}

status vae_declare(params *ps, const vae_config *c) {
    graph *g = graph_create(ps->dev);
    if (!g) return graph_status(g);
    ps->declaring = true;
    nn m = {g, ps, NULL};
    if (fits(g, c)) {
        int f = vae_factor(c);
        vae_encode(&m, c, graph_input(g, "image", ps->type, SHAPE(1, f, f, c->in_channels)));
        vae_decode(&m, c, graph_input(g, "latent", ps->type, SHAPE(1, 1, 1, c->latent_channels)));
    }
    status st = graph_status(g);
    ps->declaring = false;
    graph_destroy(g);
    return st;
}
