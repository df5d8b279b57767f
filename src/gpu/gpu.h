/* gpu.h: the Vulkan room. Devices, memory regions, pipelines, recorded command lists.
 * The only room that includes vulkan.h; the loader is opened at run time (volk), so the program
 * starts where there is none. All shaders: set 0, storage buffers 0..N-1, one push block <= 128 bytes.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "base/dtype.h"

#define GPU_MAX_BIND 24
#define GPU_MAX_SPEC 16

typedef struct gpu gpu;               /* an open logical device and its caches */
typedef struct gpu_instance gpu_instance;
typedef struct gpu_chunk gpu_chunk;   /* one VkDeviceMemory + VkBuffer */

typedef enum gpu_kind { GPU_DISCRETE, GPU_INTEGRATED, GPU_VIRTUAL, GPU_SOFTWARE, GPU_OTHER, GPU_KIND_COUNT } gpu_kind;
typedef struct gpu_caps {
    char name[256], driver[256], driver_version[256];
    gpu_kind kind;
    uint32_t vendor_id, device_id, api_version;
    uint64_t memory_bytes, memory_free_bytes;   /* largest device-local heap; free: VK_EXT_memory_budget, else = memory_bytes */
    uint64_t max_buffer_range, max_allocation;  /* bytes: maxStorageBufferRange, maxMemoryAllocationSize */
    uint32_t min_offset_alignment, max_workgroup_invocations, max_shared_bytes, max_group_count[3];
    uint32_t subgroup_size, subgroup_min, subgroup_max;
    bool f16_arith, storage16, bf16_storage;    /* bf16 is emulated on 16-bit storage, hence = storage16 */
    bool subgroup_arith, coopmat_f16, coopmat_bf16, host_visible_vram, timestamps;
    bool usable; char why_not[160];             /* missing required feature */
} gpu_caps;

/* Opens the Vulkan loader. E_UNSUPPORTED with the reason when there is no loader, no driver or no device. */
status gpu_instance_open(gpu_instance **out, bool validation);
void   gpu_instance_close(gpu_instance *i);
int    gpu_instance_count(const gpu_instance *i);
const gpu_caps *gpu_instance_caps(const gpu_instance *i, int index);
int    gpu_validation_errors(const gpu_instance *i); /* messages seen from the validation layer */

/* cache_dir: where the pipeline cache and the tuning table live; NULL = no disk cache. */
status gpu_open(gpu_instance *i, int index, const char *cache_dir, gpu **out);
void   gpu_close(gpu *d);             /* writes the pipeline cache */
const gpu_caps *gpu_get_caps(const gpu *d);

/* ---- memory: four regions, each a list of chunks; a span never crosses a chunk ---- */
typedef enum gpu_region { GPU_WEIGHTS, GPU_STATE, GPU_ACTIVATIONS, GPU_STAGING, GPU_REGION_COUNT } gpu_region;
typedef struct gpu_span { gpu_chunk *chunk; uint64_t offset, bytes; } gpu_span;
/* E_GPU_MEMORY: too large for one binding (says so) or the heap is full. STAGING is host-visible and mapped. */
status gpu_alloc(gpu *d, gpu_region r, uint64_t bytes, gpu_span *out);
void   gpu_free(gpu *d, gpu_span s);  /* accepts a zero span */
void  *gpu_mapped(gpu_span s);        /* STAGING spans (and others where memory is host-visible); else NULL */
uint64_t gpu_region_bytes(const gpu *d, gpu_region r);
/* Blocking copies host <-> device, staged in pieces where not mapped. */
status gpu_upload(gpu *d, gpu_span dst, const void *src, uint64_t bytes);
status gpu_download(gpu *d, gpu_span src, void *dst, uint64_t bytes);
status gpu_fill(gpu *d, gpu_span dst, uint32_t word);

/* ---- recorded work ---- */
typedef struct gpu_cmd gpu_cmd;       /* a list of command buffers, recorded once, submitted many times */
typedef struct gpu_dispatch_params {
    const char *shader;               /* stem: "silu" */
    dtype type;                       /* picks silu_f32 or silu_h16 (constant 0 = 1 for f16, 2 for bf16); DT_U32: the shader has no variants */
    uint32_t spec[GPU_MAX_SPEC]; int n_spec;   /* constants 1..n_spec */
    uint32_t groups[3];               /* zeros count as 1 */
    gpu_span bind[GPU_MAX_BIND]; int n_bind;
    const void *push; uint32_t push_bytes;
    double work;                      /* estimated flops (or bytes), for cutting submissions */
    uint64_t after;                   /* reserved */
} gpu_dispatch_params;

status gpu_cmd_create(gpu *d, gpu_cmd **out);
void   gpu_cmd_destroy(gpu_cmd *c);
/* Appends one dispatch: the SPIR-V's bindings, push size and local size are checked against the call;
 * a barrier is put before it when its ranges overlap ranges written (or read, for its writes) since the
 * last barrier; a new command buffer starts when the work since the last cut exceeds the budget. */
status gpu_dispatch_(gpu_cmd *c, const gpu_dispatch_params *p);
#define gpu_dispatch(c, ...) gpu_dispatch_((c), &(gpu_dispatch_params){__VA_ARGS__})
status gpu_copy(gpu_cmd *c, gpu_span dst, gpu_span src, uint64_t bytes);
status gpu_cmd_cut(gpu_cmd *c);       /* force a new command buffer: profiling, checks */
status gpu_cmd_mark(gpu_cmd *c, const char *label, uint32_t id); /* timestamp/debug label before what follows */
status gpu_cmd_end(gpu_cmd *c);
gpu *gpu_cmd_device(gpu_cmd *c);
/* Submits the command buffers in order and waits. cancelled() is asked between them (NULL = never).
 * E_DEVICE_LOST, E_CANCELLED. */
status gpu_cmd_run(gpu_cmd *c, bool (*cancelled)(void *), void *ctx);
int    gpu_cmd_count(const gpu_cmd *c);           /* command buffers */
/* Milliseconds between mark k and mark k+1 (or the end) of the last run; E_UNSUPPORTED without timestamps. */
status gpu_cmd_times(gpu_cmd *c, int n_marks, double *ms);

/* Folds n items of `local` per workgroup into x and y (65,535 groups each). Shaders compute
 * i = gl_WorkGroupID.y * 65535 * local + gl_GlobalInvocationID.x. */
void gpu_groups_1d(uint64_t n, uint32_t local, uint32_t out[3]);

/* ---- shader variants chosen by measurement, per device, kept on disk ----
 * Returns the index stored for key ("matmul_f32 4096x320x320 nt"), or -1 when not measured yet. */
int    gpu_tune_get(gpu *d, const char *key);
void   gpu_tune_set(gpu *d, const char *key, int choice);

/* Embedded SPIR-V (generated at build time), sorted by name. */
typedef struct gpu_spirv { const char *name; const uint32_t *words; size_t n_words; } gpu_spirv;
extern const gpu_spirv gpu_spirv_table[];
extern const int gpu_spirv_count;
bool gpu_has_shader(const char *name); /* "matmul_coopmat_f32" may be absent */
