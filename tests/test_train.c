/* test_train.c: the tiny UNet against diffusers: forward, every gradient, and ten AdamW losses, all
 * weights and LoRA, checkpointing off and on. Golden: tests/golden/make_train.py.
 * usage: test_train GOLDEN [device]     exit 77: no such device
 * SPDX-License-Identifier: MIT */
#include "family/unet.h"
#include "file/file.h"
#include "train/train.h"
#include "test.h"
#include <math.h>
#include <stdio.h>

static const char *const lora_targets[] = {"to_q", "to_k", "to_v", "to_out.0", NULL};

typedef struct run {
    device *dev; const safetensors *gold; params model, lora; adapter_set set; optimizer opt; plan *step;
    bool use_lora; float loss[10]; uint64_t bytes;
} run;

static const float *gold(const safetensors *f, const char *name, int64_t *count) {
    const safetensor *t = safetensors_find(f, name);
    CHECK(t && t->dtype == DT_F32, "%s is missing from the golden", name);
    if (!t) return NULL;
    *count = 1;
    for (int i = 0; i < t->n_dims; i++) *count *= t->dim[i];
    return t->data;
}

/* Gives every parameter of ps the golden's value "<prefix><name>". */
static status load(params *ps, const safetensors *f, const char *prefix) {
    status st = OK;
    for (int i = 0; i < ps->n; i++) {
        char name[200];
        int64_t n = 0;
        snprintf(name, sizeof name, "%s%s", prefix, ps->p[i].name);
        const float *v = gold(f, name, &n);
        if (!v) return fail(E_FORMAT, "golden lacks %s", name);
        TRY(params_set(ps, ps->p[i].name, v, n));
    }
out:
    return st;
}

static status record_step(run *r, bool checkpoint) {
    status st = OK;
    graph *g = graph_create(r->dev);
    nn m = {g, &r->model, r->use_lora ? &r->set : NULL};
    tensor *x = graph_input(g, "x", DT_F32, SHAPE(2, 8, 8, 4)), *t = graph_input(g, "t", DT_F32, SHAPE(2));
    tensor *context = graph_input(g, "context", DT_F32, SHAPE(2, 7, 24)), *target = graph_input(g, "target", DT_F32, SHAPE(2, 8, 8, 4));
    tensor *weight = graph_input(g, "weight", DT_F32, SHAPE(2));
    tensor *y = unet_denoise(&m, &unet_tiny, x, t, &(unet_text){.context = context}, NULL), *loss = op_mse(g, y, target, weight, NULL);
    graph_output(g, y, "y");
    graph_output(g, loss, "loss");
    params *ps[] = {r->use_lora ? &r->lora : &r->model};
    train_backward(g, loss, op_fill(g, DT_F32, SHAPE(1), 1.0f), ps, 1, checkpoint);
    TRY(graph_compile(g, &(plan_params){.label = "train step"}, &r->step));
    static const char *const names[] = {"x", "t", "context", "target"};
    int64_t n;
    for (int i = 0; i < 4; i++) TRY(plan_write(r->step, names[i], gold(r->gold, names[i], &n)));
    TRY(plan_write(r->step, "weight", (float[]){1, 1}));
    r->bytes = plan_get_report(r->step)->activation_bytes;
out:
    return st;
}

static status setup(run *r, bool checkpoint) {
    status st = OK;
    params_init(&r->model, r->dev, DT_F32);
    params_init(&r->lora, r->dev, DT_F32);
    r->set = (adapter_set){.info = adapter_find("lora"), .targets = lora_targets, .opts = {.rank = 4, .alpha = 4}, .ps = &r->lora};
    TRY(unet_declare(&r->model, &unet_tiny, r->use_lora ? &r->set : NULL));
    for (int i = 0; i < r->model.n; i++) r->model.p[i].trainable = !r->use_lora;
    TRY(params_allocate(&r->model));
    TRY(params_allocate(&r->lora));
    TRY(load(&r->model, r->gold, "w."));
    if (r->use_lora) TRY(load(&r->lora, r->gold, "lora."));
    TRY(record_step(r, checkpoint));
    TRY(optimizer_create((params *[]){r->use_lora ? &r->lora : &r->model}, 1, OPTIMIZER_ADAMW, false, &r->opt));
out:
    return st;
}

static void teardown(run *r) {
    plan_destroy(r->step);
    optimizer_destroy(&r->opt);
    params_fini(&r->lora);
    params_fini(&r->model);
}

static void check_prediction(run *r) {
    float y[2 * 8 * 8 * 4];
    int64_t n = 0;
    const float *want = gold(r->gold, "y", &n);
    double worst = 0;
    CHECK(plan_read_f32(r->step, "y", y) == OK, "%s", error_message());
    for (int64_t i = 0; want && i < n; i++) worst = fmax(worst, fabs((double)y[i] - (double)want[i]));
    CHECK(worst < 2e-5, "prediction differs from diffusers by %g", worst);
}

static void check_gradients(run *r) {
    static float got[1 << 16];
    for (int i = 0; i < r->model.n; i++) {
        param *p = &r->model.p[i];
        char name[200];
        int64_t n = 0;
        snprintf(name, sizeof name, "grad.%s", p->name);
        const float *want = gold(r->gold, name, &n);
        if (!want) continue;
        double worst = 0, size = 1e-6;
        CHECK(n <= (int64_t)ARRAY_LEN(got) && array_read(p->grad, got) == OK, "%s", error_message());
        for (int64_t k = 0; k < n; k++) {
            worst = fmax(worst, fabs((double)got[k] - (double)want[k]));
            size = fmax(size, fabs((double)want[k]));
        }
        CHECK(worst < 1e-4 * size, "%s differs by %g of %g", name, worst, size);
    }
}

static status train(run *r) {
    status st = OK;
    for (int i = 0; i < 10; i++) {
        TRY(plan_run(r->step, NULL, NULL));
        TRY(plan_read(r->step, "loss", &r->loss[i]));
        if (i == 0) check_prediction(r);
        if (i == 0 && !r->use_lora) check_gradients(r);
        TRY(optimizer_step(&r->opt, &(optimizer_params){.lr = 1e-3f, OPTIMIZER_DEFAULTS}, NULL, NULL));
    }
out:
    return st;
}

int main(int argc, char **argv) {
    device *dev = NULL;
    safetensors *f = NULL;
    const char *name = argc > 2 ? argv[2] : "cpu";
    if (argc < 2) return printf("usage: test_train GOLDEN [device]\n"), 2;
    if (device_open(&op_all, &(device_params){.name = name, .validation = TEST_VALIDATION}, &dev) != OK) return printf("skipped: %s\n", error_message()), 77;
    CHECK(safetensors_open(argv[1], &f) == OK, "%s", error_message());
    for (int lora = 0; f && lora < 2; lora++) {
        run r[2] = {{0}, {0}};
        int64_t n = 0;
        const float *want = gold(f, lora ? "loss_lora" : "loss_full", &n);
        for (int cp = 0; cp < 2; cp++) {
            r[cp] = (run){.dev = dev, .gold = f, .use_lora = lora};
            status st = setup(&r[cp], cp);
            if (st == OK) st = train(&r[cp]);
            CHECK(st == OK, "%s\n%s", error_message(), error_backtrace());
            teardown(&r[cp]);
        }
        for (int i = 0; i < 10; i++) {
            double rel = fabs((double)r[0].loss[i] - (double)want[i]) / (double)want[i];
            CHECK(rel < 1e-4, "%s loss %d is %.7f, PyTorch's is %.7f", lora ? "lora" : "full", i, (double)r[0].loss[i], (double)want[i]);
            CHECK(r[0].loss[i] == r[1].loss[i], "loss %d is %.9g plain and %.9g checkpointed", i, (double)r[0].loss[i], (double)r[1].loss[i]);
        }
        CHECK(r[1].bytes < r[0].bytes, "checkpointing uses %llu bytes, without it %llu", (unsigned long long)r[1].bytes, (unsigned long long)r[0].bytes);
        printf("%s on %s: loss %.6f -> %.6f (PyTorch %.6f), activations %.2f MB, checkpointed %.2f MB\n", lora ? "lora" : "full", name,
               (double)r[0].loss[0], (double)r[0].loss[9], (double)want[9], (double)r[0].bytes / 1e6, (double)r[1].bytes / 1e6);
    }
    safetensors_close(f);
    CHECK(device_validation_errors(dev) == 0, "the validation layer has complaints");
    device_close(dev);
    CHECK(mem_live() == 0, "%lld blocks leaked", (long long)mem_live());
    return g_failures ? 1 : 0;
}
