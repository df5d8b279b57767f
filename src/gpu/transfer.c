/* transfer.c: blocking copies between host and device. Where the host sees the memory it is a
 * memcpy; elsewhere pieces go through two staging slots, so that the GPU copies one while the
 * host fills the other.
 * SPDX-License-Identifier: MIT */
#include "gpu/gpu_internal.h"

#define SLOT_BYTES                                                                                 \
    ((uint64_t)8 << 20) /* large enough that the bus, not the submission, is the cost */

static status transfer_init(gpu *d) {
    status st = OK;
    transfer *t = &d->copy;
    if (t->pool) return OK;
    TRY(gpu_alloc(d, GPU_STAGING, TRANSFER_SLOTS * SLOT_BYTES, &t->staging));
    if (!gpu_mapped(t->staging))
        TRY(fail(E_UNSUPPORTED, "%s: staging memory is not host-visible", d->caps.name));
    VkCommandPoolCreateInfo pool = {
        .sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
        .flags =
            VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT | VK_COMMAND_POOL_CREATE_TRANSIENT_BIT,
        .queueFamilyIndex = d->phys->queue_family,
    };
    VK(d->vk.vkCreateCommandPool(d->device, &pool, NULL, &t->pool));
    VkCommandBufferAllocateInfo cb = {
        .sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
        .commandPool = t->pool,
        .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
        .commandBufferCount = TRANSFER_SLOTS,
    };
    VK(d->vk.vkAllocateCommandBuffers(d->device, &cb, t->cb));
    for (int k = 0; k < TRANSFER_SLOTS; k++) {
        VkFenceCreateInfo fence = {.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO};
        VK(d->vk.vkCreateFence(d->device, &fence, NULL, &t->fence[k]));
    }
out:
    if (st != OK) gpu_transfer_fini(d);
    return st;
}

void gpu_transfer_fini(gpu *d) {
    transfer *t = &d->copy;
    for (int k = 0; k < TRANSFER_SLOTS; k++)
        if (t->fence[k]) d->vk.vkDestroyFence(d->device, t->fence[k], NULL);
    if (t->pool) d->vk.vkDestroyCommandPool(d->device, t->pool, NULL);
    gpu_free(d, t->staging);
    *t = (transfer){0};
}

static status slot_wait(gpu *d, int k) {
    if (!d->copy.busy[k]) return OK;
    d->copy.busy[k] = false;
    return gpu_wait(d, d->copy.fence[k]);
}

/* Starts one copy or fill (src.chunk NULL) in slot k, between barriers that order it after earlier
 * submissions and before later ones and the host. */
static status slot_start(gpu *d, int k, gpu_span dst, gpu_span src, uint64_t bytes, uint32_t word) {
    status st = OK;
    VkCommandBuffer cb = d->copy.cb[k];
    VkCommandBufferBeginInfo begin = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
                                      .flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT};
    VkMemoryBarrier after = {
        .sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
        .srcAccessMask = VK_ACCESS_TRANSFER_WRITE_BIT,
        .dstAccessMask = VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT |
                         VK_ACCESS_TRANSFER_READ_BIT | VK_ACCESS_TRANSFER_WRITE_BIT |
                         VK_ACCESS_HOST_READ_BIT,
    };
    VK(d->vk.vkBeginCommandBuffer(cb, &begin));
    if (src.chunk) {
        VkBufferCopy region = {src.offset, dst.offset, bytes};
        d->vk.vkCmdCopyBuffer(cb, src.chunk->buffer, dst.chunk->buffer, 1, &region);
    } else {
        d->vk.vkCmdFillBuffer(cb, dst.chunk->buffer, dst.offset, bytes, word);
    }
    d->vk.vkCmdPipelineBarrier(cb, VK_PIPELINE_STAGE_TRANSFER_BIT,
                               VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT |
                                   VK_PIPELINE_STAGE_TRANSFER_BIT | VK_PIPELINE_STAGE_HOST_BIT,
                               0, 1, &after, 0, NULL, 0, NULL);
    VK(d->vk.vkEndCommandBuffer(cb));
    TRY(gpu_submit(d, cb, d->copy.fence[k]));
    d->copy.busy[k] = true;
out:
    return st;
}

static gpu_span part(gpu_span s, uint64_t at) { return (gpu_span){s.chunk, s.offset + at, 0}; }

static status check_size(const char *what, gpu_span s, uint64_t bytes) {
    if (!s.chunk || bytes > s.chunk->bytes || s.offset > s.chunk->bytes - bytes ||
        bytes > align_up(s.bytes, 4))
        return fail(E_SHAPE, "%s of %llu bytes at a span of %llu", what, (unsigned long long)bytes,
                    (unsigned long long)s.bytes);
    return OK;
}

/* All slots idle again, also after a failure half way. */
static status settle(gpu *d, status st) {
    for (int k = 0; k < TRANSFER_SLOTS; k++) {
        status s = slot_wait(d, k);
        if (st == OK) st = s;
    }
    return st;
}

status gpu_upload(gpu *d, gpu_span dst, const void *src, uint64_t bytes) {
    status st = OK;
    if (bytes == 0) return OK;
    TRY(check_size("upload", dst, bytes));
    uint8_t *mapped = gpu_mapped(dst);
    if (mapped) {
        memcpy(mapped, src, bytes);
        return OK;
    }
    TRY(transfer_init(d));
    uint8_t *stage = gpu_mapped(d->copy.staging);
    int k = 0;
    for (uint64_t at = 0; at < bytes; at += SLOT_BYTES, k = (k + 1) % TRANSFER_SLOTS) {
        uint64_t n = MIN(SLOT_BYTES, bytes - at), slot = (uint64_t)k * SLOT_BYTES;
        TRY(slot_wait(d, k));
        memcpy(stage + slot, (const uint8_t *)src + at, n);
        TRY(slot_start(d, k, part(dst, at), part(d->copy.staging, slot), n, 0));
    }
out:
    return settle(d, st);
}

status gpu_download(gpu *d, gpu_span src, void *dst, uint64_t bytes) {
    status st = OK;
    if (bytes == 0) return OK;
    TRY(check_size("download", src, bytes));
    const uint8_t *mapped = gpu_mapped(src);
    if (mapped) {
        memcpy(dst, mapped, bytes);
        return OK;
    }
    TRY(transfer_init(d));
    const uint8_t *stage = gpu_mapped(d->copy.staging);
    uint64_t started = 0; /* pieces are started TRANSFER_SLOTS ahead of the one that is read */
    for (uint64_t at = 0; at < bytes; at += SLOT_BYTES) {
        for (; started < bytes && started < at + TRANSFER_SLOTS * SLOT_BYTES;
             started += SLOT_BYTES) {
            int k = (int)(started / SLOT_BYTES % TRANSFER_SLOTS);
            TRY(slot_start(d, k, part(d->copy.staging, (uint64_t)k * SLOT_BYTES),
                           part(src, started), MIN(SLOT_BYTES, bytes - started), 0));
        }
        int k = (int)(at / SLOT_BYTES % TRANSFER_SLOTS);
        TRY(slot_wait(d, k));
        memcpy((uint8_t *)dst + at, stage + (uint64_t)k * SLOT_BYTES, MIN(SLOT_BYTES, bytes - at));
    }
out:
    return settle(d, st);
}

status gpu_fill(gpu *d, gpu_span dst, uint32_t word) {
    status st = OK;
    if (dst.bytes == 0) return OK;
    TRY(check_size("fill", dst, dst.bytes));
    uint8_t *mapped = gpu_mapped(dst);
    uint64_t whole = dst.bytes & ~3ull;
    if (mapped) {
        if (word == 0)
            memset(mapped, 0, whole);
        else
            for (uint64_t at = 0; at < whole; at += 4) memcpy(mapped + at, &word, 4);
        memcpy(mapped + whole, &word, dst.bytes - whole);
        return OK;
    }
    TRY(transfer_init(d));
    if (whole) {
        TRY(slot_start(d, 0, dst, (gpu_span){0}, whole, word));
        TRY(slot_wait(d, 0));
    }
    if (whole < dst.bytes)
        TRY(gpu_upload(d, (gpu_span){dst.chunk, dst.offset + whole, dst.bytes - whole}, &word,
                       dst.bytes - whole));
out:
    return st;
}
