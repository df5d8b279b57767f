/* gpu_internal.h: what the files of the Vulkan room share. One thread at a time uses a gpu and
 * all that was made from it; several gpu may be used by several threads. Instance-level entry
 * points are volk's; device-level ones are in the gpu's own table (d->vk), so that several
 * devices of several drivers can be open at once.
 * SPDX-License-Identifier: MIT */
#pragma once
#define VK_ENABLE_BETA_EXTENSIONS /* VK_KHR_portability_subset */
#include "gpu/gpu.h"
#include <stdatomic.h>
#include <volk.h>

/* Debian 12's headers (1.3.239) are older than these extensions. */
#ifndef VK_KHR_cooperative_matrix
#define VK_KHR_cooperative_matrix 1
#define VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME "VK_KHR_cooperative_matrix"
#define VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR \
    ((VkStructureType)1000506000)
#define VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR ((VkStructureType)1000506001)
typedef enum VkScopeKHR {
    VK_SCOPE_SUBGROUP_KHR = 3,
    VK_SCOPE_MAX_ENUM_KHR = 0x7FFFFFFF
} VkScopeKHR;
typedef enum VkComponentTypeKHR {
    VK_COMPONENT_TYPE_FLOAT16_KHR = 0,
    VK_COMPONENT_TYPE_FLOAT32_KHR = 1,
    VK_COMPONENT_TYPE_MAX_ENUM_KHR = 0x7FFFFFFF
} VkComponentTypeKHR;
typedef struct VkPhysicalDeviceCooperativeMatrixFeaturesKHR {
    VkStructureType sType;
    void *pNext;
    VkBool32 cooperativeMatrix, cooperativeMatrixRobustBufferAccess;
} VkPhysicalDeviceCooperativeMatrixFeaturesKHR;
typedef struct VkCooperativeMatrixPropertiesKHR {
    VkStructureType sType;
    void *pNext;
    uint32_t MSize, NSize, KSize;
    VkComponentTypeKHR AType, BType, CType, ResultType;
    VkBool32 saturatingAccumulation;
    VkScopeKHR scope;
} VkCooperativeMatrixPropertiesKHR;
typedef VkResult(VKAPI_PTR *PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR)(
    VkPhysicalDevice, uint32_t *, VkCooperativeMatrixPropertiesKHR *);
#endif
#ifndef VK_KHR_shader_bfloat16
#define VK_KHR_shader_bfloat16 1
#define VK_KHR_SHADER_BFLOAT16_EXTENSION_NAME "VK_KHR_shader_bfloat16"
#define VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_BFLOAT16_FEATURES_KHR ((VkStructureType)1000141000)
#define VK_COMPONENT_TYPE_BFLOAT16_KHR ((VkComponentTypeKHR)1000141000)
typedef struct VkPhysicalDeviceShaderBfloat16FeaturesKHR {
    VkStructureType sType;
    void *pNext;
    VkBool32 shaderBFloat16Type, shaderBFloat16DotProduct, shaderBFloat16CooperativeMatrix;
} VkPhysicalDeviceShaderBfloat16FeaturesKHR;
#endif

/* For functions with a `status st = OK;` and an `out:` label, as TRY. */
#define VK(call)                                                                                   \
    do {                                                                                           \
        VkResult r_ = (call);                                                                      \
        if (r_ != VK_SUCCESS) {                                                                    \
            st = gpu_vk_fail(r_, #call);                                                           \
            error_trace(st, HERE, #call);                                                          \
            goto out;                                                                              \
        }                                                                                          \
    } while (0)
/* E_HOST_MEMORY, E_GPU_MEMORY, E_DEVICE_LOST, else E_UNSUPPORTED. */
status gpu_vk_fail(VkResult r, const char *call);

/* ---- devices as enumerated ---- */
enum { /* features beyond gpu_caps that a shader may declare; bits of gpu_physical.abilities */
    ABLE_INT16 = 1, ABLE_INT64 = 2, ABLE_F16 = 4, ABLE_F64 = 8, ABLE_STORAGE16 = 16,
    ABLE_MEMORY_MODEL = 32, ABLE_MEMORY_MODEL_DEVICE = 64, ABLE_COOPMAT = 128, ABLE_BF16 = 256,
    ABLE_BF16_COOPMAT = 512,
    ABLE_SUBGROUP_BASIC = 1 << 16 /* and the bits above it: VkSubgroupFeatureFlags << 16 */
};
typedef struct gpu_physical {
    VkPhysicalDevice handle;
    gpu_caps caps;
    uint32_t abilities, queue_family, timestamp_bits;
    float timestamp_ns;              /* per tick */
    uint32_t max_group_size[3], max_bindings, driver_version;
    uint8_t cache_uuid[VK_UUID_SIZE];
    bool ext_budget, ext_portability, ext_coopmat, ext_bf16;
} gpu_physical;
struct gpu_instance {
    VkInstance handle;
    bool validation;
    VkDebugUtilsMessengerEXT messenger;
    /* Not volk's, which follow the last instance opened. NULL without validation. */
    PFN_vkDestroyDebugUtilsMessengerEXT destroy_messenger;
    PFN_vkCmdInsertDebugUtilsLabelEXT insert_label;
    atomic_int errors;               /* validation errors and warnings so far */
    int n;
    gpu_physical *dev;
};
status gpu_physical_fill(const gpu_instance *i, VkPhysicalDevice handle, gpu_physical *p);
/* Bytes free in the largest device-local heap. */
uint64_t gpu_memory_free(const gpu_physical *p, uint64_t own_bytes);

/* ---- shaders and pipelines ---- */
typedef struct spirv_local {
    uint32_t value;
    int spec;                        /* constant id, -1 = fixed */
} spirv_local;
typedef struct spirv_info {
    uint32_t n_bind;                 /* highest binding + 1 */
    uint32_t used, reads, writes;    /* bit per binding */
    uint32_t push_bytes;
    spirv_local local[3];
    uint64_t spec_ids;               /* bit per specialisation constant id < 64 */
    uint32_t abilities;              /* ABLE_* that the module declares */
} spirv_info;
/* E_FORMAT when the words are no module that this room can run. */
status gpu_spirv_read(const char *name, const uint32_t *words, size_t n, spirv_info *out);

typedef struct gpu_kernel {          /* one pipeline: a shader with its constants */
    struct gpu_kernel *next;
    uint32_t spec[GPU_MAX_SPEC + 1]; /* [0] = type constant */
    int n_spec;
    VkPipeline pipeline;
} gpu_kernel;
typedef struct gpu_shader {
    const gpu_spirv *code;
    spirv_info info;
    VkDescriptorSetLayout set_layout;
    VkPipelineLayout layout;
    VkShaderModule module;
    gpu_kernel *kernels;
} gpu_shader;
/* The pipeline for p, made on first use; refuses what disagrees with the SPIR-V or the device. */
status gpu_kernel_get(gpu *d, const gpu_dispatch_params *p, gpu_shader **shader,
                      gpu_kernel **kernel);
status gpu_pipelines_init(gpu *d);
void   gpu_pipelines_fini(gpu *d);   /* writes the cache file */

/* ---- memory ---- */
typedef struct free_range { uint64_t offset, bytes; } free_range;
struct gpu_chunk {
    struct gpu_chunk *next;
    gpu_region region;
    VkDeviceMemory memory;
    VkBuffer buffer;
    uint64_t bytes;
    uint32_t heap;
    uint8_t *mapped;                 /* NULL where the host cannot see it */
    free_range *free;                /* by offset, never adjacent */
    int n_free, cap_free, n_spans;   /* n_free <= n_spans + 1 <= cap_free */
};
void gpu_memory_fini(gpu *d);

/* ---- tuning table ---- */
typedef struct tune_row { char *key; int choice; } tune_row;
typedef struct tune_table { tune_row *row; int n, cap; bool dirty; } tune_table;
void gpu_tune_load(gpu *d);
void gpu_tune_fini(gpu *d);          /* writes the table */

/* ---- blocking copies ---- */
#define TRANSFER_SLOTS 2 /* one piece is copied by the GPU while the host moves the other */
typedef struct transfer {
    gpu_span staging;                /* TRANSFER_SLOTS pieces */
    VkCommandPool pool;
    VkCommandBuffer cb[TRANSFER_SLOTS];
    VkFence fence[TRANSFER_SLOTS];
    bool busy[TRANSFER_SLOTS];
} transfer;
void gpu_transfer_fini(gpu *d);

/* ---- recorded work ---- */
#define CMD_IN_FLIGHT 2 /* the GPU has the next command buffer while the host waits for this one */
typedef struct cmd_range { const gpu_chunk *chunk; uint64_t begin, end; bool written; } cmd_range;
typedef struct cmd_pool {
    VkDescriptorPool handle;
    uint32_t sets, descriptors;      /* left */
} cmd_pool;
typedef struct cmd_list { void *p; int n, cap; } cmd_list;
struct gpu_cmd {
    gpu *d;
    VkCommandPool pool;
    cmd_list buffers;                /* VkCommandBuffer */
    cmd_list pools;                  /* cmd_pool; sets come from the last */
    cmd_list queries;                /* VkQueryPool of QUERY_BLOCK timestamps each */
    cmd_list ranges;                 /* cmd_range touched since the last barrier */
    int n_marks;                     /* timestamps written, without the end's */
    bool open, ended, ran;           /* open: the last buffer is being recorded */
    double work;                     /* in the open buffer */
    VkFence fence[CMD_IN_FLIGHT];
};
#define QUERY_BLOCK 256u
status gpu_cmd_timestamp(gpu_cmd *c, int index); /* into the open buffer */

struct gpu {
    gpu_instance *instance;
    const gpu_physical *phys;
    gpu_caps caps;
    VkDevice device;
    VkQueue queue;
    struct VolkDeviceTable vk;
    VkPhysicalDeviceMemoryProperties memory;
    bool lost;                       /* after VK_ERROR_DEVICE_LOST nothing more is submitted */
    char *cache_dir;                 /* NULL = no disk cache */
    gpu_chunk *chunks[GPU_REGION_COUNT];
    uint64_t region_bytes[GPU_REGION_COUNT], heap_bytes[VK_MAX_MEMORY_HEAPS];
    gpu_shader *shaders;             /* gpu_spirv_count rows, filled on first use */
    VkPipelineCache cache;
    size_t cache_bytes;              /* of the cache file that was accepted, 0 = none */
    int new_pipelines;               /* made since the cache file was read */
    tune_table tune;
    transfer copy;
};
/* Notes a lost device, so that the rest of the program learns it at once. */
status gpu_submit(gpu *d, VkCommandBuffer cb, VkFence fence);
status gpu_wait(gpu *d, VkFence fence);
/* dir/stem-VENDOR-DEVICE-HASH.ext, mem_alloc'ed; NULL without a cache directory or memory. */
char *gpu_cache_path(const gpu *d, const char *stem, const char *ext);
uint64_t gpu_hash(const void *data, size_t bytes, uint64_t h); /* FNV-1a, 64 bit */
#define GPU_HASH_START 14695981039346656037ull
