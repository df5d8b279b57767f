/* device.c: what a Vulkan device can do, and opening one: one compute queue, the features that
 * the shaders may use enabled where they exist. Required: Vulkan 1.2, storageBuffer16BitAccess,
 * a compute queue. Everything else is a capability that a shader's SPIR-V is checked against
 * (pipeline.c).
 * SPDX-License-Identifier: MIT */
#include "gpu/gpu_internal.h"
#include <stdio.h>

static gpu_kind kind_of(VkPhysicalDeviceType t) {
    switch ((int)t) {
    case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU:
        return GPU_DISCRETE;
    case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU:
        return GPU_INTEGRATED;
    case VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU:
        return GPU_VIRTUAL;
    case VK_PHYSICAL_DEVICE_TYPE_CPU:
        return GPU_SOFTWARE;
    }
    return GPU_OTHER;
}

static status find_extensions(gpu_physical *p) {
    status st = OK;
    VkExtensionProperties *e = NULL;
    uint32_t n = 0;
    VK(vkEnumerateDeviceExtensionProperties(p->handle, NULL, &n, NULL));
    e = mem_alloc(n * sizeof *e);
    if (!e) TRY(fail(E_HOST_MEMORY, "no host memory to list Vulkan extensions"));
    VK(vkEnumerateDeviceExtensionProperties(p->handle, NULL, &n, e));
    const struct {
        const char *name;
        bool *has;
    } want[] = {
        {VK_EXT_MEMORY_BUDGET_EXTENSION_NAME, &p->ext_budget},
        {VK_KHR_PORTABILITY_SUBSET_EXTENSION_NAME, &p->ext_portability},
        {VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME, &p->ext_coopmat},
        {VK_KHR_SHADER_BFLOAT16_EXTENSION_NAME, &p->ext_bf16},
    };
    for (uint32_t i = 0; i < n; i++)
        for (size_t k = 0; k < ARRAY_LEN(want); k++)
            if (strcmp(e[i].extensionName, want[k].name) == 0) *want[k].has = true;
out:
    mem_free(e);
    return st;
}

/* A family without graphics first: its work does not queue behind the desktop's. */
static bool find_queue(gpu_physical *p) {
    VkQueueFamilyProperties q[32];
    uint32_t n = ARRAY_LEN(q);
    vkGetPhysicalDeviceQueueFamilyProperties(p->handle, &n, q);
    int best = -1, score = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (!(q[i].queueFlags & VK_QUEUE_COMPUTE_BIT) || q[i].queueCount == 0) continue;
        int s = 1 + (q[i].timestampValidBits ? 2 : 0) +
                (q[i].queueFlags & VK_QUEUE_GRAPHICS_BIT ? 0 : 1);
        if (s > score) best = (int)i, score = s;
    }
    if (best < 0) return false;
    p->queue_family = (uint32_t)best;
    p->timestamp_bits = q[best].timestampValidBits;
    return true;
}

/* The features this program knows of, chained; the same chain is queried and, cut down, enabled. */
typedef struct features {
    VkPhysicalDeviceFeatures2 core;
    VkPhysicalDeviceVulkan11Features v11;
    VkPhysicalDeviceVulkan12Features v12;
    VkPhysicalDeviceCooperativeMatrixFeaturesKHR coopmat;
    VkPhysicalDeviceShaderBfloat16FeaturesKHR bf16;
} features;

static void features_chain(features *f, const gpu_physical *p) {
    f->core.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2;
    f->core.pNext = &f->v11;
    f->v11.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES;
    f->v11.pNext = &f->v12;
    f->v12.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES;
    f->v12.pNext = NULL;
    void **tail = &f->v12.pNext;
    if (p->ext_coopmat) {
        f->coopmat.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR;
        *tail = &f->coopmat;
        tail = &f->coopmat.pNext;
    }
    if (p->ext_bf16) {
        f->bf16.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_BFLOAT16_FEATURES_KHR;
        *tail = &f->bf16;
        tail = &f->bf16.pNext;
    }
    *tail = NULL;
}

static uint32_t abilities_of(const features *f, const VkPhysicalDeviceVulkan11Properties *p11) {
    uint32_t a = 0;
    if (f->core.features.shaderInt16) a |= ABLE_INT16;
    if (f->core.features.shaderInt64) a |= ABLE_INT64;
    if (f->core.features.shaderFloat64) a |= ABLE_F64;
    if (f->v12.shaderFloat16) a |= ABLE_F16;
    if (f->v11.storageBuffer16BitAccess) a |= ABLE_STORAGE16;
    if (f->v12.vulkanMemoryModel) a |= ABLE_MEMORY_MODEL;
    if (f->v12.vulkanMemoryModelDeviceScope) a |= ABLE_MEMORY_MODEL_DEVICE;
    if (f->coopmat.cooperativeMatrix) a |= ABLE_COOPMAT;
    if (f->bf16.shaderBFloat16Type) a |= ABLE_BF16;
    if (f->bf16.shaderBFloat16CooperativeMatrix) a |= ABLE_BF16_COOPMAT;
    if (p11->subgroupSupportedStages & VK_SHADER_STAGE_COMPUTE_BIT)
        a |= (p11->subgroupSupportedOperations & 0xffu) * ABLE_SUBGROUP_BASIC;
    return a;
}

static void features_keep(features *f, uint32_t able) {
    f->core.features = (VkPhysicalDeviceFeatures){
        .shaderInt16 = !!(able & ABLE_INT16),
        .shaderInt64 = !!(able & ABLE_INT64),
        .shaderFloat64 = !!(able & ABLE_F64),
    };
    VkBool32 extended = f->v12.shaderSubgroupExtendedTypes,
             dynamic_id = f->v12.subgroupBroadcastDynamicId;
    f->v11 =
        (VkPhysicalDeviceVulkan11Features){.storageBuffer16BitAccess = !!(able & ABLE_STORAGE16)};
    f->v12 = (VkPhysicalDeviceVulkan12Features){
        .shaderFloat16 = !!(able & ABLE_F16),
        .vulkanMemoryModel = !!(able & ABLE_MEMORY_MODEL),
        .vulkanMemoryModelDeviceScope = !!(able & ABLE_MEMORY_MODEL_DEVICE),
        .shaderSubgroupExtendedTypes = extended,
        .subgroupBroadcastDynamicId = dynamic_id,
    };
    f->coopmat.cooperativeMatrixRobustBufferAccess = VK_FALSE;
    f->bf16.shaderBFloat16DotProduct = VK_FALSE;
}

/* Only the shape our shaders are written for: 16x16x16 in one subgroup, sums in f32. */
static status find_coopmat(const gpu_instance *i, gpu_physical *p) {
    status st = OK;
    VkCooperativeMatrixPropertiesKHR *m = NULL;
    uint32_t n = 0;
    PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR get =
        (PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR)vkGetInstanceProcAddr(
            i->handle, "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR");
    if (!get || !(p->abilities & ABLE_COOPMAT) || !(p->abilities & ABLE_MEMORY_MODEL)) return OK;
    VK(get(p->handle, &n, NULL));
    m = mem_zalloc(MAX(n, 1u) * sizeof *m);
    if (!m) TRY(fail(E_HOST_MEMORY, "no host memory to list cooperative matrix shapes"));
    for (uint32_t k = 0; k < n; k++)
        m[k].sType = VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR;
    VK(get(p->handle, &n, m));
    for (uint32_t k = 0; k < n; k++) {
        if (m[k].MSize != 16 || m[k].NSize != 16 || m[k].KSize != 16 ||
            m[k].scope != VK_SCOPE_SUBGROUP_KHR)
            continue;
        if (m[k].CType != VK_COMPONENT_TYPE_FLOAT32_KHR ||
            m[k].ResultType != VK_COMPONENT_TYPE_FLOAT32_KHR)
            continue;
        if (m[k].AType != m[k].BType) continue;
        if (m[k].AType == VK_COMPONENT_TYPE_FLOAT16_KHR) p->caps.coopmat_f16 = true;
        if (m[k].AType == VK_COMPONENT_TYPE_BFLOAT16_KHR && (p->abilities & ABLE_BF16_COOPMAT))
            p->caps.coopmat_bf16 = true;
    }
    if (!(p->abilities & ABLE_F16)) p->caps.coopmat_f16 = false;
out:
    mem_free(m);
    return st;
}

static uint32_t largest_local_heap(const VkPhysicalDeviceMemoryProperties *m) {
    uint32_t best = 0;
    for (uint32_t h = 0; h < m->memoryHeapCount; h++) {
        bool local = m->memoryHeaps[h].flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT;
        bool best_local = m->memoryHeaps[best].flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT;
        if (local > best_local ||
            (local == best_local && m->memoryHeaps[h].size > m->memoryHeaps[best].size))
            best = h;
    }
    return best;
}

uint64_t gpu_memory_free(const gpu_physical *p, uint64_t own_bytes) {
    VkPhysicalDeviceMemoryBudgetPropertiesEXT budget = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT};
    VkPhysicalDeviceMemoryProperties2 m = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2,
        .pNext = p->ext_budget ? &budget : NULL};
    vkGetPhysicalDeviceMemoryProperties2(p->handle, &m);
    uint32_t h = largest_local_heap(&m.memoryProperties);
    uint64_t size = m.memoryProperties.memoryHeaps[h].size, free_bytes;
    if (p->ext_budget && budget.heapBudget[h])
        free_bytes = budget.heapBudget[h] > budget.heapUsage[h]
                         ? budget.heapBudget[h] - budget.heapUsage[h]
                         : 0;
    else
        free_bytes = size > own_bytes ? size - own_bytes : 0;
    /* A software driver takes host memory, and its heap is only a number. */
    if (p->caps.kind == GPU_SOFTWARE) free_bytes = MIN(free_bytes, os_memory_available_bytes());
    return free_bytes;
}

static void judge(gpu_physical *p, bool has_queue) {
    gpu_caps *c = &p->caps;
    if (c->api_version < VK_API_VERSION_1_2)
        snprintf(c->why_not, sizeof c->why_not,
                 "its driver offers Vulkan %u.%u, 1.2 is needed: update it",
                 VK_API_VERSION_MAJOR(c->api_version), VK_API_VERSION_MINOR(c->api_version));
    else if (!has_queue)
        snprintf(c->why_not, sizeof c->why_not, "no compute queue");
    else if (!c->storage16)
        snprintf(c->why_not, sizeof c->why_not, "no 16-bit storage (storageBuffer16BitAccess)");
    else
        c->usable = true;
}

static void fill_limits(gpu_physical *p, const VkPhysicalDeviceLimits *l,
                        const VkPhysicalDeviceVulkan11Properties *p11) {
    gpu_caps *c = &p->caps;
    /* Whole multiples of 256 bytes: some drivers report 2^32 - 1, and bindings are rounded up to
     * words. */
    c->max_buffer_range = l->maxStorageBufferRange & ~255ull;
    c->max_allocation = p11->maxMemoryAllocationSize & ~255ull;
    c->min_offset_alignment = (uint32_t)MAX(l->minStorageBufferOffsetAlignment, 1u);
    c->max_workgroup_invocations = l->maxComputeWorkGroupInvocations;
    c->max_shared_bytes = l->maxComputeSharedMemorySize;
    for (int k = 0; k < 3; k++) {
        c->max_group_count[k] = l->maxComputeWorkGroupCount[k];
        p->max_group_size[k] = l->maxComputeWorkGroupSize[k];
    }
    p->max_bindings =
        MIN(l->maxPerStageDescriptorStorageBuffers, l->maxDescriptorSetStorageBuffers);
    p->timestamp_ns = l->timestampPeriod;
}

static void fill_memory(gpu_physical *p) {
    VkPhysicalDeviceMemoryProperties m;
    vkGetPhysicalDeviceMemoryProperties(p->handle, &m);
    uint32_t h = largest_local_heap(&m);
    p->caps.memory_bytes = m.memoryHeaps[h].size;
    const VkMemoryPropertyFlags both = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT |
                                       VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT |
                                       VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    for (uint32_t t = 0; t < m.memoryTypeCount; t++)
        if ((m.memoryTypes[t].propertyFlags & both) == both && m.memoryTypes[t].heapIndex == h)
            p->caps.host_visible_vram = true;
    p->caps.memory_free_bytes = gpu_memory_free(p, 0);
}

status gpu_physical_fill(const gpu_instance *inst, VkPhysicalDevice handle, gpu_physical *p) {
    status st = OK;
    *p = (gpu_physical){.handle = handle};
    gpu_caps *c = &p->caps;
    VkPhysicalDeviceProperties basic;
    vkGetPhysicalDeviceProperties(handle, &basic);
    snprintf(c->name, sizeof c->name, "%s", basic.deviceName);
    c->kind = kind_of(basic.deviceType);
    c->vendor_id = basic.vendorID;
    c->device_id = basic.deviceID;
    c->api_version = basic.apiVersion;
    p->driver_version = basic.driverVersion;
    memcpy(p->cache_uuid, basic.pipelineCacheUUID, VK_UUID_SIZE);
    snprintf(c->driver_version, sizeof c->driver_version, "%u", basic.driverVersion);
    bool has_queue = find_queue(p);
    if (c->api_version < VK_API_VERSION_1_2) {
        judge(p, has_queue);
        return OK;
    }
    TRY(find_extensions(p));
    VkPhysicalDeviceDriverProperties driver = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_DRIVER_PROPERTIES};
    VkPhysicalDeviceVulkan11Properties p11 = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_PROPERTIES, .pNext = &driver};
    VkPhysicalDeviceSubgroupSizeControlProperties sizes = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_PROPERTIES};
    if (c->api_version >= VK_API_VERSION_1_3) driver.pNext = &sizes;
    VkPhysicalDeviceProperties2 props = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2,
                                         .pNext = &p11};
    vkGetPhysicalDeviceProperties2(handle, &props);
    snprintf(c->driver, sizeof c->driver, "%s", driver.driverName);
    if (driver.driverInfo[0])
        snprintf(c->driver_version, sizeof c->driver_version, "%s", driver.driverInfo);
    fill_limits(p, &props.properties.limits, &p11);

    features f = {0};
    features_chain(&f, p);
    vkGetPhysicalDeviceFeatures2(handle, &f.core);
    p->abilities = abilities_of(&f, &p11);
    c->f16_arith = p->abilities & ABLE_F16;
    c->storage16 = c->bf16_storage = p->abilities & ABLE_STORAGE16;
    c->subgroup_arith = p->abilities & (ABLE_SUBGROUP_BASIC * VK_SUBGROUP_FEATURE_ARITHMETIC_BIT);
    c->subgroup_size = p11.subgroupSize;
    c->subgroup_min = sizes.minSubgroupSize ? sizes.minSubgroupSize : p11.subgroupSize;
    c->subgroup_max = sizes.maxSubgroupSize ? sizes.maxSubgroupSize : p11.subgroupSize;
    c->timestamps = p->timestamp_bits > 0 && p->timestamp_ns > 0;
    TRY(find_coopmat(inst, p));
    fill_memory(p);
    judge(p, has_queue);
out:
    return st;
}

static status create_device(gpu *d) {
    status st = OK;
    const gpu_physical *p = d->phys;
    features f = {0};
    features_chain(&f, p);
    vkGetPhysicalDeviceFeatures2(p->handle, &f.core);
    features_keep(&f, p->abilities);
    features_chain(&f, p);
    const char *ext[4];
    uint32_t n_ext = 0;
    if (p->ext_budget) ext[n_ext++] = VK_EXT_MEMORY_BUDGET_EXTENSION_NAME;
    if (p->ext_portability) ext[n_ext++] = VK_KHR_PORTABILITY_SUBSET_EXTENSION_NAME;
    if (p->ext_coopmat) ext[n_ext++] = VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME;
    if (p->ext_bf16) ext[n_ext++] = VK_KHR_SHADER_BFLOAT16_EXTENSION_NAME;
    const float priority = 0.5f;
    VkDeviceQueueCreateInfo queue = {
        .sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
        .queueFamilyIndex = p->queue_family,
        .queueCount = 1,
        .pQueuePriorities = &priority,
    };
    VkDeviceCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
        .pNext = &f.core,
        .queueCreateInfoCount = 1,
        .pQueueCreateInfos = &queue,
        .enabledExtensionCount = n_ext,
        .ppEnabledExtensionNames = ext,
    };
    VK(vkCreateDevice(p->handle, &info, NULL, &d->device));
    volkLoadDeviceTable(&d->vk, d->device);
    d->vk.vkGetDeviceQueue(d->device, p->queue_family, 0, &d->queue);
out:
    return st;
}

status gpu_open(gpu_instance *i, int index, const char *cache_dir, gpu **out) {
    status st = OK;
    *out = NULL;
    if (index < 0 || index >= i->n)
        return fail(E_USAGE, "Vulkan device %d: there are %d, numbered from 0", index, i->n);
    const gpu_physical *p = &i->dev[index];
    if (!p->caps.usable)
        return fail(E_UNSUPPORTED, "%s cannot be used: %s", p->caps.name, p->caps.why_not);
    gpu *d = mem_zalloc(sizeof *d);
    if (!d) return fail(E_HOST_MEMORY, "no host memory to open %s", p->caps.name);
    d->instance = i;
    d->phys = p;
    d->caps = p->caps;
    d->caps.memory_free_bytes = gpu_memory_free(p, 0);
    vkGetPhysicalDeviceMemoryProperties(p->handle, &d->memory);
    if (cache_dir && cache_dir[0]) {
        size_t n = strlen(cache_dir) + 1;
        if (!(d->cache_dir = mem_alloc(n)))
            TRY(fail(E_HOST_MEMORY, "no host memory to open %s", p->caps.name));
        memcpy(d->cache_dir, cache_dir, n);
    }
    TRY(create_device(d));
    TRY(gpu_pipelines_init(d));
    gpu_tune_load(d);
    *out = d;
out:
    if (st != OK) gpu_close(d);
    return st;
}

void gpu_close(gpu *d) {
    if (!d) return;
    if (d->device && !d->lost) d->vk.vkDeviceWaitIdle(d->device);
    gpu_tune_fini(d);
    if (d->device) {
        gpu_transfer_fini(d);
        gpu_pipelines_fini(d);
        gpu_memory_fini(d);
        d->vk.vkDestroyDevice(d->device, NULL);
    }
    mem_free(d->shaders);
    mem_free(d->cache_dir);
    mem_free(d);
}

const gpu_caps *gpu_get_caps(const gpu *d) { return &d->caps; }

static status note_lost(gpu *d, VkResult r, const char *call) {
    if (r == VK_SUCCESS) return OK;
    if (r == VK_ERROR_DEVICE_LOST) d->lost = true;
    return gpu_vk_fail(r, call);
}

status gpu_submit(gpu *d, VkCommandBuffer cb, VkFence fence) {
    if (d->lost) return note_lost(d, VK_ERROR_DEVICE_LOST, "vkQueueSubmit");
    VkSubmitInfo info = {
        .sType = VK_STRUCTURE_TYPE_SUBMIT_INFO, .commandBufferCount = 1, .pCommandBuffers = &cb};
    return note_lost(d, d->vk.vkQueueSubmit(d->queue, 1, &info, fence), "vkQueueSubmit");
}

status gpu_wait(gpu *d, VkFence fence) {
    if (d->lost) return note_lost(d, VK_ERROR_DEVICE_LOST, "vkWaitForFences");
    VkResult r = d->vk.vkWaitForFences(d->device, 1, &fence, VK_TRUE, UINT64_MAX);
    if (r == VK_SUCCESS) r = d->vk.vkResetFences(d->device, 1, &fence);
    return note_lost(d, r, "vkWaitForFences");
}

uint64_t gpu_hash(const void *data, size_t bytes, uint64_t h) {
    const uint8_t *p = data;
    for (size_t i = 0; i < bytes; i++) h = (h ^ p[i]) * 1099511628211ull;
    return h;
}

char *gpu_cache_path(const gpu *d, const char *stem, const char *ext) {
    if (!d->cache_dir) return NULL;
    uint64_t h = gpu_hash(d->phys->cache_uuid, VK_UUID_SIZE, GPU_HASH_START);
    h = gpu_hash(d->caps.name, strlen(d->caps.name), h);
    h = gpu_hash(d->caps.driver_version, strlen(d->caps.driver_version), h);
    size_t n = strlen(d->cache_dir) + strlen(stem) + strlen(ext) + 64;
    char *path = mem_alloc(n);
    if (path)
        snprintf(path, n, "%s/%s-%04x-%04x-%016llx.%s", d->cache_dir, stem, d->caps.vendor_id,
                 d->caps.device_id, (unsigned long long)h, ext);
    return path;
}
