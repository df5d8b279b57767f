/* bench_adapter.c: seconds of one training step of an adapter on the attention projections of
 * Stable Diffusion 1.5's UNet at full size (random weights), and the memory it takes;
 * bench_adapter_torch.py does the same with PEFT. Processor time beside the clock's: comparable on
 * a busy machine, with one thread. usage: bench_adapter lora|oft|oft_neumann|boft [--side px]
 * [--steps n] [--threads n]
 * [--device d] [--precision t] [--checkpointing]
 * SPDX-License-Identifier: MIT */
#include "family/unet.h"
#include "train/train.h"
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static const unet_config sd15 = {.in_channels = 4,
                                 .out_channels = 4,
                                 .levels = 4,
                                 .layers_per_block = 2,
                                 .block_out_channels = {320, 640, 1280, 1280},
                                 .attention = {true, true, true, false},
                                 .heads = {8, 8, 8, 8},
                                 .cross_attention_dim = 768,
                                 .norm_num_groups = 32,
                                 .norm_eps = 1e-5f,
                                 .flip_sin_to_cos = true};
static const char *const targets[] = {"to_q", "to_k", "to_v", "to_out.0", NULL};

static void fatal(status st) {
    if (st == OK) return;
    fprintf(stderr, "bench_adapter: %s\n%s", error_message(), error_backtrace());
    exit(1);
}

typedef struct bench {
    const char *device, *adapter;
    int side, steps, threads;
    bool checkpointing;
    dtype type;
    device *dev;
    params model, ps;
    adapter_set set;
    optimizer opt;
    plan *step;
} bench;

static bool read_options(bench *b, int argc, char **argv) {
    b->adapter = argc > 1 ? argv[1] : "";
    for (int i = 2; i < argc; i++) {
        const char *v = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(argv[i], "--checkpointing"))
            b->checkpointing = true;
        else if (!strcmp(argv[i], "--side"))
            b->side = atoi(v), i++;
        else if (!strcmp(argv[i], "--steps"))
            b->steps = atoi(v), i++;
        else if (!strcmp(argv[i], "--threads"))
            b->threads = atoi(v), i++;
        else if (!strcmp(argv[i], "--device"))
            b->device = v, i++;
        else if (!strcmp(argv[i], "--precision"))
            b->type = !strcmp(v, "f32") ? DT_F32 : !strcmp(v, "f16") ? DT_F16 : DT_BF16, i++;
        else
            return false;
    }
    return (b->set.info = adapter_find(b->adapter)) && b->side >= 64 && b->steps > 0;
}

static void prepare(bench *b) {
    fatal(
        device_open(&op_all, &(device_params){.name = b->device, .threads = b->threads}, &b->dev));
    params_init(&b->model, b->dev, b->type);
    params_init(&b->ps, b->dev, DT_F32);
    b->set.targets = targets;
    b->set.opts = (adapter_options){.rank = strcmp(b->adapter, "lora") ? 0 : 8};
    b->set.ps = &b->ps;
    fatal(unet_declare(&b->model, &sd15, &b->set));
    fatal(params_allocate(&b->model));
    fatal(params_allocate(&b->ps));
    fatal(params_randomize(&b->model, 1, 0.02f));
    fatal(adapter_init_all(&b->set, &b->model, 1));
    graph *g = graph_create(b->dev);
    nn m = {g, &b->model, &b->set};
    shape s = SHAPE(1, b->side / 8, b->side / 8, 4);
    tensor *x = graph_input(g, "x", b->type, s), *v = graph_input(g, "v", DT_F32, s),
           *t = graph_input(g, "t", DT_F32, SHAPE(1)),
           *context = graph_input(g, "context", b->type, SHAPE(1, 77, 768));
    tensor *y = unet_denoise(&m, &sd15, x, t, &(unet_text){.context = context}, NULL);
    tensor *loss = op_mse(g, op_cast(g, y, DT_F32), v, NULL, NULL);
    graph_output(g, loss, "loss");
    train_backward(g, loss, op_fill(g, DT_F32, SHAPE(1), 1.0f), (params *[]){&b->ps}, 1,
                   b->checkpointing);
    fatal(graph_compile(g, &(plan_params){.label = "step"}, &b->step));
    fatal(optimizer_create((params *[]){&b->ps}, 1, OPTIMIZER_ADAMW, false, &b->opt));
}

int main(int argc, char **argv) {
    bench b = {.device = "cpu", .side = 512, .steps = 3, .type = DT_BF16};
    if (!read_options(&b, argc, argv))
        return fprintf(stderr, "usage: bench_adapter lora|oft|oft_neumann|boft [options]\n"), 2;
    prepare(&b);
    const plan_report *r = plan_get_report(b.step);
    printf("%s %dx%d %s %s%s: %lld numbers, %.2f TFLOP, %.0f MB of activations\n", b.adapter,
           b.side, b.side, b.device, dtype_name(b.type), b.checkpointing ? " checkpointing" : "",
           (long long)adapter_effective_count(&b.set, &b.model), r->work / 1e12,
           (double)r->activation_bytes / 1e6);
    double best = 1e30, busy = 1e30;
    for (int i = 0; i < b.steps; i++) {
        double start = os_seconds(), cpu = (double)clock();
        fatal(plan_run(b.step, NULL, NULL));
        fatal(optimizer_step(&b.opt,
                             &(optimizer_params){.lr = 1e-4f, OPTIMIZER_DEFAULTS, .max_norm = 1},
                             NULL, NULL));
        best = MIN(best, os_seconds() - start);
        busy = MIN(busy, ((double)clock() - cpu) / CLOCKS_PER_SEC);
    }
    printf("step %.2f s, processor %.2f s; peak memory %.0f MB\n", best, busy,
           (double)os_peak_memory_bytes() / 1e6);
    plan_destroy(b.step);
    optimizer_destroy(&b.opt);
    params_fini(&b.ps);
    params_fini(&b.model);
    device_close(b.dev);
    return 0;
}
