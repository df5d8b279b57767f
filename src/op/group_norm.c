/* group_norm: y = (x - mean) * rstd * scale + shift, one mean and variance per sample and group of
 * channels; optionally through silu.
 *   x  [N, ..., C] f32|f16|bf16, C = groups * width; scale, shift [C] f32, may be NULL
 *   returns y like x; mean [N, groups] f32; rstd [N, groups] f32 = 1 / sqrt(var + eps), var biased
 * The shape that matters: 64 x 64 x 320, a sample larger than a core's cache. One pass takes
 * per-channel means and squared deviations of chunks of pixels, a second one normalises; on the CPU
 * both give a thread the same pixels. Deviations are from the chunk's first pixel, a member of the
 * set, so that their sum loses no more than chunk * 2^-24 however far the mean is from 0; chunks
 * and channels are joined as Chan et al. do.
 *   errors  E_SHAPE if C is not a multiple of groups      source  Wu & He 2018; Chan, Golub,
 *     LeVeque 1979
 * SPDX-License-Identifier: MIT */
#include "op/group_norm.h"
#include "op/vmath.h"
#include <math.h>

extern const op_info op_group_norm_info;

tensor *op_group_norm_(graph *g, tensor *x, tensor *scale, tensor *shift, int groups, float eps,
                       bool silu, const char *here) {
    return op_record(g, &op_group_norm_info, here,
                     &(group_norm_attrs){(uint32_t)MAX(groups, 0), silu, eps},
                     OP_IN(x, scale, shift));
}

static status infer(graph *g, node *n) {
    (void)g;
    const tensor *x = n->in[0];
    int64_t c = x->s.d[x->s.n - 1], groups = ATTRS(n, group_norm_attrs)->groups;
    if (!move_is_float(x->dtype) || x->s.n < 2)
        return fail(E_SHAPE, "group_norm: x must be [N, ..., C] of a float type");
    if (groups < 1 || c % groups)
        return fail(E_SHAPE, "group_norm: C=%lld is not a multiple of groups=%lld", (long long)c,
                    (long long)groups);
    if (!norm_vector(n->in[1], x, c) || !norm_vector(n->in[2], x, c))
        return fail(E_SHAPE, "group_norm: scale and shift must be f32 [%lld]", (long long)c);
    out_like(n, 0, x);
    out_set(n, 1, dtype_acc(x->dtype), SHAPE(x->s.d[0], groups));
    out_set(n, 2, dtype_acc(x->dtype), SHAPE(x->s.d[0], groups));
    return OK;
}

static norm_geom images(const node *n) {
    return norm_images(n->in[0], ATTRS(n, group_norm_attrs)->groups);
}

static status prepare(prep *p, node *n) {
    norm_geom m = p->gpu ? norm_chunks_gpu(images(n)) : norm_chunks_cpu(images(n));
    /* CPU: the two parts, then per sample and channel {mean, rstd scale, shift} */
    if (p->gpu)
        prep_scratch(n, 2 * norm_part_bytes(&m));
    else
        prep_scratch(n, (size_t)(2 * m.n * m.chunks * m.c + 3 * m.n * m.c) * 4);
    return OK;
}

static status encode(gpu_cmd *c, const node *n) {
    const group_norm_attrs *a = ATTRS(n, group_norm_attrs);
    const tensor *x = n->in[0], *scale = n->in[1], *shift = n->in[2], *y = n->out[0],
                 *mean = n->out[1], *rstd = n->out[2];
    norm_geom m = norm_chunks_gpu(images(n));
    gpu_span part_a = n->scratch->span, part_b = norm_span(n->scratch->span, norm_part_bytes(&m));
    status st =
        norm_columns_encode(c, &m, &(norm_columns){.mode = NORM_STATS, .x = x}, part_a, part_b);
    if (st != OK) return st;
    st = group_norm_combine_encode(c, &m, false, a->eps, NULL, part_a, part_b, mean->span,
                                   rstd->span);
    if (st != OK) return st;
    uint32_t unit = m.c % 4 == 0 ? 4 : 1;
    struct {
        uint32_t n, p, c, g;
    } push = {(uint32_t)tensor_count(x) / unit, (uint32_t)m.p, (uint32_t)m.c, (uint32_t)m.g};
    return move_dispatch(
        c,
        (gpu_dispatch_params){.shader = "group_norm",
                              .type = x->dtype,
                              .spec = {unit == 4, a->silu, scale != NULL, shift != NULL},
                              .n_spec = 4,
                              .bind = {x->span, scale ? scale->span : x->span,
                                       shift ? shift->span : x->span, mean->span, rstd->span,
                                       y->span},
                              .n_bind = 6,
                              .push = &push,
                              .push_bytes = sizeof push},
        push.n);
}

/* ---- CPU ---- */

/* (mean, squared deviations) over rows of cn <= LANES channels; four rows at a time, the sums are in
 * memory. */
#define STATS(name, type, get)                                                                     \
    HOST_KERNEL(name,                                                                              \
                (const type *x, int64_t rows, int64_t c, int64_t cn, float *restrict mean,         \
                 float *restrict dev),                                                             \
                (x, rows, c, cn, mean, dev)) {                                                     \
        float first[LANES], s[LANES], q[LANES];                                                    \
        int64_t r = 0;                                                                             \
        for (int64_t i = 0; i < cn; i++) first[i] = get(x[i]), s[i] = q[i] = 0;                    \
        for (; r + 4 <= rows; r += 4) {                                                            \
            const type *restrict u = x + r * c;                                                    \
            for (int64_t i = 0; i < cn; i++) {                                                     \
                float d0 = get(u[i]) - first[i], d1 = get(u[c + i]) - first[i];                    \
                float d2 = get(u[2 * c + i]) - first[i], d3 = get(u[3 * c + i]) - first[i];        \
                s[i] += (d0 + d1) + (d2 + d3);                                                     \
                q[i] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3);                                 \
            }                                                                                      \
        }                                                                                          \
        for (; r < rows; r++)                                                                      \
            for (int64_t i = 0; i < cn; i++) {                                                     \
                float d = get(x[r * c + i]) - first[i];                                            \
                s[i] += d;                                                                         \
                q[i] += d * d;                                                                     \
            }                                                                                      \
        float inv = 1.0f / (float)rows;                                                            \
        for (int64_t i = 0; i < cn; i++) {                                                         \
            float d = q[i] - s[i] * s[i] * inv;                                                    \
            mean[i] = first[i] + s[i] * inv;                                                       \
            dev[i] = d < 0 ? 0 : d;                                                                \
        }                                                                                          \
    }
STATS(stats_f32, float, )
STATS(stats_f16, uint16_t, lane_from_f16)
STATS(stats_bf16, uint16_t, lane_from_bf16)

/* y = (x - mean) * a + b, then silu, over rows of cn <= LANES channels; half types are widened in the
 * same loop: a tenth faster than through a buffer. */
#define APPLY_ROW(to, from, silu)                                                                  \
    {                                                                                              \
        float *restrict w = to;                                                                    \
        for (int64_t i = 0; i < cn; i++) {                                                         \
            float z = (from - mean[i]) * a[i] + b[i];                                              \
            w[i] = silu ? z * vsigmoid(z) : z;                                                     \
        }                                                                                          \
    }
#define APPLY(name, silu)                                                                          \
    HOST_KERNEL(name,                                                                              \
                (const void *x, void *y, dtype t, int64_t at, int64_t rows, int64_t c, int64_t cn, \
                 const float *restrict mean, const float *restrict a, const float *restrict b),    \
                (x, y, t, at, rows, c, cn, mean, a, b)) {                                          \
        float out[LANES];                                                                          \
        for (int64_t r = 0; r < rows; r++, at += c) {                                              \
            const uint16_t *restrict h = (const uint16_t *)x + at;                                 \
            if (t != DT_F32) block_ahead(h + c, cn);                                               \
            if (t == DT_F32)                                                                       \
                APPLY_ROW((float *)y + at, ((const float *)x + at)[i], silu)                       \
            else if (t == DT_BF16)                                                                 \
                APPLY_ROW(out, lane_from_bf16(h[i]), silu)                                         \
            else                                                                                   \
                APPLY_ROW(out, lane_from_f16(h[i]), silu)                                          \
            if (t != DT_F32) lanes_save(isa, y, t, at, cn, out);                                   \
        }                                                                                          \
    }
APPLY(apply_rows, false)
APPLY(apply_silu_rows, true)

typedef struct job {
    const node *n;
    host_isa isa;
    norm_geom m;
    float *part_a, *part_b, *coef;
    int64_t first;
} job; /* first: sample */

/* Tasks are (sample, chunk of pixels). */
static void stats_run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const norm_geom *m = &j->m;
    const tensor *x = j->n->in[0];
    for (int64_t k = begin; k < end; k++) {
        int64_t i = j->first + k / m->chunks, row = k % m->chunks * m->chunk,
                part = (i * m->chunks + k % m->chunks) * m->c;
        for (int64_t c = 0; c < m->c; c += LANES) {
            int64_t at = (i * m->p + row) * m->c + c, rows = MIN(m->chunk, m->p - row),
                    cn = MIN(LANES, m->c - c);
            float *a = j->part_a + part + c, *b = j->part_b + part + c;
            const uint16_t *half = (const uint16_t *)x->data + at;
            if (x->dtype == DT_F32)
                stats_f32(j->isa, (const float *)x->data + at, rows, m->c, cn, a, b);
            else if (x->dtype == DT_F16)
                stats_f16(j->isa, half, rows, m->c, cn, a, b);
            else
                stats_bf16(j->isa, half, rows, m->c, cn, a, b);
        }
    }
}

/* Tasks are (sample, group): joins chunks and channels, in double. */
static void combine_run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const norm_geom *m = &j->m;
    const float *scale = j->n->in[1] ? j->n->in[1]->data : NULL,
                *shift = j->n->in[2] ? j->n->in[2]->data : NULL;
    int64_t width = m->c / m->g;
    for (int64_t k = begin; k < end; k++) {
        int64_t i = j->first + k / m->g, g = k % m->g;
        double mean = 0, dev = 0, count = (double)(m->p * width);
        for (int pass = 0; pass < 2; pass++) {
            for (int64_t q = 0; q < m->chunks; q++) {
                double rows = (double)MIN(m->chunk, m->p - q * m->chunk);
                const float *a = j->part_a + (i * m->chunks + q) * m->c + g * width,
                            *b = j->part_b + (i * m->chunks + q) * m->c + g * width;
                for (int64_t c = 0; c < width; c++) {
                    double d = (double)a[c] - mean;
                    dev += pass ? (double)b[c] + rows * d * d : rows * (double)a[c];
                }
            }
            if (pass == 0) mean = dev / count, dev = 0;
        }
        double rstd = 1 / sqrt(dev / count + (double)ATTRS(j->n, group_norm_attrs)->eps);
        ((float *)j->n->out[1]->data)[i * m->g + g] = (float)mean;
        ((float *)j->n->out[2]->data)[i * m->g + g] = (float)rstd;
        float *coef = j->coef + i * 3 * m->c + g * width;
        for (int64_t c = 0; c < width; c++) {
            coef[c] = (float)mean;
            coef[m->c + c] = (float)(rstd * (scale ? (double)scale[g * width + c] : 1));
            coef[2 * m->c + c] = shift ? shift[g * width + c] : 0;
        }
    }
}

static void apply_run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const norm_geom *m = &j->m;
    const tensor *x = j->n->in[0], *y = j->n->out[0];
    for (int64_t k = begin; k < end; k++) {
        int64_t i = j->first + k / m->chunks, row = k % m->chunks * m->chunk;
        const float *coef = j->coef + i * 3 * m->c;
        for (int64_t c = 0; c < m->c; c += LANES)
            (ATTRS(j->n, group_norm_attrs)->silu ? apply_silu_rows : apply_rows)(
                j->isa, x->data, y->data, x->dtype, (i * m->p + row) * m->c + c,
                MIN(m->chunk, m->p - row), m->c, MIN(LANES, m->c - c), coef + c, coef + m->c + c,
                coef + 2 * m->c + c);
    }
}

static void host_run(host *h, const node *n) {
    norm_geom m = norm_chunks_cpu(images(n));
    float *s = n->scratch->data;
    job j = {n, host_get_isa(h), m, s, s + m.n * m.chunks * m.c, s + 2 * m.n * m.chunks * m.c, 0};
    int64_t together = norm_batch(&m), grain = MAX(1, BLOCK_GRAIN / (MIN(m.chunk, m.p) * m.c));
    for (j.first = 0; j.first < m.n; j.first += together) {
        int64_t batch = MIN(together, m.n - j.first);
        host_parallel(h, batch * m.chunks, grain, stats_run, &j);
        host_parallel(h, batch * m.g, MAX(1, BLOCK_GRAIN / 4 / (m.chunks * (m.c / m.g))),
                      combine_run, &j);
        host_parallel(h, batch * m.chunks, grain, apply_run, &j);
    }
}

static void backward(graph *g, const node *n, tensor *const dy[], tensor *dx[]) {
    if (dy[1] || dy[2])
        graph_fail(g, n->at, E_UNSUPPORTED, "group_norm: mean and rstd have no gradient");
    if (!dy[0]) return;
    tensor *d = op_record(g, &op_group_norm_bwd_info, n->at, n->attrs,
                          OP_IN(n->in[0], n->in[1], n->in[2], n->out[1], n->out[2], dy[0]));
    if (node_wants(n, 0)) dx[0] = d;
    if (node_wants(n, 1)) dx[1] = tensor_out(d, 1);
    if (node_wants(n, 2)) dx[2] = tensor_out(d, 2);
}

static void ref(const node *n) {
    norm_geom m = images(n);
    int64_t width = m.c / m.g;
    for (int64_t i = 0; i < m.n; i++)
        for (int64_t g = 0; g < m.g; g++) {
            double mean = 0, var = 0, count = (double)(m.p * width);
            for (int64_t k = 0; k < m.p * width; k++)
                mean += IN(0, (i * m.p + k / width) * m.c + g * width + k % width) / count;
            for (int64_t k = 0; k < m.p * width; k++) {
                double d = IN(0, (i * m.p + k / width) * m.c + g * width + k % width) - mean;
                var += d * d / count;
            }
            double rstd = 1 / sqrt(var + (double)ATTRS(n, group_norm_attrs)->eps);
            SET(1, i * m.g + g, mean);
            SET(2, i * m.g + g, rstd);
            for (int64_t k = 0; k < m.p * width; k++) {
                int64_t c = g * width + k % width, at = (i * m.p + k / width) * m.c + c;
                double z = (IN(0, at) - mean) * rstd * (n->in[1] ? IN(1, c) : 1) +
                           (n->in[2] ? IN(2, c) : 0);
                SET(0, at, ATTRS(n, group_norm_attrs)->silu ? z / (1 + exp(-z)) : z);
            }
        }
}

/* a: groups, silu */
static tensor *build(graph *g, tensor **in, const op_case *c) {
    return op_group_norm(g, in[0], in[1], in[2], (int)c->a[0], 1e-5f, c->a[1] != 0);
}

static const op_case cases[] = {
    CASE("[1,2] f32[2] f32[2]", .a = {1}),
    CASE("[1,1,1,3] f32[3] f32[3]", .a = {1, 1}),
    CASE("[2,3,5,6] f32[6]=0.5:2 f32[6]", .a = {3}),
    CASE("[2,3,5,6] f32[6]=0.5:2 f32[6]", .a = {2, 1}),
    CASE("[3,7,3,40] f32[40]=0.5:2 f32[40]", .a = {4, 1}),
    CASE("[2,9,35] - -", .a = {7, 1}),
    CASE("[2,9,24] f32[24] -", .a = {3}),
    CASE("[2,9,24] - f32[24]", .a = {24}),
    CASE("[2,300,12]=50:51 f32[12] f32[12]", .a = {4},
         .tol = 2e-4), /* mean far from 0: x itself is rounded */
    CASE("[1,8,8,1280] f32[1280]=0.5:2 f32[1280]", .a = {32, 1}, .no_grad = true),
    CASE("[2,64,64,320] f32[320]=0.5:2 f32[320]", .a = {32, 1}, .no_grad = true),
    CASE("[2,16,16,64] f32[64]=0.5:2 f32[64]", .a = {32, 1}),
    CASE("[1,150,150,32] f32[32]=0.5:2 f32[32]", .a = {32}, .no_grad = true),
};

const op_info op_group_norm_info = {.name = "group_norm",
                                    .n_in = 3,
                                    .n_out = 3,
                                    .attrs_size = sizeof(group_norm_attrs),
                                    .types = TYPES_FLOAT,
                                    .infer = infer,
                                    .prepare = prepare,
                                    .encode = encode,
                                    .host = host_run,
                                    .backward = backward,
                                    .ref = ref,
                                    .build = build,
                                    CASES(cases)};
