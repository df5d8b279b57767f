/* latent.c: latents on the device, pictures into latents and back, and noise in the order in which PyTorch draws it.
 * Large pictures are decoded in overlapping tiles whose seams are blended, as diffusers' tiled_decode does.
 * SPDX-License-Identifier: MIT */
#include "engine/engine.h"
#include "op/op.h"
#include <math.h>
#include <stdio.h>

#define TILE_CELLS   64 /* side of a tile in latent cells: what SD 1.x was trained at */
#define TILE_OVERLAP 16 /* a quarter, as diffusers' tile_overlap_factor */

int latent_factor(const imago *im) { return vae_factor(&im->ck->vae); }

int latent_side_px(const imago *im) { return im->ck->sample_size ? im->ck->sample_size * latent_factor(im) : 512; }

status latent_check_size(const imago *im, int width, int height) {
    int f = latent_factor(im);
    if (width >= f && height >= f && width <= 16384 && height <= 16384 && width % f == 0 && height % f == 0) return OK;
    return fail(E_USAGE, "size %dx%d: both sides must be multiples of %d from %d to 16384", width, height, f, f);
}

status engine_forget_plans(imago *im) {
    plan_cache_destroy(im->plans);
    im->plans = plan_cache_create(12);
    return im->plans ? OK : fail(E_HOST_MEMORY, "no host memory for plans");
}

void latents_fini(imago *im) {
    latents *l = &im->lat;
    array *all[] = {l->x, l->init, l->noise, l->mask, l->fixed};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) array_destroy(all[i]);
    for (int i = 0; i < SAMPLER_MAX_KEPT; i++) array_destroy(l->kept[i]);
    for (int i = 0; i < l->n_kv; i++) array_destroy(l->k[i]), array_destroy(l->v[i]);
    *l = (latents){0};
}

static status state(imago *im, int channels, const char *name, array **out) {
    const latents *l = &im->lat;
    return array_create(im->dev, REGION_STATE, DT_F32, SHAPE(l->batch, l->h, l->w, channels), name, out);
}

status latents_prepare(imago *im, int batch, int h, int w) {
    status st = OK;
    latents *l = &im->lat;
    int c = im->ck->vae.latent_channels;
    if (l->x && l->batch == batch && l->h == h && l->w == w) return OK;
    TRY(engine_forget_plans(im)); /* they point to the arrays that go */
    latents_fini(im);
    *l = (latents){.batch = batch, .h = h, .w = w, .channels = c};
    TRY(state(im, c, "latents", &l->x));
    for (int i = 0; i < SAMPLER_MAX_KEPT; i++) TRY(state(im, c, "kept", &l->kept[i]));
    TRY(state(im, c, "picture's latent", &l->init));
    TRY(state(im, c, "start noise", &l->noise));
    TRY(state(im, 1, "mask", &l->mask));
    if (im->ck->inpainting) TRY(state(im, 1 + c, "mask and masked latent", &l->fixed));
out:
    return st;
}

status latent_noise(const imago *im, noise_gen *gen, int h, int w, float *out) {
    int c = im->ck->vae.latent_channels;
    size_t area = (size_t)h * (size_t)w;
    float *planes = mem_alloc(sizeof *planes * area * (size_t)c);
    if (!planes) return fail(E_HOST_MEMORY, "no host memory for noise");
    noise_normal(gen, planes, (int64_t)area * c);
    for (size_t i = 0; i < area; i++)
        for (int k = 0; k < c; k++) out[i * (size_t)c + (size_t)k] = planes[(size_t)k * area + i];
    mem_free(planes);
    return OK;
}

/* ---- autoencoder ---- */
typedef struct vae_shape { int h, w; } vae_shape;

static status record_vae_encode(imago *im, graph *g, const void *ctx) {
    const vae_shape *s = ctx;
    nn m = {g, &im->part[PART_VAE], NULL};
    tensor *x = op_cast(g, graph_input(g, "image", DT_F32, SHAPE(1, s->h, s->w, 3)), im->type);
    graph_output(g, op_cast(g, vae_encode(&m, &im->ck->vae, x), DT_F32), "moments");
    return OK;
}

static status record_vae_decode(imago *im, graph *g, const void *ctx) {
    const vae_shape *s = ctx;
    const vae_config *c = &im->ck->vae;
    nn m = {g, &im->part[PART_VAE], NULL};
    tensor *z = graph_input(g, "latent", DT_F32, SHAPE(1, s->h, s->w, c->latent_channels));
    z = op_cast(g, op_affine(g, z, 1.0f / c->scaling_factor, c->shift_factor), im->type);
    graph_output(g, op_cast(g, vae_decode(&m, c, z), DT_F32), "image");
    return OK;
}

status vae_encode_pixels(imago *im, const float *px, int height, int width, noise_gen *gen, float *out) {
    status st = OK;
    const vae_config *c = &im->ck->vae;
    plan *p = NULL;
    char key[64];
    vae_shape s = {height, width};
    int f = vae_factor(c), h = height / f, w = width / f, l = c->latent_channels, moments = c->kind == VAE_KL ? 2 * l : l;
    bool sampled = gen && moments != l;
    size_t area = (size_t)h * (size_t)w;
    float *y = mem_alloc(sizeof *y * area * (size_t)moments), *noise = mem_zalloc(sizeof *noise * area * (size_t)l);
    if (!y || !noise) TRY(fail(E_HOST_MEMORY, "no host memory to encode a picture"));
    snprintf(key, sizeof key, "vae encode %dx%d", height, width);
    TRY(engine_plan(im, key, record_vae_encode, &s, &p));
    TRY(plan_write(p, "image", px));
    TRY(engine_run(im, p));
    TRY(plan_read(p, "moments", y));
    if (sampled) TRY(latent_noise(im, gen, h, w, noise));
    for (size_t i = 0; i < area * (size_t)l; i++) {
        const float *m = y + i / (size_t)l * (size_t)moments + i % (size_t)l;
        float z = m[0];
        if (sampled) z += expf(0.5f * MIN(MAX(m[l], -30.0f), 20.0f)) * noise[i];
        out[i] = (z - c->shift_factor) * c->scaling_factor;
    }
out:
    mem_free(y);
    mem_free(noise);
    return st;
}

/* Decodes [h, w] cells to f32 [h*f, w*f, 3]. */
static status decode_cells(imago *im, const float *latent, int h, int w, float *out) {
    status st = OK;
    plan *p = NULL;
    char key[64];
    vae_shape s = {h, w};
    snprintf(key, sizeof key, "vae decode %dx%d", h, w);
    TRY(engine_plan(im, key, record_vae_decode, &s, &p));
    TRY(plan_write(p, "latent", latent));
    TRY(engine_run(im, p));
    TRY(plan_read(p, "image", out));
out:
    return st;
}

/* Share of a new tile at `at` pixels from its edge, where it overlaps what lies there already. */
static float ramp(int at, int extent, bool first) { return first || at >= extent ? 1.0f : (float)at / (float)extent; }

static int tiles_along(int cells) { return cells <= TILE_CELLS ? 1 : (int)div_up(cells - TILE_OVERLAP, TILE_CELLS - TILE_OVERLAP); }

static status decode_tiles(imago *im, const float *latent, int h, int w, float *out) {
    status st = OK;
    int f = latent_factor(im), c = im->ck->vae.latent_channels, step = TILE_CELLS - TILE_OVERLAP, extent = TILE_OVERLAP * f;
    float *cells = mem_alloc(sizeof *cells * TILE_CELLS * TILE_CELLS * (size_t)c);
    float *tile = mem_alloc(sizeof *tile * (size_t)(TILE_CELLS * f) * (size_t)(TILE_CELLS * f) * 3);
    if (!cells || !tile) TRY(fail(E_HOST_MEMORY, "no host memory for tiles"));
    int th = MIN(h, TILE_CELLS), tw = MIN(w, TILE_CELLS), rows = tiles_along(h), columns = tiles_along(w);
    for (int i = 0; i < rows * columns; i++) {
        /* the last tiles move back: all have one size, hence one plan */
        int y = MIN(i / columns * step, h - th), x = MIN(i % columns * step, w - tw);
        for (int r = 0; r < th; r++)
            memcpy(cells + (size_t)r * (size_t)(tw * c), latent + ((size_t)(y + r) * (size_t)w + (size_t)x) * (size_t)c, sizeof *cells * (size_t)(tw * c));
        TRY(decode_cells(im, cells, th, tw, tile));
        for (int r = 0; r < th * f; r++)
            for (int k = 0; k < tw * f; k++) {
                float share = ramp(r, extent, y == 0) * ramp(k, extent, x == 0);
                float *to = out + ((size_t)(y * f + r) * (size_t)(w * f) + (size_t)(x * f + k)) * 3;
                const float *from = tile + ((size_t)r * (size_t)(tw * f) + (size_t)k) * 3;
                for (int n = 0; n < 3; n++) to[n] += share * (from[n] - to[n]);
            }
    }
out:
    mem_free(cells);
    mem_free(tile);
    return st;
}

status vae_decode_picture(imago *im, const float *latent, int h, int w, bool tile, image *out) {
    status st = OK;
    int f = latent_factor(im);
    size_t px = (size_t)(h * f) * (size_t)(w * f) * 3;
    float *y = mem_zalloc(sizeof *y * px);
    if (!y) return fail(E_HOST_MEMORY, "no host memory to decode a picture");
    bool large = h > TILE_CELLS || w > TILE_CELLS;
    if (!tile || !large) {
        st = decode_cells(im, latent, h, w, y);
        if ((st == E_GPU_MEMORY || st == E_HOST_MEMORY) && large) {
            log_info("decoding in tiles: %s", error_message());
            error_clear();
            tile = true;
        }
    }
    if (tile && large) st = decode_tiles(im, latent, h, w, y);
    TRY(st);
    TRY(image_create(w * f, h * f, 3, out));
    for (size_t i = 0; i < px; i++) out->px[i] = image_byte(y[i]);
out:
    mem_free(y);
    return st;
}
