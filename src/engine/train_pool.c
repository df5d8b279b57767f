/* train_pool.c: composed pictures through a trained autoencoder, once, into a pool of latents.
 * SPDX-License-Identifier: MIT */
#include "engine/train.h"
#include "train/export.h"
#include "train/pool.h"
#include <stdio.h>

enum { BATCH = 32 };

status vae_opened_open(device *dev, dtype type, const char *folder, vae_opened *v) {
    status st = OK;
    *v = (vae_opened){0};
    params_init(&v->ps, dev, type);
    TRY(import_vae_config(folder, &v->config));
    TRY(vae_declare(&v->ps, &v->config));
    TRY(params_allocate(&v->ps));
    TRY(import_part(&v->ps, PART_VAE, folder));
out:
    if (st != OK) vae_opened_close(v);
    return st;
}

void vae_opened_close(vae_opened *v) {
    plan_destroy(v->encode);
    plan_destroy(v->decode);
    params_fini(&v->ps);
    *v = (vae_opened){0};
}

static status record(vae_opened *v, int side, bool decode, plan **out) {
    graph *g = graph_create(v->ps.dev);
    if (!g) return graph_status(g);
    nn m = {g, &v->ps, NULL};
    int cells = side / vae_factor(&v->config);
    tensor *y;
    if (decode) {
        tensor *z =
            graph_input(g, "in", DT_F32, SHAPE(BATCH, cells, cells, v->config.latent_channels));
        y = vae_decode(&m, &v->config, op_cast(g, z, v->ps.type));
    } else {
        tensor *x = graph_input(g, "in", DT_F32, SHAPE(BATCH, side, side, 3));
        y = vae_encode(&m, &v->config, op_cast(g, x, v->ps.type));
    }
    graph_output(g, op_cast(g, y, DT_F32), "out");
    return graph_compile(g, &(plan_params){.label = decode ? "decode" : "encode"}, out);
}

status vae_opened_encode(vae_opened *v, int side, int n, const uint8_t *rgb, float *z) {
    status st = OK;
    size_t one = (size_t)side * (size_t)side * 3, cells = (size_t)(side / vae_factor(&v->config)),
           lat = cells * cells * (size_t)v->config.latent_channels;
    float *px = mem_zalloc(sizeof *px * one * BATCH), *lp = mem_alloc(sizeof *lp * lat * BATCH);
    if (!px || !lp) TRY(fail(E_HOST_MEMORY, "no host memory for %d pictures", BATCH));
    if (!v->encode) TRY(record(v, side, false, &v->encode));
    for (int at = 0; at < n; at += BATCH) {
        size_t k = (size_t)MIN(BATCH, n - at);
        for (size_t i = 0; i < one * k; i++) px[i] = image_unit(rgb[one * (size_t)at + i]);
        TRY(plan_write(v->encode, "in", px));
        TRY(plan_run(v->encode, NULL, NULL));
        TRY(plan_read(v->encode, "out", lp));
        memcpy(z + lat * (size_t)at, lp, sizeof *z * lat * k);
    }
out:
    mem_free(px);
    mem_free(lp);
    return st;
}

status vae_opened_decode(vae_opened *v, int side, int n, const float *z, uint8_t *rgb) {
    status st = OK;
    size_t one = (size_t)side * (size_t)side * 3, cells = (size_t)(side / vae_factor(&v->config)),
           lat = cells * cells * (size_t)v->config.latent_channels;
    float *px = mem_alloc(sizeof *px * one * BATCH), *lp = mem_zalloc(sizeof *lp * lat * BATCH);
    if (!px || !lp) TRY(fail(E_HOST_MEMORY, "no host memory for %d pictures", BATCH));
    if (!v->decode) TRY(record(v, side, true, &v->decode));
    for (int at = 0; at < n; at += BATCH) {
        size_t k = (size_t)MIN(BATCH, n - at);
        memcpy(lp, z + lat * (size_t)at, sizeof *lp * lat * k);
        TRY(plan_write(v->decode, "in", lp));
        TRY(plan_run(v->decode, NULL, NULL));
        TRY(plan_read(v->decode, "out", px));
        for (size_t i = 0; i < one * k; i++) rgb[one * (size_t)at + i] = image_byte(px[i]);
    }
out:
    mem_free(px);
    mem_free(lp);
    return st;
}

/* One batch of the pool: composed, encoded, rounded to f16. */
static status add_batch(corpus_source *s, vae_opened *v, const pool *p, int64_t at, int n,
                        compose_info *info, uint8_t *rgb, float *z, uint16_t *half) {
    status st = OK;
    size_t lat = (size_t)p->h * (size_t)p->w * (size_t)p->channels;
    TRY(corpus_source_next(s, p->first + (uint64_t)at, n, rgb, info + at));
    TRY(vae_opened_encode(v, COMPOSE_SIDE, n, rgb, z));
    for (size_t i = 0; i < lat * (size_t)n; i++) half[lat * (size_t)at + i] = f32_to_f16(z[i]);
out:
    return st;
}

status train_make_pool(device *dev, dtype type, const char *vae_folder, corpus_source *s,
                       uint32_t seed, uint64_t first, int64_t n, const char *path,
                       bool (*cancelled)(void *), void *ctx) {
    status st = OK;
    vae_opened v = {0};
    compose_info *info = NULL;
    uint8_t *rgb = NULL;
    float *z = NULL;
    uint16_t *half = NULL;
    progress bar;
    progress_begin(&bar, "pool", n);
    TRY(vae_opened_open(dev, type, vae_folder, &v));
    int cells = COMPOSE_SIDE / vae_factor(&v.config);
    size_t lat = (size_t)cells * (size_t)cells * (size_t)v.config.latent_channels;
    info = mem_alloc(sizeof *info * (size_t)n);
    rgb = mem_alloc(COMPOSE_RGB_BYTES * BATCH);
    z = mem_alloc(sizeof *z * lat * BATCH);
    half = mem_alloc(sizeof *half * lat * (size_t)n);
    if (!info || !rgb || !z || !half)
        TRY(fail(E_HOST_MEMORY, "no host memory for a pool of %lld: make several smaller ones",
                 (long long)n));
    pool p = {.n = n,
              .h = cells,
              .w = cells,
              .channels = v.config.latent_channels,
              .first = first,
              .seed = seed,
              .latents = half};
    for (int64_t at = 0; at < n; at += BATCH) {
        if (cancelled && cancelled(ctx)) TRY(fail(E_CANCELLED, "stopped; nothing was written"));
        TRY(add_batch(s, &v, &p, at, (int)MIN(BATCH, n - at), info, rgb, z, half));
        progress_step(&bar, MIN(at + BATCH, n), NULL);
    }
    TRY(pool_write(path, &p, info));
out:
    progress_end(&bar);
    vae_opened_close(&v);
    mem_free(info);
    mem_free(rgb);
    mem_free(z);
    mem_free(half);
    return st;
}
