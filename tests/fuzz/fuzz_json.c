/* fuzz_json.c: any bytes through json_parse. SPDX-License-Identifier: MIT */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    json *j;
    status st = json_parse((const char *)data, bytes, "fuzz", &j);
    json_free(j);
    return st == OK;
}

#ifndef FUZZ_LIBFUZZER
int main(int argc, char **argv) {
    static const char text[] =
        "{\"model\":{\"dims\":[320,640,1.5e-3],\"name\":\"a\\u00e9\\n\"},\"ok\":[true,false,null]}";
    static const char deep[] = "[[[[[[[[[[[[{\"a\":[]}]]]]]]]]]]]]";
    static const char *const words[] = {"[", "]",     "{", "}",       "\"",      "\\",  ",",
                                        ":", "1e999", "-", "\\u0000", "\\ud800", "null"};
    const fuzz_seed seeds[] = {{text, sizeof text - 1}, {deep, sizeof deep - 1}};
    return fuzz_main(argc, argv, seeds, ARRAY_LEN(seeds), words, ARRAY_LEN(words));
}
#endif
