/* personalize_step.c: what is trained and the plans that train it. The model's own weights stay as
 * they were opened, in the compute type; what is trained is f32. Text that nothing changes is read
 * once, so the encoder is part of a step only where it, or a word, learns.
 * SPDX-License-Identifier: MIT */
#include "engine/personalize_job.h"
#include <stdio.h>

#define WORD_PARAM "embedding"
static const char table_name[] = "text_model.embeddings.token_embedding.weight";
static const char *const unet_layers[] = {"to_q", "to_k", "to_v", "to_out.0", NULL};
static const char *const text_layers[] = {"q_proj", "k_proj", "v_proj", "out_proj", NULL};

/* ---- the step ---- */
static tensor *record_context(job *j, graph *g) {
    const checkpoint *ck = j->im->ck;
    int64_t n = j->rows;
    if (!j->reads) {
        shape s = SHAPE(n, j->tokens, ck->text.hidden_size);
        return op_cast(g, graph_input(g, "context", DT_F32, s), j->im->type);
    }
    nn m = {g, &j->im->part[PART_TEXT], j->p->train_text ? &j->text : NULL};
    text_extra word = {0};
    tensor *ids = graph_input(g, "ids", DT_U32, SHAPE(n, j->tokens));
    if (j->p->vectors)
        word =
            (text_extra){op_cast(g, params_tensor(&j->word_ps, g, WORD_PARAM, HERE), j->im->type),
                         graph_input(g, "pick", DT_U32, SHAPE(n, j->tokens))};
    return text_encode(&m, &ck->text, ids, j->p->vectors ? &word : NULL, 0);
}

static tensor *record_noise(job *j, graph *g, const tensor *x0) {
    int64_t n = j->rows;
    tensor *seed = graph_input(g, "seed", DT_U32, SHAPE(2)),
           *sample = graph_input(g, "sample", DT_U32, SHAPE(n));
    tensor *noise = op_randn(g, seed, sample, rng_stream("noise"), x0->s, DT_F32);
    if (j->p->noise_offset <= 0) return noise;
    tensor *offset =
        op_randn(g, seed, sample, rng_stream("noise offset"), SHAPE(n, 1, 1, j->c), DT_F32);
    return op_add(g, noise, op_scale(g, offset, (float)j->p->noise_offset));
}

int step_parts(job *j, params *trained[3], const char *name[3]) {
    int n = 0;
    if (j->unet.info) trained[n] = &j->unet_ps, name[n++] = "adapter";
    if (j->p->train_text) trained[n] = &j->text_ps, name[n++] = "text_adapter";
    if (j->p->vectors) trained[n] = &j->word_ps, name[n++] = "word";
    return n;
}

static status record(job *j, bucket *b, bool train, plan **out) {
    graph *g = graph_create(j->im->dev);
    if (!g) return graph_status(g);
    const checkpoint *ck = j->im->ck;
    int64_t n = j->rows;
    nn m = {g, &j->im->part[PART_UNET], j->unet.info ? &j->unet : NULL};
    tensor *x0 = graph_input(g, "x0", DT_F32, SHAPE(n, b->h, b->w, j->c)),
           *t = graph_input(g, "t", DT_F32, SHAPE(n));
    tensor *level_x = graph_input(g, "level_x", DT_F32, SHAPE(n, 2)),
           *level_v = graph_input(g, "level_v", DT_F32, SHAPE(n, 2)),
           *mask = j->masked ? graph_input(g, "mask", DT_F32, SHAPE(n, b->h, b->w, 1)) : NULL;
    tensor *both[] = {x0, record_noise(j, g, x0)};
    tensor *x = op_cast(g, op_mix(g, both, 2, level_x, NULL, NULL), j->im->type),
           *wanted = op_mix(g, both, 2, level_v, NULL, NULL);
    unet_text text = {.context = record_context(j, g)};
    tensor *y = op_cast(g, unet_denoise(&m, &ck->unet, x, t, &text, NULL), DT_F32);
    tensor *loss = op_mse(g, y, wanted, graph_input(g, "weight", DT_F32, SHAPE(n)), mask);
    graph_output(g, loss, "loss");
    params *trained[3];
    const char *name[3];
    int n_parts = step_parts(j, trained, name);
    if (train)
        train_backward(g, loss, graph_input(g, "scale", DT_F32, SHAPE(1)), trained, n_parts,
                       j->run.checkpointing);
    else
        graph_output(g, y, "y");
    return graph_compile(g, &(plan_params){.label = train ? "personalize" : "look"}, out);
}

static status record_project(job *j) {
    if (!j->unet.info || !j->unet.info->project) return OK;
    graph *g = graph_create(j->im->dev);
    if (!g) return graph_status(g);
    adapter_project_all(g, &j->unet, &j->im->part[PART_UNET]);
    if (j->p->train_text) adapter_project_all(g, &j->text, &j->im->part[PART_TEXT]);
    return graph_compile(g, &(plan_params){.label = "project"}, &j->project);
}

status step_project(void *ctx) {
    job *j = ctx;
    return j->project ? plan_run(j->project, NULL, NULL) : OK;
}

/* ---- the start ---- */

/* The new word begins as the words of init_word, over and over. */
static status word_begin(job *j) {
    status st = OK;
    arena a = {0};
    const text_config *c = &j->im->ck->text;
    const char *as = j->p->init_word;
    uint32_t *ids = NULL;
    int n = 0;
    int64_t count = (int64_t)c->vocab_size * c->hidden_size;
    size_t width = (size_t)c->hidden_size;
    float *table = mem_alloc(sizeof *table * (size_t)count),
          *rows = mem_alloc(sizeof *rows * width * (size_t)j->p->vectors);
    if (!table || !rows) TRY(fail(E_HOST_MEMORY, "no host memory for the text encoder's table"));
    TRY(tokenizer_encode(j->im->tok, as, strlen(as), &a, &ids, &n));
    if (n < 1) TRY(fail(E_USAGE, "the new word cannot begin as '%s': expected a word", as));
    TRY(params_get(&j->im->part[PART_TEXT], table_name, table, count));
    for (int i = 0; i < j->p->vectors; i++)
        memcpy(rows + width * (size_t)i,
               table + width * MIN(ids[i % n], (uint32_t)c->vocab_size - 1), sizeof *rows * width);
    TRY(params_declare(&j->word_ps, WORD_PARAM, SHAPE(j->p->vectors, c->hidden_size), true));
    params_find(&j->word_ps, WORD_PARAM)->trainable = true;
    TRY(params_allocate(&j->word_ps));
    TRY(params_set(&j->word_ps, WORD_PARAM, rows, (int64_t)width * j->p->vectors));
out:
    mem_free(table);
    mem_free(rows);
    arena_fini(&a);
    return st;
}

static status adapters_begin(job *j) {
    status st = OK;
    params *unet = &j->im->part[PART_UNET], *text = &j->im->part[PART_TEXT];
    adapter_options o = j->p->options;
    const adapter_info *info = j->unet.info;
    j->unet = (adapter_set){.info = info, .targets = unet_layers, .opts = o, .ps = &j->unet_ps};
    j->text = (adapter_set){.info = info, .targets = text_layers, .opts = o, .ps = &j->text_ps};
    if (info) {
        TRY(unet_declare(unet, &j->im->ck->unet, &j->unet));
        TRY(params_allocate(&j->unet_ps));
        TRY(adapter_init_all(&j->unet, unet, j->run.seed));
    }
    if (j->p->train_text) {
        TRY(text_declare(text, &j->im->ck->text, &j->text));
        TRY(params_allocate(&j->text_ps));
        TRY(adapter_init_all(&j->text, text, j->run.seed));
    }
    if (j->p->vectors) TRY(word_begin(j));
out:
    return st;
}

/* ---- memory ---- */

/* A plan that was refused for memory, with what there is to do about it. */
static status say_less(const job *j, status st) {
    const personalize_params *p = j->p;
    char why[700];
    if (st != E_GPU_MEMORY && st != E_HOST_MEMORY) return st;
    snprintf(why, sizeof why, "%s", error_message());
    return fail(st, "%s. To need less:%s%s%s%s%s%s%s", why,
                j->run.checkpointing ? "" : " --checkpointing (a third slower);",
                j->run.batch > 1 ? " --batch 1 with --accumulate;" : "",
                j->im->type == DT_F32 ? " --precision bf16 or f16;" : "",
                p->train_text ? " without --train-text-encoder;" : "",
                p->class_images ? " without class pictures;" : "",
                p->options.rank > 4 || p->options.block > 8 ? " a smaller --rank or --block;" : "",
                " a smaller --size");
}

static void say_memory(job *j) {
    uint64_t arrays, ignored, most = 0;
    int64_t counted = 0;
    params *trained[3];
    const char *name[3];
    device_memory_use(j->im->dev, &arrays, &ignored);
    int n = step_parts(j, trained, name);
    if (j->unet.info) counted = adapter_effective_count(&j->unet, &j->im->part[PART_UNET]);
    if (j->p->train_text) counted += adapter_effective_count(&j->text, &j->im->part[PART_TEXT]);
    if (j->p->vectors) counted += params_count(&j->word_ps, true);
    for (int i = 0; i < j->n_buckets; i++)
        most = MAX(most, plan_get_report(j->bucket[i].step)->activation_bytes);
    log_info("%d picture%s, %lld numbers to train. Memory: weights %.0f MB, optimiser %.0f MB, a "
             "step %.0f MB%s; free now: %.0f MB",
             j->set.n, j->set.n == 1 ? "" : "s", (long long)counted, (double)arrays / 1e6,
             (double)optimizer_bytes(trained, n, j->run.adam.kind, true) / 1e6, (double)most / 1e6,
             j->run.checkpointing ? "" : " (--checkpointing: less)",
             (double)device_memory_free_bytes(j->im->dev) / 1e6);
}

status step_attach(job *j) {
    status st = OK;
    TRY(adapters_begin(j));
    for (int i = 0; i < j->n_buckets; i++) {
        TRY(say_less(j, record(j, &j->bucket[i], true, &j->bucket[i].step)));
        TRY(say_less(j, record(j, &j->bucket[i], false, &j->bucket[i].look)));
    }
    TRY(record_project(j));
    say_memory(j);
out:
    return st;
}
