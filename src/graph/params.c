/* params.c: see params.h. Lookups are linear over a sorted-by-declaration list only while recording,
 * which happens once per plan; a hash would buy nothing at a thousand names.
 * SPDX-License-Identifier: MIT */
#include "graph/params.h"
#include <assert.h>
#include <math.h>
#include <stdio.h>

void params_init(params *ps, device *d, dtype type) { *ps = (params){.dev = d, .type = type}; }

void params_fini(params *ps) {
    for (int i = 0; i < ps->n; i++)
        if (!ps->p[i].trainable) array_destroy(ps->p[i].value);
    for (int i = 0; i < ps->n_window; i++) array_destroy(ps->window[i]);
    for (int i = 0; i < ps->n_flat; i++) {
        array_destroy(ps->flat[i].value);
        array_destroy(ps->flat[i].grad);
        array_destroy(ps->flat[i].copy);
    }
    mem_free(ps->window);
    mem_free(ps->flat);
    mem_free(ps->p);
    *ps = (params){0};
}

param *params_find(const params *ps, const char *name) {
    for (int i = 0; i < ps->n; i++)
        if (strcmp(ps->p[i].name, name) == 0) return &ps->p[i];
    return NULL;
}

status params_declare(params *ps, const char *name, shape s, bool vector) {
    char a[96], b[96];
    param *p = params_find(ps, name);
    if (p && !shape_equal(&p->s, &s))
        return fail(E_SHAPE, "%s is %s and %s in one model", name, shape_text(&p->s, a), shape_text(&s, b));
    if (p) return OK;
    if (strlen(name) >= sizeof p->name) return fail(E_UNSUPPORTED, "parameter name '%s' is too long", name);
    if (ps->n == ps->cap) {
        int cap = ps->cap ? ps->cap * 2 : 256;
        param *bigger = mem_realloc(ps->p, sizeof *ps->p * (size_t)ps->cap, sizeof *ps->p * (size_t)cap);
        if (!bigger) return fail(E_HOST_MEMORY, "no host memory for %d parameters", cap);
        ps->p = bigger;
        ps->cap = cap;
    }
    p = &ps->p[ps->n++];
    *p = (param){.s = s, .vector = vector, .group = vector ? GROUP_NO_DECAY : GROUP_DECAY};
    snprintf(p->name, sizeof p->name, "%s", name);
    return OK;
}

/* Windows start at multiples of 64 elements: 256 bytes in f32, 128 in half, which every device's offset alignment divides or is raised to. */
static int64_t window_elems(const device *d) { return (int64_t)MAX(device_alignment(d) / 2, (size_t)64); }

static status add_window(params *ps, array *flat, int64_t at, shape s, const char *name, array **out) {
    array **bigger = mem_realloc(ps->window, sizeof *ps->window * (size_t)ps->n_window, sizeof *ps->window * (size_t)(ps->n_window + 1));
    if (!bigger) return fail(E_HOST_MEMORY, "no host memory for parameter %s", name);
    ps->window = bigger;
    status st = array_view(flat, at, s, name, out);
    if (st == OK) ps->window[ps->n_window++] = *out;
    return st;
}

/* Lays out the new trainables of one group: assigns (flat, at), returns through *n_flat how many flats there are. */
static status layout_group(params *ps, param_group group) {
    int64_t step = window_elems(ps->dev), most = device_max_elems(ps->dev);
    int flat = -1;
    for (int i = 0; i < ps->n; i++) {
        param *p = &ps->p[i];
        if (!p->trainable || p->value || p->group != group) continue;
        int64_t need = div_up(shape_count(&p->s), step) * step;
        if (flat < 0 || ps->flat[flat].count + need > most) {
            param_flat *bigger = mem_realloc(ps->flat, sizeof *ps->flat * (size_t)ps->n_flat, sizeof *ps->flat * (size_t)(ps->n_flat + 1));
            if (!bigger) return fail(E_HOST_MEMORY, "no host memory for parameter %s", p->name);
            ps->flat = bigger;
            flat = ps->n_flat++;
            ps->flat[flat] = (param_flat){.group = group};
        }
        p->flat = flat;
        p->at = ps->flat[flat].count;
        ps->flat[flat].count += need;
    }
    return OK;
}

static status allocate_flat(params *ps, param_flat *f) {
    status st = OK;
    if (f->value) return OK;
    TRY(array_create(ps->dev, REGION_STATE, DT_F32, SHAPE(f->count), "trainable values", &f->value));
    TRY(array_create(ps->dev, REGION_STATE, DT_F32, SHAPE(f->count), "gradients", &f->grad));
    if (dtype_is_half(ps->type) && f->group == GROUP_DECAY)
        TRY(array_create(ps->dev, REGION_STATE, ps->type, SHAPE(f->count), "compute copies", &f->copy));
out:
    return st;
}

status params_allocate(params *ps) {
    status st = OK;
    int first = ps->n_flat;
    for (int k = 0; k < GROUP_COUNT; k++) TRY(layout_group(ps, (param_group)k));
    for (int i = first; i < ps->n_flat; i++) TRY(allocate_flat(ps, &ps->flat[i]));
    for (int i = 0; i < ps->n; i++) {
        param *p = &ps->p[i];
        if (p->value) continue;
        if (!p->trainable) {
            TRY(array_create_deferred(ps->dev, p->vector ? DT_F32 : ps->type, p->s, p->name, &p->value));
            continue;
        }
        param_flat *f = &ps->flat[p->flat];
        TRY(add_window(ps, f->value, p->at, p->s, p->name, &p->value));
        TRY(add_window(ps, f->grad, p->at, p->s, p->name, &p->grad));
        if (f->copy) TRY(add_window(ps, f->copy, p->at, p->s, p->name, &p->copy));
    }
out:
    return st;
}

status params_set(params *ps, const char *name, const float *v, int64_t count) {
    status st = OK;
    char a[96];
    param *p = params_find(ps, name);
    if (!p) return fail(E_FORMAT, "the model has no parameter '%s'", name);
    if (shape_count(&p->s) != count)
        return fail(E_SHAPE, "%s has %lld elements, the model wants %s", name, (long long)count, shape_text(&p->s, a));
    TRY(array_write_f32(p->value, v));
    if (p->copy) TRY(array_write_f32(p->copy, v));
out:
    return st;
}

status params_get(params *ps, const char *name, float *v, int64_t count) {
    param *p = params_find(ps, name);
    if (!p || shape_count(&p->s) != count) return fail(E_SHAPE, "the model has no parameter '%s' of %lld elements", name, (long long)count);
    return array_read_f32(p->value, v);
}

static bool ends_with(const char *s, const char *tail) {
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && strcmp(s + n - k, tail) == 0;
}

status params_randomize(params *ps, uint32_t seed, float std) {
    status st = OK;
    float *v = NULL;
    for (int i = 0; i < ps->n; i++) {
        param *p = &ps->p[i];
        int64_t n = shape_count(&p->s);
        rng_key key = {{seed, 0}, rng_stream(p->name)};
        mem_free(v);
        if (!(v = mem_alloc((size_t)n * sizeof *v))) TRY(fail(E_HOST_MEMORY, "no host memory to initialise %s", p->name));
        for (int64_t k = 0; k < n; k++)
            v[k] = p->vector ? (ends_with(p->name, ".weight") ? 1.0f : 0.0f) : std * (float)rng_normal(key, 0, (uint64_t)k);
        TRY(params_set(ps, p->name, v, n));
    }
out:
    mem_free(v);
    return st;
}

tensor *params_tensor(params *ps, graph *g, const char *name, const char *at) {
    param *p = params_find(ps, name);
    if (!p) {
        graph_fail(g, at, E_FORMAT, "the model has no parameter '%s'", name);
        return graph_array(g, NULL);
    }
    if (ps->declaring && !p->value) return graph_input(g, p->name, p->vector ? DT_F32 : ps->type, p->s);
    return graph_array(g, p->copy ? p->copy : p->value);
}

int64_t params_count(const params *ps, bool trainable_only) {
    int64_t n = 0;
    for (int i = 0; i < ps->n; i++)
        if (ps->p[i].trainable || !trainable_only) n += shape_count(&ps->p[i].s);
    return n;
}
