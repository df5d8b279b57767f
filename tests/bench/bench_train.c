/* bench_train.c: seconds and TFLOP/s of one training step of the bundled model's networks, without
 * data: the autoencoder (with SqueezeNet as judge when its file is given) and the UNet with its
 * text encoder. bench_train_torch.py times the same in PyTorch. usage: bench_train vae|unet
 * [--batch n] [--steps n] [--device d] [--precision t] [--threads n] [--judge file] [--cache folder] [--profile]
 * SPDX-License-Identifier: MIT */
#include "family/text_encoder.h"
#include "family/unet.h"
#include "train/train.h"
#include "train/vae_loss.h"
#include <stdio.h>
#include <stdlib.h>

static const vae_config vae = {.kind = VAE_TINY,
                               .in_channels = 3,
                               .out_channels = 3,
                               .latent_channels = 12,
                               .levels = 4,
                               .block_out_channels = {64, 64, 64, 64},
                               .encoder_block_out_channels = {64, 64, 64, 64},
                               .num_encoder_blocks = {0, 1, 3, 3},
                               .num_decoder_blocks = {3, 3, 1, 0},
                               .upsampling_scaling_factor = 2};

static const unet_config unet = {.in_channels = 12,
                                 .out_channels = 12,
                                 .levels = 3,
                                 .layers_per_block = 2,
                                 .block_out_channels = {128, 192, 192},
                                 .attention = {false, true, true},
                                 .heads = {2, 3, 3},
                                 .cross_attention_dim = 256,
                                 .norm_num_groups = 16,
                                 .norm_eps = 1e-5f,
                                 .use_linear_projection = true,
                                 .flip_sin_to_cos = true};
static const text_config text = {.vocab_size = 4096,
                                 .hidden_size = 256,
                                 .intermediate_size = 1024,
                                 .num_hidden_layers = 3,
                                 .num_attention_heads = 4,
                                 .max_position_embeddings = 64,
                                 .hidden_act = ACT_QUICK_GELU,
                                 .layer_norm_eps = 1e-5f};

typedef struct bench {
    device *dev;
    dtype type;
    params model, text, judge;
    int n_parts;
    optimizer opt;
    plan *step;
    int batch;
    const char *judge_path;
} bench;

static void fatal(status st) {
    if (st == OK) return;
    fprintf(stderr, "bench_train: %s\n%s", error_message(), error_backtrace());
    exit(1);
}

static void all_trainable(params *ps) {
    for (int i = 0; i < ps->n; i++) ps->p[i].trainable = true;
    fatal(params_allocate(ps));
    fatal(params_randomize(ps, 1, 0.03f));
}

static void record_vae(bench *b, graph *g) {
    params_init(&b->model, b->dev, b->type);
    params_init(&b->judge, b->dev, b->type);
    fatal(vae_declare(&b->model, &vae));
    all_trainable(&b->model);
    if (b->judge_path) fatal(squeezenet_load(&b->judge, b->judge_path));
    nn m = {g, &b->model, NULL}, judge = {g, &b->judge, NULL};
    vae_loss_out out;
    tensor *image = graph_input(g, "image", DT_F32, SHAPE(b->batch, 128, 128, 3));
    vae_loss(&m, &vae, b->judge_path ? &judge : NULL, &(vae_loss_params){1, 0.1f, 0.1f}, image,
             op_fill(g, DT_F32, SHAPE(1), 0.1f), graph_input(g, "seed", DT_U32, SHAPE(2)),
             graph_input(g, "sample", DT_U32, SHAPE(b->batch)), &out);
    graph_output(g, out.loss, "loss");
    train_backward(g, out.loss, op_fill(g, DT_F32, SHAPE(1), 1.0f), (params *[]){&b->model}, 1,
                   false);
}

static void record_unet(bench *b, graph *g) {
    params_init(&b->model, b->dev, b->type);
    params_init(&b->text, b->dev, b->type);
    fatal(unet_declare(&b->model, &unet, NULL));
    fatal(text_declare(&b->text, &text, NULL));
    all_trainable(&b->model);
    all_trainable(&b->text);
    b->n_parts = 2;
    nn m = {g, &b->model, NULL}, words = {g, &b->text, NULL};
    shape s = SHAPE(b->batch, 16, 16, 12);
    tensor *x = graph_input(g, "x", b->type, s), *v = graph_input(g, "v", DT_F32, s),
           *t = graph_input(g, "t", DT_F32, SHAPE(b->batch));
    tensor *context =
        text_encode(&words, &text, graph_input(g, "ids", DT_U32, SHAPE(b->batch, 64)), NULL, 0);
    tensor *y = unet_denoise(&m, &unet, x, t, &(unet_text){.context = context}, NULL),
           *loss = op_mse(g, op_cast(g, y, DT_F32), v, NULL, NULL);
    graph_output(g, loss, "loss");
    train_backward(g, loss, op_fill(g, DT_F32, SHAPE(1), 1.0f), (params *[]){&b->model, &b->text},
                   2, false);
}

int main(int argc, char **argv) {
    bench b = {.batch = 16, .type = DT_BF16, .n_parts = 1};
    const char *name = "cpu", *cache = NULL, *what = argc > 1 ? argv[1] : "";
    int steps = 5, threads = 0;
    bool profile = false;
    for (int i = 2; i < argc; i++) {
        const char *v = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(argv[i], "--profile"))
            profile = true;
        else if (!strcmp(argv[i], "--batch"))
            b.batch = atoi(v), i++;
        else if (!strcmp(argv[i], "--steps"))
            steps = atoi(v), i++;
        else if (!strcmp(argv[i], "--device"))
            name = v, i++;
        else if (!strcmp(argv[i], "--judge"))
            b.judge_path = v, i++;
        else if (!strcmp(argv[i], "--cache"))
            cache = v, i++;
        else if (!strcmp(argv[i], "--threads"))
            threads = atoi(v), i++;
        else if (!strcmp(argv[i], "--precision"))
            b.type = !strcmp(v, "f32") ? DT_F32 : !strcmp(v, "f16") ? DT_F16 : DT_BF16, i++;
        else
            return fprintf(stderr, "bench_train: '%s'?\n", argv[i]), 2;
    }
    fatal(device_open(&op_all, &(device_params){
.name = name, .cache_dir = cache, .threads = threads}, &b.dev));
    if (profile) device_set_checks(b.dev, (device_checks){.profile = true});
    graph *g = graph_create(b.dev);
    if (!strcmp(what, "vae"))
        record_vae(&b, g);
    else if (!strcmp(what, "unet"))
        record_unet(&b, g);
    else
        return fprintf(stderr, "usage: bench_train vae|unet [options]\n"), 2;
    fatal(graph_compile(g, &(plan_params){.label = "step"}, &b.step));
    fatal(optimizer_create((params *[]){&b.model, &b.text}, b.n_parts, OPTIMIZER_ADAMW, true, &b.opt));
    const plan_report *r = plan_get_report(b.step);
    printf("%s batch %d %s %s: %lld parameters, %.2f GFLOP a sample, %.0f MB of activations\n",
           what, b.batch, name, dtype_name(b.type),
           (long long)(params_count(&b.model, true) + params_count(&b.text, true)),
           r->work / 1e9 / b.batch, (double)r->activation_bytes / 1e6);
    double best = 1e30, opt = 1e30;
    for (int i = 0; i < steps; i++) {
        double t = os_seconds();
        fatal(plan_run(b.step, NULL, NULL));
        double mid = os_seconds();
        fatal(optimizer_step(
            &b.opt,
            &(optimizer_params){
                .lr = 1e-4f, OPTIMIZER_DEFAULTS, .max_norm = 1, .average_decay = 0.999f},
            NULL, NULL));
        best = MIN(best, mid - t);
        opt = MIN(opt, os_seconds() - mid);
    }
    printf("step %.1f ms, %.1f samples/s, %.3f TFLOP/s; update %.1f ms\n", best * 1e3,
           b.batch / best, r->work / best / 1e12, opt * 1e3);
    if (profile) plan_profile_print(b.step);
    plan_destroy(b.step);
    optimizer_destroy(&b.opt);
    params_fini(&b.model);
    params_fini(&b.text);
    params_fini(&b.judge);
    device_close(b.dev); /* writes the tuning table and the pipeline cache */
    return 0;
}
