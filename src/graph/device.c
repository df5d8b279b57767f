/* device.c: the devices a plan can run on: vulkan:N, cpu, and ref (the plain-C meaning of every op, for
 * tests). `auto` takes a discrete GPU, then an integrated one, then the cpu; software Vulkan drivers only
 * when named, as the cpu device is many times faster than a shader on them.
 * SPDX-License-Identifier: MIT */
#include "graph/graph_internal.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static int gpu_rank(const gpu_caps *c) {
    static const int rank[GPU_KIND_COUNT] = {
        [GPU_DISCRETE] = 4, [GPU_INTEGRATED] = 3, [GPU_VIRTUAL] = 2, [GPU_OTHER] = 1, [GPU_SOFTWARE] = 0};
    return c->usable ? rank[c->kind] : -1;
}

static int best_gpu(const gpu_instance *inst, int least_rank) {
    int best = -1, rank = least_rank - 1;
    for (int i = 0; inst && i < gpu_instance_count(inst); i++) {
        int r = gpu_rank(gpu_instance_caps(inst, i));
        if (r > rank) best = i, rank = r;
    }
    return best;
}

status device_list_get(device_list *l) {
    status st = OK;
    *l = (device_list){0};
    bool picked = false;
    if (gpu_instance_open(&l->i, false) != OK) {
        size_t n = strlen(error_message()) + 1;
        char *why = mem_alloc(n);
        if (why) memcpy(why, error_message(), n);
        l->why_no_vulkan = why;
        error_clear();
    }
    int pick = best_gpu(l->i, 2);
    for (int i = 0; l->i && i < gpu_instance_count(l->i) && l->n < (int)ARRAY_LEN(l->d) - 1; i++) {
        device_desc *d = &l->d[l->n++];
        snprintf(d->id, sizeof d->id, "vulkan:%d", i);
        d->gpu = gpu_instance_caps(l->i, i);
        d->auto_pick = i == pick;
        picked |= d->auto_pick;
    }
    TRY(host_open(0, &l->h));
    device_desc *d = &l->d[l->n++];
    snprintf(d->id, sizeof d->id, "cpu");
    d->is_cpu = true;
    d->host = host_get_caps(l->h);
    d->auto_pick = !picked;
out:
    if (st != OK) device_list_free(l);
    return st;
}

void device_list_free(device_list *l) {
    if (!l) return;
    host_close(l->h);
    gpu_instance_close(l->i);
    mem_free((void *)(uintptr_t)l->why_no_vulkan);
    *l = (device_list){0};
}

static status open_vulkan(device *d, const device_params *p, int index) {
    status st = OK;
    if (!d->instance) TRY(gpu_instance_open(&d->instance, p->validation));
    if (index < 0) index = best_gpu(d->instance, 0);
    if (index < 0) return fail(E_UNSUPPORTED, "no usable Vulkan device: run `imago devices`, or use --device cpu");
    if (index >= gpu_instance_count(d->instance))
        return fail(E_USAGE, "vulkan:%d: there are %d Vulkan devices, numbered from 0: run `imago devices`",
                    index, gpu_instance_count(d->instance));
    const gpu_caps *c = gpu_instance_caps(d->instance, index);
    if (!c->usable)
        return fail(E_UNSUPPORTED, "vulkan:%d (%s) cannot be used: %s; choose another device", index, c->name, c->why_not);
    TRY(gpu_open(d->instance, index, p->cache_dir, &d->gpu));
    snprintf(d->id, sizeof d->id, "vulkan:%d", index);
    d->align = MAX(c->min_offset_alignment, 256u);
    d->max_tensor_bytes = MIN(c->max_buffer_range, c->max_allocation);
out:
    return st;
}

static status open_cpu(device *d, const device_params *p, bool ref) {
    status st = OK;
    TRY(host_open(p->threads, &d->host));
    snprintf(d->id, sizeof d->id, ref ? "ref" : "cpu");
    d->ref = ref;
    d->align = 64;
    d->max_tensor_bytes = UINT64_MAX;
out:
    return st;
}

/* auto: a real GPU that opens, else the cpu. */
static status open_auto(device *d, const device_params *p) {
    if (gpu_instance_open(&d->instance, p->validation) != OK) error_clear();
    int i = best_gpu(d->instance, 2);
    if (i >= 0 && open_vulkan(d, p, i) == OK) return OK;
    if (i >= 0) log_warn("vulkan:%d did not open (%s); using the cpu", i, error_message());
    error_clear();
    return open_cpu(d, p, false);
}

status device_open(const op_table *ops, const device_params *p, device **out) {
    status st = OK;
    const char *name = p->name ? p->name : "auto";
    *out = NULL;
    device *d = mem_zalloc(sizeof *d);
    if (!d) return fail(E_HOST_MEMORY, "no host memory to open a device");
    d->ops = *ops;
    const debug_switches *dbg = debug_get();
    d->checks = (device_checks){dbg->check_finite, dbg->check_ref, dbg->check_guard, dbg->profile, dbg->dump_dir};
    char *end = NULL;
    long index = strncmp(name, "vulkan:", 7) == 0 ? strtol(name + 7, &end, 10) : -1;
    if (strcmp(name, "auto") == 0) TRY(open_auto(d, p));
    else if (strcmp(name, "cpu") == 0) TRY(open_cpu(d, p, false));
    else if (strcmp(name, "ref") == 0) TRY(open_cpu(d, p, true));
    else if (strcmp(name, "vulkan") == 0) TRY(open_vulkan(d, p, -1));
    else if (end && end != name + 7 && *end == 0 && index >= 0 && index < 1000) TRY(open_vulkan(d, p, (int)index));
    else TRY(fail(E_USAGE, "device '%s': expected auto, cpu, vulkan or vulkan:N (see `imago devices`)", name));
    d->limit_bytes = p->memory_limit_bytes;
    *out = d;
out:
    if (st != OK) device_close(d);
    return st;
}

void device_close(device *d) {
    if (!d) return;
    for (int i = 0; i < d->n_chunks; i++)
        array_release(d, REGION_STATE, d->chunk[i].bytes, d->chunk[i].data, d->chunk[i].span);
    gpu_close(d->gpu);
    gpu_instance_close(d->instance);
    host_close(d->host);
    mem_free(d);
}

const char *device_id(const device *d) { return d->id; }
void device_set_checks(device *d, device_checks c) { d->checks = c; }
int device_validation_errors(const device *d) { return d->instance ? gpu_validation_errors(d->instance) : 0; }

uint64_t device_memory_free_bytes(const device *d) {
    uint64_t free_bytes = d->host ? os_memory_available_bytes() : gpu_get_caps(d->gpu)->memory_free_bytes;
    if (d->gpu) free_bytes = free_bytes > d->used_bytes ? free_bytes - d->used_bytes : 0;
    if (d->limit_bytes) {
        uint64_t left = d->limit_bytes > d->used_bytes ? d->limit_bytes - d->used_bytes : 0;
        free_bytes = MIN(free_bytes, left);
    }
    return free_bytes;
}

void device_memory_use(const device *d, uint64_t *arrays, uint64_t *activations) {
    *activations = 0;
    for (int i = 0; i < d->n_chunks; i++) *activations += d->chunk[i].bytes;
    *arrays = d->used_bytes - *activations;
}

size_t device_alignment(const device *d) { return d->align; }
int64_t device_max_elems(const device *d) { return (int64_t)(MIN(d->max_tensor_bytes, (uint64_t)1 << 40) / 4); }

status device_room(device *d, uint64_t bytes, const char *what) {
    uint64_t free_bytes = device_memory_free_bytes(d);
    if (bytes <= free_bytes) return OK;
    return fail(d->gpu ? E_GPU_MEMORY : E_HOST_MEMORY, "%s needs %.1f MB on %s, %.1f MB are free: use a smaller size or batch, half precision or checkpointing", what,
                (double)bytes / 1e6, d->id, (double)free_bytes / 1e6);
}

dtype device_auto_precision(const device *d) {
    if (d->ref) return DT_F32;
    if (d->host) return host_get_caps(d->host)->fast_bf16 ? DT_BF16 : DT_F32;
    const gpu_caps *c = gpu_get_caps(d->gpu);
    return c->f16_arith && c->kind != GPU_SOFTWARE ? DT_F16 : DT_F32;
}
