/* pool.h: composed pictures as latents, encoded once, with what each shows, so that captions can be written anew at every
 * visit. A pool belongs to the autoencoder that made it.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "file/file.h"
#include "train/compose.h"

typedef struct pool {
    int64_t n; int h, w, channels;
    uint64_t first; uint32_t seed;         /* sample i of the pool is sample first + i of the composer with that seed */
    const uint16_t *latents;               /* f16 [n, h, w, channels] */
    safetensors *file;
} pool;

/* errors  E_IO; E_HOST_MEMORY.   latents f16 [n, h, w, channels], info [n] */
status pool_write(const char *path, const pool *p, const compose_info *info);
/* errors  E_IO; E_FORMAT: not a pool, or one that points outside the corpus      owner  caller: pool_close (accepts NULL) */
status pool_open(const char *path, const corpus *c, pool **out);
void   pool_close(pool *p);
void   pool_info(const pool *p, int64_t i, compose_info *out);
/* Which entry training sample `sample` is. */
int64_t pool_pick(const pool *p, uint32_t seed, uint64_t sample);
