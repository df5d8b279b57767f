/* adapter.c: what an adapter does to the weights it touches, layer by layer, whatever its kind: the
 * weight before and after it was folded in. A rotation of the input turns all neurons (rows)
 * together, so their norms, angles and hyperspherical energy stay; that is what is looked at.
 * source  Qiu et al. 2023 (OFT); Liu et al. 2018 (hyperspherical energy) SPDX-License-Identifier:
 * MIT */
#include "adapter/adapter_file.h"
#include "eval/eval.h"
#include "family/checkpoint.h"
#include "op/op.h"
#include <assert.h>
#include <math.h>
#include <stdio.h>

enum { MOST_ROWS = 512, MODELS = 2 };

typedef struct work {
    const adapter_file *f;
    int model;
    const part_tensor *t;
    int64_t rows, width; /* of the weight as a matrix */
    float *before, *after;
    double *inverse[2]; /* 1 / norm of every row */
} work;

static double dot(const float *a, const float *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

/* Norms of all rows: the largest change, relative; and |after - before| / |before| of the whole. */
static void compare_norms(work *w, layer_measures *m) {
    double off = 0, size = 0;
    for (int64_t i = 0; i < w->rows; i++) {
        const float *a = w->before + i * w->width, *b = w->after + i * w->width;
        double aa = dot(a, a, w->width), bb = dot(b, b, w->width);
        off += aa + bb - 2 * dot(a, b, w->width);
        size += aa;
        w->inverse[0][i] = aa > 0 ? 1 / sqrt(aa) : 0;
        w->inverse[1][i] = bb > 0 ? 1 / sqrt(bb) : 0;
        if (aa > 0) m->norm = MAX(m->norm, fabs(sqrt(bb / aa) - 1));
    }
    m->change = size > 0 ? sqrt(MAX(off, 0) / size) : 0;
}

/* Pairs of rows, of at most MOST_ROWS spread over all. The energy is a mean over pairs, so that
 * layers can be compared. */
static void compare_pairs(work *w, layer_measures *m) {
    int64_t n = MIN(w->rows, MOST_ROWS), pairs = 0;
    double energy[2] = {0};
    for (int64_t p = 0; p < n; p++)
        for (int64_t q = 0; q < p; q++) {
            int64_t i = p * w->rows / n, k = q * w->rows / n;
            double c[2];
            const float *v[2] = {w->before, w->after};
            for (int s = 0; s < 2; s++)
                c[s] = dot(v[s] + i * w->width, v[s] + k * w->width, w->width) * w->inverse[s][i] *
                       w->inverse[s][k];
            m->cosine = MAX(m->cosine, fabs(c[1] - c[0]));
            if (1 - c[0] < 1e-9 || 1 - c[1] < 1e-9) continue; /* two of one direction */
            for (int s = 0; s < 2; s++) energy[s] += 1 / sqrt(2 - 2 * c[s]);
            pairs++;
        }
    m->energy = pairs ? energy[0] / (double)pairs : 0;
    m->energy_change = pairs ? energy[1] / energy[0] - 1 : 0;
}

/* The rotation itself, row by row: what becomes of unit vectors in the weight's place. A trained
 * scale of rows is taken out. */
static status recover(const work *w, bool scaled, float *r) {
    status st = OK;
    int64_t d = w->width, n = w->rows * d;
    float *unit = mem_alloc(sizeof *unit * (size_t)n);
    if (!unit) return fail(E_HOST_MEMORY, "no host memory to measure %s", w->t->name);
    for (int64_t first = 0; first < d; first += w->rows) {
        int64_t k = MIN(w->rows, d - first);
        memset(unit, 0, sizeof *unit * (size_t)n);
        for (int64_t i = 0; i < k; i++) unit[i * d + first + i] = 1;
        TRY(adapter_file_fold(w->f, w->model, w->t->name, 1, false, unit));
        for (int64_t i = 0; i < k; i++) {
            double size = scaled ? sqrt(dot(unit + i * d, unit + i * d, d)) : 1;
            for (int64_t c = 0; c < d; c++)
                r[(first + i) * d + c] = (float)((double)unit[i * d + c] / size);
        }
    }
out:
    mem_free(unit);
    return st;
}

static status measure_rotation(const work *w, const adapter_entry *e, layer_measures *m) {
    status st = OK;
    static const double degree = 180 / 3.14159265358979323846;
    int64_t d = w->width;
    bool turns = strstr(e->info->name, "oft") && !e->opts.output_side;
    float *r = NULL;
    m->orthogonality = m->degrees = NAN;
    if (!turns || d > 4096) return OK;
    if (!(r = mem_alloc(sizeof *r * (size_t)(d * d))))
        return fail(E_HOST_MEMORY, "no host memory to measure %s", w->t->name);
    TRY(recover(w, e->opts.row_scale, r));
    m->orthogonality = m->degrees = 0;
    for (int64_t i = 0; i < d; i++) {
        double own = sqrt(dot(r + i * d, r + i * d, d)), c = (double)r[i * d + i] / own;
        m->degrees = MAX(m->degrees, acos(MIN(1, MAX(-1, c))) * degree);
        for (int64_t k = 0; k <= i; k++)
            m->orthogonality = MAX(m->orthogonality, fabs(dot(r + i * d, r + k * d, d) - (i == k)));
    }
out:
    mem_free(r);
    return st;
}

static status measure_layer(work *w, const adapter_entry *e, layer_measures *m) {
    status st = OK;
    size_t n = (size_t)w->t->count;
    w->rows = w->t->dim[0], w->width = w->t->count / w->t->dim[0];
    w->before = mem_alloc(sizeof(float) * n), w->after = mem_alloc(sizeof(float) * n);
    for (int s = 0; s < 2; s++) w->inverse[s] = mem_alloc(sizeof(double) * (size_t)w->rows);
    if (!w->before || !w->after || !w->inverse[0] || !w->inverse[1])
        TRY(fail(E_HOST_MEMORY, "no host memory to measure %s", w->t->name));
    TRY(part_tensor_fetch(w->t, DT_F32, w->before));
    memcpy(w->after, w->before, sizeof(float) * n);
    TRY(adapter_file_fold(w->f, w->model, w->t->name, 1, false, w->after));
    compare_norms(w, m);
    compare_pairs(w, m);
    TRY(measure_rotation(w, e, m));
out:
    mem_free(w->before), mem_free(w->after);
    for (int s = 0; s < 2; s++) mem_free(w->inverse[s]);
    return st;
}

static status measure_all(const checkpoint *c, const adapter_file *f, adapter_measures *out) {
    static const part parts[MODELS] = {PART_UNET, PART_TEXT};
    status st = OK;
    int total = 0;
    for (int k = 0; k < MODELS; k++) total += f->part[k].n;
    if (!(out->layer = arena_new(&out->mem, layer_measures, MAX(total, 1))))
        return fail(E_HOST_MEMORY, "no host memory to measure %d layers", total);
    for (int k = 0; k < MODELS; k++)
        for (int i = 0; i < f->part[k].n; i++) {
            const adapter_entry *e = &f->part[k].entry[i];
            char name[160];
            snprintf(name, sizeof name, "%s.weight", e->layer);
            layer_measures *m = &out->layer[out->n];
            *m = (layer_measures){.part = part_name(parts[k]), .kind = e->info->name};
            m->layer = arena_printf(&out->mem, "%s", e->layer);
            if (!m->layer) TRY(fail(E_HOST_MEMORY, "no host memory to measure %d layers", total));
            work w = {.f = f, .model = k, .t = checkpoint_find(c, parts[k], name)};
            assert(w.t); /* the reader has matched names and shapes */
            TRY(measure_layer(&w, e, m));
            out->n++;
        }
out:
    return st;
}

status adapter_measure(const char *model, const char *adapter, adapter_measures *out) {
    status st = OK;
    device *dev = NULL;
    checkpoint *c = NULL;
    adapter_file *f = NULL;
    params ps[MODELS] = {0};
    *out = (adapter_measures){0};
    TRY(device_open(&op_all, &(device_params){.name = "cpu"}, &dev));
    for (int k = 0; k < MODELS; k++) params_init(&ps[k], dev, DT_F32);
    TRY(checkpoint_open(model, &(checkpoint_options){0}, &c));
    TRY(checkpoint_declare(c, PART_UNET, &ps[0]));
    TRY(checkpoint_declare(c, PART_TEXT, &ps[1]));
    const adapter_model models[MODELS] = {{part_name(PART_UNET), &ps[0]},
                                          {part_name(PART_TEXT), &ps[1]}};
    TRY(adapter_file_open(adapter, models, MODELS, NULL, &f));
    adapter_file_describe(f, out->described, sizeof out->described);
    TRY(measure_all(c, f, out));
out:
    adapter_file_close(f);
    checkpoint_close(c);
    for (int k = 0; dev && k < MODELS; k++) params_fini(&ps[k]);
    device_close(dev);
    if (st != OK) adapter_measures_fini(out);
    return st;
}

void adapter_measures_fini(adapter_measures *m) {
    arena_fini(&m->mem);
    *m = (adapter_measures){0};
}
