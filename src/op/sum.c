/* sum.c: the summation behind sum_to, reduce and loss; see sum.h.
 * SPDX-License-Identifier: MIT */
#include "op/sum.h"
#include <math.h>

static uint32_t ceil_pow2(int64_t n, uint32_t cap) {
    uint32_t p = 1;
    while (p < n && p < cap) p *= 2;
    return p;
}

/* Lanes of a workgroup along the innermost dim; the rest of its 256 are spread over the other
 * direction. */
static uint32_t lanes_x(const sum_geom *s, uint32_t unit) {
    return ceil_pow2(div_up(s->columns ? s->k[s->nk - 1] : s->count, unit), 256);
}

static uint32_t vector_unit(const sum_geom *s) {
    int64_t inner = s->columns ? s->k[s->nk - 1] : s->r[s->nr - 1];
    return inner % 4 == 0 ? 4 : 1;
}

/* Enough workgroups to fill a large GPU, each with at least 8 elements a lane. */
static void split_gpu(sum_geom *s) {
    uint32_t unit = vector_unit(s), lx = lanes_x(s, unit), ly = 256 / lx;
    int64_t blocks, least;
    if (s->columns) {
        blocks = s->outs / s->k[s->nk - 1] * div_up(div_up(s->k[s->nk - 1], unit), lx);
        least = 8 * ly;
    } else {
        blocks = div_up(s->outs, ly);
        least = 8 * (int64_t)lx * unit;
    }
    s->chunk = MAX(least, div_up(s->count, MAX(1, 1024 / blocks)));
}

/* Columns: a chunk of rows is added one after the other, so it is kept short for accuracy. */
static void split_cpu(sum_geom *s) {
    if (s->columns)
        s->chunk = MAX(64, div_up(s->count, 256));
    else
        s->chunk = MAX(16384, div_up(s->count, 1024));
}

sum_geom sum_geometry(const shape *x, uint32_t keep, bool on_gpu) {
    sum_geom s = {.outs = 1, .count = 1};
    int64_t stride = 1, k[3] = {1, 1, 1}, ks[3] = {0}, r[3] = {1, 1, 1}, rs[3] = {0};
    int last = -1; /* innermost first: 1 = kept, 0 = summed */
    for (int i = x->n - 1; i >= 0; i--) {
        int64_t d = x->d[i];
        bool kept = keep >> i & 1u;
        if (d == 1) continue;
        if (last < 0) s.columns = kept;
        if (kept) {
            s.outs *= d;
            if (last != 1)
                k[s.nk] = d, ks[s.nk++] = stride;
            else
                k[s.nk - 1] *= d;
        } else {
            s.count *= d;
            if (last != 0)
                r[s.nr] = d, rs[s.nr++] = stride;
            else
                r[s.nr - 1] *= d;
        }
        last = kept;
        stride *= d;
    }
    if (!s.nk) k[s.nk++] = 1;
    if (!s.nr) r[s.nr++] = 1;
    if (last < 0) s.columns = true;
    for (int i = 0; i < s.nk; i++) s.k[i] = k[s.nk - 1 - i], s.ks[i] = ks[s.nk - 1 - i];
    for (int i = 0; i < s.nr; i++) s.r[i] = r[s.nr - 1 - i], s.rs[i] = rs[s.nr - 1 - i];
    if (on_gpu)
        split_gpu(&s);
    else
        split_cpu(&s);
    if (!s.columns) s.chunk = align_up(s.chunk, 4);
    s.splits = div_up(s.count, s.chunk);
    return s;
}

size_t sum_scratch(const sum_geom *s) {
    return s->splits > 1 ? (size_t)s->splits * (size_t)s->outs * 4 : 0;
}

/* Element i of a mixed-radix space. */
static int64_t place(int n, const int64_t *d, const int64_t *stride, int64_t i) {
    int64_t at = 0;
    for (int j = n - 1; j > 0; j--) {
        at += i % d[j] * stride[j];
        i /= d[j];
    }
    return at + i * stride[0];
}

/* ---- CPU ---- */

LANE_INLINE float term(sum_term t, float x, float mean) {
    return t == SUM_X ? x : t == SUM_SQUARE ? x * x : (x - mean) * (x - mean);
}

HOST_KERNEL(add_row,
            (sum_term t, const float *restrict x, const float *restrict mean, float *restrict acc,
             int64_t n),
            (t, x, mean, acc, n)) {
    if (t == SUM_X)
        for (int64_t i = 0; i < n; i++) acc[i] += x[i];
    else if (t == SUM_SQUARE)
        for (int64_t i = 0; i < n; i++) acc[i] += x[i] * x[i];
    else
        for (int64_t i = 0; i < n; i++) acc[i] += term(SUM_DEVIATION, x[i], mean[i]);
}

#define ACC 64 /* partial sums of a run: four registers of AVX-512 */
#define ADD_RUN(name, kind)                                                                        \
    HOST_KERNEL(name, (const float *restrict x, float mean, float *restrict acc, int64_t n),       \
                (x, mean, acc, n)) {                                                               \
        int64_t i = 0;                                                                             \
        float a[ACC];                                                                              \
        (void)mean;                                                                                \
        for (int k = 0; k < ACC; k++) a[k] = acc[k];                                               \
        for (; i + ACC <= n; i += ACC)                                                             \
            for (int k = 0; k < ACC; k++) a[k] += term(kind, x[i + k], mean);                      \
        for (int k = 0; i < n; i++, k++) a[k] += term(kind, x[i], mean);                           \
        for (int k = 0; k < ACC; k++) acc[k] = a[k];                                               \
    }
ADD_RUN(run_x, SUM_X)
ADD_RUN(run_square, SUM_SQUARE)
ADD_RUN(run_deviation, SUM_DEVIATION)

typedef struct job {
    const sum_geom *s;
    const sum_desc *d;
    const void *x;
    dtype t;
    const float *mean;
    float *part, *y;
    host_isa isa;
    int64_t blocks;
} job;

static float finish(const sum_desc *d, double sum) {
    double v = sum * d->factor;
    return (float)(d->root ? sqrt(v) : v);
}

/* Tasks are (split, outer output, block of columns). */
static void columns_run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const sum_geom *s = j->s;
    int64_t c = s->k[s->nk - 1], outer = s->outs / c;
    for (int64_t task = begin; task < end; task++) {
        int64_t col = task % j->blocks * LANES, o = task / j->blocks % outer,
                split = task / j->blocks / outer;
        int64_t m = MIN(LANES, c - col), base = place(s->nk - 1, s->k, s->ks, o) + col;
        float acc[LANES] = {0}, buf[LANES];
        for (int64_t r = split * s->chunk; r < MIN(s->count, (split + 1) * s->chunk); r++) {
            const float *x =
                block_in(j->isa, j->x, j->t, base + place(s->nr, s->r, s->rs, r), m, buf);
            add_row(j->isa, j->d->term, x, j->mean ? j->mean + o * c + col : NULL, acc, m);
        }
        float *to = (s->splits > 1 ? j->part + split * s->outs : j->y) + o * c + col;
        for (int64_t i = 0; i < m; i++)
            to[i] = s->splits > 1 ? acc[i] : finish(j->d, (double)acc[i]);
    }
}

/* Tasks are (split, output). */
static void rows_run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const sum_geom *s = j->s;
    int64_t run = s->r[s->nr - 1];
    for (int64_t task = begin; task < end; task++) {
        int64_t o = task % s->outs, split = task / s->outs, base = place(s->nk, s->k, s->ks, o);
        int64_t last = MIN(s->count, (split + 1) * s->chunk);
        float acc[ACC] = {0}, buf[LANES], mean = j->mean ? j->mean[o] : 0;
        for (int64_t r = split * s->chunk, m; r < last; r += m) {
            m = MIN(MIN(LANES, last - r), run - r % run);
            const float *x =
                block_in(j->isa, j->x, j->t, base + place(s->nr, s->r, s->rs, r), m, buf);
            if (j->d->term == SUM_X)
                run_x(j->isa, x, 0, acc, m);
            else if (j->d->term == SUM_SQUARE)
                run_square(j->isa, x, 0, acc, m);
            else
                run_deviation(j->isa, x, mean, acc, m);
        }
        double sum = 0;
        for (int k = 0; k < ACC; k++) sum += (double)acc[k];
        if (s->splits > 1)
            j->part[split * s->outs + o] = (float)sum;
        else
            j->y[o] = finish(j->d, sum);
    }
}

static void combine_run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    for (int64_t at = begin; at < end; at += LANES) {
        int64_t m = MIN(LANES, end - at);
        double sum[LANES] = {0};
        for (int64_t k = 0; k < j->s->splits; k++)
            for (int64_t i = 0; i < m; i++) sum[i] += (double)j->part[k * j->s->outs + at + i];
        for (int64_t i = 0; i < m; i++) j->y[at + i] = finish(j->d, sum[i]);
    }
}

void sum_host(host *h, const sum_geom *s, const sum_desc *d, const void *x, dtype t,
              const float *mean, float *y, float *scratch) {
    job j = {s,
             d,
             x,
             t,
             d->term == SUM_DEVIATION ? mean : NULL,
             scratch,
             y,
             host_get_isa(h),
             s->columns ? div_up(s->k[s->nk - 1], LANES) : 0};
    int64_t per = MIN(s->chunk, s->count);
    if (s->columns) {
        int64_t c = s->k[s->nk - 1];
        host_parallel(h, s->splits * (s->outs / c) * j.blocks,
                      MAX(1, BLOCK_GRAIN / (per * MIN(c, LANES))), columns_run, &j);
    } else {
        host_parallel(h, s->splits * s->outs, MAX(1, BLOCK_GRAIN / per), rows_run, &j);
    }
    if (s->splits > 1) host_parallel(h, s->outs, MAX(1, BLOCK_GRAIN / s->splits), combine_run, &j);
}

/* ---- Vulkan ---- */

static status pass(gpu_cmd *c, const sum_geom *s, const sum_desc *d, bool last, dtype t, gpu_span x,
                   gpu_span mean, gpu_span y) {
    uint32_t unit = vector_unit(s), lx = lanes_x(s, unit), ly = 256 / lx;
    int64_t blocks = s->columns
                         ? s->outs / s->k[s->nk - 1] * div_up(div_up(s->k[s->nk - 1], unit), lx)
                         : div_up(s->outs, ly);
    struct {
        uint32_t k[3], ks[3], r[3], rs[3], outs, count, chunk, groups;
        float factor;
    } push = {.outs = (uint32_t)s->outs,
              .count = (uint32_t)s->count,
              .chunk = (uint32_t)s->chunk,
              .groups = (uint32_t)(blocks * s->splits),
              .factor = last ? (float)d->factor : 1};
    for (int i = 0; i < 3; i++) {
        push.k[i] = i < s->nk ? (uint32_t)s->k[s->nk - 1 - i] : 1;
        push.ks[i] = i < s->nk ? (uint32_t)s->ks[s->nk - 1 - i] : 0;
        push.r[i] = i < s->nr ? (uint32_t)s->r[s->nr - 1 - i] : 1;
        push.rs[i] = i < s->nr ? (uint32_t)s->rs[s->nr - 1 - i] : 0;
    }
    return move_dispatch(c,
                         (gpu_dispatch_params){.shader = "reduce",
                                               .type = t,
                                               .spec = {s->columns, unit == 4, (uint32_t)d->term,
                                                        last && d->root, lx},
                                               .n_spec = 5,
                                               .bind = {x, d->term == SUM_DEVIATION ? mean : x, y},
                                               .n_bind = 3,
                                               .push = &push,
                                               .push_bytes = sizeof push,
                                               .work = (double)s->outs * (double)s->count},
                         (uint64_t)push.groups * 256);
}

status sum_encode(gpu_cmd *c, const sum_geom *s, const sum_desc *d, dtype t, gpu_span x,
                  gpu_span mean, gpu_span y, gpu_span scratch) {
    if (s->splits == 1) return pass(c, s, d, true, t, x, mean, y);
    status st = pass(c, s, d, false, t, x, mean, scratch);
    if (st != OK) return st;
    sum_geom s2 = {.nk = 1,
                   .nr = 1,
                   .k = {s->outs},
                   .ks = {1},
                   .r = {s->splits},
                   .rs = {s->outs},
                   .outs = s->outs,
                   .count = s->splits,
                   .columns = true,
                   .splits = 1,
                   .chunk = s->splits};
    return pass(c, &s2, &(sum_desc){SUM_X, d->factor, d->root}, true, DT_F32, scratch, scratch, y);
}

double sum_exact(const sum_geom *s, const sum_desc *d, const void *x, dtype t, double mean,
                 int64_t o) {
    int64_t base = place(s->nk, s->k, s->ks, o);
    double sum = 0;
    for (int64_t r = 0; r < s->count; r++) {
        double v = dtype_load(x, t, base + place(s->nr, s->r, s->rs, r));
        sum += d->term == SUM_X ? v : d->term == SUM_SQUARE ? v * v : (v - mean) * (v - mean);
    }
    sum *= d->factor;
    return d->root ? sqrt(sum) : sum;
}
