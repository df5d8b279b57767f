/* state.c: a run's state as one safetensors file: for every trainable PART/NAME its value, and with
 * .m, .v, .average and such behind the name what the optimiser keeps (moments of 8 bits as they
 * are). By name, not by flat: flats differ between devices. All else that a run depends on is
 * counters (random numbers are keyed by them), which are notes. SPDX-License-Identifier: MIT */
#include "file/file.h"
#include "train/train.h"
#include <stdio.h>
#include <stdlib.h>

enum { VALUE, M, V, AVERAGE, PRODIGY_S, PRODIGY_BEGAN, KINDS };
static const char *const suffix[KINDS] = {"", ".m", ".v", ".average", ".s", ".start"};

static bool kept(const optimizer *o, int kind) {
    if (kind == AVERAGE) return o->averaging;
    if (kind == M || kind == V) return o->kind != OPTIMIZER_ADAMW8BIT;
    return kind == VALUE || o->kind == OPTIMIZER_PRODIGY;
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

/* One list of everything: tensors point into host copies of arrays. */
typedef struct piece {
    array *from, *half; /* half: the values' compute copy, or NULL */
    void *copy;
} piece;
typedef struct listing {
    safetensor *t;
    int64_t n;
    piece *piece;
    int n_pieces;
    arena mem;
} listing;

enum { OWN = 4 }; /* arrays of a parameter by itself, at most */

static int64_t most_tensors(const optimizer *o, int64_t *pieces) {
    int64_t n = 0;
    *pieces = 0;
    for (int k = 0; k < o->n_parts; k++) {
        n += o->part[k]->n * (KINDS + OWN);
        *pieces += o->part[k]->n_flat * KINDS + o->part[k]->n * OWN;
    }
    return n;
}

static status add_piece(listing *l, array *a, array *half) {
    piece *p = &l->piece[l->n_pieces++];
    *p = (piece){a, half, mem_zalloc(sizeof(float) * (size_t)array_count(a))};
    return p->copy ? OK : fail(E_HOST_MEMORY, "no host memory for a copy of the state");
}

static status add_tensor(listing *l, dtype t, shape s, const void *data, const char *part,
                         const char *name, const char *ending) {
    safetensor *x = &l->t[l->n++];
    *x = (safetensor){.dtype = t, .n_dims = s.n, .data = data};
    x->name = arena_printf(&l->mem, "%s/%s%s", part, name, ending);
    for (int d = 0; d < s.n; d++) x->dim[d] = s.d[d];
    return x->name ? OK : fail(E_HOST_MEMORY, "no host memory to list the state");
}

static status list_flats(const optimizer *o, int k, int kind, const char *part, listing *l) {
    status st = OK;
    const params *ps = o->part[k];
    int first = l->n_pieces;
    for (int f = 0; f < ps->n_flat; f++)
        TRY(add_piece(l, array_of(o, k, f, kind), kind == VALUE ? ps->flat[f].copy : NULL));
    for (int i = 0; i < ps->n; i++) {
        const param *p = &ps->p[i];
        if (p->trainable)
            TRY(add_tensor(l, DT_F32, p->s, (float *)l->piece[first + p->flat].copy + p->at, part,
                           p->name, suffix[kind]));
    }
out:
    return st;
}

static status list_own(const optimizer *o, int k, const char *part, listing *l) {
    status st = OK;
    for (int i = 0; o->own[k] && i < o->part[k]->n; i++) {
        const struct optimizer_own *own = &o->own[k][i];
        const struct {
            array *a;
            const char *ending;
        } all[OWN] = {
            {own->codes, ".codes"}, {own->scale, ".scale"}, {own->m, ".m"}, {own->v, ".v"}};
        for (int n = 0; n < OWN; n++) {
            if (!all[n].a) continue;
            TRY(add_piece(l, all[n].a, NULL));
            TRY(add_tensor(l, array_dtype(all[n].a), array_shape(all[n].a),
                           l->piece[l->n_pieces - 1].copy, part, o->part[k]->p[i].name,
                           all[n].ending));
        }
    }
out:
    return st;
}

/* Host copies of all arrays (zeros), and the tensors that lie in them. */
static status list_all(const optimizer *o, const char *const *part_name, listing *l) {
    status st = OK;
    int64_t pieces, most = most_tensors(o, &pieces);
    l->t = arena_new(&l->mem, safetensor, most);
    l->piece = arena_new(&l->mem, piece, pieces);
    if (!l->t || !l->piece) TRY(fail(E_HOST_MEMORY, "no host memory to list the state"));
    for (int k = 0; k < o->n_parts; k++) {
        for (int kind = 0; kind < KINDS; kind++)
            if (kept(o, kind)) TRY(list_flats(o, k, kind, part_name[k], l));
        TRY(list_own(o, k, part_name[k], l));
    }
out:
    return st;
}

static void listing_fini(listing *l) {
    for (int i = 0; i < l->n_pieces; i++) mem_free(l->piece[i].copy);
    arena_fini(&l->mem);
}

/* Between the arrays on the device and their copies. */
static status transfer(listing *l, bool to_device) {
    status st = OK;
    for (int i = 0; i < l->n_pieces; i++) {
        const piece *p = &l->piece[i];
        if (!to_device) TRY(array_read(p->from, p->copy));
        if (to_device) TRY(array_write(p->from, p->copy));
        if (to_device && p->half) TRY(array_write_f32(p->half, p->copy));
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
    TRY(transfer(&l, false));
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
        bool same = t->dtype == w->dtype && t->n_dims == w->n_dims;
        for (int d = 0; same && d < w->n_dims; d++) same = t->dim[d] == w->dim[d];
        if (!same)
            TRY(fail(E_FORMAT, "%s: '%s' is %s, expected %s: it is the state of another network",
                     path, w->name, safetensor_describe(t, seen, sizeof seen),
                     safetensor_describe(w, want, sizeof want)));
        memcpy((void *)w->data, t->data, safetensor_bytes(t));
    }
    TRY(transfer(&l, true));
out:
    listing_fini(&l);
    safetensors_close(f);
    return st;
}
