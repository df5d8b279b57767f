/* grid.c: pictures into cells, cells into pictures: what a user's grid means, latents of what is given, the missing ones, and
 * the texts that a made picture carries. Every cell has the autoencoder to itself, so no seam can bleed.
 * SPDX-License-Identifier: MIT */
#include "engine/grid.h"
#include <cjson/cJSON.h>
#include <stdio.h>

/* Without a layout: that whose given cells are these; else pictures of one subject. */
static const grid_layout *guess(const imago_grid_params *p) {
    for (int i = 0; grid_layout_at(i); i++) {
        const grid_layout *l = grid_layout_at(i);
        bool same = l->rows == p->rows && l->cols == p->cols;
        for (int k = 0; same && k < l->rows * l->cols; k++) same = l->made[k] == !p->cell[k];
        if (same) return l;
    }
    return NULL;
}

status grid_roles(const imago_grid_params *p, grid_role role[GRID_MAX_CELLS], bool made[GRID_MAX_CELLS], const char **name) {
    int n_made = 0, n = p->rows * p->cols;
    if (p->rows < 1 || p->rows > 2 || p->cols < 1 || p->cols > 3 || n < 2) return fail(E_USAGE, "a grid of %dx%d cells: expected 1x2, 1x3, 2x2 or 2x3", p->rows, p->cols);
    const grid_layout *l = p->layout ? grid_layout_find(p->layout) : guess(p);
    if (p->layout && !l) return fail(E_USAGE, "layout '%s': expected edit, effect, recon3, recon1 or compose", p->layout);
    if (l && (l->rows != p->rows || l->cols != p->cols))
        return fail(E_USAGE, "layout %s is one of %dx%d cells, not of %dx%d", l->name, l->rows, l->cols, p->rows, p->cols);
    for (int i = 0; i < n; i++) {
        made[i] = !p->cell[i];
        n_made += made[i];
        role[i] = l ? l->role[i] : made[i] ? GRID_TARGET : GRID_REF;
    }
    if (n_made == n) return fail(E_USAGE, "no cell is given: put a picture into at least one of %d, or use imago generate", n);
    if (!n_made) return fail(E_USAGE, "all %d cells are given: leave out the one that is to be made", n);
    *name = l ? l->name : NULL;
    return OK;
}

typedef struct job { grid_model *m; const imago_grid_params *p; grid_fill_params f; const char *layout; int n, width, height; size_t one; float *z; } job;

static status check(job *j) {
    status st = OK;
    const imago_grid_params *p = j->p;
    imago *im = j->m->im;
    TRY(grid_roles(p, j->f.role, j->f.made, &j->layout));
    j->width = p->width ? p->width : latent_side_px(im), j->height = p->height ? p->height : latent_side_px(im);
    TRY(latent_check_size(im, j->width, j->height));
    if (!(p->strength >= 0 && p->strength <= 4)) TRY(fail(E_USAGE, "strength %g of the grid adapter: expected 0 to 4", (double)p->strength));
    int f = latent_factor(im);
    j->n = p->rows * p->cols;
    j->f.rows = p->rows, j->f.cols = p->cols, j->f.h = j->height / f, j->f.w = j->width / f;
    j->f.steps = p->steps, j->f.sampler = p->sampler, j->f.guidance = p->guidance, j->f.ref_guidance = p->ref_strength;
    j->f.seed = p->seed, j->f.negative = p->negative, j->f.geometry = p->canvas ? GRID_CANVAS : GRID_BATCH;
    for (int i = 0; i < j->n; i++) j->f.prompt[i] = j->f.made[i] ? p->prompt[i] : NULL;
    j->one = (size_t)j->f.h * (size_t)j->f.w * (size_t)im->ck->vae.latent_channels;
out:
    return st;
}

static status encode(job *j, imago_picture *out) {
    status st = OK;
    static const uint8_t white[3] = {255, 255, 255};
    size_t px = (size_t)j->width * (size_t)j->height * 3;
    float *x = mem_alloc(sizeof *x * px);
    if (!x) return fail(E_HOST_MEMORY, "no host memory for a picture");
    for (int i = 0; i < j->n; i++) {
        if (j->f.made[i]) continue;
        image given = picture_image(j->p->cell[i]), fitted = {0};
        TRY(image_fit_to(&given, j->width, j->height, j->p->pad ? FIT_PAD : FIT_CROP, white, &fitted));
        picture_of(&fitted, &out[i]);
        for (size_t k = 0; k < px; k++) x[k] = image_unit(out[i].rgb[k]);
        TRY(vae_encode_pixels(j->m->im, x, j->height, j->width, NULL, j->z + j->one * (size_t)i));
    }
out:
    mem_free(x);
    return st;
}

/* ---- the texts of a made picture ---- */
static bool add_cell(const job *j, cJSON *list, int i) {
    char name[4];
    cJSON *o = cJSON_CreateObject();
    const char *text = j->f.prompt[i], *source = j->p->source[i];
    if (!o) return false;
    cJSON_AddItemToArray(list, o);
    return cJSON_AddStringToObject(o, "cell", grid_cell_name(j->p->rows, j->p->cols, i, name)) && cJSON_AddBoolToObject(o, "made", j->f.made[i]) &&
           (!text || cJSON_AddStringToObject(o, "prompt", text)) && (!source || cJSON_AddStringToObject(o, "source", source));
}

static const char *base_name(const char *path) {
    const char *slash = path ? strrchr(path, '/') : NULL;
    return slash && slash[1] ? slash + 1 : path ? path : "";
}

static status describe(const job *j, imago_picture *out) {
    status st = OK;
    const imago_grid_params *p = j->p;
    const imago *im = j->m->im;
    char seed[32], *text = NULL;
    cJSON *o = cJSON_CreateObject();
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)p->seed);
    bool good = o && cJSON_AddStringToObject(o, "program", "imago 0.1.0") && cJSON_AddStringToObject(o, "command", "grid") &&
                cJSON_AddStringToObject(o, "model", base_name(im->ck->path)) && cJSON_AddStringToObject(o, "grid", base_name(p->adapter)) &&
                cJSON_AddNumberToObject(o, "strength", (double)p->strength) && cJSON_AddNumberToObject(o, "rows", p->rows) &&
                cJSON_AddNumberToObject(o, "cols", p->cols) && (!j->layout || cJSON_AddStringToObject(o, "layout", j->layout)) &&
                cJSON_AddStringToObject(o, "seed", seed) && cJSON_AddNumberToObject(o, "width", j->width) && cJSON_AddNumberToObject(o, "height", j->height) &&
                cJSON_AddNumberToObject(o, "steps", p->steps ? p->steps : 20) && cJSON_AddStringToObject(o, "sampler", p->sampler ? p->sampler : "ddim") &&
                cJSON_AddNumberToObject(o, "cfg", (double)p->guidance) && cJSON_AddNumberToObject(o, "ref_strength", (double)p->ref_strength) &&
                (!p->negative || cJSON_AddStringToObject(o, "negative", p->negative)) && cJSON_AddStringToObject(o, "geometry", p->canvas ? "canvas" : "batch") &&
                cJSON_AddStringToObject(o, "device", device_id(im->dev)) && cJSON_AddStringToObject(o, "precision", dtype_name(im->type));
    cJSON *list = good ? cJSON_AddArrayToObject(o, "cells") : NULL;
    good = good && list;
    for (int i = 0; good && i < j->n; i++) good = add_cell(j, list, i);
    text = good ? cJSON_PrintUnformatted(o) : NULL;
    size_t bytes = text ? strlen(text) + 1 : 0;
    for (int i = 0; text && i < j->n; i++) {
        if (!j->f.made[i]) continue;
        out[i].seed = p->seed + (uint64_t)i;
        if (!(out[i].json = mem_alloc(bytes))) good = false;
        else memcpy(out[i].json, text, bytes);
    }
    if (!text || !good) st = fail(E_HOST_MEMORY, "no host memory for the pictures' texts");
    cJSON_free(text);
    cJSON_Delete(o);
    return st;
}

status grid_pictures(grid_model *m, const imago_grid_params *p, imago_picture **result, grid_fill_report *report) {
    status st = OK;
    job j = {.m = m, .p = p};
    imago_picture *out = *result = NULL;
    double begun = os_seconds();
    TRY(check(&j));
    if (m->strength != (double)p->strength) { /* baked into plans and kept keys */
        TRY(grid_model_forget(m));
        m->strength = (double)p->strength;
    }
    j.z = mem_zalloc(sizeof *j.z * j.one * (size_t)j.n);
    out = mem_zalloc(sizeof *out * (size_t)j.n);
    if (!j.z || !out) TRY(fail(E_HOST_MEMORY, "no host memory for a grid of %d cells", j.n));
    TRY(encode(&j, out));
    m->im->report.encode_s = os_seconds() - begun;
    TRY(grid_fill(m, &j.f, j.z, report));
    begun = os_seconds();
    for (int i = 0; i < j.n; i++) {
        image im = {0};
        if (!j.f.made[i]) continue;
        TRY(vae_decode_picture(m->im, j.z + j.one * (size_t)i, j.f.h, j.f.w, false, &im));
        picture_of(&im, &out[i]);
    }
    TRY(describe(&j, out));
    m->im->report.decode_s = os_seconds() - begun;
    *result = out;
    out = NULL;
out:
    imago_free_pictures(out, j.n);
    mem_free(j.z);
    return st;
}

imago_status imago_grid(imago *im, const imago_grid_params *p, imago_picture **out) {
    status st = OK;
    grid_model *m = NULL;
    grid_fill_report report = {0};
    *out = NULL;
    if (!p->adapter) return ENGINE_STATUS(fail(E_USAGE, "no grid adapter: give a file that imago train-grid made"));
    grid_role role[GRID_MAX_CELLS];
    bool made[GRID_MAX_CELLS];
    const char *name;
    TRY(grid_roles(p, role, made, &name)); /* before anything is read */
    TRY(grid_model_open(im, p->adapter, &m));
    TRY(grid_pictures(m, p, out, &report));
    im->report.sample_s = report.seconds;
    im->report.steps = report.steps;
    im->report.evaluations = report.steps * report.rows;
    im->report.seconds_per_step = report.steps ? (report.seconds - report.given_seconds) / report.steps : 0;
out:
    grid_model_destroy(m);
    return ENGINE_STATUS(st);
}
