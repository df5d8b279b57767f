/* devices.c: imago devices: what there is to compute on.
 * SPDX-License-Identifier: MIT */
#include "cli/cli.h"
#include <cjson/cJSON.h>
#include <stdio.h>

static const char *const kind_names[GPU_KIND_COUNT] = {
    [GPU_DISCRETE] = "discrete", [GPU_INTEGRATED] = "integrated", [GPU_VIRTUAL] = "virtual", [GPU_SOFTWARE] = "software", [GPU_OTHER] = "other"};
static const char *const isa_names[ISA_COUNT] = {[ISA_BASE] = "baseline", [ISA_AVX2] = "AVX2", [ISA_AVX512] = "AVX-512", [ISA_AVX512_BF16] = "AVX-512 + BF16", [ISA_AMX] = "AVX-512 + AMX"};

static const char *yes(bool b) { return b ? "yes" : "no"; }

static void print_gpu(const device_desc *d) {
    const gpu_caps *c = d->gpu;
    printf("%-9s %s%s\n", d->id, c->name, d->auto_pick ? "   <- auto" : "");
    if (!c->usable) printf("          cannot be used: %s\n", c->why_not);
    printf("          %s, driver %s %s, Vulkan %u.%u\n", kind_names[c->kind], c->driver, c->driver_version, c->api_version >> 22, c->api_version >> 12 & 0x3ff);
    printf("          memory %.1f GB (%.1f GB free), one buffer %.0f MB, one allocation %.0f MB\n", (double)c->memory_bytes / 1e9,
           (double)c->memory_free_bytes / 1e9, (double)c->max_buffer_range / 1e6, (double)c->max_allocation / 1e6);
    printf("          f16 arithmetic %s, 16-bit storage (f16, bf16) %s, cooperative matrix f16 %s bf16 %s\n", yes(c->f16_arith), yes(c->storage16), yes(c->coopmat_f16), yes(c->coopmat_bf16));
    printf("          subgroup %u (%u to %u), workgroup %u, shared memory %u KB\n", c->subgroup_size, c->subgroup_min, c->subgroup_max, c->max_workgroup_invocations, c->max_shared_bytes / 1024);
}

static void print_cpu(const device_desc *d) {
    const host_caps *c = d->host;
    printf("%-9s %s%s\n", d->id, c->name, d->auto_pick ? "   <- auto" : "");
    printf("          %d threads, %s, oneDNN %s, memory %.1f GB (%.1f GB free)\n", c->threads, isa_names[c->isa], c->onednn, (double)c->memory_bytes / 1e9, (double)c->memory_free_bytes / 1e9);
    printf("          bf16 in hardware %s: auto precision is %s\n", yes(c->fast_bf16), c->fast_bf16 ? "bf16" : "f32");
}

static void json_gpu(cJSON *o, const gpu_caps *c) {
    cJSON_AddStringToObject(o, "name", c->name);
    cJSON_AddStringToObject(o, "kind", kind_names[c->kind]);
    cJSON_AddStringToObject(o, "driver", c->driver);
    cJSON_AddStringToObject(o, "driver_version", c->driver_version);
    cJSON_AddNumberToObject(o, "vendor_id", c->vendor_id);
    cJSON_AddNumberToObject(o, "device_id", c->device_id);
    cJSON_AddNumberToObject(o, "memory_bytes", (double)c->memory_bytes);
    cJSON_AddNumberToObject(o, "memory_free_bytes", (double)c->memory_free_bytes);
    cJSON_AddNumberToObject(o, "max_buffer_bytes", (double)c->max_buffer_range);
    cJSON_AddNumberToObject(o, "max_allocation_bytes", (double)c->max_allocation);
    cJSON_AddNumberToObject(o, "max_workgroup_invocations", c->max_workgroup_invocations);
    cJSON_AddNumberToObject(o, "shared_memory_bytes", c->max_shared_bytes);
    cJSON_AddNumberToObject(o, "subgroup_size", c->subgroup_size);
    cJSON_AddBoolToObject(o, "f16", c->f16_arith);
    cJSON_AddBoolToObject(o, "bf16_storage", c->bf16_storage);
    cJSON_AddBoolToObject(o, "cooperative_matrix_f16", c->coopmat_f16);
    cJSON_AddBoolToObject(o, "cooperative_matrix_bf16", c->coopmat_bf16);
    cJSON_AddBoolToObject(o, "usable", c->usable);
    if (!c->usable) cJSON_AddStringToObject(o, "why_not", c->why_not);
}

static void json_cpu(cJSON *o, const host_caps *c) {
    cJSON_AddStringToObject(o, "name", c->name);
    cJSON_AddStringToObject(o, "kind", "cpu");
    cJSON_AddStringToObject(o, "driver", "oneDNN");
    cJSON_AddStringToObject(o, "driver_version", c->onednn);
    cJSON_AddNumberToObject(o, "threads", c->threads);
    cJSON_AddStringToObject(o, "isa", isa_names[c->isa]);
    cJSON_AddNumberToObject(o, "memory_bytes", (double)c->memory_bytes);
    cJSON_AddNumberToObject(o, "memory_free_bytes", (double)c->memory_free_bytes);
    cJSON_AddBoolToObject(o, "f16", false);
    cJSON_AddBoolToObject(o, "bf16", c->fast_bf16);
    cJSON_AddBoolToObject(o, "usable", true);
}

static int print_json(const device_list *l) {
    cJSON *root = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(root, "devices");
    for (int i = 0; list && i < l->n; i++) {
        cJSON *o = cJSON_CreateObject();
        cJSON_AddStringToObject(o, "id", l->d[i].id);
        if (l->d[i].is_cpu) json_cpu(o, l->d[i].host);
        else json_gpu(o, l->d[i].gpu);
        cJSON_AddBoolToObject(o, "auto", l->d[i].auto_pick);
        cJSON_AddItemToArray(list, o);
    }
    if (l->why_no_vulkan) cJSON_AddStringToObject(root, "why_no_vulkan", l->why_no_vulkan);
    char *text = cJSON_Print(root);
    if (text) printf("%s\n", text);
    cJSON_free(text);
    cJSON_Delete(root);
    if (text) return 0;
    fail(E_HOST_MEMORY, "no host memory to print the devices");
    return cli_fail(E_HOST_MEMORY);
}

int cmd_devices(int argc, char **argv) {
    static const command self = {"devices", "Lists every Vulkan device and the CPU, and which one --device auto picks.", NULL};
    bool as_json = false, help = false;
    const option options[] = {{"json", OPT_FLAG, &as_json, "machine-readable"}};
    status st = cli_parse(&self, argc, argv, options, ARRAY_LEN(options), NULL, &help);
    if (st != OK || help) return st == OK ? 0 : cli_fail(st);
    device_list l;
    if ((st = device_list_get(&l)) != OK) return cli_fail(st);
    int code = 0;
    if (as_json) code = print_json(&l);
    else {
        for (int i = 0; i < l.n; i++) l.d[i].is_cpu ? print_cpu(&l.d[i]) : print_gpu(&l.d[i]);
        if (l.why_no_vulkan) printf("vulkan    not offered: %s\n", l.why_no_vulkan);
    }
    device_list_free(&l);
    return code;
}
