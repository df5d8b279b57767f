/* adamw8bit.c: AdamW with moments of 8 bits. Blocks that share a scale begin with each parameter,
 * as in bitsandbytes, so what is kept does not depend on how a device cuts parameters into flats;
 * that makes a step a dispatch per parameter instead of one per flat. Small parameters are not
 * worth the rounding. source  Dettmers et al. 2022; bitsandbytes' AdamW8bit
 * SPDX-License-Identifier: MIT */
#include "train/adamw8bit.h"

static bool small(const param *p) { return shape_count(&p->s) < ADAMW8BIT_LEAST; }

status adamw8bit_create(optimizer *o, int k) {
    status st = OK;
    params *ps = o->part[k];
    o->own[k] = mem_zalloc(sizeof *o->own[k] * (size_t)ps->n);
    if (!o->own[k]) return fail(E_HOST_MEMORY, "no host memory for the optimiser");
    for (int i = 0; i < ps->n; i++) {
        struct optimizer_own *own = &o->own[k][i];
        int64_t n = shape_count(&ps->p[i].s), blocks = div_up(n, ADAMW8_BLOCK);
        if (!ps->p[i].trainable) continue;
        if (small(&ps->p[i])) {
            TRY(array_create(ps->dev, REGION_STATE, DT_F32, SHAPE(n), "adam m", &own->m));
            TRY(array_create(ps->dev, REGION_STATE, DT_F32, SHAPE(n), "adam v", &own->v));
        } else {
            TRY(array_create(ps->dev, REGION_STATE, DT_U32, SHAPE(blocks, ADAMW8_BLOCK / 2),
                             "adam codes", &own->codes));
            TRY(array_create(ps->dev, REGION_STATE, DT_F32, SHAPE(blocks, 2), "adam scale",
                             &own->scale));
        }
    }
out:
    return st;
}

void adamw8bit_destroy(optimizer *o, int k) {
    for (int i = 0; o->own[k] && i < o->part[k]->n; i++) {
        array_destroy(o->own[k][i].codes);
        array_destroy(o->own[k][i].scale);
        array_destroy(o->own[k][i].m);
        array_destroy(o->own[k][i].v);
    }
    mem_free(o->own[k]);
}

uint64_t adamw8bit_bytes(const params *part) {
    uint64_t bytes = 0;
    for (int i = 0; i < part->n; i++) {
        uint64_t n = (uint64_t)shape_count(&part->p[i].s), f32 = sizeof(float);
        if (!part->p[i].trainable) continue;
        bytes += small(&part->p[i])
                     ? 2 * f32 * n
                     : (n + ADAMW8_BLOCK - 1) / ADAMW8_BLOCK * 2 * (ADAMW8_BLOCK + f32);
    }
    return bytes;
}

void adamw8bit_record(optimizer *o, graph *g, tensor *factor, tensor *inf) {
    for (int k = 0; k < o->n_parts; k++)
        for (int i = 0; i < o->part[k]->n; i++) {
            const param *p = &o->part[k]->p[i];
            const struct optimizer_own *own = &o->own[k][i];
            if (!p->trainable) continue;
            tensor *value = graph_array(g, p->value), *grad = graph_array(g, p->grad),
                   *copy = p->copy ? graph_array(g, p->copy) : NULL,
                   *hyper = graph_array(g, o->hyper[k][p->group]);
            if (own->m)
                op_adamw(g, value, grad, graph_array(g, own->m), graph_array(g, own->v), hyper,
                         factor, inf, copy);
            else
                op_adamw8(g, value, grad, graph_array(g, own->codes), graph_array(g, own->scale),
                          hyper, factor, inf, copy);
        }
}
