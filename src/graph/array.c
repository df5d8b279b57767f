/* array.c: persistent typed memory: weights, state, inputs; and the packed copies that ops keep of frozen
 * weights. A pack belongs to its array, is shared by all plans, and carries the array's version: a plan
 * that finds it stale at the start of a run fills it again.
 * SPDX-License-Identifier: MIT */
#include "graph/graph_internal.h"
#include <assert.h>
#include <stdio.h>

static const gpu_region gpu_region_of[] = {
    [REGION_WEIGHTS] = GPU_WEIGHTS, [REGION_STATE] = GPU_STATE, [REGION_STAGING] = GPU_STAGING};

static status array_alloc(device *d, region r, uint64_t bytes, bool zeroed, const char *what, void **data, gpu_span *span) {
    status st = OK;
    *data = NULL;
    *span = (gpu_span){0};
    TRY(device_room(d, bytes, what));
    if (d->gpu) {
        TRY(gpu_alloc(d->gpu, gpu_region_of[r], bytes, span));
        if (zeroed) st = gpu_fill(d->gpu, *span, 0);
        if (st != OK) gpu_free(d->gpu, *span);
    } else if (!(*data = zeroed ? mem_zalloc(bytes) : mem_alloc(bytes))) {
        st = fail(E_HOST_MEMORY, "no host memory for %s, %.1f MB", what, (double)bytes / 1e6);
    }
    if (st == OK) d->used_bytes += bytes;
out:
    return st;
}

void array_release(device *d, region r, uint64_t bytes, void *data, gpu_span span) {
    (void)r;
    if (d->gpu) gpu_free(d->gpu, span);
    mem_free(data);
    d->used_bytes -= bytes;
}

static uint64_t storage_bytes(const array *a) {
    return align_up((size_t)shape_count(&a->s) * dtype_bytes(a->dtype), 4);
}

static array *array_new(device *d, region r, dtype t, shape s, const char *name) {
    array *a = mem_zalloc(sizeof *a);
    if (!a) return NULL;
    *a = (array){.dev = d, .region = r, .dtype = t, .s = s, .version = 1, .deferred = true};
    snprintf(a->name, sizeof a->name, "%.127s", name);
    return a;
}

/* Memory for the values of a. Zeroing what is written in whole at once would cost a pass over gigabytes of model. */
static status storage_alloc(const array *a, bool zeroed, void **data, gpu_span *span) {
    char text[96], what[240];
    const device *d = a->dev;
    if (storage_bytes(a) > d->max_tensor_bytes)
        return fail(E_GPU_MEMORY, "%s %s is %.1f MB; %s binds at most %.1f MB at once", a->name, shape_text(&a->s, text),
                    (double)storage_bytes(a) / 1e6, d->id, (double)d->max_tensor_bytes / 1e6);
    snprintf(what, sizeof what, "array %s %s", a->name, shape_text(&a->s, text));
    return array_alloc(a->dev, a->region, storage_bytes(a), zeroed, what, data, span);
}

static status take_memory(array *a, bool zeroed) {
    if (!a->deferred) return OK;
    status st = storage_alloc(a, zeroed, &a->data, &a->span);
    if (st == OK) a->deferred = false;
    return st;
}

status array_create(device *d, region r, dtype t, shape s, const char *name, array **out) {
    *out = NULL;
    array *a = array_new(d, r, t, s, name);
    if (!a) return fail(E_HOST_MEMORY, "no host memory for array %s", name);
    status st = take_memory(a, true);
    if (st == OK) *out = a;
    else mem_free(a);
    return st;
}

status array_create_deferred(device *d, dtype t, shape s, const char *name, array **out) {
    *out = array_new(d, REGION_WEIGHTS, t, s, name);
    return *out ? OK : fail(E_HOST_MEMORY, "no host memory for array %s", name);
}

void array_set_source(array *a, array_fetch fetch, void *ctx) {
    assert(a->deferred);
    a->fetch = fetch;
    a->fetch_ctx = ctx;
    a->version++;
}

bool array_is_empty(const array *a) { return a->deferred && !a->fetch; }

/* The values of a deferred array at dst. */
static status fetch_values(const array *a, void *dst) {
    if (a->fetch) return a->fetch(a->fetch_ctx, dst);
    memset(dst, 0, storage_bytes(a));
    return OK;
}

/* The same in memory of the device that the caller gives back with array_release. */
static status fetch_to_device(const array *a, void *data, gpu_span span) {
    status st = OK;
    void *tmp = NULL;
    if (data) return fetch_values(a, data);
    if (!(tmp = mem_alloc(storage_bytes(a)))) TRY(fail(E_HOST_MEMORY, "no host memory to load %s", a->name));
    TRY(fetch_values(a, tmp));
    TRY(gpu_upload(a->dev->gpu, span, tmp, (size_t)shape_count(&a->s) * dtype_bytes(a->dtype)));
out:
    mem_free(tmp);
    return st;
}

status array_hold(array *a) {
    status st = OK;
    if (!a->deferred) return OK;
    TRY(take_memory(a, !a->fetch));
    if (a->fetch) TRY(fetch_to_device(a, a->data, a->span));
out:
    return st;
}

status array_view(array *parent, int64_t offset_elems, shape s, const char *name, array **out) {
    *out = NULL;
    assert(offset_elems >= 0 && offset_elems + shape_count(&s) <= shape_count(&parent->s));
    array *a = mem_zalloc(sizeof *a);
    if (!a) return fail(E_HOST_MEMORY, "no host memory for array %s", name);
    uint64_t at = (uint64_t)offset_elems * dtype_bytes(parent->dtype);
    *a = (array){.dev = parent->dev, .region = parent->region, .dtype = parent->dtype, .s = s, .parent = parent, .version = 1};
    snprintf(a->name, sizeof a->name, "%s", name);
    if (parent->data) a->data = (uint8_t *)parent->data + at;
    else a->span = (gpu_span){parent->span.chunk, parent->span.offset + at, storage_bytes(a)};
    assert(parent->data || at % parent->dev->align == 0); /* the parent lies on what the device asks for */
    *out = a;
    return OK;
}

void array_destroy(array *a) {
    if (!a) return;
    for (array_pack *p = a->packs, *next; p; p = next) {
        next = p->next;
        array_destroy(p->packed);
        mem_free(p);
    }
    if (!a->parent && !a->deferred) array_release(a->dev, a->region, storage_bytes(a), a->data, a->span);
    mem_free(a);
}

status array_write(array *a, const void *src) {
    size_t bytes = (size_t)shape_count(&a->s) * dtype_bytes(a->dtype);
    status st = take_memory(a, false);
    if (st != OK) return st;
    a->version++;
    a->fetch = NULL;
    if (a->data) {
        memcpy(a->data, src, bytes);
        return OK;
    }
    void *mapped = gpu_mapped(a->span);
    if (!mapped) return gpu_upload(a->dev->gpu, a->span, src, bytes);
    memcpy(mapped, src, bytes);
    return OK;
}

status array_read(array *a, void *dst) {
    size_t bytes = (size_t)shape_count(&a->s) * dtype_bytes(a->dtype);
    if (a->deferred) return fetch_values(a, dst);
    if (!a->data) return gpu_download(a->dev->gpu, a->span, dst, bytes);
    memcpy(dst, a->data, bytes);
    return OK;
}

status array_write_f32(array *a, const float *src) {
    if (a->dtype == DT_F32) return array_write(a, src);
    int64_t n = shape_count(&a->s);
    void *tmp = mem_alloc((size_t)n * dtype_bytes(a->dtype));
    if (!tmp) return fail(E_HOST_MEMORY, "no host memory to convert array %s", a->name);
    for (int64_t i = 0; i < n; i++) dtype_store(tmp, a->dtype, i, (double)src[i]);
    status st = array_write(a, tmp);
    mem_free(tmp);
    return st;
}

status array_read_f32(array *a, float *dst) {
    if (a->dtype == DT_F32) return array_read(a, dst);
    int64_t n = shape_count(&a->s);
    void *tmp = mem_alloc((size_t)n * dtype_bytes(a->dtype));
    if (!tmp) return fail(E_HOST_MEMORY, "no host memory to convert array %s", a->name);
    status st = array_read(a, tmp);
    for (int64_t i = 0; st == OK && i < n; i++) dst[i] = (float)dtype_load(tmp, a->dtype, i);
    mem_free(tmp);
    return st;
}

shape array_shape(const array *a) { return a->s; }
dtype array_dtype(const array *a) { return a->dtype; }
int64_t array_count(const array *a) { return shape_count(&a->s); }
const char *array_name(const array *a) { return a->name; }

/* ---- packs ---- */

bool prep_frozen(const node *n, int i) {
    const tensor *t = i < n->n_in ? n->in[i] : NULL;
    while (t && t->base) t = t->base;
    return t && t->array && t->array->region == REGION_WEIGHTS;
}

status pack_fill(device *d, const pack_use *u) {
    status st = OK;
    gpu_cmd *cmd = NULL;
    void *tmp = NULL;
    bool lent = false;
    const tensor *t = u->n->in[u->in];
    while (t->base) t = t->base;
    array *src = t->array, *dst = u->pack->packed;
    void *data = src->data;
    gpu_span span = src->span;
    if (src->deferred && d->gpu) {
        TRY(storage_alloc(src, false, &data, &span));
        lent = true;
        TRY(fetch_to_device(src, data, span));
    } else if (src->deferred) { /* not zeroed first: every byte is fetched, and models are gigabytes */
        if (!(data = tmp = mem_alloc(storage_bytes(src)))) TRY(fail(E_HOST_MEMORY, "no host memory to load %s", src->name));
        TRY(fetch_values(src, data));
    }
    if (d->gpu) TRY(gpu_cmd_create(d->gpu, &cmd));
    pack_io io = {data, dst->data, cmd, span, dst->span};
    TRY(u->fill(&io, u->ctx));
    if (cmd) {
        TRY(gpu_cmd_end(cmd));
        TRY(gpu_cmd_run(cmd, NULL, NULL));
    }
    u->pack->version = src->version;
out:
    gpu_cmd_destroy(cmd);
    if (lent) array_release(d, REGION_WEIGHTS, storage_bytes(src), data, span);
    mem_free(tmp);
    return st;
}

status prep_pack(prep *p, node *n, int i, int slot, const char *key, size_t bytes,
                 status (*fill)(const pack_io *io, void *ctx), void *ctx) {
    status st = OK;
    array_pack *made = NULL;
    assert(prep_frozen(n, i) && slot < (int)ARRAY_LEN(n->packed));
    array *a = tensor_root(n->in[i])->array;
    array_pack *k = a->packs;
    while (k && strcmp(k->key, key) != 0) k = k->next;
    if (!k) {
        char name[160];
        snprintf(name, sizeof name, "%s packed %s", a->name, key);
        made = k = mem_zalloc(sizeof *k);
        if (!k) return fail(E_HOST_MEMORY, "no host memory to pack %s", a->name);
        snprintf(k->key, sizeof k->key, "%s", key);
        TRY(array_create_deferred(p->dev, DT_U32, SHAPE((int64_t)div_up((int64_t)bytes, 4)), name, &k->packed));
        TRY(take_memory(k->packed, p->gpu != NULL)); /* oneDNN writes the padding of a packed weight too */
    }
    graph *g = n->g;
    if (!graph_grow(g, (void **)&g->use, &g->cap_use, g->n_use + 1, sizeof *g->use)) TRY(graph_status(g));
    pack_use u = {n, i, slot, k, fill, ctx};
    if (k->version != a->version) TRY(pack_fill(p->dev, &u));
    g->use[g->n_use++] = u;
    n->packed[slot] = k->packed;
    if (made) {
        made->next = a->packs;
        a->packs = made;
    }
    return OK;
out:
    if (made) {
        array_destroy(made->packed);
        mem_free(made);
    }
    return st;
}

const void *packed_data(const node *n, int slot) { return n->packed[slot]->data; }
gpu_span packed_span(const node *n, int slot) { return n->packed[slot]->span; }
