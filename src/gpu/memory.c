/* memory.c: device memory in four regions, each a list of chunks (one VkDeviceMemory with one
 * VkBuffer). Spans are cut out of a chunk's free list, first fit, aligned; nothing ever moves,
 * so descriptor sets stay valid. A chunk is never larger than one binding may be, so any span of
 * it can be bound whole. Large tensors get a chunk of their own; small ones share chunks that
 * grow with the region, which keeps the number of driver allocations (4,096 on some) low.
 * SPDX-License-Identifier: MIT */
#include "gpu/gpu_internal.h"
#include <assert.h>

#define ALIGN_LEAST 64u                   /* bytes: a cache line; vec4 loads of any type */
#define CHUNK_LEAST ((uint64_t)4 << 20)   /* bytes: first shared chunk of a region */
#define CHUNK_MOST  ((uint64_t)128 << 20) /* bytes: they are 1/8 of the region, up to here */
#define EMPTY_KEEP  ((uint64_t)16 << 20)  /* bytes: up to here one empty chunk is kept */

static const char *const region_name[GPU_REGION_COUNT] = {"weights", "state", "activations",
                                                          "staging"};

/* First type whose flags contain `want`, without those of `avoid`. */
static int find_type(const gpu *d, uint32_t allowed, VkMemoryPropertyFlags want,
                     VkMemoryPropertyFlags avoid) {
    for (uint32_t t = 0; t < d->memory.memoryTypeCount; t++) {
        VkMemoryPropertyFlags f = d->memory.memoryTypes[t].propertyFlags;
        if ((allowed >> t & 1u) && (f & want) == want && !(f & avoid)) return (int)t;
    }
    return -1;
}

/* AMD's device-coherent and device-uncached types are for debugging and slow; nothing protected
 * or lazy. */
#define NEVER                                                                                      \
    (VK_MEMORY_PROPERTY_LAZILY_ALLOCATED_BIT | VK_MEMORY_PROPERTY_PROTECTED_BIT |                  \
     VK_MEMORY_PROPERTY_DEVICE_COHERENT_BIT_AMD | VK_MEMORY_PROPERTY_DEVICE_UNCACHED_BIT_AMD)

static int region_type(const gpu *d, gpu_region r, uint32_t allowed) {
    const VkMemoryPropertyFlags local = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT;
    const VkMemoryPropertyFlags host =
        VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    const VkMemoryPropertyFlags staging[] = {host | VK_MEMORY_PROPERTY_HOST_CACHED_BIT, host};
    int t = -1;
    if (r == GPU_STAGING) {
        for (size_t k = 0; k < ARRAY_LEN(staging) && t < 0; k++)
            t = find_type(d, allowed, staging[k], NEVER);
        return t;
    }
    t = find_type(d, allowed, local, NEVER | VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT);
    if (t < 0) t = find_type(d, allowed, local | host, NEVER);
    if (t < 0) t = find_type(d, allowed, local, NEVER);
    return t < 0 ? find_type(d, allowed, 0, NEVER) : t;
}

static uint64_t alignment_of(const gpu *d) {
    return MAX(d->caps.min_offset_alignment, ALIGN_LEAST);
}
static uint64_t max_chunk(const gpu *d) {
    return MIN(d->caps.max_allocation, d->caps.max_buffer_range);
}
static double mb(uint64_t bytes) { return (double)bytes / 1e6; }

static void chunk_destroy(gpu *d, gpu_chunk *c) {
    if (!c) return;
    if (c->mapped) d->vk.vkUnmapMemory(d->device, c->memory);
    if (c->buffer) d->vk.vkDestroyBuffer(d->device, c->buffer, NULL);
    if (c->memory) {
        d->vk.vkFreeMemory(d->device, c->memory, NULL);
        d->heap_bytes[c->heap] -= c->bytes;
        d->region_bytes[c->region] -= c->bytes;
    }
    mem_free(c->free);
    mem_free(c);
}

/* Memory for c->buffer: a refusal of our own before the driver's where the heap is smaller than
 * the sum (software drivers promise anything and the host kills the process). */
static status chunk_memory(gpu *d, gpu_chunk *c) {
    status st = OK;
    VkMemoryRequirements need;
    d->vk.vkGetBufferMemoryRequirements(d->device, c->buffer, &need);
    int type = region_type(d, c->region, need.memoryTypeBits);
    if (type < 0)
        return fail(E_UNSUPPORTED, "%s has no memory type for %s", d->caps.name,
                    region_name[c->region]);
    const VkMemoryType *t = &d->memory.memoryTypes[type];
    uint64_t heap = d->memory.memoryHeaps[t->heapIndex].size, used = d->heap_bytes[t->heapIndex];
    if (used > heap || need.size > heap - used)
        return fail(
            E_GPU_MEMORY,
            "%s needs %.1f MB more, %.1f of %.1f MB of %s are in use: use a smaller size or batch",
            region_name[c->region], mb(need.size), mb(used), mb(heap), d->caps.name);
    VkMemoryAllocateInfo info = {
        .sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
        .allocationSize = need.size,
        .memoryTypeIndex = (uint32_t)type,
    };
    VkResult r = d->vk.vkAllocateMemory(d->device, &info, NULL, &c->memory);
    if (r == VK_ERROR_OUT_OF_DEVICE_MEMORY || r == VK_ERROR_OUT_OF_HOST_MEMORY ||
        r == VK_ERROR_TOO_MANY_OBJECTS)
        return fail(
            E_GPU_MEMORY,
            "%s of %.1f MB do not fit on %s (%.1f MB free, %.1f MB ours): use a smaller size "
            "or batch, or close other programs that use the GPU",
            region_name[c->region], mb(need.size), d->caps.name, mb(gpu_memory_free(d->phys, used)),
            mb(used));
    if (r != VK_SUCCESS) TRY(gpu_vk_fail(r, "vkAllocateMemory"));
    c->heap = t->heapIndex;
    d->heap_bytes[c->heap] += c->bytes;
    d->region_bytes[c->region] += c->bytes;
    VK(d->vk.vkBindBufferMemory(d->device, c->buffer, c->memory, 0));
    const VkMemoryPropertyFlags host =
        VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    if ((t->propertyFlags & host) == host)
        VK(d->vk.vkMapMemory(d->device, c->memory, 0, VK_WHOLE_SIZE, 0, (void **)&c->mapped));
out:
    return st;
}

static status chunk_create(gpu *d, gpu_region region, uint64_t bytes, gpu_chunk **out) {
    status st = OK;
    *out = NULL;
    gpu_chunk *c = mem_zalloc(sizeof *c);
    if (!c) return fail(E_HOST_MEMORY, "no host memory for a chunk of %s", region_name[region]);
    c->region = region;
    c->bytes = bytes;
    c->cap_free = 16;
    if (!(c->free = mem_alloc((size_t)c->cap_free * sizeof *c->free)))
        TRY(fail(E_HOST_MEMORY, "no host memory for a chunk of %s", region_name[region]));
    c->free[0] = (free_range){0, bytes};
    c->n_free = 1;
    VkBufferCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
        .size = bytes,
        .usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT |
                 VK_BUFFER_USAGE_TRANSFER_DST_BIT,
        .sharingMode = VK_SHARING_MODE_EXCLUSIVE,
    };
    VK(d->vk.vkCreateBuffer(d->device, &info, NULL, &c->buffer));
    TRY(chunk_memory(d, c));
    c->next = d->chunks[region];
    d->chunks[region] = c;
    *out = c;
out:
    if (st != OK) chunk_destroy(d, c);
    return st;
}

/* Cuts bytes (a multiple of the alignment, as every offset is) out of c; false when no free
 * range is large enough or the host has no memory to note the range when it is given back. */
static bool chunk_take(gpu_chunk *c, uint64_t bytes, uint64_t *offset) {
    if (c->n_spans + 2 > c->cap_free) {
        size_t old = (size_t)c->cap_free * sizeof *c->free;
        free_range *f = mem_realloc(c->free, old, old * 2);
        if (!f) return false;
        c->free = f;
        c->cap_free *= 2;
    }
    for (int i = 0; i < c->n_free; i++) {
        free_range *f = &c->free[i];
        if (f->bytes < bytes) continue;
        *offset = f->offset;
        f->offset += bytes;
        f->bytes -= bytes;
        if (f->bytes == 0) {
            memmove(f, f + 1, (size_t)(c->n_free - i - 1) * sizeof *f);
            c->n_free--;
        }
        c->n_spans++;
        return true;
    }
    return false;
}

static void chunk_give(gpu_chunk *c, uint64_t offset, uint64_t bytes) {
    int i = 0;
    while (i < c->n_free && c->free[i].offset < offset) i++;
    bool left = i > 0 && c->free[i - 1].offset + c->free[i - 1].bytes == offset;
    bool right = i < c->n_free && offset + bytes == c->free[i].offset;
    assert(i == 0 || c->free[i - 1].offset + c->free[i - 1].bytes <= offset);
    assert(i == c->n_free || offset + bytes <= c->free[i].offset);
    c->n_spans--;
    if (left && right) {
        c->free[i - 1].bytes += bytes + c->free[i].bytes;
        memmove(&c->free[i], &c->free[i + 1], (size_t)(c->n_free - i - 1) * sizeof *c->free);
        c->n_free--;
    } else if (left) {
        c->free[i - 1].bytes += bytes;
    } else if (right) {
        c->free[i] = (free_range){offset, bytes + c->free[i].bytes};
    } else {
        memmove(&c->free[i + 1], &c->free[i], (size_t)(c->n_free - i) * sizeof *c->free);
        c->free[i] = (free_range){offset, bytes};
        c->n_free++;
    }
}

/* A new chunk for a span of `need` bytes: shared where the span is small, its own where it is
 * large or memory is short. */
static status chunk_for(gpu *d, gpu_region r, uint64_t need, gpu_chunk **out) {
    uint64_t shared =
        align_up(MIN(MAX(d->region_bytes[r] / 8, CHUNK_LEAST), CHUNK_MOST), alignment_of(d));
    shared = MIN(shared, max_chunk(d));
    if (need < shared / 4) {
        status st = chunk_create(d, r, shared, out);
        if (st != E_GPU_MEMORY) return st;
        error_clear();
    }
    return chunk_create(d, r, need, out);
}

status gpu_alloc(gpu *d, gpu_region r, uint64_t bytes, gpu_span *out) {
    status st = OK;
    *out = (gpu_span){0};
    uint64_t most = max_chunk(d), offset = 0;
    if (bytes > most)
        return fail(E_GPU_MEMORY,
                    "one tensor of %.1f MB is larger than one buffer of %s may be (%.1f MB): use a "
                    "smaller size or tiles",
                    mb(bytes), d->caps.name, mb(most));
    if (fault_hit())
        return fail(E_GPU_MEMORY, "no memory for %.1f MB of %s on %s", mb(bytes), region_name[r],
                    d->caps.name);
    uint64_t need = MIN(align_up(MAX(bytes, 1u), alignment_of(d)), most);
    gpu_chunk *c = d->chunks[r];
    while (c && !chunk_take(c, need, &offset)) c = c->next;
    if (!c) {
        TRY(chunk_for(d, r, need, &c));
        bool taken =
            chunk_take(c, need, &offset); /* the first span of a chunk needs no host memory */
        assert(taken);
        (void)taken;
    }
    *out = (gpu_span){c, offset, bytes};
out:
    return st;
}

void gpu_free(gpu *d, gpu_span s) {
    gpu_chunk *c = s.chunk;
    if (!c) return;
    chunk_give(c, s.offset, MIN(align_up(MAX(s.bytes, 1u), alignment_of(d)), max_chunk(d)));
    if (c->n_spans > 0) return;
    bool keep = c->bytes <= EMPTY_KEEP;
    for (const gpu_chunk *k = d->chunks[c->region]; k && keep; k = k->next)
        keep = k == c || k->n_spans > 0;
    if (keep) return;
    gpu_chunk **link = &d->chunks[c->region];
    while (*link != c) link = &(*link)->next;
    *link = c->next;
    chunk_destroy(d, c);
}

void *gpu_mapped(gpu_span s) {
    return s.chunk && s.chunk->mapped ? s.chunk->mapped + s.offset : NULL;
}
uint64_t gpu_region_bytes(const gpu *d, gpu_region r) { return d->region_bytes[r]; }

void gpu_memory_fini(gpu *d) {
    for (int r = 0; r < GPU_REGION_COUNT; r++) {
        for (gpu_chunk *c = d->chunks[r], *next; c; c = next) {
            next = c->next;
            chunk_destroy(d, c);
        }
        d->chunks[r] = NULL;
    }
}
