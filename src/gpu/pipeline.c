/* pipeline.c: shaders by name, pipelines by name and constants, made on first use and kept; the
 * driver's pipeline cache on disk, so that the second start is fast. A dispatch that disagrees
 * with the shader's own SPIR-V, or a shader that needs what the device lacks, is refused here
 * with both numbers.
 * SPDX-License-Identifier: MIT */
#include "gpu/gpu_internal.h"
#include <stdio.h>

#define CACHE_MOST  ((size_t)256 << 20) /* bytes of a cache file that is still read */
#define CACHE_MAGIC "imagopc1"

/* Before the driver's bytes: drivers check their own header, and not all check what follows it. */
typedef struct cache_head {
    char magic[8];
    uint64_t bytes, hash;
} cache_head;

static int find_shader(const char *name) {
    for (int i = 0; i < gpu_spirv_count; i++)
        if (strcmp(gpu_spirv_table[i].name, name) == 0) return i;
    return -1;
}

bool gpu_has_shader(const char *name) { return find_shader(name) >= 0; }

static const char *suffix_of(dtype t) {
    switch (t) {
    case DT_F32:
        return "_f32";
    case DT_F16:
    case DT_BF16:
        return "_h16";
    case DT_U32:
        return "";
    case DT_F64:
    case DT_COUNT:
        break;
    }
    return NULL;
}

static status check_abilities(const gpu *d, const char *name, uint32_t needed) {
    static const struct {
        uint32_t ability;
        const char *text;
    } names[] = {
        {ABLE_INT16, "16-bit integers"},
        {ABLE_INT64, "64-bit integers"},
        {ABLE_F16, "f16 arithmetic"},
        {ABLE_F64, "f64 arithmetic"},
        {ABLE_STORAGE16, "16-bit storage"},
        {ABLE_MEMORY_MODEL, "the Vulkan memory model"},
        {ABLE_MEMORY_MODEL_DEVICE, "device scope of the memory model"},
        {ABLE_COOPMAT, "cooperative matrices"},
        {ABLE_BF16, "bf16 arithmetic"},
        {ABLE_BF16_COOPMAT, "bf16 cooperative matrices"},
    };
    uint32_t missing = needed & ~d->phys->abilities;
    if (!missing) return OK;
    const char *text = "subgroup operations";
    for (size_t k = 0; k < ARRAY_LEN(names); k++)
        if (missing & names[k].ability) text = names[k].text;
    return fail(E_UNSUPPORTED,
                "shader %s needs %s, which %s does not offer: use --device cpu or another device",
                name, text, d->caps.name);
}

static status shader_layout(gpu *d, gpu_shader *s) {
    status st = OK;
    VkDescriptorSetLayoutBinding b[GPU_MAX_BIND];
    uint32_t n = 0;
    for (uint32_t k = 0; k < s->info.n_bind; k++)
        if (s->info.used >> k & 1u)
            b[n++] = (VkDescriptorSetLayoutBinding){k, VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, 1,
                                                    VK_SHADER_STAGE_COMPUTE_BIT, NULL};
    if (n > d->phys->max_bindings)
        return fail(E_UNSUPPORTED, "shader %s binds %u buffers, %s allows %u", s->code->name, n,
                    d->caps.name, d->phys->max_bindings);
    VkDescriptorSetLayoutCreateInfo set = {.sType =
                                               VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO,
                                           .bindingCount = n,
                                           .pBindings = b};
    VK(d->vk.vkCreateDescriptorSetLayout(d->device, &set, NULL, &s->set_layout));
    VkPushConstantRange push = {VK_SHADER_STAGE_COMPUTE_BIT, 0, s->info.push_bytes};
    VkPipelineLayoutCreateInfo layout = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO,
        .setLayoutCount = 1,
        .pSetLayouts = &s->set_layout,
        .pushConstantRangeCount = s->info.push_bytes ? 1 : 0,
        .pPushConstantRanges = &push,
    };
    VK(d->vk.vkCreatePipelineLayout(d->device, &layout, NULL, &s->layout));
    VkShaderModuleCreateInfo module = {
        .sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO,
        .codeSize = s->code->n_words * sizeof(uint32_t),
        .pCode = s->code->words,
    };
    VK(d->vk.vkCreateShaderModule(d->device, &module, NULL, &s->module));
out:
    return st;
}

static void shader_fini(gpu *d, gpu_shader *s) {
    for (gpu_kernel *k = s->kernels, *next; k; k = next) {
        next = k->next;
        d->vk.vkDestroyPipeline(d->device, k->pipeline, NULL);
        mem_free(k);
    }
    if (s->module) d->vk.vkDestroyShaderModule(d->device, s->module, NULL);
    if (s->layout) d->vk.vkDestroyPipelineLayout(d->device, s->layout, NULL);
    if (s->set_layout) d->vk.vkDestroyDescriptorSetLayout(d->device, s->set_layout, NULL);
    *s = (gpu_shader){0};
}

static status shader_get(gpu *d, const char *stem, dtype type, gpu_shader **out) {
    status st = OK;
    char name[128];
    const char *suffix = suffix_of(type);
    if (!suffix) return fail(E_UNSUPPORTED, "shader %s: no variant for %s", stem, dtype_name(type));
    snprintf(name, sizeof name, "%s%s", stem, suffix);
    int i = find_shader(name);
    if (i < 0) return fail(E_UNSUPPORTED, "no shader %s in this build", name);
    gpu_shader *s = *out = &d->shaders[i];
    if (s->code) return OK;
    s->code = &gpu_spirv_table[i];
    TRY(gpu_spirv_read(s->code->name, s->code->words, s->code->n_words, &s->info));
    TRY(check_abilities(d, s->code->name, s->info.abilities));
    TRY(shader_layout(d, s));
out:
    if (st != OK) shader_fini(d, s);
    return st;
}

/* The dispatch against the shader's interface: a mistake of the caller, told with both numbers. */
static status check_call(const gpu_dispatch_params *p, const gpu_shader *s) {
    const char *name = s->code->name;
    const spirv_info *f = &s->info;
    if (p->n_bind < 0 || p->n_bind > GPU_MAX_BIND || (uint32_t)p->n_bind < f->n_bind)
        return fail(E_UNSUPPORTED, "shader %s has %u bindings, the dispatch gives %d", name,
                    f->n_bind, p->n_bind);
    if (p->push_bytes != f->push_bytes)
        return fail(E_UNSUPPORTED, "shader %s has a push block of %u bytes, the dispatch gives %u",
                    name, f->push_bytes, p->push_bytes);
    if (p->n_spec < 0 || p->n_spec > GPU_MAX_SPEC)
        return fail(E_UNSUPPORTED, "shader %s: %d constants, at most %d", name, p->n_spec,
                    GPU_MAX_SPEC);
    for (int k = 0; k < p->n_bind; k++)
        if (f->used >> k & 1u && !p->bind[k].chunk)
            return fail(E_UNSUPPORTED, "shader %s: binding %d has no memory", name, k);
    return OK;
}

static status check_local_size(const gpu *d, const gpu_dispatch_params *p, const gpu_shader *s) {
    uint64_t size[3], all = 1;
    for (int k = 0; k < 3; k++) {
        int id = s->info.local[k].spec;
        size[k] = id >= 1 && id <= p->n_spec ? p->spec[id - 1] : s->info.local[k].value;
        if (size[k] == 0 || size[k] > d->phys->max_group_size[k])
            return fail(E_UNSUPPORTED,
                        "shader %s: local size %llu in dimension %d, %s allows 1 to %u",
                        s->code->name, (unsigned long long)size[k], k, d->caps.name,
                        d->phys->max_group_size[k]);
        all *= size[k];
    }
    if (all > d->caps.max_workgroup_invocations)
        return fail(E_UNSUPPORTED, "shader %s: %llu invocations in a workgroup, %s allows %u",
                    s->code->name, (unsigned long long)all, d->caps.name,
                    d->caps.max_workgroup_invocations);
    return OK;
}

static status kernel_create(gpu *d, const gpu_shader *s, gpu_kernel *k) {
    status st = OK;
    VkSpecializationMapEntry map[GPU_MAX_SPEC + 1];
    uint32_t n = 0;
    for (uint32_t id = 0; id <= (uint32_t)k->n_spec; id++)
        if (s->info.spec_ids >> id & 1u && (id > 0 || k->spec[0]))
            map[n++] =
                (VkSpecializationMapEntry){id, id * (uint32_t)sizeof k->spec[0], sizeof k->spec[0]};
    VkSpecializationInfo spec = {n, map, sizeof k->spec, k->spec};
    VkComputePipelineCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO,
        .stage =
            {
                .sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO,
                .stage = VK_SHADER_STAGE_COMPUTE_BIT,
                .module = s->module,
                .pName = "main",
                .pSpecializationInfo = n ? &spec : NULL,
            },
        .layout = s->layout,
    };
    double start = os_seconds();
    VK(d->vk.vkCreateComputePipelines(d->device, d->cache, 1, &info, NULL, &k->pipeline));
    d->new_pipelines++;
    log_debug("pipeline %s: %.1f ms", s->code->name, (os_seconds() - start) * 1e3);
out:
    return st;
}

status gpu_kernel_get(gpu *d, const gpu_dispatch_params *p, gpu_shader **shader,
                      gpu_kernel **kernel) {
    status st = OK;
    gpu_kernel *k = NULL;
    gpu_shader *s = NULL;
    TRY(shader_get(d, p->shader, p->type, &s));
    TRY(check_call(p, s));
    gpu_kernel want = {.n_spec = p->n_spec,
                       .spec = {p->type == DT_BF16  ? 2u
                                : p->type == DT_F16 ? 1u
                                                    : 0u}};
    if (p->n_spec > 0) memcpy(want.spec + 1, p->spec, (size_t)p->n_spec * sizeof want.spec[0]);
    *shader = s;
    for (k = s->kernels; k; k = k->next) {
        if (k->n_spec != want.n_spec || memcmp(k->spec, want.spec, sizeof want.spec) != 0) continue;
        *kernel = k;
        return OK;
    }
    TRY(check_local_size(d, p, s));
    if (!(k = mem_alloc(sizeof *k)))
        TRY(fail(E_HOST_MEMORY, "no host memory for pipeline %s", s->code->name));
    *k = want;
    TRY(kernel_create(d, s, k));
    k->next = s->kernels;
    s->kernels = k;
    *kernel = k;
out:
    if (st != OK) mem_free(k);
    return st;
}

/* ---- the cache file ---- */

/* The driver's own header (VkPipelineCacheHeaderVersionOne) and ours; anything odd is simply not
 * used. */
static bool cache_valid(const gpu *d, const uint8_t *data, size_t bytes) {
    cache_head head;
    VkPipelineCacheHeaderVersionOne v;
    if (bytes < sizeof head + sizeof v) return false;
    memcpy(&head, data, sizeof head);
    data += sizeof head;
    bytes -= sizeof head;
    if (memcmp(head.magic, CACHE_MAGIC, sizeof head.magic) != 0 || head.bytes != bytes ||
        head.hash != gpu_hash(data, bytes, GPU_HASH_START))
        return false;
    memcpy(&v, data, sizeof v);
    return v.headerSize >= sizeof v && v.headerSize <= bytes &&
           v.headerVersion == VK_PIPELINE_CACHE_HEADER_VERSION_ONE &&
           v.vendorID == d->caps.vendor_id && v.deviceID == d->caps.device_id &&
           memcmp(v.pipelineCacheUUID, d->phys->cache_uuid, VK_UUID_SIZE) == 0;
}

status gpu_pipelines_init(gpu *d) {
    status st = OK;
    uint8_t *data = NULL;
    size_t bytes = 0;
    char *path = gpu_cache_path(d, "pipelines", "bin");
    d->shaders = mem_zalloc((size_t)gpu_spirv_count * sizeof *d->shaders);
    if (!d->shaders) TRY(fail(E_HOST_MEMORY, "no host memory for %d shaders", gpu_spirv_count));
    if (path && os_file_exists(path) && file_read(path, CACHE_MOST, &data, &bytes) != OK)
        error_clear();
    bool valid = data && cache_valid(d, data, bytes);
    if (data && !valid)
        log_info("%s is damaged or of another driver: shaders are compiled again", path);
    VkPipelineCacheCreateInfo info = {.sType = VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO};
    if (valid) {
        d->cache_bytes = info.initialDataSize = bytes - sizeof(cache_head);
        info.pInitialData = data + sizeof(cache_head);
        log_debug("pipeline cache: %zu bytes from %s", info.initialDataSize, path);
    }
    VK(d->vk.vkCreatePipelineCache(d->device, &info, NULL, &d->cache));
out:
    mem_free(data);
    mem_free(path);
    return st;
}

/* A cache that cannot be written costs the next start some time, and nothing else. */
static void cache_save(gpu *d) {
    size_t bytes = 0;
    char *path = gpu_cache_path(d, "pipelines", "bin");
    uint8_t *data = NULL;
    if (!path || d->vk.vkGetPipelineCacheData(d->device, d->cache, &bytes, NULL) != VK_SUCCESS ||
        bytes == 0)
        goto out;
    data = mem_alloc(sizeof(cache_head) + bytes);
    if (!data || d->vk.vkGetPipelineCacheData(d->device, d->cache, &bytes,
                                              data + sizeof(cache_head)) != VK_SUCCESS)
        goto out;
    cache_head head = {.bytes = bytes, .hash = gpu_hash(data + sizeof head, bytes, GPU_HASH_START)};
    memcpy(head.magic, CACHE_MAGIC, sizeof head.magic);
    memcpy(data, &head, sizeof head);
    if (os_mkdir_p(d->cache_dir) != OK ||
        file_write_atomic(path, data, sizeof head + bytes) != OK) {
        log_warn("pipeline cache not written: %s", error_message());
        error_clear();
    }
out:
    mem_free(data);
    mem_free(path);
}

void gpu_pipelines_fini(gpu *d) {
    if (d->cache && d->new_pipelines && !d->lost) cache_save(d);
    for (int i = 0; d->shaders && i < gpu_spirv_count; i++) shader_fini(d, &d->shaders[i]);
    if (d->cache) d->vk.vkDestroyPipelineCache(d->device, d->cache, NULL);
}
