/* convert.c: imago convert: a model from one packing to another. The new one's form follows from its name: a .safetensors
 * file is in the original layout, anything without an ending is a diffusers folder.
 * SPDX-License-Identifier: MIT */
#include "cli/cli.h"
#include "family/checkpoint.h"
#include "op/op.h"
#include <stdio.h>

typedef struct job { const char *in, *out, *precision; bool overwrite; checkpoint_options open; } job;

static bool ends_with(const char *s, const char *tail) {
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && strcmp(s + n - k, tail) == 0;
}

static status pick_layout(const char *out, layout *l) {
    static const char *const others[] = {".gguf", ".ckpt", ".pt", ".bin", ".pth", ".zip"};
    for (size_t i = 0; i < ARRAY_LEN(others); i++)
        if (ends_with(out, others[i])) return fail(E_UNSUPPORTED, "%s: models are written as .safetensors or as a diffusers folder, not as %s", out, others[i]);
    *l = ends_with(out, ".safetensors") ? LAYOUT_SINGLE : LAYOUT_DIFFUSERS;
    return OK;
}

/* auto: as it is stored, which for block types is f16. */
static status pick_type(const checkpoint *c, const char *name, dtype *type) {
    for (int t = DT_F32; t <= DT_BF16; t++)
        if (strcmp(name, dtype_name((dtype)t)) == 0) return *type = (dtype)t, OK;
    if (strcmp(name, "auto") != 0) return fail(E_USAGE, "--precision %s: expected auto, f32, f16 or bf16", name);
    const part_tensor *largest = c->tensor[PART_UNET];
    for (int64_t i = 0; i < c->n_tensors[PART_UNET]; i++)
        if (c->tensor[PART_UNET][i].count > largest->count) largest = &c->tensor[PART_UNET][i];
    *type = largest->w->dtype == DT_F32 || largest->w->dtype == DT_BF16 ? largest->w->dtype : DT_F16;
    return OK;
}

/* Every parameter must be there in its shape: half a model is not converted. */
static status check_all(const checkpoint *c) {
    status st = OK;
    device *dev = NULL;
    params ps = {0};
    TRY(device_open(&op_all, &(device_params){.name = "cpu"}, &dev));
    for (int p = 0; p < PART_COUNT; p++) {
        params_init(&ps, dev, DT_F32);
        TRY(checkpoint_declare(c, (part)p, &ps));
        TRY(checkpoint_check(c, (part)p, &ps));
        params_fini(&ps);
    }
out:
    params_fini(&ps);
    device_close(dev);
    return st;
}

static status convert(const job *j) {
    status st = OK;
    checkpoint *c = NULL;
    layout l = LAYOUT_COUNT;
    dtype type = DT_COUNT;
    char text[512];
    TRY(pick_layout(j->out, &l));
    if (os_file_exists(j->out) && !j->overwrite) TRY(fail(E_USAGE, "%s exists already: give another name or --overwrite", j->out));
    TRY(checkpoint_open(j->in, &j->open, &c));
    TRY(check_all(c));
    TRY(pick_type(c, j->precision, &type));
    printf("%s: %s\n", j->in, checkpoint_describe(c, text, sizeof text));
    double start = os_seconds();
    TRY(checkpoint_write(c, l, type, j->out));
    printf("%s: %s, %s, written in %.1f s\n", j->out, layout_name(l), dtype_name(type), os_seconds() - start);
out:
    checkpoint_close(c);
    return st;
}

int cmd_convert(int argc, char **argv) {
    static const command self = {"convert", "Writes a model as a diffusers folder or as a single .safetensors file in the original layout.", NULL};
    const char *in[1] = {NULL};
    positionals args = {"MODEL", in, 1, 1, 0};
    bool help = false;
    job j = {.precision = "auto"};
    const option options[] = {
        {"output", OPT_STRING, &j.out, "NAME.safetensors: a single file; otherwise a diffusers folder", "o"},
        {"precision", OPT_STRING, &j.precision, "auto (as it is), f32, f16 or bf16"},
        {"prediction", OPT_STRING, &j.open.prediction, "epsilon or v_prediction, where the file does not say it"},
        {"vae", OPT_STRING, &j.open.vae, "file or folder of an autoencoder that replaces the model's"},
        {"overwrite", OPT_FLAG, &j.overwrite, "replace what has the output's name"}};
    status st = cli_parse(&self, argc, argv, options, ARRAY_LEN(options), &args, &help);
    if (st != OK || help) return st == OK ? 0 : cli_fail(st);
    j.in = in[0];
    if (!j.out) st = fail(E_USAGE, "convert: -o says where the new model goes");
    if (st == OK) st = convert(&j);
    return st == OK ? 0 : cli_fail(st);
}
