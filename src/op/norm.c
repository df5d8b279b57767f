/* norm.c: column sums of the norms on Vulkan; see norm.h.
 * SPDX-License-Identifier: MIT */
#include "op/group_norm.h"
#include "op/sum.h"

static uint32_t unit_of(const norm_geom *m) { return m->c % 4 == 0 ? 4 : 1; }

/* Lanes along the channels: a power of two up to 64, the other 256 / LX take different rows. */
static uint32_t lanes_x(const norm_geom *m) {
    uint32_t lx = 1;
    while (lx < 64 && lx * unit_of(m) < m->c) lx *= 2;
    return lx;
}

/* At least 16 rows a lane, at most 256 chunks. */
norm_geom norm_chunks_gpu(norm_geom m) {
    m.chunk = MAX(16 * (256 / lanes_x(&m)), div_up(m.p, 256));
    m.chunks = div_up(m.p, m.chunk);
    return m;
}

size_t norm_part_bytes(const norm_geom *m) {
    return align_up((size_t)m->n * (size_t)m->chunks * (size_t)m->c * 4, NORM_ALIGN);
}

gpu_span norm_span(gpu_span s, uint64_t offset) {
    return (gpu_span){s.chunk, s.offset + offset, s.bytes - offset};
}

status norm_columns_encode(gpu_cmd *c, const norm_geom *m, const norm_columns *d, gpu_span part_a,
                           gpu_span part_b) {
    uint32_t unit = unit_of(m), lx = lanes_x(m);
    int64_t blocks = div_up(div_up(m->c, unit), lx), groups = m->n * m->chunks * blocks;
    struct {
        uint32_t p, c, g, chunk, chunks, blocks, groups;
    } push = {(uint32_t)m->p,      (uint32_t)m->c,   (uint32_t)m->g,  (uint32_t)m->chunk,
              (uint32_t)m->chunks, (uint32_t)blocks, (uint32_t)groups};
    gpu_span any = d->x->span;
    return move_dispatch(
        c,
        (gpu_dispatch_params){
            .shader = "norm_columns",
            .type = d->x->dtype,
            .spec = {d->mode, unit == 4, lx, d->silu, d->scale != NULL, d->shift != NULL,
                     d->mean != NULL},
            .n_spec = 7,
            .bind = {any, d->dy ? d->dy->span : any, d->scale ? d->scale->span : any,
                     d->shift ? d->shift->span : any, d->mean ? d->mean->span : any,
                     d->rstd ? d->rstd->span : any, part_a, part_b},
            .n_bind = 8,
            .push = &push,
            .push_bytes = sizeof push,
            .work = (double)m->n * (double)m->p * (double)m->c * 4},
        (uint64_t)groups * 256);
}

static sum_geom total(const norm_geom *m) {
    return sum_geometry(&SHAPE(m->n * m->chunks, m->c), 2, true);
}

size_t norm_total_scratch(const norm_geom *m) {
    sum_geom s = total(m);
    return sum_scratch(&s);
}

status norm_total_encode(gpu_cmd *c, const norm_geom *m, gpu_span part, gpu_span y,
                         gpu_span scratch) {
    sum_geom s = total(m);
    return sum_encode(c, &s, &(sum_desc){SUM_X, 1, false}, DT_F32, part, part, y, scratch);
}

status group_norm_combine_encode(gpu_cmd *c, const norm_geom *m, bool gradient, float eps,
                                 const tensor *scale, gpu_span part_a, gpu_span part_b, gpu_span a,
                                 gpu_span b) {
    struct {
        uint32_t groups, p, c, g, chunk, chunks;
        float eps;
    } push = {(uint32_t)(m->n * m->g),
              (uint32_t)m->p,
              (uint32_t)m->c,
              (uint32_t)m->g,
              (uint32_t)m->chunk,
              (uint32_t)m->chunks,
              eps};
    return move_dispatch(
        c,
        (gpu_dispatch_params){.shader = "group_norm_combine",
                              .type = DT_F32,
                              .spec = {gradient, scale != NULL},
                              .n_spec = 2,
                              .bind = {part_a, part_b, scale ? scale->span : part_a, a, b},
                              .n_bind = 5,
                              .push = &push,
                              .push_bytes = sizeof push},
        (uint64_t)push.groups * 256);
}
