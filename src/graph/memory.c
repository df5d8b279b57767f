/* memory.c: which bytes of the activation space each tensor gets. The record order is the run order, so
 * lifetimes are exact: first node that writes, last node that reads. Tensors are placed largest first at
 * the lowest offset where no tensor alive at the same time lies (best of the simple heuristics for
 * offset planning: Pisarchyk & Lee 2020, greedy by size). The space is a list of chunks, each at most one
 * storage-buffer range; a tensor never crosses a chunk. Scratch lives for one node.
 * SPDX-License-Identifier: MIT */
#include "graph/graph_internal.h"
#include <stdio.h>
#include <stdlib.h>

typedef struct item { tensor *t; uint64_t bytes; int first, last; struct item *next; } item; /* next: in its chunk, by offset */
typedef struct space { uint64_t cap, used; item *head; } space;

static void touch(tensor *t, int at) {
    tensor *r = tensor_root(t);
    if (r->array || r->is_input) return;
    if (r->first < 0) r->first = at;
    r->last = MAX(r->last, at);
    r->first = MIN(r->first, at);
}

static void liveness(plan *p) {
    graph *g = p->g;
    for (int i = 0; i < g->n_tensors; i++) g->tensor[i]->first = -1, g->tensor[i]->last = -1;
    for (int i = 0; i < p->n_order; i++) {
        node *n = p->order[i];
        for (int k = 0; k < n->n_in; k++)
            if (n->in[k]) touch(n->in[k], i);
        for (int k = 0; k < n->n_out; k++) touch(n->out[k], i);
        if (n->scratch) touch(n->scratch, i);
    }
    for (int i = 0; i < g->n_tensors; i++)
        if (g->tensor[i]->is_output) touch(g->tensor[i], p->n_order);
}

static uint64_t padded(const plan *p, const tensor *t) {
    uint64_t b = align_up(MAX(tensor_bytes(t), (size_t)4), p->dev->align);
    return p->guarded ? b + 2 * GUARD_BYTES : b;
}

static int by_size(const void *a, const void *b) {
    const item *x = a, *y = b;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
    return x->t->id - y->t->id;
}

/* The report's peak: most live bytes at any node, and which node. */
static void find_peak(plan *p, const item *it, int n) {
    int slots = p->n_order + 2;
    int64_t *delta = arena_new(&p->g->a, int64_t, slots);
    if (!delta) return;
    for (int i = 0; i < n; i++) {
        delta[it[i].first] += (int64_t)it[i].bytes;
        delta[it[i].last + 1] -= (int64_t)it[i].bytes;
    }
    int64_t live = 0, most = -1;
    for (int i = 0; i < p->n_order; i++) {
        live += delta[i];
        if (live > most) most = live, p->report.peak_node = i;
        if (p->order[i]->scratch) p->report.scratch_peak_bytes = MAX(p->report.scratch_peak_bytes, (uint64_t)p->order[i]->scratch_bytes);
    }
    if (!p->n_order) return;
    const node *k = p->order[p->report.peak_node];
    char text[96] = "";
    if (k->n_out) shape_text(&k->out[0]->s, text);
    const char *slash = strrchr(k->at, '/');
    snprintf(p->report.peak, sizeof p->report.peak, "%.1f MB live at %s %s (%s)", (double)most / 1e6, k->op->name, text,
             slash ? slash + 1 : k->at);
}

/* Lowest free offset in s for it, or UINT64_MAX; *after gets the item to link behind. */
static uint64_t find_gap(space *s, const item *it, item **after) {
    uint64_t at = 0;
    *after = NULL;
    for (item *q = s->head; q; q = q->next) {
        bool apart = q->last < it->first || q->first > it->last;
        if (!apart && q->t->offset >= at + it->bytes) break;
        if (!apart) at = MAX(at, q->t->offset + q->bytes);
    }
    if (at + it->bytes > s->cap) return UINT64_MAX;
    for (item *q = s->head; q && q->t->offset <= at; q = q->next) *after = q;
    return at;
}

static status place_all(plan *p, item *it, int n, space *sp, int *n_space, bool no_alias) {
    device *d = p->dev;
    for (int i = 0; i < n; i++) {
        char text[96];
        if (it[i].bytes > d->max_tensor_bytes) {
            const tensor *t = it[i].t;
            return fail(E_GPU_MEMORY, "%s %s (%s) needs %.1f MB in one piece; %s binds at most %.1f MB at once: use a smaller size or batch",
                        t->name, shape_text(&t->s, text), t->by ? t->by->at : "scratch", (double)it[i].bytes / 1e6, d->id,
                        (double)d->max_tensor_bytes / 1e6);
        }
        if (no_alias) it[i].first = 0, it[i].last = p->n_order;
        uint64_t at = UINT64_MAX;
        item *after = NULL;
        int c = 0;
        for (; c < *n_space && at == UINT64_MAX; c++) at = find_gap(&sp[c], &it[i], &after);
        if (at == UINT64_MAX) {
            if (*n_space == ACT_MAX_CHUNKS) return fail(E_GPU_MEMORY, "the plan needs more than %d memory chunks of %s", ACT_MAX_CHUNKS, d->id);
            sp[*n_space] = (space){.cap = d->max_tensor_bytes};
            c = ++*n_space;
            at = 0;
            after = NULL;
        }
        space *s = &sp[c - 1];
        it[i].t->offset = at;
        it[i].t->chunk = c - 1;
        item **link = after ? &after->next : &s->head;
        it[i].next = *link;
        *link = &it[i];
        s->used = MAX(s->used, at + it[i].bytes);
    }
    return OK;
}

static status grow_chunks(plan *p, const space *sp, int n_space) {
    status st = OK;
    device *d = p->dev;
    uint64_t more = 0;
    for (int c = 0; c < n_space; c++) p->report.activation_bytes += sp[c].used;
    for (int c = d->n_chunks; c < n_space; c++) more += sp[c].used;
    if (more) {
        char what[600];
        snprintf(what, sizeof what, "%s: activations need %.1f MB (%s; arrays hold %.1f MB). It",
                 p->label[0] ? p->label : "plan", (double)p->report.activation_bytes / 1e6, p->report.peak, (double)d->used_bytes / 1e6);
        TRY(device_room(d, more, what));
    }
    for (int c = d->n_chunks; c < n_space; c++) {
        act_chunk k = {.bytes = sp[c].used};
        if (d->gpu) {
            TRY(gpu_alloc(d->gpu, GPU_ACTIVATIONS, k.bytes, &k.span));
        } else if (!(k.data = mem_alloc(k.bytes))) {
            TRY(fail(E_HOST_MEMORY, "no host memory for %.1f MB of activations (%s)", (double)k.bytes / 1e6, p->report.peak));
        }
        d->chunk[d->n_chunks++] = k;
        d->used_bytes += k.bytes;
    }
out:
    return st;
}

static void bind(plan *p, tensor *t) {
    tensor *r = tensor_root(t);
    uint64_t bytes = align_up(tensor_bytes(t), 4);
    if (r->array) {
        t->data = r->array->data;
        t->span = r->array->span;
    } else if (r->first >= 0) {
        const act_chunk *c = &p->dev->chunk[r->chunk];
        uint64_t at = r->offset + (p->guarded ? GUARD_BYTES : 0);
        t->data = c->data ? (uint8_t *)c->data + at : NULL;
        t->span = (gpu_span){c->span.chunk, c->span.offset + at, 0};
    }
    if (!t->data) t->span.bytes = bytes;
}

status plan_place(plan *p, bool no_alias) {
    status st = OK;
    graph *g = p->g;
    device *d = p->dev;
    liveness(p);
    item *it = arena_new(&g->a, item, g->n_tensors + 1);
    space *sp = arena_new(&g->a, space, ACT_MAX_CHUNKS + 1);
    if (!it || !sp) return fail(E_HOST_MEMORY, "no host memory to plan %d tensors", g->n_tensors);
    int n = 0, n_space = d->n_chunks;
    for (int i = 0; i < g->n_tensors; i++) {
        tensor *t = g->tensor[i];
        if (t->first >= 0 && !t->base) it[n++] = (item){t, padded(p, t), t->first, MIN(t->last, p->n_order), NULL};
    }
    find_peak(p, it, n);
    qsort(it, (size_t)n, sizeof *it, by_size);
    for (int c = 0; c < n_space; c++) sp[c].cap = d->chunk[c].bytes;
    TRY(place_all(p, it, n, sp, &n_space, no_alias || p->guarded));
    TRY(grow_chunks(p, sp, n_space));
    for (int i = 0; i < g->n_tensors; i++) bind(p, g->tensor[i]);
out:
    return st;
}
