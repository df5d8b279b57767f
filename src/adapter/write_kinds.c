/* write_kinds.c: each kind of adapter as PEFT, kohya and diffusers store it. The inverse of
 * read_kinds.c and read_rotations.c. SPDX-License-Identifier: MIT */
#include "adapter/rotation.h"
#include "adapter/write.h"
#include <math.h>

static bool peft(const writing *w) { return w->p->format == ADAPTER_PEFT; }

/* ---- lora ---- */

static status write_dora(writing *w, const adapter_site *s, const float *v) {
    bool conv = s->w.n == 4, cols = s->opts->dora_columns;
    int64_t n = cols ? s->w.d[1] : s->w.d[0];
    if (peft(w) && cols) return write_refuse(w, s, "PEFT's DoRA scales outputs, this one inputs");
    if (peft(w))
        return write_add(w, s, ".lora_magnitude_vector", conv ? SHAPE(1, n, 1, 1) : SHAPE(n), v);
    if (cols) return write_add(w, s, ".dora_scale", conv ? SHAPE(1, n, 1, 1) : SHAPE(1, n), v);
    return write_add(w, s, ".dora_scale", conv ? SHAPE(n, 1, 1, 1) : SHAPE(n, 1), v);
}

static status write_lora(writing *w, const adapter_site *s, float *const v[]) {
    status st = OK;
    adapter_tensor t[ADAPTER_MAX_TENSORS];
    int n = 0;
    const adapter_options *o = s->opts;
    float scale =
              o->alpha == 0 ? 1 : o->alpha / (o->rslora ? sqrtf((float)o->rank) : (float)o->rank),
          alpha = scale * (float)o->rank;
    bool kohya = w->p->format == ADAPTER_KOHYA;
    TRY(s->info->tensors(s, t, &n));
    if (w->p->format == ADAPTER_DIFFUSERS) {
        if (o->dora) TRY(write_refuse(w, s, "diffusers drops DoRA's scales when it loads"));
        for (int64_t i = 0; i < shape_count(&t[1].s); i++)
            v[1][i] *= scale; /* alpha = rank is what it assumes */
    }
    TRY(write_add(w, s, kohya ? ".lora_down.weight" : ".lora_A.weight", t[0].s, v[0]));
    TRY(write_add(w, s, kohya ? ".lora_up.weight" : ".lora_B.weight", t[1].s, v[1]));
    if (kohya) TRY(write_add(w, s, ".alpha", (shape){0}, &alpha));
    if (o->dora) TRY(write_dora(w, s, v[2]));
out:
    return st;
}

/* ---- rotations ---- */

/* Upper triangles of sign * Q, block by block. */
static status write_triangle(writing *w, const adapter_site *s, const shape *a, const float *v,
                             float sign) {
    int64_t blocks = a->d[1], b = a->d[3], n = b * (b - 1) / 2, at = 0;
    float *x = arena_new(&w->mem, float, blocks *n);
    if (!x) return fail(E_HOST_MEMORY, "no host memory to write %s", w->path);
    for (int64_t k = 0; k < blocks; k++)
        for (int64_t i = 0; i < b; i++)
            for (int64_t j = i + 1; j < b; j++)
                x[at++] = sign * 0.5f * (v[(k * b + i) * b + j] - v[(k * b + j) * b + i]);
    return write_add(w, s, ".oft_R.weight", SHAPE(blocks, n), x);
}

/* LyCORIS's layout: Q = A - A^T, the other sign. */
static status write_output_side(writing *w, const adapter_site *s, const shape *a,
                                float *const v[]) {
    status st = OK;
    int64_t blocks = a->d[1], b = a->d[3];
    float none = 0, *x = arena_new(&w->mem, float, blocks *b *b);
    if (!x) return fail(E_HOST_MEMORY, "no host memory to write %s", w->path);
    for (int64_t k = 0; k < blocks * b * b; k++)
        x[k] = -0.25f * (v[0][k] - v[0][k / (b * b) * b * b + k % b * b + k / b % b]);
    TRY(write_add(w, s, ".oft_blocks", SHAPE(blocks, b, b), x));
    TRY(write_add(w, s, ".alpha", (shape){0}, &none));
    if (s->opts->row_scale)
        TRY(write_add(w, s, ".rescale",
                      s->w.n == 4 ? SHAPE(s->w.d[0], 1, 1, 1) : SHAPE(s->w.d[0], 1), v[1]));
out:
    return st;
}

static status write_rotation(writing *w, const adapter_site *s, float *const v[], bool series) {
    adapter_tensor t[ADAPTER_MAX_TENSORS];
    int n = 0;
    const adapter_options *o = s->opts;
    status st = s->info->tensors(s, t, &n);
    if (st != OK) return st;
    if (w->p->format == ADAPTER_DIFFUSERS) return write_refuse(w, s, "diffusers loads LoRA only");
    if (o->output_side && (peft(w) || series || o->share))
        return write_refuse(w, s, "it turns outputs, which only LyCORIS's own files do");
    if (o->output_side) return write_output_side(w, s, &t[0].s, v);
    if (o->row_scale) return write_refuse(w, s, "rotations of this format have no scales");
    if (series && (o->old_series || (!peft(w) && o->terms != 0 && o->terms != 5)))
        return write_refuse(w, s, "programs of today turn by another series");
    float sign = peft(w) ? 1 : (series ? 1.0f : -1.0f) * (s->w.n == 4 ? -1.0f : 1.0f);
    return write_triangle(w, s, &t[0].s, v[0], sign);
}

static status write_oft(writing *w, const adapter_site *s, float *const v[]) {
    return write_rotation(w, s, v, false);
}
static status write_neumann(writing *w, const adapter_site *s, float *const v[]) {
    return write_rotation(w, s, v, true);
}

static status write_boft(writing *w, const adapter_site *s, float *const v[]) {
    status st = OK;
    adapter_tensor t[ADAPTER_MAX_TENSORS];
    int n = 0;
    int64_t o = s->w.d[0];
    float *ones = arena_new(&w->mem, float, o);
    if (!ones) return fail(E_HOST_MEMORY, "no host memory to write %s", w->path);
    if (w->p->format == ADAPTER_DIFFUSERS) return write_refuse(w, s, "diffusers loads LoRA only");
    if (s->opts->output_side)
        return write_refuse(w, s, "it turns outputs, which only LyCORIS's own files do");
    for (int64_t i = 0; i < o; i++) ones[i] = 1;
    TRY(s->info->tensors(s, t, &n));
    TRY(write_add(w, s, ".boft_R", t[0].s, v[0]));
    TRY(write_add(w, s, ".boft_s", peft(w) && s->w.n == 4 ? SHAPE(1, o) : SHAPE(o, 1),
                  s->opts->row_scale ? v[1] : ones));
out:
    return st;
}

static status write_diff(writing *w, const adapter_site *s, float *const v[]) {
    if (w->p->format != ADAPTER_KOHYA)
        return write_refuse(w, s, "it is a whole difference, not an adapter of this format");
    return write_add(w, s, ".diff", s->w, v[0]);
}

static const struct kind {
    const char *name;
    status (*write)(writing *w, const adapter_site *s, float *const v[]);
} kinds[] = {{"lora", write_lora},           {"oft", write_oft},   {"coft", write_oft},
             {"oft_neumann", write_neumann}, {"boft", write_boft}, {"diff", write_diff}};

status write_site(writing *w, const adapter_site *s, float *const v[]) {
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (strcmp(kinds[i].name, s->info->name) == 0) return kinds[i].write(w, s, v);
    return write_refuse(w, s, "no format knows this kind");
}
