/* fuzz_safetensors.c: any bytes as a safetensors file, and every value of what is accepted is
 * touched. The header length is put right in two of three inputs, or little would get past it.
 * SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "fuzz.h"
#include "file/file.h"
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static volatile double sink;
    char path[64];
    safetensors *f;
    int fd = memfd_create("fuzz", 0);
    if (fd < 0 || write(fd, data, bytes) != (ssize_t)bytes) abort();
    const char *end = memrchr(data, '}', bytes); /* where the header probably ends */
    uint64_t length = end ? (uint64_t)(end - (const char *)data) - 7 : 0;
    if (bytes > 8 && data[bytes / 2] % 3 && pwrite(fd, &length, 8, 0) != 8) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    status st = safetensors_open(path, &f);
    for (int64_t i = 0; f && i < f->n; i++) {
        char text[32];
        safetensor_describe(&f->tensor[i], text, sizeof text);
        for (int64_t k = 0; k < safetensor_count(&f->tensor[i]); k++)
            sink = safetensor_load(&f->tensor[i], k);
    }
    (void)sink;
    safetensors_close(f);
    close(fd);
    return st == OK;
}

#ifndef FUZZ_LIBFUZZER
int main(int argc, char **argv) {
    static const char one[] =
        "--------{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}01234567";
    static const char two[] =
        "--------{\"__metadata__\":{\"k\":\"v\"},\"b\":{\"dtype\":\"BF16\",\"shape\":[3,1],\"data_"
        "offsets\":"
        "[0,6]},\"c\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[6,7]}}0123456";
    static const char *const words[] = {
        "0",
        "8",
        "-1",
        "9007199254740993",
        "1e308",
        "[",
        "]",
        ",",
        "\"F64\"",
        "\"I8\"",
        "\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},",
        "__metadata__"};
    const fuzz_seed seeds[] = {{one, sizeof one - 1}, {two, sizeof two - 1}};
    return fuzz_main(argc, argv, seeds, ARRAY_LEN(seeds), words, ARRAY_LEN(words));
}
#endif
