/* info.c: imago info: what a file is: a model, an adapter, a picture. All that is found becomes one
 * JSON tree, which is printed as such or as indented lines. SPDX-License-Identifier: MIT */
#include "adapter/adapter_file.h"
#include "cli/cli.h"
#include "family/checkpoint.h"
#include "file/image.h"
#include <cjson/cJSON.h>
#include <stdio.h>

static bool ends_with(const char *s, const char *tail) {
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && strcmp(s + n - k, tail) == 0;
}

/* ---- printing ---- */
/* Texts from files must not steer the terminal. */
static void print_text(const char *s) {
    for (; *s; s++) putchar((unsigned char)*s < 0x20 && *s != '\n' ? '?' : *s);
}

static void print_value(const cJSON *v) {
    char *text = cJSON_IsString(v) ? NULL : cJSON_PrintUnformatted(v);
    print_text(text ? text : cJSON_IsString(v) ? v->valuestring : "?");
    putchar('\n');
    cJSON_free(text);
}

static void print_tree(const cJSON *o, int indent) {
    const cJSON *e;
    cJSON_ArrayForEach(e, o) {
        printf("%*s", indent, "");
        print_text(e->string);
        printf(": ");
        if (!cJSON_IsObject(e))
            print_value(e);
        else {
            printf("\n");
            print_tree(e, indent + 2);
        }
    }
}

/* ---- a model ---- */
static void count_types(cJSON *o, const part_tensor *t, int64_t n) {
    cJSON *types = cJSON_AddObjectToObject(o, "types");
    for (int64_t i = 0; i < n; i++) {
        cJSON *have = cJSON_GetObjectItemCaseSensitive(types, t[i].w->type);
        if (have)
            cJSON_SetNumberValue(have, have->valuedouble + 1);
        else
            cJSON_AddNumberToObject(types, t[i].w->type, 1);
    }
}

static status add_part(cJSON *parts, const checkpoint *c, part p) {
    status st = OK;
    arena a = {0};
    json *config = NULL;
    cJSON *o = cJSON_AddObjectToObject(parts, part_name(p));
    double elements = 0;
    for (int64_t i = 0; i < c->n_tensors[p]; i++) elements += (double)c->tensor[p][i].count;
    cJSON_AddNumberToObject(o, "parameters", elements);
    cJSON_AddNumberToObject(o, "tensors", (double)c->n_tensors[p]);
    count_types(o, c->tensor[p], c->n_tensors[p]);
    const char *text = checkpoint_config(c, p, &a);
    if (!text) TRY(fail(E_HOST_MEMORY, "no memory to describe %s", c->path));
    TRY(json_parse(text, strlen(text), part_name(p), &config));
    cJSON_AddItemToObject(o, "config", config);
out:
    arena_fini(&a);
    return st;
}

static status describe_model(const char *path, const checkpoint_options *options, cJSON *o) {
    static const char *const kinds[PREDICTION_COUNT] = {"epsilon", "v_prediction", "sample"};
    status st = OK;
    checkpoint *c = NULL;
    arena a = {0};
    json *schedule = NULL;
    TRY(checkpoint_open(path, options, &c));
    cJSON_AddStringToObject(o, "kind", "model");
    cJSON_AddStringToObject(o, "model", c->family_label);
    cJSON_AddStringToObject(o, "family", c->family);
    cJSON_AddStringToObject(o, "layout", layout_name(c->layout));
    cJSON_AddBoolToObject(o, "inpainting", c->inpainting);
    cJSON_AddStringToObject(o, "prediction",
                            c->prediction_known ? kinds[c->schedule.prediction_type] : "unknown");
    if (c->prediction_known) cJSON_AddStringToObject(o, "prediction_from", c->prediction_source);
    if (c->sample_size) cJSON_AddNumberToObject(o, "side_px", c->sample_size * vae_factor(&c->vae));
    cJSON_AddStringToObject(o, "tokenizer", c->tokenizer_dir[0] ? c->tokenizer_dir : "bundled");
    cJSON *parts = cJSON_AddObjectToObject(o, "parts");
    for (int p = 0; p < PART_COUNT; p++) TRY(add_part(parts, c, (part)p));
    const char *text = checkpoint_config(c, PART_COUNT, &a);
    if (!text) TRY(fail(E_HOST_MEMORY, "no memory to describe %s", path));
    TRY(json_parse(text, strlen(text), "schedule", &schedule));
    if (c->has_schedule)
        cJSON_AddItemToObject(o, "schedule", schedule);
    else
        json_free(schedule);
out:
    arena_fini(&a);
    checkpoint_close(c);
    return st;
}

/* ---- an adapter ---- */
/* The text's width, by the layers that read it: whose base model the adapter was made for. */
static const char *guess_base(const weights *w) {
    for (int64_t i = 0; i < weights_count(w); i++) {
        const weight *t = weights_at(w, i);
        bool reads_text = strstr(t->name, "attn2_to_k") || strstr(t->name, "attn2.to_k") ||
                          strstr(t->name, "text_encoder:") || strstr(t->name, "lora_te_") ||
                          strncmp(t->name, "text_encoder.", 13) == 0;
        bool down = ends_with(t->name, ".lora_down.weight") ||
                    ends_with(t->name, ".lora.down.weight") ||
                    ends_with(t->name, ".lora_A.weight") || ends_with(t->name, ":down");
        if (!reads_text || !down || t->n_dims < 2) continue;
        if (t->dim[1] == 2048) return "Stable Diffusion XL";
        if (t->dim[1] == 1024) return "Stable Diffusion 2.x";
        if (t->dim[1] == 768) return "Stable Diffusion 1.x";
    }
    return NULL;
}

static bool describe_adapter(const weights *w, cJSON *o) {
    adapter_name kind = {0}, name;
    int64_t layers = 0, rank = 0;
    bool dora = false;
    for (int64_t i = 0; i < weights_count(w); i++) {
        const weight *t = weights_at(w, i);
        if (!adapter_name_read(t->name, &name)) continue;
        bool magnitude = strcmp(name.kind, "DoRA") == 0; /* stands beside LoRA's own tensors */
        dora |= magnitude;
        if (magnitude || (kind.kind && strcmp(kind.kind, name.kind) != 0)) continue;
        kind = name;
        layers++;
        if (name.rank >= 0 && name.rank < t->n_dims) rank = MAX(rank, t->dim[name.rank]);
    }
    if (!kind.kind) return false;
    cJSON_AddStringToObject(o, "kind", "adapter");
    cJSON_AddStringToObject(o, "adapter", dora ? "DoRA" : kind.kind);
    cJSON_AddStringToObject(o, "layout", kind.layout);
    cJSON_AddNumberToObject(o, "layers", (double)layers);
    if (rank) cJSON_AddNumberToObject(o, "rank", (double)rank);
    const char *said = weights_note(w, "modelspec.architecture"),
               *base = said ? said : weights_note(w, "ss_base_model_version");
    if (!base) base = guess_base(w);
    if (base) cJSON_AddStringToObject(o, "base", base);
    return true;
}

/* A textual inversion: one learned embedding, or several. */
static bool describe_embedding(const weights *w, cJSON *o) {
    const weight *t = weights_count(w) == 1 ? weights_at(w, 0) : NULL;
    if (!t || t->n_dims > 2 || !t->count || (t->n_dims == 2 && t->dim[0] > 1024)) return false;
    cJSON_AddStringToObject(o, "kind", "textual inversion");
    cJSON_AddStringToObject(o, "token", t->name);
    cJSON_AddNumberToObject(o, "vectors", t->n_dims == 2 ? (double)t->dim[0] : 1);
    cJSON_AddNumberToObject(o, "width", (double)t->dim[t->n_dims - 1]);
    return true;
}

/* Tensors that we cannot place: their number, and why it is no model. */
static status describe_tensors(const char *path, const checkpoint_options *options, cJSON *o) {
    status st = OK;
    weights *w = NULL;
    TRY(weights_open(&path, 1, &w));
    cJSON_AddNumberToObject(o, "tensors", (double)weights_count(w));
    cJSON_AddNumberToObject(o, "tensor_bytes", (double)weights_bytes(w));
    bool known = describe_adapter(w, o) || describe_embedding(w, o);
    weights_close(w);
    w = NULL;
    if (!known) TRY(describe_model(path, options, o));
out:
    weights_close(w);
    return st;
}

/* ---- a picture ---- */
static status describe_picture(const char *path, bool png, cJSON *o) {
    status st = OK;
    image im = {0};
    arena a = {0};
    png_text *text = NULL;
    int n = 0;
    TRY(image_load(path, &im));
    cJSON_AddStringToObject(o, "kind", "picture");
    cJSON_AddNumberToObject(o, "width", im.w);
    cJSON_AddNumberToObject(o, "height", im.h);
    cJSON_AddNumberToObject(o, "channels", im.channels);
    if (png) TRY(png_read_text(path, &a, &text, &n));
    cJSON *texts = n ? cJSON_AddObjectToObject(o, "text") : NULL;
    for (int i = 0; i < n; i++) cJSON_AddStringToObject(texts, text[i].key, text[i].text);
out:
    image_free(&im);
    arena_fini(&a);
    return st;
}

/* ---- which of these ---- */
static status describe(const char *path, const checkpoint_options *options, cJSON *o) {
    status st = OK;
    file_map m = {0};
    if (!os_file_exists(path)) return fail(E_IO, "%s: no such file or folder", path);
    char inside[1200];
    snprintf(inside, sizeof inside, "%.1100s/adapter_model.safetensors", path); /* PEFT's */
    if (os_is_folder(path) && os_file_exists(inside)) return describe_tensors(inside, options, o);
    if (os_is_folder(path)) return describe_model(path, options, o);
    TRY(file_map_open(path, &m));
    cJSON_AddNumberToObject(o, "file_bytes", (double)m.bytes);
    uint8_t head[12] = {0};
    memcpy(head, m.data ? m.data : head, MIN(m.bytes, sizeof head));
    bool png = memcmp(head, "\x89PNG\r\n\x1a\n", 8) == 0,
         jpeg = memcmp(head, "\xff\xd8\xff", 3) == 0;
    bool webp = memcmp(head, "RIFF", 4) == 0 && memcmp(head + 8, "WEBP", 4) == 0,
         gguf = memcmp(head, "GGUF", 4) == 0;
    uint64_t header = 0;
    memcpy(&header, head, sizeof header);
    bool is_safetensors = m.bytes > 9 && head[8] == '{' && header <= m.bytes - 8;
    bool pickle = head[0] == 0x80 ||
                  memcmp(head, "PK\3\4", 4) == 0; /* weights_open says what to do with those */
    bool index = ends_with(path, ".index.json");
    file_map_close(&m);
    if (png || jpeg || webp) return describe_picture(path, png, o);
    if (gguf || is_safetensors || pickle || index) return describe_tensors(path, options, o);
    return fail(
        E_FORMAT,
        "%s: neither a model (safetensors, GGUF, diffusers folder) nor a picture (PNG, JPEG, WebP)",
        path);
out:
    return st;
}

int cmd_info(int argc, char **argv) {
    static const command self = {"info", "Says what a model, adapter or picture is.", NULL};
    const char *path[1] = {NULL};
    positionals args = {"FILE|FOLDER", path, 1, 1, 0};
    bool as_json = false, help = false;
    checkpoint_options open = {0};
    const option options[] = {
        {"json", OPT_FLAG, &as_json, "machine-readable"},
        {"prediction", OPT_STRING, &open.prediction, "epsilon or v_prediction, as for generate"},
        {"vae", OPT_STRING, &open.vae,
         "an autoencoder that replaces the model's, as for generate"}};
    status st = cli_parse(&self, argc, argv, options, ARRAY_LEN(options), &args, &help);
    if (st != OK || help) return st == OK ? 0 : cli_fail(st);
    cJSON *o = cJSON_CreateObject();
    char *text = NULL;
    cJSON_AddStringToObject(o, "path", path[0]);
    st = describe(path[0], &open, o);
    if (st == OK && as_json && !(text = cJSON_Print(o)))
        st = fail(E_HOST_MEMORY, "no memory to print what %s is", path[0]);
    if (st == OK && text)
        printf("%s\n", text);
    else if (st == OK)
        print_tree(o, 0);
    cJSON_free(text);
    cJSON_Delete(o);
    return st == OK ? 0 : cli_fail(st);
}
