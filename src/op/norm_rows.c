/* norm_rows.c: the kernels of layer_norm and rms_norm; see norm_rows.h.
 *   forward   xhat = (x - mean) rstd, y = xhat scale + shift
 *   gradient  dx = rstd (g - A - xhat B), g = dy scale, A = mean of g over the row (rms: 0), B =
 *     mean of g xhat;
 *             dscale = sum dy xhat, dshift = sum dy over rows
 * A row stays in the first-level cache, so the variance takes a second pass over it: exact for any
 * mean.
 * SPDX-License-Identifier: MIT */
#include "op/norm_rows.h"
#include "op/sum.h"
#include <math.h>

shape norm_rows_shape(const tensor *x) {
    shape s = x->s;
    if (s.n == 1)
        s.d[0] = 1;
    else
        s.n--;
    return s;
}

status norm_rows_prepare(prep *p, node *n, const norm_rows_io *io) {
    norm_geom m = norm_rows(io->x);
    if (!io->dy || !io->sums) return OK;
    m = p->gpu ? norm_chunks_gpu(m) : norm_chunks_cpu(m);
    prep_scratch(n, p->gpu ? 2 * norm_part_bytes(&m) + norm_total_scratch(&m)
                           : (size_t)(2 * m.chunks * m.c) * 4);
    return OK;
}

/* ---- Vulkan ---- */

static status zero(gpu_cmd *c, const tensor *t) {
    struct {
        uint32_t n, word;
    } push = {(uint32_t)tensor_count(t), 0};
    return move_dispatch(c,
                         (gpu_dispatch_params){.shader = "zeros",
                                               .type = DT_U32,
                                               .bind = {t->span},
                                               .n_bind = 1,
                                               .push = &push,
                                               .push_bytes = sizeof push},
                         (uint64_t)div_up(push.n, 4));
}

static status encode_sums(gpu_cmd *c, const node *n, const norm_rows_io *io) {
    status st = OK;
    if (!io->sums) {
        TRY(zero(c, io->dscale));
        if (io->dshift) TRY(zero(c, io->dshift));
        return OK;
    }
    norm_geom m = norm_chunks_gpu(norm_rows(io->x));
    gpu_span part_a = n->scratch->span, part_b = norm_span(part_a, norm_part_bytes(&m)),
             rest = part_b;
    if (norm_total_scratch(&m)) rest = norm_span(part_b, norm_part_bytes(&m));
    TRY(norm_columns_encode(
        c, &m,
        &(norm_columns){
            .mode = NORM_ROWS, .x = io->x, .dy = io->dy, .mean = io->mean, .rstd = io->rstd},
        part_a, part_b));
    TRY(norm_total_encode(c, &m, part_b, io->dscale->span, rest));
    if (io->dshift) TRY(norm_total_encode(c, &m, part_a, io->dshift->span, rest));
out:
    return st;
}

status norm_rows_encode(gpu_cmd *c, const node *n, const norm_rows_io *io) {
    norm_geom m = norm_rows(io->x);
    uint32_t unit = m.c % 4 == 0 ? 4 : 1, lx = 1;
    while (lx < 256 && lx * unit < m.c) lx *= 2;
    int64_t groups = div_up(m.p, 256 / lx);
    struct {
        uint32_t rows, c;
        float eps;
    } push = {(uint32_t)m.p, (uint32_t)m.c, io->eps};
    gpu_span any = io->x->span, scale = io->scale ? io->scale->span : any,
             shift = io->shift ? io->shift->span : any;
    gpu_dispatch_params p = {.shader = io->dy ? "norm_rows_bwd" : "norm_rows",
                             .type = io->x->dtype,
                             .push = &push,
                             .push_bytes = sizeof push,
                             .spec = {unit == 4, lx, io->rms, io->scale != NULL, io->shift != NULL},
                             .n_spec = io->dy ? 4 : 5,
                             .work = (double)m.p * (double)m.c * 8};
    gpu_span mean = io->mean ? io->mean->span : io->rstd->span;
    gpu_span forward[] = {any, scale, shift, io->y->span, mean, io->rstd->span};
    gpu_span gradient[] = {any,  scale,          io->dy ? io->dy->span : any,
                           mean, io->rstd->span, io->y->span};
    p.n_bind = 6;
    memcpy(p.bind, io->dy ? gradient : forward, sizeof forward);
    status st = move_dispatch(c, p, (uint64_t)groups * 256);
    return st != OK || !io->dy ? st : encode_sums(c, n, io);
}

/* ---- CPU ---- */

typedef struct row_args {
    const void *x, *dy;
    void *y;
    dtype t;
    int64_t c;
    const float *scale, *shift;
    bool rms;
    float eps, *sum_a, *sum_b; /* sums [C] or NULL */
} row_args;

/* Elements [k, k + m) of the row at `at` as floats. */
LANE_INLINE const float *piece(const void *x, dtype t, int64_t at, int64_t m, float *buf) {
    if (t == DT_F32) return (const float *)x + at;
    lanes_load(x, t, at, m, buf);
    return buf;
}

HOST_KERNEL(row_forward, (const row_args *a, int64_t at, float *mean_out, float *rstd_out),
            (a, at, mean_out, rstd_out)) {
    float buf[LANES], out[LANES], mean = 0, sum = 0, inv = 1.0f / (float)a->c;
    for (int64_t k = 0; k < a->c && !a->rms; k += LANES) {
        int64_t m = MIN(LANES, a->c - k);
        const float *restrict v = piece(a->x, a->t, at + k, m, buf);
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < m; i++) sum += v[i];
    }
    mean = sum * inv;
    sum = 0;
    for (int64_t k = 0; k < a->c; k += LANES) {
        int64_t m = MIN(LANES, a->c - k);
        const float *restrict v = piece(a->x, a->t, at + k, m, buf);
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < m; i++) sum += (v[i] - mean) * (v[i] - mean);
    }
    float rstd = 1.0f / sqrtf(sum * inv + a->eps);
    *rstd_out = rstd;
    if (mean_out) *mean_out = mean;
    for (int64_t k = 0; k < a->c; k += LANES) {
        int64_t m = MIN(LANES, a->c - k);
        const float *restrict v = piece(a->x, a->t, at + k, m, buf),
                              *restrict w = a->scale ? a->scale + k : NULL,
                              *restrict b = a->shift ? a->shift + k : NULL;
        float *restrict y = a->t == DT_F32 ? (float *)a->y + at + k : out;
        if (w && b)
            for (int64_t i = 0; i < m; i++) y[i] = (v[i] - mean) * (rstd * w[i]) + b[i];
        else if (w)
            for (int64_t i = 0; i < m; i++) y[i] = (v[i] - mean) * (rstd * w[i]);
        else if (b)
            for (int64_t i = 0; i < m; i++) y[i] = (v[i] - mean) * rstd + b[i];
        else
            for (int64_t i = 0; i < m; i++) y[i] = (v[i] - mean) * rstd;
        if (a->t != DT_F32) lanes_save(isa, a->y, a->t, at + k, m, out);
    }
}

HOST_KERNEL(row_gradient, (const row_args *a, int64_t at, float mean, float rstd),
            (a, at, mean, rstd)) {
    float bx[LANES], bdy[LANES], g[LANES], out[LANES], s = 0, q = 0, inv = 1.0f / (float)a->c;
    for (int64_t k = 0; k < a->c; k += LANES) {
        int64_t m = MIN(LANES, a->c - k);
        const float *restrict v = piece(a->x, a->t, at + k, m, bx),
                              *restrict dy = piece(a->dy, a->t, at + k, m, bdy),
                              *restrict w = a->scale ? a->scale + k : NULL;
        for (int64_t i = 0; i < m; i++) g[i] = w ? dy[i] * w[i] : dy[i];
#pragma omp simd reduction(+ : s, q)
        for (int64_t i = 0; i < m; i++) {
            s += g[i];
            q += g[i] * (v[i] - mean);
        }
    }
    s = a->rms ? 0 : s * inv;
    q *= inv * rstd * rstd;
    for (int64_t k = 0; k < a->c; k += LANES) {
        int64_t m = MIN(LANES, a->c - k);
        const float *restrict v = piece(a->x, a->t, at + k, m, bx),
                              *restrict dy = piece(a->dy, a->t, at + k, m, bdy),
                              *restrict w = a->scale ? a->scale + k : NULL;
        float *restrict dx = a->t == DT_F32 ? (float *)a->y + at + k : out;
        if (w)
            for (int64_t i = 0; i < m; i++) dx[i] = rstd * (dy[i] * w[i] - s - (v[i] - mean) * q);
        else
            for (int64_t i = 0; i < m; i++) dx[i] = rstd * (dy[i] - s - (v[i] - mean) * q);
        if (a->t != DT_F32) lanes_save(isa, a->y, a->t, at + k, m, out);
        if (!a->sum_a) continue;
        float *restrict sa = a->sum_a + k, *restrict sb = a->sum_b + k;
        for (int64_t i = 0; i < m; i++) {
            sa[i] += dy[i];
            sb[i] += dy[i] * ((v[i] - mean) * rstd);
        }
    }
}

typedef struct job {
    const norm_rows_io *io;
    norm_geom m;
    host_isa isa;
    float *part_a, *part_b;
} job;

/* Tasks are chunks of rows. */
static void run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const norm_rows_io *io = j->io;
    row_args a = {io->x->data,
                  io->dy ? io->dy->data : NULL,
                  io->y->data,
                  io->x->dtype,
                  j->m.c,
                  io->scale ? io->scale->data : NULL,
                  io->shift ? io->shift->data : NULL,
                  io->rms,
                  io->eps,
                  NULL,
                  NULL};
    float *mean = io->mean ? io->mean->data : NULL, *rstd = io->rstd->data;
    for (int64_t k = begin; k < end; k++) {
        if (j->part_a) {
            a.sum_a = j->part_a + k * j->m.c;
            a.sum_b = j->part_b + k * j->m.c;
            memset(a.sum_a, 0, (size_t)j->m.c * 4);
            memset(a.sum_b, 0, (size_t)j->m.c * 4);
        }
        for (int64_t r = k * j->m.chunk; r < MIN(j->m.p, (k + 1) * j->m.chunk); r++) {
            if (io->dy)
                row_gradient(j->isa, &a, r * j->m.c, mean ? mean[r] : 0, rstd[r]);
            else
                row_forward(j->isa, &a, r * j->m.c, mean ? mean + r : NULL, rstd + r);
        }
    }
}

static void total_run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    float *dscale = j->io->dscale->data, *dshift = j->io->dshift ? j->io->dshift->data : NULL;
    for (int64_t c = begin; c < end; c++) {
        double a = 0, b = 0;
        for (int64_t k = 0; k < j->m.chunks; k++)
            a += (double)j->part_a[k * j->m.c + c], b += (double)j->part_b[k * j->m.c + c];
        dscale[c] = (float)b;
        if (dshift) dshift[c] = (float)a;
    }
}

void norm_rows_host(host *h, const node *n, const norm_rows_io *io) {
    job j = {io, norm_chunks_cpu(norm_rows(io->x)), host_get_isa(h), NULL, NULL};
    if (io->dy && io->sums) {
        j.part_a = n->scratch->data;
        j.part_b = j.part_a + j.m.chunks * j.m.c;
    }
    host_parallel(h, j.m.chunks, MAX(1, BLOCK_GRAIN / (MIN(j.m.chunk, j.m.p) * j.m.c)), run, &j);
    if (j.part_a)
        host_parallel(h, j.m.c, MAX(1, 4096 / j.m.chunks), total_run, &j);
    else if (io->dy) {
        memset(io->dscale->data, 0, tensor_bytes(io->dscale));
        if (io->dshift) memset(io->dshift->data, 0, tensor_bytes(io->dshift));
    }
}

/* ---- meaning ---- */

#define AT(t, i)     dtype_load((t)->data, (t)->dtype, (i))
#define PUT(t, i, v) dtype_store((t)->data, (t)->dtype, (i), (v))

static void forward_ref(const norm_rows_io *io, int64_t rows, int64_t c) {
    for (int64_t r = 0; r < rows; r++) {
        double mean = 0, var = 0;
        for (int64_t i = 0; i < c && !io->rms; i++) mean += AT(io->x, r * c + i) / (double)c;
        for (int64_t i = 0; i < c; i++)
            var += (AT(io->x, r * c + i) - mean) * (AT(io->x, r * c + i) - mean) / (double)c;
        double rstd = 1 / sqrt(var + (double)io->eps);
        if (io->mean) PUT(io->mean, r, mean);
        PUT(io->rstd, r, rstd);
        for (int64_t i = 0; i < c; i++)
            PUT(io->y, r * c + i,
                (AT(io->x, r * c + i) - mean) * rstd * (io->scale ? AT(io->scale, i) : 1) +
                    (io->shift ? AT(io->shift, i) : 0));
    }
}

void norm_rows_ref(const node *n, const norm_rows_io *io) {
    int64_t c = io->x->s.d[io->x->s.n - 1], rows = tensor_count(io->x) / c;
    (void)n;
    if (!io->dy) {
        forward_ref(io, rows, c);
        return;
    }
    for (int64_t i = 0; i < tensor_count(io->dscale); i++) {
        PUT(io->dscale, i, 0);
        if (io->dshift) PUT(io->dshift, i, 0);
    }
    for (int64_t r = 0; r < rows; r++) {
        double mean = io->mean ? AT(io->mean, r) : 0, rstd = AT(io->rstd, r), a = 0, b = 0;
        for (int pass = 0; pass < 2; pass++)
            for (int64_t i = 0; i < c; i++) {
                double xhat = (AT(io->x, r * c + i) - mean) * rstd, dy = AT(io->dy, r * c + i),
                       g = dy * (io->scale ? AT(io->scale, i) : 1);
                if (pass) {
                    PUT(io->y, r * c + i, rstd * (g - a - xhat * b));
                    continue;
                }
                a += io->rms ? 0 : g / (double)c;
                b += g * xhat / (double)c;
                if (!io->sums) continue;
                PUT(io->dscale, i, AT(io->dscale, i) + dy * xhat);
                if (io->dshift) PUT(io->dshift, i, AT(io->dshift, i) + dy);
            }
    }
}
