/* adapters.c: adapters for making pictures: folded into the weights as these are fetched from the checkpoint, so that a step
 * costs nothing more and no second copy of the model exists.
 * SPDX-License-Identifier: MIT */
#include "engine/engine.h"
#include "host/host.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* The parts an adapter file may reach, in the order given to adapter_file_open. */
static const part adapted[] = {PART_UNET, PART_TEXT};

typedef struct fold { imago *im; part_tensor *t; int model; dtype type; } fold;

static status fetch_folded(void *ctx, void *dst) {
    status st = OK;
    const fold *f = ctx;
    int64_t n = f->t->count;
    float *w = f->type == DT_F32 ? dst : mem_alloc(sizeof *w * (size_t)n);
    if (!w) return fail(E_HOST_MEMORY, "no host memory to adapt %s", f->t->name);
    TRY(part_tensor_fetch(f->t, DT_F32, w));
    for (int i = 0; i < f->im->n_adapters; i++) {
        const loaded_adapter *a = &f->im->adapter[i];
        TRY(adapter_file_fold(a->file, f->model, f->t->name, a->strength, false, w));
    }
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(w[i])) TRY(fail(E_FORMAT, "%s with its adapters holds NaN or infinity: try a smaller strength", f->t->name));
    if (w != dst) host_convert_serial(ISA_BASE, dst, f->type, w, DT_F32, n);
out:
    if (w != dst) mem_free(w);
    return st;
}

/* "path" or "path:0.8"; a colon that no number follows belongs to the path. */
static status open_one(imago *im, const char *spec) {
    status st = OK;
    char path[1024], text[700], *end = NULL;
    adapter_model models[ARRAY_LEN(adapted)];
    loaded_adapter *a = &im->adapter[im->n_adapters];
    const char *colon = strrchr(spec, ':');
    double strength = colon && colon[1] ? strtod(colon + 1, &end) : 1;
    bool given = end && end != colon + 1 && *end == 0;
    if (!given) strength = 1;
    if (!(fabs(strength) <= 100)) return fail(E_USAGE, "adapter '%s': strength %g: expected -100 to 100", spec, strength);
    if (snprintf(path, sizeof path, "%.*s", given ? (int)(colon - spec) : (int)strlen(spec), spec) >= (int)sizeof path)
        return fail(E_USAGE, "adapter '%.60s…': the path is too long", spec);
    for (size_t i = 0; i < ARRAY_LEN(adapted); i++) models[i] = (adapter_model){part_name(adapted[i]), &im->part[adapted[i]]};
    TRY(adapter_file_open(path, models, (int)ARRAY_LEN(adapted), NULL, &a->file));
    const char *slash = strrchr(path, '/');
    a->strength = strength;
    snprintf(a->name, sizeof a->name, "%.100s:%g", slash && slash[1] ? slash + 1 : path, strength);
    im->n_adapters++;
    log_info("adapter %s, strength %g: %s", path, strength, adapter_file_describe(a->file, text, sizeof text));
out:
    return st;
}

static status fold_model(imago *im, int model) {
    params *ps = &im->part[adapted[model]];
    for (int i = 0; i < ps->n; i++) {
        bool touched = false;
        for (int k = 0; k < im->n_adapters; k++) touched |= adapter_file_touches(im->adapter[k].file, model, ps->p[i].name);
        if (!touched) continue;
        fold *f = arena_new(&im->folds, fold, 1);
        if (!f) return fail(E_HOST_MEMORY, "no host memory for adapters");
        *f = (fold){im, checkpoint_find(im->ck, adapted[model], ps->p[i].name), model, array_dtype(ps->p[i].value)};
        array_set_source(ps->p[i].value, fetch_folded, f);
    }
    return OK;
}

status adapters_load(imago *im, const char *const *specs, int n) {
    status st = OK;
    if (n > ENGINE_MAX_ADAPTERS) return fail(E_USAGE, "%d adapters: at most %d at once", n, ENGINE_MAX_ADAPTERS);
    for (int i = 0; i < n; i++) TRY(open_one(im, specs[i]));
    for (size_t i = 0; i < ARRAY_LEN(adapted) && n; i++) TRY(fold_model(im, (int)i));
out:
    return st;
}

/* Names of different parts never agree, so each model may be asked about every parameter. */
static status fold_any(void *ctx, const part_tensor *t, float *w) {
    status st = OK;
    const imago *im = ctx;
    for (int i = 0; i < im->n_adapters; i++)
        for (size_t m = 0; m < ARRAY_LEN(adapted); m++)
            TRY(adapter_file_fold(im->adapter[i].file, (int)m, t->name, im->adapter[i].strength, false, w));
out:
    return st;
}

status adapters_write_merged(imago *im, layout l, dtype type, const char *path) {
    return checkpoint_write_folded(im->ck, l, type, path, fold_any, im);
}

void adapters_fini(imago *im) {
    for (int i = 0; i < im->n_adapters; i++) adapter_file_close(im->adapter[i].file);
    arena_fini(&im->folds);
    im->n_adapters = 0;
}
