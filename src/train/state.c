/* state.c: a run's state as one safetensors file: for every trainable PART/NAME its value, and with
 * .m, .v, .average and such behind the name what the optimiser keeps. By name, not by flat: flats
 * differ between devices. All else that a run depends on is counters (random numbers are keyed by
 * them), which are notes. SPDX-License-Identifier: MIT */
#include "file/file.h"
#include "train/train.h"
#include <stdio.h>
#include <stdlib.h>

enum { VALUE, M, V, AVERAGE, PRODIGY_S, PRODIGY_BEGAN, KINDS };
static const char *const suffix[KINDS] = {"", ".m", ".v", ".average", ".s", ".start"};

static bool kept(const optimizer *o, int kind) {
    return kind == AVERAGE ? o->averaging : kind < AVERAGE || o->kind == OPTIMIZER_PRODIGY;
}

static array *array_of(const optimizer *o, int part, int flat, int kind) {
    switch (kind) {
    case VALUE:
        return o->part[part]->flat[flat].value;
    case M:
        return o->flat[part][flat].m;
    case V:
        return o->flat[part][flat].v;
    case PRODIGY_S:
        return o->flat[part][flat].s;
    case PRODIGY_BEGAN:
        return o->flat[part][flat].start;
    default:
        return o->flat[part][flat].average;
    }
}

/* One list of everything: tensors point into host copies of the flats. */
typedef struct listing {
    safetensor *t;
    int64_t n;
    float **copy;
    int n_copies;
    arena mem;
} listing;

static int64_t most_tensors(const optimizer *o, int *flats) {
    int64_t n = 0;
    *flats = 0;
    for (int k = 0; k < o->n_parts; k++)
        n += o->part[k]->n * KINDS, *flats += o->part[k]->n_flat * KINDS;
    return n;
}

/* Host copies of all flats (uninitialised), and the tensors that lie in them. */
static status list_all(const optimizer *o, const char *const *part_name, listing *l) {
    int flats;
    int64_t most = most_tensors(o, &flats);
    l->t = arena_new(&l->mem, safetensor, most);
    l->copy = arena_new(&l->mem, float *, flats);
    if (!l->t || !l->copy) return fail(E_HOST_MEMORY, "no host memory to list the state");
    for (int k = 0; k < o->n_parts; k++)
        for (int kind = 0; kind < KINDS; kind++) {
            if (!kept(o, kind)) continue;
            int first = l->n_copies;
            for (int f = 0; f < o->part[k]->n_flat; f++)
                if (!(l->copy[l->n_copies++] =
                          mem_zalloc(sizeof(float) * (size_t)o->part[k]->flat[f].count)))
                    return fail(E_HOST_MEMORY, "no host memory for a copy of the state");
            for (int i = 0; i < o->part[k]->n; i++) {
                const param *p = &o->part[k]->p[i];
                if (!p->trainable) continue;
                safetensor *t = &l->t[l->n++];
                *t = (safetensor){
                    .dtype = DT_F32, .n_dims = p->s.n, .data = l->copy[first + p->flat] + p->at};
                if (!(t->name =
                          arena_printf(&l->mem, "%s/%s%s", part_name[k], p->name, suffix[kind])))
                    return fail(E_HOST_MEMORY, "no host memory to list the state");
                for (int d = 0; d < p->s.n; d++) t->dim[d] = p->s.d[d];
            }
        }
    return OK;
}

static void listing_fini(listing *l) {
    for (int i = 0; i < l->n_copies; i++) mem_free(l->copy[i]);
    arena_fini(&l->mem);
}

/* Between the flats on the device and their copies, in the order of list_all. */
static status transfer(const optimizer *o, listing *l, bool to_device) {
    status st = OK;
    int at = 0;
    for (int k = 0; k < o->n_parts; k++)
        for (int kind = 0; kind < KINDS; kind++)
            for (int f = 0; kept(o, kind) && f < o->part[k]->n_flat; f++, at++) {
                array *a = array_of(o, k, f, kind),
                      *copy = kind == VALUE ? o->part[k]->flat[f].copy : NULL;
                if (!to_device) TRY(array_read(a, l->copy[at]));
                if (to_device) TRY(array_write(a, l->copy[at]));
                if (to_device && copy) TRY(array_write_f32(copy, l->copy[at]));
            }
out:
    return st;
}

status train_state_save(const char *path, const optimizer *o, const char *const *part_name,
                        const train_note *note, int n_notes) {
    status st = OK;
    listing l = {0};
    safetensor_note *text = arena_new(&l.mem, safetensor_note, n_notes + 1);
    if (!text) TRY(fail(E_HOST_MEMORY, "no host memory for the state's notes"));
    for (int i = 0; i < n_notes; i++)
        text[i] =
            (safetensor_note){note[i].key, arena_printf(&l.mem, "%lld", (long long)note[i].value)};
    for (int i = 0; i < n_notes; i++)
        if (!text[i].value) TRY(fail(E_HOST_MEMORY, "no host memory for the state's notes"));
    TRY(list_all(o, part_name, &l));
    TRY(transfer(o, &l, false));
    TRY(safetensors_write(path, l.t, l.n, text, n_notes));
out:
    listing_fini(&l);
    return st;
}

static status read_notes(const safetensors *f, train_note *note, int n) {
    for (int i = 0; i < n; i++) {
        const char *text = safetensors_find_note(f, note[i].key);
        char *end = NULL;
        if (text) note[i].value = strtoll(text, &end, 10);
        if (!text || end == text || *end)
            return fail(E_FORMAT, "%s: its note '%s' is %s: expected a number: not a state file",
                        f->path, note[i].key, text ? text : "missing");
    }
    return OK;
}

status train_state_load(const char *path, optimizer *o, const char *const *part_name,
                        train_note *note, int n_notes) {
    status st = OK;
    listing l = {0};
    safetensors *f = NULL;
    char seen[96], want[96];
    TRY(safetensors_open(path, &f));
    TRY(read_notes(f, note, n_notes));
    TRY(list_all(o, part_name, &l));
    for (int64_t i = 0; i < l.n; i++) {
        const safetensor *t = safetensors_find(f, l.t[i].name), *w = &l.t[i];
        if (!t)
            TRY(fail(E_FORMAT, "%s: no '%s': it is the state of another network", path, w->name));
        bool same = t->dtype == DT_F32 && t->n_dims == w->n_dims;
        for (int d = 0; same && d < w->n_dims; d++) same = t->dim[d] == w->dim[d];
        if (!same)
            TRY(fail(E_FORMAT, "%s: '%s' is %s, expected %s: it is the state of another network",
                     path, w->name, safetensor_describe(t, seen, sizeof seen),
                     safetensor_describe(w, want, sizeof want)));
        memcpy((void *)w->data, t->data, safetensor_bytes(t));
    }
    TRY(transfer(o, &l, true));
out:
    listing_fini(&l);
    safetensors_close(f);
    return st;
}
