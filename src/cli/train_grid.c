/* train_grid.c: imago train-grid: a corpus -> a grid adapter.
 * SPDX-License-Identifier: MIT */
#include "cli/cli.h"
#include "engine/grid.h"
#include <stdio.h>

typedef struct wishes {
    const char *adapter, *layout, *sight, *given, *geometry;
    int steps, batch, accumulate, seed, warmup, log_every, sheet_every;
    float lr, ema, save_minutes;
    bool no_slots;
} wishes;

static status apply(const wishes *w, train_grid_params *p) {
    status st = OK;
    bool known = false, lora = strcmp(w->adapter, "lora") == 0;
    if (!(p->o.adapter = adapter_find(w->adapter)) || strcmp(w->adapter, "diff") == 0)
        return fail(E_USAGE, "adapter '%s': expected lora, oft, oft_neumann or boft", w->adapter);
    for (int i = 0; i < GRID_SIGHT_COUNT; i++)
        if (strcmp(w->sight, grid_sight_names[i]) == 0) p->o.sight = (grid_sight)i, known = true;
    if (!known) return fail(E_USAGE, "--sight %s: expected given, all, own or none", w->sight);
    p->o.noised = strcmp(w->given, "noised") == 0;
    if (!p->o.noised && strcmp(w->given, "clean") != 0) return fail(E_USAGE, "--given %s: expected clean or noised", w->given);
    p->geometry = strcmp(w->geometry, "canvas") == 0 ? GRID_CANVAS : GRID_BATCH;
    if (p->geometry == GRID_BATCH && strcmp(w->geometry, "batch") != 0) return fail(E_USAGE, "--geometry %s: expected batch or canvas", w->geometry);
    if (w->steps < 1 || w->warmup < 0 || w->sheet_every < 0) return fail(E_USAGE, "--steps must be positive, --warmup and --sheet-every not negative");
    if (!(w->lr >= 0)) return fail(E_USAGE, "--lr %g: expected above 0", (double)w->lr);
    if (!(w->ema >= 0 && w->ema < 1)) return fail(E_USAGE, "--ema %g: expected 0 (none) to below 1", (double)w->ema);
    TRY(grid_source_layouts(w->layout, p->data.weight));
    if (lora && !p->o.adapt.rank) p->o.adapt.rank = 16;
    p->o.slots = !w->no_slots;
    p->data.seed = (uint32_t)w->seed;
    p->run = (train_params){.batch = w->batch, .accumulate = w->accumulate, .seed = (uint32_t)w->seed, .log_every = w->log_every,
                            .save_minutes = (double)w->save_minutes, .sheet_every = w->sheet_every, .checkpointing = p->run.checkpointing, .cancelled = cli_cancelled,
                            .lr = {.kind = LR_LINEAR_TAIL, .lr = w->lr > 0 ? (double)w->lr : lora ? 1e-3 : 4e-3, .warmup = w->warmup, .steps = w->steps, .tail = 0.3},
                            .adam = {OPTIMIZER_DEFAULTS, .max_norm = 1, .average_decay = w->ema}};
out:
    return st;
}

int cmd_train_grid(int argc, char **argv) {
    static const command self = {"train-grid",
                                 "Trains an adapter for grids: pictures that belong together, some given, the others made (imago grid). "
                                 "The same command goes on where a run was stopped.",
                                 NULL};
    train_grid_params p = {.out = "grid.safetensors"};
    wishes w = {.adapter = "lora", .layout = "edit,effect,recon3,recon1,compose", .sight = "given", .given = "clean", .geometry = "batch", .steps = 6000,
                .batch = 4, .accumulate = 1, .log_every = 20, .warmup = 50, .ema = 0.999f, .save_minutes = 5};
    bool help = false;
    char cache[512], model[1200];
    const option table[] = {
        {"model", OPT_STRING, &p.open.model, "diffusers folder, .safetensors or .gguf (the bundled one)", "m"},
        {"data", OPT_STRING, &p.data.folder, "the corpus: a folder that examples/corpus makes", NULL},
        {"output", OPT_STRING, &p.out, "the adapter (grid.safetensors); its run lives beside it, in OUTPUT.run", "o"},
        {"layout", OPT_STRING, &w.layout, "what is drawn, with commas between: edit, effect, recon3, recon1, compose (all)", NULL},
        {"adapter", OPT_STRING, &w.adapter, "lora (default), oft, oft_neumann or boft", NULL},
        {"rank", OPT_INT, &p.o.adapt.rank, "of lora (16)", NULL},
        {"alpha", OPT_FLOAT, &p.o.adapt.alpha, "of lora: scaled by alpha / rank (rank)", NULL},
        {"block", OPT_INT, &p.o.adapt.block, "side of the rotations' blocks (32, boft 4)", NULL},
        {"factors", OPT_INT, &p.o.adapt.factors, "of boft: butterfly factors (1)", NULL},
        {"sight", OPT_STRING, &w.sight, "what given cells see: given (default: their keys are computed once), all, own; none: no cell sees another", NULL},
        {"given", OPT_STRING, &w.given, "given cells are clean (default) or noised as the others are", NULL},
        {"geometry", OPT_STRING, &w.geometry, "batch (default) or canvas: the same function, computed otherwise", NULL},
        {"no-slots", OPT_FLAG, &w.no_slots, "cells know their role, not their place", NULL},
        {"query-banks", OPT_FLAG, &p.o.banks, "query adapters of their own for even and odd given cells and those that are made (lora: sharing its left factor)", NULL},
        {"size", OPT_INT, &p.side, "side of a cell in pixels (the model's own)", NULL},
        {"steps", OPT_INT, &w.steps, "how many in all (6000); the last 30 % at a falling rate", NULL},
        {"batch", OPT_INT, &w.batch, "grids at once (4)", NULL},
        {"accumulate", OPT_INT, &w.accumulate, "batches a step (1)", NULL},
        {"lr", OPT_FLOAT, &w.lr, "learning rate (lora 1e-3, others 4e-3)", NULL},
        {"warmup", OPT_INT, &w.warmup, "steps of rising learning rate (50)", NULL},
        {"ema", OPT_FLOAT, &w.ema, "moving average of the weights, which is what is saved (0.999; 0 = none)", NULL},
        {"seed", OPT_INT, &w.seed, "of weights, grids and noise (0)", NULL},
        {"checkpointing", OPT_FLAG, &p.run.checkpointing, "recompute activations in the backward pass: less memory", NULL},
        {"sheet-every", OPT_INT, &w.sheet_every, "steps between sheets of filled grids (only at the end)", NULL},
        {"log-every", OPT_INT, &w.log_every, "steps between lines of train.log (20)", NULL},
        {"save-minutes", OPT_FLOAT, &w.save_minutes, "between saved states (5)", NULL},
        {"prediction", OPT_STRING, &p.open.prediction, "epsilon or v_prediction, where the files do not say", NULL},
        {"vae", OPT_STRING, &p.open.vae, "another autoencoder", NULL},
        {"device", OPT_STRING, &p.open.device, "auto, cpu, vulkan, vulkan:N", NULL},
        {"precision", OPT_STRING, &p.open.precision, "of the model: auto, f32, f16, bf16; what is trained is f32", NULL},
        {"threads", OPT_INT, &p.open.threads, "cpu threads (all cores)", NULL},
        {"overwrite", OPT_FLAG, &p.overwrite, "replace an existing output", NULL}};
    status st = cli_parse(&self, argc, argv, table, ARRAY_LEN(table), NULL, &help);
    if (st == OK && help) return 0;
    p.open.cache_dir = cli_cache_dir(cache);
    p.open.cancelled = cli_cancelled;
    if (!p.open.model) p.open.model = cli_default_model(model);
    if (st == OK) st = cli_need_model(p.open.model);
    if (st == OK && !p.data.folder) st = fail(E_USAGE, "no data: give --data with the folder that examples/corpus makes");
    if (st == OK) st = apply(&w, &p);
    if (st == OK) st = train_grid(&p);
    if (st == OK) printf("%s\n", p.out);
    return st == OK ? 0 : cli_fail(st);
}
