/* pool.c: see pool.h. One safetensors file: "latents" and "info", five numbers a part (20 in all
 * and two in front), so that it can be looked into with any tool. SPDX-License-Identifier: MIT */
#include "train/pool.h"
#include <stdio.h>
#include <stdlib.h>

enum { PARTS = 4, FIELDS = 2 + 4 * PARTS };

static void pack(const compose_info *in, int32_t out[FIELDS]) {
    out[0] = (int32_t)in->kind;
    out[1] = in->n_parts;
    for (int i = 0; i < PARTS; i++) {
        const compose_part *p = &in->part[i];
        bool used = i < in->n_parts;
        out[2 + 4 * i] = used ? p->picture : 0, out[3 + 4 * i] = used ? p->scene : -1,
                    out[4 + 4 * i] = used ? p->ground : 0, out[5 + 4 * i] = used ? p->hue : -1;
    }
}

void pool_info(const pool *p, int64_t i, compose_info *out) {
    const int32_t *f = (const int32_t *)safetensors_find(p->file, "info")->data + i * FIELDS;
    *out = (compose_info){.kind = (compose_kind)f[0], .n_parts = f[1]};
    for (int k = 0; k < PARTS; k++)
        out->part[k] = (compose_part){f[2 + 4 * k], f[3 + 4 * k], f[4 + 4 * k], f[5 + 4 * k]};
}

status pool_write(const char *path, const pool *p, const compose_info *info) {
    status st = OK;
    char first[24], seed[24];
    int32_t *fields = mem_alloc(sizeof *fields * FIELDS * (size_t)p->n);
    if (!fields) TRY(fail(E_HOST_MEMORY, "no host memory for a pool of %lld", (long long)p->n));
    for (int64_t i = 0; i < p->n; i++) pack(&info[i], fields + i * FIELDS);
    snprintf(first, sizeof first, "%llu", (unsigned long long)p->first);
    snprintf(seed, sizeof seed, "%u", p->seed);
    const safetensor t[] = {{.name = "latents",
                             .dtype = DT_F16,
                             .n_dims = 4,
                             .dim = {p->n, p->h, p->w, p->channels},
                             .data = p->latents},
                            {.name = "info",
                             .type = "I32",
                             .dtype = DT_COUNT,
                             .n_dims = 2,
                             .dim = {p->n, FIELDS},
                             .data = fields}};
    const safetensor_note note[] = {{"first", first}, {"seed", seed}};
    TRY(safetensors_write(path, t, 2, note, 2));
out:
    mem_free(fields);
    return st;
}

static status check_info(const char *path, const pool *p, const corpus *c) {
    for (int64_t i = 0; i < p->n; i++) {
        compose_info f;
        pool_info(p, i, &f);
        bool good = f.kind < COMPOSE_KIND_COUNT && f.n_parts >= 1 && f.n_parts <= PARTS;
        for (int k = 0; good && k < f.n_parts; k++) {
            const compose_part *q = &f.part[k];
            good = q->picture >= 0 && q->picture < c->n_pictures && q->scene >= -1 &&
                   q->scene < c->n_pictures && q->ground >= COMPOSE_UNNAMED &&
                   q->ground < CAPTION_COLORS && q->hue >= -1 && q->hue < CAPTION_HUES;
        }
        if (!good)
            return fail(E_FORMAT,
                        "%s: entry %lld points outside this corpus: it was made from another one",
                        path, (long long)i);
    }
    return OK;
}

static bool number(const safetensors *f, const char *key, unsigned long long *out) {
    const char *text = safetensors_find_note(f, key);
    char *end = NULL;
    if (text) *out = strtoull(text, &end, 10);
    return text && end != text && !*end;
}

status pool_open(const char *path, const corpus *c, pool **out) {
    status st = OK;
    unsigned long long first = 0, seed = 0;
    pool *p = *out = mem_zalloc(sizeof *p);
    if (!p) return fail(E_HOST_MEMORY, "no host memory for a pool");
    TRY(safetensors_open(path, &p->file));
    const safetensor *l = safetensors_find(p->file, "latents"),
                     *i = safetensors_find(p->file, "info");
    bool good = l && i && l->dtype == DT_F16 && l->n_dims == 4 && l->dim[0] > 0 &&
                l->dim[1] < 1024 && l->dim[2] < 1024 && l->dim[3] < 1024 &&
                strcmp(i->type, "I32") == 0 && i->n_dims == 2 && i->dim[0] == l->dim[0] &&
                i->dim[1] == FIELDS;
    if (!good || !number(p->file, "first", &first) || !number(p->file, "seed", &seed) ||
        seed > UINT32_MAX)
        TRY(fail(E_FORMAT, "%s: no f16 latents with their info: it is not a pool", path));
    p->n = l->dim[0], p->h = (int)l->dim[1], p->w = (int)l->dim[2], p->channels = (int)l->dim[3];
    p->latents = l->data;
    p->first = first;
    p->seed = (uint32_t)seed;
    TRY(check_info(path, p, c));
out:
    if (st != OK) pool_close(p), *out = NULL;
    return st;
}

void pool_close(pool *p) {
    if (!p) return;
    safetensors_close(p->file);
    mem_free(p);
}

int64_t pool_pick(const pool *p, uint32_t seed, uint64_t sample) {
    double u = rng_uniform((rng_key){{seed, 0}, rng_stream("pool")}, sample, 0);
    return MIN((int64_t)(u * (double)p->n), p->n - 1);
}
