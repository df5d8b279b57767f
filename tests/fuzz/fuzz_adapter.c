/* fuzz_adapter.c: any bytes as an adapter file for a small model; what is accepted is merged.
 * SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "fuzz.h"
#include "adapter/adapter_file.h"
#include <sys/mman.h>
#include <unistd.h>

/* Declared, never allocated: names and shapes. */
static params declared(void) {
    params model;
    static const struct {
        const char *name;
        shape s;
    } all[] = {{"a.to_q.weight", {2, {8, 4}}},
               {"a.to_out.0.weight", {2, {4, 4}}},
               {"c.weight", {4, {4, 2, 3, 3}}}};
    params_init(&model, NULL, DT_F32);
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        if (params_declare(&model, all[i].name, all[i].s, false) != OK) abort();
    if (params_declare(&model, "c.bias", (shape){1, {4}}, true) != OK) abort();
    return model;
}

/* Every entry folds into a weight of zeros and ones, and is taken out again where it can be. */
static void merge_all(const adapter_file *f, const params *model) {
    float w[8 * 18];
    char text[300];
    adapter_file_describe(f, text, sizeof text);
    for (int i = 0; i < f->part[0].n; i++) {
        const adapter_entry *e = &f->part[0].entry[i];
        char name[160];
        snprintf(name, sizeof name, "%s.weight", e->layer);
        adapter_site s = {
            .info = e->info, .opts = &e->opts, .layer = e->layer, .w = params_find(model, name)->s};
        for (size_t k = 0; k < ARRAY_LEN(w); k++) w[k] = (float)(k % 2);
        if (e->info->merge(&s, (const float *const *)f->part[0].value[i], 1, false, w) == OK)
            e->info->merge(&s, (const float *const *)f->part[0].value[i], 1, true, w);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    char path[64];
    adapter_file *f = NULL;
    params model = declared();
    adapter_model m = {"unet", &model};
    int fd = memfd_create("fuzz", 0);
    if (fd < 0 || write(fd, data, bytes) != (ssize_t)bytes) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    status st = adapter_file_open(path, &m, 1, bytes % 3 ? NULL : "peft-oft-exact", &f);
    if (st == OK) merge_all(f, &model);
    adapter_file_close(f);
    params_fini(&model);
    close(fd);
    return st == OK;
}

#ifndef FUZZ_LIBFUZZER
/* A file whose header is `text` and whose data are small floats. */
static fuzz_seed seed(uint8_t *out, const char *text, size_t data) {
    uint64_t n = strlen(text);
    memcpy(out, &n, 8);
    memcpy(out + 8, text, n);
    for (size_t i = 0; i < data / 4; i++)
        memcpy(out + 8 + n + 4 * i, &(float){0.01f * (float)(i % 7)}, 4);
    return (fuzz_seed){out, 8 + n + data};
}

int main(int argc, char **argv) {
    static const char *const words[] = {
        ".lora_up.weight", ".lora_mid.weight", ".oft_R.weight", ".oft_r",   ".oft_s",
        ".boft_R",         ".oft_blocks",      ".oft_diag",     ".rescale", ".diff",
        ".dora_scale",     "[2,2,2,2]",        "[1,6]",         "BF16",     "lora_unet_a_to_q"};
    static uint8_t room[4][2048];
    const fuzz_seed seeds[] = {
        seed(
            room[0],
            "{\"lora_unet_a_to_q.alpha\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
            "\"lora_unet_a_to_q.lora_down.weight\":{\"dtype\":\"F32\",\"shape\":[2,4],\"data_"
            "offsets\":[4,36]},\"lora_unet_a_to_q.lora_up.weight\":{\"dtype\":\"F32\",\"shape\":[8,"
            "2],\"data_offsets\":[36,100]}}",
            100),
        seed(room[1],
             "{\"lora_unet_c.oft_R.weight\":{\"dtype\":\"F32\",\"shape\":[6,3],\"data_offsets\":[0,"
             "72]},\"__metadata__\":{\"ss_network_module\":\"networks.oft_v2\"}}",
             72),
        seed(room[2],
             "{\"lora_unet_a_to_q.oft_blocks\":{\"dtype\":\"F32\",\"shape\":[2,4,2,2],\"data_"
             "offsets\":[0,128]},\"lora_unet_a_to_out_0.oft_diag\":{\"dtype\":\"F32\",\"shape\":[2,"
             "2,2],\"data_offsets\":[128,160]}}",
             160),
        seed(room[3],
             "{\"base_model.model.a.to_q.boft_R\":{\"dtype\":\"F32\",\"shape\":[2,2,2,2],\"data_"
             "offsets\":[0,64]},\"base_model.model.a.to_q.boft_s\":{\"dtype\":\"F32\",\"shape\":[8,"
             "1],\"data_offsets\":[64,96]},\"base_model.model.c.oft_r\":{\"dtype\":\"F32\","
             "\"shape\":"
             "[2,2,2],\"data_offsets\":[96,128]}}",
             128)};
    return fuzz_main(argc, argv, seeds, ARRAY_LEN(seeds), words, ARRAY_LEN(words));
}
#endif
