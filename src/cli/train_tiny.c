/* train_tiny.c: imago train-tiny: trains the tiny UNet to denoise a fixed picture, as a proof that a device
 * computes gradients. The loss must fall; the numbers come from counter-based noise, so that two devices
 * print the same ones.
 * SPDX-License-Identifier: MIT */
#include "cli/cli.h"
#include "family/unet.h"
#include "train/train.h"
#include <stdio.h>

enum { BATCH = 4, SIDE = 16, TOKENS = 7 };

typedef struct job { device *dev; params model; optimizer opt; plan *step; dtype type; } job;

/* Writes normals of a named stream to an input of the plan. */
static status write_normals(job *j, const char *name, int64_t n) {
    float *v = mem_alloc((size_t)n * sizeof *v);
    if (!v) return fail(E_HOST_MEMORY, "no host memory for the data");
    for (int64_t i = 0; i < n; i++) v[i] = (float)rng_normal((rng_key){{1, 0}, rng_stream(name)}, 0, (uint64_t)i);
    status st = plan_write(j->step, name, v);
    mem_free(v);
    return st;
}

static status record(job *j, bool checkpoint) {
    status st = OK;
    const unet_config *c = &unet_tiny;
    graph *g = graph_create(j->dev);
    if (!g) return graph_status(g);
    nn m = {g, &j->model, NULL};
    tensor *x = op_cast(g, graph_input(g, "x", DT_F32, SHAPE(BATCH, SIDE, SIDE, c->in_channels)), j->type);
    tensor *target = op_cast(g, graph_input(g, "target", DT_F32, SHAPE(BATCH, SIDE, SIDE, c->out_channels)), j->type);
    tensor *context = op_cast(g, graph_input(g, "context", DT_F32, SHAPE(BATCH, TOKENS, c->cross_attention_dim)), j->type);
    tensor *t = graph_input(g, "t", DT_F32, SHAPE(BATCH)), *weight = graph_input(g, "weight", DT_F32, SHAPE(BATCH));
    tensor *loss = op_mse(g, unet_denoise(&m, c, x, t, &(unet_text){.context = context}, NULL), target, weight, NULL);
    graph_output(g, loss, "loss");
    params *ps[] = {&j->model};
    train_backward(g, loss, op_fill(g, DT_F32, SHAPE(1), 1.0f), ps, 1, checkpoint);
    TRY(graph_compile(g, &(plan_params){.label = "train step"}, &j->step));
    TRY(write_normals(j, "x", BATCH * SIDE * SIDE * c->in_channels));
    TRY(write_normals(j, "target", BATCH * SIDE * SIDE * c->out_channels));
    TRY(write_normals(j, "context", BATCH * TOKENS * c->cross_attention_dim));
    TRY(plan_write(j->step, "t", (float[BATCH]){1, 250, 500, 999}));
    TRY(plan_write(j->step, "weight", (float[BATCH]){1, 1, 1, 1}));
out:
    return st;
}

static status setup(job *j, bool checkpoint) {
    status st = OK;
    params_init(&j->model, j->dev, j->type);
    TRY(unet_declare(&j->model, &unet_tiny, NULL));
    for (int i = 0; i < j->model.n; i++) j->model.p[i].trainable = true;
    TRY(params_allocate(&j->model));
    TRY(params_randomize(&j->model, 1, 0.05f));
    TRY(record(j, checkpoint));
    TRY(optimizer_create((params *[]){&j->model}, 1, OPTIMIZER_ADAMW, false, &j->opt));
out:
    return st;
}

static status train(job *j, int steps, float lr) {
    status st = OK;
    float first = 0, loss = 0;
    progress bar;
    progress_begin(&bar, "training", steps);
    for (int i = 0; i < steps; i++) {
        char note[48];
        TRY(plan_run(j->step, cli_cancelled, NULL));
        TRY(plan_read(j->step, "loss", &loss));
        TRY(optimizer_step(&j->opt, &(optimizer_params){.lr = lr, OPTIMIZER_DEFAULTS, .max_norm = 1.0f}, NULL, NULL));
        if (i == 0) first = loss;
        snprintf(note, sizeof note, "loss %.5f", (double)loss);
        progress_step(&bar, i + 1, note);
    }
    progress_end(&bar);
    printf("%s %s: loss %.5f -> %.5f in %d steps\n", device_id(j->dev), dtype_name(j->type), (double)first, (double)loss, steps);
    if (!(loss < first) && steps > 1) return fail(E_FORMAT, "the loss did not fall: this device or its driver computes wrong gradients; try --device cpu");
    return OK;
out:
    progress_end(&bar);
    return st;
}

int cmd_train_tiny(int argc, char **argv) {
    static const command self = {"train-tiny", "Trains a tiny UNet on fixed data: shows that a device computes right gradients.", NULL};
    const char *name = "auto", *precision = "auto";
    int steps = 20;
    float lr = 1e-3f;
    bool help = false, checkpoint = false;
    const option options[] = {
        {"device", OPT_STRING, &name, "auto, cpu, vulkan or vulkan:N"},
        {"precision", OPT_STRING, &precision, "auto, f32, f16 or bf16"},
        {"steps", OPT_INT, &steps, "how many (20)"},
        {"lr", OPT_FLOAT, &lr, "learning rate (0.001)"},
        {"checkpointing", OPT_FLAG, &checkpoint, "recompute activations in the backward pass: less memory"}};
    status st = cli_parse(&self, argc, argv, options, ARRAY_LEN(options), NULL, &help);
    if (st != OK || help) return st == OK ? 0 : cli_fail(st);
    char cache[512];
    job j = {0};
    if (steps < 1) TRY(fail(E_USAGE, "--steps %d: at least 1", steps));
    TRY(device_open(&op_all, &(device_params){.name = name, .cache_dir = cli_cache_dir(cache)}, &j.dev));
    j.type = DT_COUNT;
    for (int t = DT_F32; t <= DT_BF16; t++)
        if (strcmp(precision, dtype_name((dtype)t)) == 0) j.type = (dtype)t;
    if (strcmp(precision, "auto") == 0) j.type = device_auto_precision(j.dev);
    if (j.type == DT_COUNT) TRY(fail(E_USAGE, "--precision %s: expected auto, f32, f16 or bf16", precision));
    TRY(setup(&j, checkpoint));
    printf("%s: %lld parameters, %s\n", device_id(j.dev), (long long)params_count(&j.model, true), plan_get_report(j.step)->peak);
    TRY(train(&j, steps, lr));
out:
    plan_destroy(j.step);
    optimizer_destroy(&j.opt);
    params_fini(&j.model);
    device_close(j.dev);
    return st == OK ? 0 : cli_fail(st);
}
