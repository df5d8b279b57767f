/* cmd.c: recording. A gpu_cmd is a list of command buffers that is recorded once and submitted
 * many times. Barriers come from what the shaders' SPIR-V says is read and written: ranges
 * touched since the last barrier are kept, and one that would be written after a use, or used
 * after a write, puts a barrier for all of memory (cheaper on every driver than one per buffer)
 * and empties the list. Buffers are cut by estimated work, so that no driver watchdog (2 s on
 * Windows, 10 s on Linux) fires and cancelling is asked for often.
 * SPDX-License-Identifier: MIT */
#include "gpu/gpu_internal.h"

/* Work (flops, or bytes where an op gives none) per command buffer: about 0.1 s at a tenth of a
 * typical device's peak. Software drivers run 2 to 50 GFLOP/s. */
static const double work_most[GPU_KIND_COUNT] = {[GPU_DISCRETE] = 2e11,
                                                 [GPU_INTEGRATED] = 5e10,
                                                 [GPU_VIRTUAL] = 5e10,
                                                 [GPU_SOFTWARE] = 2e9,
                                                 [GPU_OTHER] = 5e10};

#define RANGES_MOST     512 /* then a barrier costs less than the search */
#define POOL_SETS_FIRST 16u /* descriptor sets of the first pool; each next one is twice as large */
#define POOL_SETS_MOST  1024u
#define POOL_PER_SET    6u /* storage buffers per set, on average */

static status list_push(cmd_list *l, const void *item, size_t bytes) {
    if (l->n == l->cap) {
        int cap = l->cap ? l->cap * 2 : 8;
        void *p = mem_realloc(l->p, (size_t)l->cap * bytes, (size_t)cap * bytes);
        if (!p) return fail(E_HOST_MEMORY, "no host memory for a command list");
        l->p = p;
        l->cap = cap;
    }
    memcpy((uint8_t *)l->p + (size_t)l->n++ * bytes, item, bytes);
    return OK;
}

static VkCommandBuffer open_buffer(const gpu_cmd *c) {
    return ((VkCommandBuffer *)c->buffers.p)[c->buffers.n - 1];
}

/* Everything before is done and visible before anything after, on the device; with `host`, to
 * the host too. */
static void barrier(gpu_cmd *c, bool host) {
    const VkPipelineStageFlags device =
        VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT;
    VkMemoryBarrier m = {
        .sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
        .srcAccessMask = VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT,
        .dstAccessMask = VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT |
                         VK_ACCESS_TRANSFER_READ_BIT | VK_ACCESS_TRANSFER_WRITE_BIT |
                         (host ? VK_ACCESS_HOST_READ_BIT : 0),
    };
    c->d->vk.vkCmdPipelineBarrier(open_buffer(c), device,
                                  device | (host ? VK_PIPELINE_STAGE_HOST_BIT : 0), 0, 1, &m, 0,
                                  NULL, 0, NULL);
    c->ranges.n = 0;
}

/* Does touching r conflict with what was touched since the last barrier? */
static bool conflicts(const gpu_cmd *c, const cmd_range *r) {
    const cmd_range *t = c->ranges.p;
    for (int i = 0; i < c->ranges.n; i++)
        if (t[i].chunk == r->chunk && t[i].begin < r->end && r->begin < t[i].end &&
            (t[i].written || r->written))
            return true;
    return false;
}

static status touch(gpu_cmd *c, const cmd_range *r, int n) {
    status st = OK;
    bool need = c->ranges.n > RANGES_MOST;
    for (int i = 0; i < n && !need; i++) need = conflicts(c, &r[i]);
    if (need) barrier(c, false);
    for (int i = 0; i < n; i++) TRY(list_push(&c->ranges, &r[i], sizeof r[i]));
out:
    return st;
}

static status buffer_begin(gpu_cmd *c) {
    status st = OK;
    VkCommandBuffer cb = VK_NULL_HANDLE;
    if (c->open) return OK;
    if (c->ended) return fail(E_UNSUPPORTED, "a command list that has ended records nothing more");
    VkCommandBufferAllocateInfo info = {
        .sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
        .commandPool = c->pool,
        .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
        .commandBufferCount = 1,
    };
    VkCommandBufferBeginInfo begin = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO};
    VK(c->d->vk.vkAllocateCommandBuffers(c->d->device, &info, &cb));
    TRY(list_push(&c->buffers, &cb, sizeof cb));
    VK(c->d->vk.vkBeginCommandBuffer(cb, &begin));
    c->open = true;
out:
    return st;
}

/* The barrier at the end covers what later buffers and later submissions do. */
static status buffer_end(gpu_cmd *c) {
    status st = OK;
    if (!c->open) return OK;
    barrier(c, true);
    c->open = false;
    c->work = 0;
    VK(c->d->vk.vkEndCommandBuffer(open_buffer(c)));
out:
    return st;
}

static status account(gpu_cmd *c, double work) {
    status st = OK;
    if (c->open && c->work > 0 && c->work + work > work_most[c->d->caps.kind]) TRY(buffer_end(c));
    TRY(buffer_begin(c));
    c->work += work;
out:
    return st;
}

status gpu_cmd_create(gpu *d, gpu_cmd **out) {
    status st = OK;
    *out = NULL;
    gpu_cmd *c = mem_zalloc(sizeof *c);
    if (!c) return fail(E_HOST_MEMORY, "no host memory for a command list");
    c->d = d;
    VkCommandPoolCreateInfo pool = {.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
                                    .queueFamilyIndex = d->phys->queue_family};
    VK(d->vk.vkCreateCommandPool(d->device, &pool, NULL, &c->pool));
    for (int i = 0; i < CMD_IN_FLIGHT; i++) {
        VkFenceCreateInfo fence = {.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO};
        VK(d->vk.vkCreateFence(d->device, &fence, NULL, &c->fence[i]));
    }
    *out = c;
out:
    if (st != OK) gpu_cmd_destroy(c);
    return st;
}

void gpu_cmd_destroy(gpu_cmd *c) {
    if (!c) return;
    gpu *d = c->d;
    for (int i = 0; i < CMD_IN_FLIGHT; i++)
        if (c->fence[i]) d->vk.vkDestroyFence(d->device, c->fence[i], NULL);
    for (int i = 0; i < c->queries.n; i++)
        d->vk.vkDestroyQueryPool(d->device, ((VkQueryPool *)c->queries.p)[i], NULL);
    for (int i = 0; i < c->pools.n; i++)
        d->vk.vkDestroyDescriptorPool(d->device, ((cmd_pool *)c->pools.p)[i].handle, NULL);
    if (c->pool) d->vk.vkDestroyCommandPool(d->device, c->pool, NULL);
    mem_free(c->buffers.p);
    mem_free(c->pools.p);
    mem_free(c->queries.p);
    mem_free(c->ranges.p);
    mem_free(c);
}

gpu *gpu_cmd_device(gpu_cmd *c) { return c->d; }
int gpu_cmd_count(const gpu_cmd *c) { return c->buffers.n; }

static status pool_grow(gpu_cmd *c) {
    status st = OK;
    uint32_t sets = POOL_SETS_FIRST << MIN(c->pools.n, 6);
    cmd_pool p = {.sets = MIN(sets, POOL_SETS_MOST)};
    p.descriptors = p.sets * POOL_PER_SET + GPU_MAX_BIND;
    VkDescriptorPoolSize size = {VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, p.descriptors};
    VkDescriptorPoolCreateInfo info = {.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO,
                                       .maxSets = p.sets,
                                       .poolSizeCount = 1,
                                       .pPoolSizes = &size};
    VK(c->d->vk.vkCreateDescriptorPool(c->d->device, &info, NULL, &p.handle));
    st = list_push(&c->pools, &p, sizeof p);
    if (st != OK) c->d->vk.vkDestroyDescriptorPool(c->d->device, p.handle, NULL);
out:
    return st;
}

/* Counted here, so that a pool is never asked for more than it was made for. */
static status set_allocate(gpu_cmd *c, const gpu_shader *s, VkDescriptorSet *out) {
    status st = OK;
    cmd_pool *p = c->pools.n ? (cmd_pool *)c->pools.p + c->pools.n - 1 : NULL;
    uint32_t n = (uint32_t)__builtin_popcount(s->info.used);
    if (!p || p->sets == 0 || p->descriptors < n) {
        TRY(pool_grow(c));
        p = (cmd_pool *)c->pools.p + c->pools.n - 1;
    }
    VkDescriptorSetAllocateInfo info = {
        .sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO,
        .descriptorPool = p->handle,
        .descriptorSetCount = 1,
        .pSetLayouts = &s->set_layout,
    };
    VK(c->d->vk.vkAllocateDescriptorSets(c->d->device, &info, out));
    p->sets--;
    p->descriptors -= n;
out:
    return st;
}

/* Bytes of a binding: whole words, as shaders load them; spans are padded to 64 by gpu_alloc. */
static uint64_t bound_bytes(gpu_span s) { return align_up(MAX(s.bytes, 1u), 4); }

static status check_span(const gpu_cmd *c, const char *name, int k, gpu_span s) {
    const gpu_caps *caps = &c->d->caps;
    uint64_t bytes = bound_bytes(s);
    if (bytes > caps->max_buffer_range)
        return fail(E_UNSUPPORTED, "shader %s: binding %d has %llu bytes, %s allows %llu", name, k,
                    (unsigned long long)bytes, caps->name,
                    (unsigned long long)caps->max_buffer_range);
    if (s.offset % caps->min_offset_alignment)
        return fail(E_UNSUPPORTED,
                    "shader %s: binding %d starts at byte %llu, %s needs multiples of %u", name, k,
                    (unsigned long long)s.offset, caps->name, caps->min_offset_alignment);
    if (bytes > s.chunk->bytes || s.offset > s.chunk->bytes - bytes)
        return fail(E_UNSUPPORTED,
                    "shader %s: binding %d, bytes %llu to %llu, leaves its chunk of %llu bytes",
                    name, k, (unsigned long long)s.offset, (unsigned long long)(s.offset + bytes),
                    (unsigned long long)s.chunk->bytes);
    return OK;
}

static status check_groups(const gpu_cmd *c, const char *name, const gpu_dispatch_params *p,
                           uint32_t groups[3]) {
    for (int k = 0; k < 3; k++) {
        groups[k] = MAX(p->groups[k], 1u);
        if (groups[k] > c->d->caps.max_group_count[k])
            return fail(E_UNSUPPORTED, "shader %s: %u workgroups in dimension %d, %s allows %u",
                        name, groups[k], k, c->d->caps.name, c->d->caps.max_group_count[k]);
    }
    return OK;
}

/* Writes the descriptors of p and returns the ranges they touch. */
static status bind_all(gpu_cmd *c, const gpu_dispatch_params *p, const gpu_shader *s,
                       VkDescriptorSet *set, cmd_range *r, int *n_range) {
    status st = OK;
    VkDescriptorBufferInfo info[GPU_MAX_BIND];
    VkWriteDescriptorSet write[GPU_MAX_BIND];
    uint32_t n = 0;
    TRY(set_allocate(c, s, set));
    for (uint32_t k = 0; k < s->info.n_bind; k++) {
        if (!(s->info.used >> k & 1u)) continue;
        gpu_span b = p->bind[k];
        TRY(check_span(c, s->code->name, (int)k, b));
        info[n] = (VkDescriptorBufferInfo){b.chunk->buffer, b.offset, bound_bytes(b)};
        write[n] = (VkWriteDescriptorSet){
            .sType = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET,
            .dstSet = *set,
            .dstBinding = k,
            .descriptorCount = 1,
            .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER,
            .pBufferInfo = &info[n],
        };
        r[n++] =
            (cmd_range){b.chunk, b.offset, b.offset + bound_bytes(b), s->info.writes >> k & 1u};
    }
    c->d->vk.vkUpdateDescriptorSets(c->d->device, n, write, 0, NULL);
    *n_range = (int)n;
out:
    return st;
}

static double work_of(const gpu_dispatch_params *p) {
    if (p->work > 0) return p->work;
    double bytes = 0;
    for (int k = 0; k < p->n_bind; k++) bytes += (double)p->bind[k].bytes;
    return bytes;
}

status gpu_dispatch_(gpu_cmd *c, const gpu_dispatch_params *p) {
    status st = OK;
    gpu *d = c->d;
    gpu_shader *s = NULL;
    gpu_kernel *k = NULL;
    VkDescriptorSet set = VK_NULL_HANDLE;
    cmd_range range[GPU_MAX_BIND];
    uint32_t groups[3];
    int n_range = 0;
    TRY(gpu_kernel_get(d, p, &s, &k));
    TRY(check_groups(c, s->code->name, p, groups));
    TRY(bind_all(c, p, s, &set, range, &n_range));
    TRY(account(c, work_of(p)));
    TRY(touch(c, range, n_range));
    VkCommandBuffer cb = open_buffer(c);
    d->vk.vkCmdBindPipeline(cb, VK_PIPELINE_BIND_POINT_COMPUTE, k->pipeline);
    d->vk.vkCmdBindDescriptorSets(cb, VK_PIPELINE_BIND_POINT_COMPUTE, s->layout, 0, 1, &set, 0,
                                  NULL);
    if (p->push_bytes)
        d->vk.vkCmdPushConstants(cb, s->layout, VK_SHADER_STAGE_COMPUTE_BIT, 0, p->push_bytes,
                                 p->push);
    d->vk.vkCmdDispatch(cb, groups[0], groups[1], groups[2]);
out:
    return st;
}

status gpu_copy(gpu_cmd *c, gpu_span dst, gpu_span src, uint64_t bytes) {
    status st = OK;
    if (bytes == 0) return OK;
    if (!dst.chunk || !src.chunk || bytes > align_up(dst.bytes, 4) ||
        bytes > align_up(src.bytes, 4))
        return fail(E_UNSUPPORTED, "copy of %llu bytes from a span of %llu to one of %llu",
                    (unsigned long long)bytes, (unsigned long long)src.bytes,
                    (unsigned long long)dst.bytes);
    if (dst.chunk == src.chunk && dst.offset < src.offset + bytes &&
        src.offset < dst.offset + bytes)
        return fail(E_UNSUPPORTED, "copy of %llu bytes between overlapping spans",
                    (unsigned long long)bytes);
    cmd_range range[2] = {{src.chunk, src.offset, src.offset + bytes, false},
                          {dst.chunk, dst.offset, dst.offset + bytes, true}};
    TRY(account(c, 2 * (double)bytes));
    TRY(touch(c, range, 2));
    VkBufferCopy region = {src.offset, dst.offset, bytes};
    c->d->vk.vkCmdCopyBuffer(open_buffer(c), src.chunk->buffer, dst.chunk->buffer, 1, &region);
out:
    return st;
}

status gpu_cmd_cut(gpu_cmd *c) { return buffer_end(c); }

/* Query blocks are made as marks come, and reset by the buffer that first writes into them: on
 * every run. */
status gpu_cmd_timestamp(gpu_cmd *c, int index) {
    status st = OK;
    uint32_t block = (uint32_t)index / QUERY_BLOCK;
    TRY(buffer_begin(c));
    if (block == (uint32_t)c->queries.n) {
        VkQueryPool q = VK_NULL_HANDLE;
        VkQueryPoolCreateInfo info = {.sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO,
                                      .queryType = VK_QUERY_TYPE_TIMESTAMP,
                                      .queryCount = QUERY_BLOCK};
        VK(c->d->vk.vkCreateQueryPool(c->d->device, &info, NULL, &q));
        st = list_push(&c->queries, &q, sizeof q);
        if (st != OK) {
            c->d->vk.vkDestroyQueryPool(c->d->device, q, NULL);
            goto out;
        }
        c->d->vk.vkCmdResetQueryPool(open_buffer(c), q, 0, QUERY_BLOCK);
    }
    c->d->vk.vkCmdWriteTimestamp(open_buffer(c), VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT,
                                 ((VkQueryPool *)c->queries.p)[block],
                                 (uint32_t)index % QUERY_BLOCK);
out:
    return st;
}

status gpu_cmd_mark(gpu_cmd *c, const char *label, uint32_t id) {
    status st = OK;
    (void)id;
    TRY(buffer_begin(c));
    if (c->d->instance->insert_label && label) {
        VkDebugUtilsLabelEXT text = {.sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_LABEL_EXT,
                                     .pLabelName = label};
        c->d->instance->insert_label(open_buffer(c), &text);
    }
    if (!c->d->caps.timestamps) return OK;
    TRY(gpu_cmd_timestamp(c, c->n_marks));
    c->n_marks++;
out:
    return st;
}

status gpu_cmd_end(gpu_cmd *c) {
    status st = OK;
    if (c->ended) return OK;
    if (c->n_marks) TRY(gpu_cmd_timestamp(c, c->n_marks));
    TRY(buffer_end(c));
    c->ended = true;
out:
    return st;
}

void gpu_groups_1d(uint64_t n, uint32_t local, uint32_t out[3]) {
    uint64_t groups = (n + local - 1) / local;
    out[0] = (uint32_t)MIN(MAX(groups, 1u), 65535u);
    out[1] = (uint32_t)((groups + 65534) / 65535);
    out[2] = 1;
    if (out[1] == 0) out[1] = 1;
}
