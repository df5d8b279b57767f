/* group_norm_bwd: gradients of group_norm. With z the value before silu, dz = dy (silu'(z)), xhat =
 * (x - mean) rstd:
 *   dscale = sum dz xhat, dshift = sum dz over samples and pixels;
 *   dx = rstd (dz scale - A - xhat B), A and B the means over the group of dz scale and dz scale
 *     xhat.
 *   in   x [N, ..., C] T, scale, shift [C] f32 or NULL, mean, rstd [N, groups] f32, dy like x
 *   out  dx like x, dscale [C] f32, dshift [C] f32
 * z is computed again from x: nothing but the statistics is kept from the forward pass.
 *   source  the chain rule; torch.nn.functional.group_norm
 * SPDX-License-Identifier: MIT */
#include "op/group_norm.h"
#include "op/vmath.h"
#include <math.h>

enum { X, SCALE, SHIFT, MEAN, RSTD, DY };

static status infer(graph *g, node *n) {
    (void)g;
    const tensor *x = n->in[X], *dy = n->in[DY];
    int64_t c = x->s.d[x->s.n - 1];
    if (!shape_equal(&x->s, &dy->s) || x->dtype != dy->dtype ||
        c % ATTRS(n, group_norm_attrs)->groups)
        return fail(
            E_SHAPE,
            "group_norm_bwd: x and dy must have one shape and type, C be a multiple of groups");
    out_like(n, 0, x);
    out_set(n, 1, dtype_acc(x->dtype), SHAPE(c));
    out_set(n, 2, dtype_acc(x->dtype), SHAPE(c));
    return OK;
}

static norm_geom images(const node *n) {
    return norm_images(n->in[X], ATTRS(n, group_norm_attrs)->groups);
}

/* Vulkan scratch: part_a, part_b, {A, B} [n, g] each, scratch of the totals. */
static size_t group_bytes(const norm_geom *m) {
    return align_up((size_t)(m->n * m->g) * 4, NORM_ALIGN);
}

static status prepare(prep *p, node *n) {
    norm_geom m = p->gpu ? norm_chunks_gpu(images(n)) : norm_chunks_cpu(images(n));
    /* CPU: the two parts, then per sample and channel {mean, rstd, rstd scale, k2, k3} */
    if (p->gpu)
        prep_scratch(n, 2 * norm_part_bytes(&m) + 2 * group_bytes(&m) + norm_total_scratch(&m));
    else
        prep_scratch(n, (size_t)(2 * m.n * m.chunks * m.c + 5 * m.n * m.c) * 4);
    return OK;
}

static status encode(gpu_cmd *c, const node *n) {
    const tensor *x = n->in[X], *scale = n->in[SCALE], *shift = n->in[SHIFT], *mean = n->in[MEAN],
                 *rstd = n->in[RSTD], *dy = n->in[DY];
    bool silu = ATTRS(n, group_norm_attrs)->silu;
    norm_geom m = norm_chunks_gpu(images(n));
    gpu_span s = n->scratch->span, part_a = s, part_b = norm_span(s, norm_part_bytes(&m));
    gpu_span a = norm_span(part_b, norm_part_bytes(&m)), b = norm_span(a, group_bytes(&m)),
             rest = b;
    if (norm_total_scratch(&m)) rest = norm_span(b, group_bytes(&m));
    uint32_t unit = m.c % 4 == 0 ? 4 : 1;
    struct {
        uint32_t n, p, c, g;
    } push = {(uint32_t)tensor_count(x) / unit, (uint32_t)m.p, (uint32_t)m.c, (uint32_t)m.g};
    status st = OK;
    TRY(norm_columns_encode(c, &m,
                            &(norm_columns){NORM_GROUPS, silu, x, dy, scale, shift, mean, rstd},
                            part_a, part_b));
    TRY(group_norm_combine_encode(c, &m, true, 0, scale, part_a, part_b, a, b));
    TRY(norm_total_encode(c, &m, part_b, n->out[1]->span, rest));
    TRY(norm_total_encode(c, &m, part_a, n->out[2]->span, rest));
    TRY(move_dispatch(c,
                      (gpu_dispatch_params){.shader = "group_norm_bwd",
                                            .type = x->dtype,
                                            .spec = {unit == 4, silu, scale != NULL, shift != NULL},
                                            .n_spec = 4,
                                            .bind = {x->span, scale ? scale->span : x->span,
                                                     shift ? shift->span : x->span, mean->span,
                                                     rstd->span, dy->span, a, b, n->out[0]->span},
                                            .n_bind = 9,
                                            .push = &push,
                                            .push_bytes = sizeof push},
                      push.n));
out:
    return st;
}

/* ---- CPU ---- */

/* Per-channel pointers: mean, rstd, scale, shift of the forward op; k1 dz + k2 (x - mean) + k3 =
 * dx. */
typedef struct columns {
    const float *mean, *rstd, *scale, *shift, *k1, *k2, *k3;
} columns;

LANE_INLINE float silu_slope(float z) {
    float s = vsigmoid(z);
    return s + z * s * (1 - s);
}

/* s += dz, q += dz xhat over rows of cn <= LANES channels. */
#define SUMS(name, silu)                                                                           \
    HOST_KERNEL(name,                                                                              \
                (const void *x, const void *dy, dtype t, int64_t at, int64_t rows, int64_t c,      \
                 int64_t cn, const columns *k, float *restrict s, float *restrict q),              \
                (x, dy, t, at, rows, c, cn, k, s, q)) {                                            \
        float bx[LANES], bdy[LANES];                                                               \
        const float *restrict mean = k->mean, *restrict rstd = k->rstd,                            \
                              *restrict scale = k->scale, *restrict shift = k->shift;              \
        for (int64_t i = 0; i < cn; i++) s[i] = q[i] = 0;                                          \
        for (int64_t r = 0; r < rows; r++, at += c) {                                              \
            const float *restrict vx = bx, *restrict vdy = bdy;                                    \
            if (t == DT_F32)                                                                       \
                vx = (const float *)x + at, vdy = (const float *)dy + at;                          \
            else {                                                                                 \
                block_ahead((const uint16_t *)x + at + c, cn),                                     \
                    block_ahead((const uint16_t *)dy + at + c, cn);                                \
                lanes_load(x, t, at, cn, bx), lanes_load(dy, t, at, cn, bdy);                      \
            }                                                                                      \
            for (int64_t i = 0; i < cn; i++) {                                                     \
                float xhat = (vx[i] - mean[i]) * rstd[i];                                          \
                float dz = silu ? vdy[i] * silu_slope(xhat * scale[i] + shift[i]) : vdy[i];        \
                s[i] += dz;                                                                        \
                q[i] += dz * xhat;                                                                 \
            }                                                                                      \
        }                                                                                          \
    }
SUMS(sum_rows, false)
SUMS(sum_silu_rows, true)

#define APPLY(name, silu)                                                                          \
    HOST_KERNEL(name,                                                                              \
                (const void *x, const void *dy, void *dx, dtype t, int64_t at, int64_t rows,       \
                 int64_t c, int64_t cn, const columns *k),                                         \
                (x, dy, dx, t, at, rows, c, cn, k)) {                                              \
        float bx[LANES], bdy[LANES], out[LANES];                                                   \
        const float *restrict mean = k->mean, *restrict rstd = k->rstd,                            \
                              *restrict scale = k->scale, *restrict shift = k->shift;              \
        const float *restrict k1 = k->k1, *restrict k2 = k->k2, *restrict k3 = k->k3;              \
        for (int64_t r = 0; r < rows; r++, at += c) {                                              \
            const float *restrict vx = bx, *restrict vdy = bdy;                                    \
            float *restrict w = out;                                                               \
            if (t == DT_F32)                                                                       \
                vx = (const float *)x + at, vdy = (const float *)dy + at, w = (float *)dx + at;    \
            else {                                                                                 \
                block_ahead((const uint16_t *)x + at + c, cn),                                     \
                    block_ahead((const uint16_t *)dy + at + c, cn);                                \
                lanes_load(x, t, at, cn, bx), lanes_load(dy, t, at, cn, bdy);                      \
            }                                                                                      \
            for (int64_t i = 0; i < cn; i++) {                                                     \
                float d = vx[i] - mean[i];                                                         \
                float dz = silu ? vdy[i] * silu_slope(d * rstd[i] * scale[i] + shift[i]) : vdy[i]; \
                w[i] = dz * k1[i] + (d * k2[i] + k3[i]);                                           \
            }                                                                                      \
            if (t != DT_F32) lanes_save(isa, dx, t, at, cn, out);                                  \
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

/* Column pointers of sample i from channel c; vectors of ones and zeros stand in for an absent
 * scale and shift. */
static columns columns_of(const job *j, int64_t i, int64_t c) {
    static const float zeros[LANES];
    static const float ones[LANES] = {[0 ... LANES - 1] = 1};
    const float *f = j->coef + i * 5 * j->m.c + c;
    const tensor *scale = j->n->in[SCALE], *shift = j->n->in[SHIFT];
    return (columns){f,
                     f + j->m.c,
                     scale ? (const float *)scale->data + c : ones,
                     shift ? (const float *)shift->data + c : zeros,
                     f + 2 * j->m.c,
                     f + 3 * j->m.c,
                     f + 4 * j->m.c};
}

/* Per-channel copies of the statistics. */
static void spread(const job *j) {
    const norm_geom *m = &j->m;
    const float *mean = j->n->in[MEAN]->data, *rstd = j->n->in[RSTD]->data;
    for (int64_t i = 0; i < m->n; i++)
        for (int64_t c = 0; c < m->c; c++) {
            j->coef[i * 5 * m->c + c] = mean[i * m->g + c / (m->c / m->g)];
            j->coef[i * 5 * m->c + m->c + c] = rstd[i * m->g + c / (m->c / m->g)];
        }
}

/* Tasks are (sample, chunk of pixels). */
static void sums_run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const norm_geom *m = &j->m;
    const tensor *x = j->n->in[X], *dy = j->n->in[DY];
    for (int64_t k = begin; k < end; k++) {
        int64_t i = j->first + k / m->chunks, row = k % m->chunks * m->chunk,
                part = (i * m->chunks + k % m->chunks) * m->c;
        for (int64_t c = 0; c < m->c; c += LANES) {
            columns col = columns_of(j, i, c);
            (ATTRS(j->n, group_norm_attrs)->silu ? sum_silu_rows : sum_rows)(
                j->isa, x->data, dy->data, x->dtype, (i * m->p + row) * m->c + c,
                MIN(m->chunk, m->p - row), m->c, MIN(LANES, m->c - c), &col, j->part_a + part + c,
                j->part_b + part + c);
        }
    }
}

/* Tasks are (sample, group). The sums over chunks replace those of chunk 0. */
static void combine_run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const norm_geom *m = &j->m;
    int64_t width = m->c / m->g;
    for (int64_t k = begin; k < end; k++) {
        int64_t i = j->first + k / m->g, c0 = k % m->g * width;
        float *pa = j->part_a + i * m->chunks * m->c, *pb = j->part_b + i * m->chunks * m->c,
              *f = j->coef + i * 5 * m->c;
        const float *scale = j->n->in[SCALE] ? j->n->in[SCALE]->data : NULL;
        double a = 0, b = 0, count = (double)(m->p * width);
        for (int64_t c = c0; c < c0 + width; c++) {
            double s = 0, q = 0, w = scale ? (double)scale[c] : 1;
            for (int64_t r = 0; r < m->chunks; r++)
                s += (double)pa[r * m->c + c], q += (double)pb[r * m->c + c];
            pa[c] = (float)s;
            pb[c] = (float)q;
            a += s * w;
            b += q * w;
        }
        double rstd = (double)f[m->c + c0];
        for (int64_t c = c0; c < c0 + width; c++) {
            f[2 * m->c + c] = (float)(rstd * (scale ? (double)scale[c] : 1));
            f[3 * m->c + c] = (float)(-rstd * rstd * b / count);
            f[4 * m->c + c] = (float)(-rstd * a / count);
        }
    }
}

static void apply_run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const norm_geom *m = &j->m;
    const tensor *x = j->n->in[X], *dy = j->n->in[DY], *dx = j->n->out[0];
    for (int64_t k = begin; k < end; k++) {
        int64_t i = j->first + k / m->chunks, row = k % m->chunks * m->chunk;
        for (int64_t c = 0; c < m->c; c += LANES) {
            columns col = columns_of(j, i, c);
            (ATTRS(j->n, group_norm_attrs)->silu ? apply_silu_rows : apply_rows)(
                j->isa, x->data, dy->data, dx->data, x->dtype, (i * m->p + row) * m->c + c,
                MIN(m->chunk, m->p - row), m->c, MIN(LANES, m->c - c), &col);
        }
    }
}

static void host_run(host *h, const node *n) {
    norm_geom m = norm_chunks_cpu(images(n));
    float *s = n->scratch->data, *dscale = n->out[1]->data, *dshift = n->out[2]->data;
    job j = {n, host_get_isa(h), m, s, s + m.n * m.chunks * m.c, s + 2 * m.n * m.chunks * m.c, 0};
    int64_t together = norm_batch(&m), grain = MAX(1, BLOCK_GRAIN / (MIN(m.chunk, m.p) * m.c));
    spread(&j);
    for (j.first = 0; j.first < m.n; j.first += together) {
        int64_t batch = MIN(together, m.n - j.first);
        host_parallel(h, batch * m.chunks, grain, sums_run, &j);
        host_parallel(h, batch * m.g, MAX(1, BLOCK_GRAIN / 4 / (m.chunks * (m.c / m.g))),
                      combine_run, &j);
        host_parallel(h, batch * m.chunks, grain, apply_run, &j);
    }
    for (int64_t c = 0; c < m.c; c++) {
        double a = 0, b = 0;
        for (int64_t i = 0; i < m.n; i++)
            a += (double)j.part_a[i * m.chunks * m.c + c],
                b += (double)j.part_b[i * m.chunks * m.c + c];
        dshift[c] = (float)a;
        dscale[c] = (float)b;
    }
}

static double dz_of(const node *n, int64_t at, int64_t c, double xhat) {
    double z = xhat * (n->in[SCALE] ? IN(SCALE, c) : 1) + (n->in[SHIFT] ? IN(SHIFT, c) : 0),
           s = 1 / (1 + exp(-z));
    return IN(DY, at) * (ATTRS(n, group_norm_attrs)->silu ? s * (1 + z * (1 - s)) : 1);
}

static void ref(const node *n) {
    norm_geom m = images(n);
    int64_t width = m.c / m.g;
    for (int64_t c = 0; c < m.c; c++) SET(1, c, 0), SET(2, c, 0);
    for (int64_t i = 0; i < m.n; i++)
        for (int64_t g = 0; g < m.g; g++) {
            double mean = IN(MEAN, i * m.g + g), rstd = IN(RSTD, i * m.g + g), a = 0, b = 0,
                   count = (double)(m.p * width);
            for (int pass = 0; pass < 2; pass++)
                for (int64_t k = 0; k < m.p * width; k++) {
                    int64_t c = g * width + k % width, at = (i * m.p + k / width) * m.c + c;
                    double xhat = (IN(X, at) - mean) * rstd, dz = dz_of(n, at, c, xhat),
                           w = n->in[SCALE] ? IN(SCALE, c) : 1;
                    if (pass) {
                        SET(0, at, rstd * (dz * w - a - xhat * b));
                        continue;
                    }
                    a += dz * w / count;
                    b += dz * w * xhat / count;
                    SET(1, c, OUT(1, c) + dz * xhat);
                    SET(2, c, OUT(2, c) + dz);
                }
        }
}

/* a: groups, silu */
static tensor *build(graph *g, tensor **in, const op_case *c) {
    return op_record(g, &op_group_norm_bwd_info, HERE,
                     &(group_norm_attrs){(uint32_t)c->a[0], c->a[1] != 0, 0}, 6, in);
}

static const op_case cases[] = {
    CASE("[1,2] f32[2] f32[2] f32[1,1] f32[1,1]=0.5:2 [1,2]", .a = {1}),
    CASE("[2,3,5,6] f32[6] f32[6] f32[2,3] f32[2,3]=0.5:2 [2,3,5,6]", .a = {3}),
    CASE("[3,7,3,40] f32[40] f32[40] f32[3,4] f32[3,4]=0.5:2 [3,7,3,40]", .a = {4, 1}),
    CASE("[2,9,35] - - f32[2,7] f32[2,7]=0.5:2 [2,9,35]", .a = {7, 1}),
    CASE("[2,300,12] f32[12] - f32[2,4] f32[2,4]=0.5:2 [2,300,12]", .a = {4}),
    CASE("[1,8,8,1280] f32[1280] f32[1280] f32[1,32] f32[1,32]=0.5:2 [1,8,8,1280]", .a = {32, 1}),
    CASE("[2,32,32,320] f32[320] f32[320] f32[2,32] f32[2,32]=0.5:2 [2,32,32,320]", .a = {32, 1}),
};

const op_info op_group_norm_bwd_info = {.name = "group_norm_bwd",
                                        .n_in = 6,
                                        .n_out = 3,
                                        .attrs_size = sizeof(group_norm_attrs),
                                        .types = TYPES_FLOAT,
                                        .infer = infer,
                                        .prepare = prepare,
                                        .encode = encode,
                                        .host = host_run,
                                        .ref = ref,
                                        .build = build,
                                        CASES(cases)};
