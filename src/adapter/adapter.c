/* adapter.c: the table of adapters, from adapters.def, and which layers they attach to.
 * SPDX-License-Identifier: MIT */
#include "adapter/adapter.h"
#include <stdio.h>

#define ADAPTER(name) extern const adapter_info adapter_##name##_info;
#include "adapter/adapters.def"
#undef ADAPTER

static const adapter_info *const infos[] = {
#define ADAPTER(name) &adapter_##name##_info,
#include "adapter/adapters.def"
#undef ADAPTER
};

const adapter_info *adapter_find(const char *name) {
    for (size_t i = 0; i < ARRAY_LEN(infos); i++)
        if (strcmp(infos[i]->name, name) == 0) return infos[i];
    return NULL;
}

bool adapter_targets(const adapter_set *a, const char *layer) {
    size_t n = strlen(layer);
    for (int i = 0; a && a->targets[i]; i++) {
        size_t k = strlen(a->targets[i]);
        if (n >= k && strcmp(layer + n - k, a->targets[i]) == 0) return true;
    }
    return false;
}

status adapter_init_all(const adapter_set *a, const params *model, uint32_t seed) {
    status st = OK;
    for (int i = 0; i < model->n; i++) {
        char layer[128];
        size_t n = strlen(model->p[i].name);
        if (n < 7 || strcmp(model->p[i].name + n - 7, ".weight") != 0) continue;
        snprintf(layer, sizeof layer, "%.*s", (int)(n - 7), model->p[i].name);
        if (!adapter_targets(a, layer)) continue;
        adapter_site s = {a->info, a->ps, layer, model->p[i].s, a->rank, a->alpha, HERE};
        TRY(a->info->init(&s, seed));
    }
out:
    return st;
}
