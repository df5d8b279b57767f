/* train_settings.c: what a run was begun with, as config.json in its folder: whoever goes on must want
 * the same. SPDX-License-Identifier: MIT */
#include "engine/train.h"
#include "file/file.h"
#include <cjson/cJSON.h>
#include <stdio.h>

status train_settle(train_params *run, const json *wanted, size_t most, const char *what,
                    bool overwrite) {
    status st = OK;
    char path[1100], state[1100];
    uint8_t *old = NULL;
    size_t bytes = 0;
    char *text = mem_alloc(most);
    if (!text || !cJSON_PrintPreallocated((json *)(uintptr_t)wanted, text, (int)most, true))
        TRY(fail(E_HOST_MEMORY, "no host memory for the run's settings"));
    snprintf(path, sizeof path, "%s/config.json", run->folder);
    snprintf(state, sizeof state, "%s/state.safetensors", run->folder);
    TRY(os_mkdir_p(run->folder));
    if (os_file_exists(state)) {
        if (os_file_exists(path)) TRY(file_read(path, most, &old, &bytes));
        bool same = old && strcmp((char *)old, text) == 0;
        if (!same && !overwrite)
            TRY(fail(E_USAGE,
                     "%s was begun with other %s (see its config.json): give those, another output, "
                     "or --overwrite to start anew",
                     run->folder, what));
        run->anew = !same;
    }
    TRY(file_write_atomic(path, text, strlen(text)));
out:
    mem_free(old);
    mem_free(text);
    return st;
}
