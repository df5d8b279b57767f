/* eval_adapter.c: imago eval adapter: how an adapter file changes the weights of a model.
 * SPDX-License-Identifier: MIT */
#include "cli/eval.h"
#include "eval/eval.h"
#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>

static void print_number(double v) {
    if (isnan(v))
        printf(" %9s", "-");
    else
        printf(" %9.2e", v);
}

static void print_row(const layer_measures *m, const char *name) {
    print_number(m->change), print_number(m->norm), print_number(m->cosine);
    print_number(m->energy_change), print_number(m->orthogonality), print_number(m->degrees);
    printf("  %s\n", name);
}

static double larger(double a, double b) { return isnan(a) || fabs(b) > fabs(a) ? b : a; }

static void print_table(const adapter_measures *m, bool all) {
    layer_measures most = {.orthogonality = NAN, .degrees = NAN};
    printf("%s\n%10s%10s%10s%10s%10s%10s\n", m->described, "change", "norm", "cosine", "energy",
           "RR'-I", "degrees");
    for (int i = 0; i < m->n; i++) {
        const layer_measures *l = &m->layer[i];
        if (all) print_row(l, l->layer);
        most.change = larger(most.change, l->change), most.norm = larger(most.norm, l->norm);
        most.cosine = larger(most.cosine, l->cosine);
        most.energy_change = larger(most.energy_change, l->energy_change);
        if (isnan(l->degrees)) continue;
        most.orthogonality = larger(most.orthogonality, l->orthogonality);
        most.degrees = larger(most.degrees, l->degrees);
    }
    print_row(&most, "largest of all layers");
    printf("change: |W'-W|/|W|. norm, cosine: of neurons (rows), largest change. energy: relative "
           "change of the hyperspherical energy.\n");
}

static bool add_number(cJSON *o, const char *key, double v) {
    return isnan(v) ? cJSON_AddNullToObject(o, key) != NULL
                    : cJSON_AddNumberToObject(o, key, v) != NULL;
}

static status print_json(const adapter_measures *m) {
    cJSON *root = cJSON_CreateObject();
    bool ok = root && cJSON_AddStringToObject(root, "adapter", m->described);
    cJSON *list = ok ? cJSON_AddArrayToObject(root, "layers") : NULL;
    for (int i = 0; (ok = ok && list) && i < m->n; i++) {
        const layer_measures *l = &m->layer[i];
        cJSON *o = cJSON_CreateObject();
        ok = o && cJSON_AddItemToArray(list, o) && cJSON_AddStringToObject(o, "part", l->part) &&
             cJSON_AddStringToObject(o, "layer", l->layer) &&
             cJSON_AddStringToObject(o, "kind", l->kind) && add_number(o, "change", l->change) &&
             add_number(o, "norm", l->norm) && add_number(o, "cosine", l->cosine) &&
             add_number(o, "energy", l->energy) &&
             add_number(o, "energy_change", l->energy_change) &&
             add_number(o, "orthogonality", l->orthogonality) &&
             add_number(o, "degrees", l->degrees);
    }
    char *text = ok ? cJSON_Print(root) : NULL;
    if (text) printf("%s\n", text);
    cJSON_Delete(root);
    cJSON_free(text);
    return text ? OK : fail(E_HOST_MEMORY, "no host memory to print what was measured");
}

int cmd_eval_adapter(int argc, char **argv) {
    static const command self = {"eval adapter",
                                 "Measures what an adapter does to the layers of a model: norms "
                                 "and angles of neurons, hyperspherical energy, how far its "
                                 "rotations are from rotations.",
                                 NULL};
    const char *file[1] = {NULL}, *model = NULL;
    bool as_json = false, all = false, help = false;
    positionals args = {"FILE|FOLDER", file, 1, 1, 0};
    const option table[] = {{"model", OPT_STRING, &model, "the model it is for", "m"},
                            {"layers", OPT_FLAG, &all, "a line for every layer", NULL},
                            {"json", OPT_FLAG, &as_json, "print JSON, every layer", NULL}};
    adapter_measures m = {0};
    status st = cli_parse(&self, argc, argv, table, ARRAY_LEN(table), &args, &help);
    if (st == OK && help) return 0;
    if (st == OK && !model) st = fail(E_USAGE, "no model: --model says what the adapter is for");
    if (st == OK) st = adapter_measure(model, file[0], &m);
    if (st == OK && as_json)
        st = print_json(&m);
    else if (st == OK)
        print_table(&m, all);
    adapter_measures_fini(&m);
    return st == OK ? 0 : cli_fail(st);
}
