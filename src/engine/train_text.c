/* train_text.c: teaches the text encoder what words look like, before there is a denoiser: from a
 * caption it sketches the picture's latent. The last positions of every prompt are padding, which
 * has read the whole caption; each of them has to say, through one linear layer that is thrown away
 * afterwards, what stands in its square of the picture. A step costs a tenth of a denoiser's, knows
 * no noise, and leaves the cross-attention of the denoiser words to look up, place by place.
 * SPDX-License-Identifier: MIT */
#include "engine/train_base.h"
#include "train/export.h"
#include "train/init.h"
#include <stdio.h>

enum { SQUARES = 4 /* a side */, PLACES = SQUARES * SQUARES, SHOWN = 32, SHOWN_COLUMNS = 16 };

typedef struct job {
    base_job base; /* text, tok, tokens, ids, captions, x: the batch's latents */
    params head;
    float *squares, *guess; /* [batch, PLACES, elements of a square] */
    int64_t square;
} job;

static status record(job *j, bool train, plan **out) {
    base_job *b = &j->base;
    graph *g = graph_create(b->dev);
    if (!g) return graph_status(g);
    int64_t n = b->p->batch;
    nn text = {g, &b->text, NULL}, head = {g, &j->head, NULL};
    tensor *ids = graph_input(g, "ids", DT_U32, SHAPE(n, b->tokens));
    tensor *words = text_encode(&text, &b->b->text, ids, NULL, 0);
    tensor *places = op_slice(g, words, 1, b->tokens - PLACES, b->tokens);
    tensor *y = op_cast(g, nn_linear(&head, "sketch", places, j->square, true), DT_F32);
    if (!train) {
        graph_output(g, y, "sketch");
        return graph_compile(g, &(plan_params){.label = "ask text"}, out);
    }
    tensor *want = graph_input(g, "squares", DT_F32, SHAPE(n, PLACES, j->square));
    tensor *loss = op_mse(g, y, want, NULL, NULL);
    graph_output(g, loss, "loss");
    train_backward(g, loss, graph_input(g, "scale", DT_F32, SHAPE(1)),
                   (params *[]){&b->text, &j->head}, 2, b->p->checkpointing);
    return graph_compile(g, &(plan_params){.label = "train text"}, out);
}

/* Between a latent [h, w, C] and its squares, row by row. */
static void regroup(const job *j, float *latent, float *squares, bool back) {
    const train_base_params *b = j->base.b;
    int h = b->h / SQUARES, w = b->w / SQUARES, c = b->unet.in_channels;
    for (int y = 0; y < b->h; y++)
        for (int x = 0; x < b->w; x++) {
            int place = y / h * SQUARES + x / w, in = y % h * w + x % w;
            float *l = latent + ((size_t)y * (size_t)b->w + (size_t)x) * (size_t)c,
                  *s = squares + (size_t)place * (size_t)j->square + (size_t)in * (size_t)c;
            memcpy(back ? l : s, back ? s : l, sizeof *l * (size_t)c);
        }
}

static status feed(void *ctx, int64_t step, uint64_t first) {
    (void)step;
    status st = OK;
    job *j = ctx;
    base_job *b = &j->base;
    TRY(b->b->latents.next(b->b->latents.ctx, first, b->p->batch, b->x, b->captions));
    for (int i = 0; i < b->p->batch; i++) {
        TRY(base_tokenize(b, b->captions[i].text, b->ids + (size_t)i * (size_t)b->tokens));
        regroup(j, b->x + b->one * (size_t)i, j->squares + b->one * (size_t)i, false);
    }
    TRY(plan_write(b->step, "ids", b->ids));
    TRY(plan_write(b->step, "squares", j->squares));
out:
    return st;
}

/* Mean squared error of the sketches of held-out pictures, and the first of them for the sheet. */
static status measure(job *j, float *shown, double *out) {
    status st = OK;
    base_job *b = &j->base;
    double sum = 0;
    for (int first = 0; first < b->b->n_held_out; first += b->p->batch) {
        int n = MIN(b->p->batch, b->b->n_held_out - first);
        for (int i = 0; i < n; i++)
            TRY(base_tokenize(b, b->b->held_out_caption[first + i].text,
                              b->ids + (size_t)i * (size_t)b->tokens));
        TRY(plan_write(b->ask, "ids", b->ids));
        TRY(plan_run(b->ask, b->p->cancelled, b->p->ctx));
        TRY(plan_read(b->ask, "sketch", j->guess));
        for (int i = 0; i < n; i++) {
            const float *want = b->b->held_out + b->one * (size_t)(first + i);
            regroup(j, b->x, j->guess + b->one * (size_t)i, true);
            for (size_t k = 0; k < b->one; k++) {
                double d = (double)(b->x[k] - want[k]);
                sum += d * d;
            }
            if (first + i < SHOWN) memcpy(shown + b->one * (size_t)(first + i), b->x, sizeof *b->x * b->one);
        }
    }
    *out = sum / ((double)b->one * MAX(b->b->n_held_out, 1));
out:
    return st;
}

static status sheet(void *ctx, const char *path, record_value *v, int *n) {
    status st = OK;
    job *j = ctx;
    const train_base_params *b = j->base.b;
    int shown = MIN(SHOWN, b->n_held_out) / SHOWN_COLUMNS * SHOWN_COLUMNS;
    size_t px = (size_t)b->side * (size_t)b->side * 3, row = px * SHOWN_COLUMNS;
    float *latents = mem_zalloc(sizeof *latents * j->base.one * SHOWN);
    uint8_t *rgb = mem_zalloc(px * 4 * SHOWN);
    double e;
    if (!latents || !rgb) TRY(fail(E_HOST_MEMORY, "no host memory for a sheet"));
    TRY(measure(j, latents, &e));
    v[(*n)++] = (record_value){"held_out", e};
    log_info("step %s: squared error %.4f on %d held-out pictures", path, e, b->n_held_out);
    if (!shown) goto out;
    uint8_t *truth = rgb + px * 2 * SHOWN, *sketch = rgb + px * 3 * SHOWN;
    TRY(vae_opened_decode(b->vae, b->side, shown, b->held_out, truth));
    TRY(vae_opened_decode(b->vae, b->side, shown, latents, sketch));
    for (int r = 0; r < shown / SHOWN_COLUMNS; r++) {
        memcpy(rgb + row * (size_t)(2 * r), truth + row * (size_t)r, row);
        memcpy(rgb + row * (size_t)(2 * r + 1), sketch + row * (size_t)r, row);
    }
    TRY(sheet_save(rgb, 2 * shown, b->side, SHOWN_COLUMNS, path));
out:
    mem_free(latents);
    mem_free(rgb);
    return st;
}

static status save(void *ctx, const char *folder) {
    job *j = ctx;
    checkpoint c = {.text = j->base.b->text};
    status st = export_part(&j->base.text, &c, PART_TEXT, folder);
    return st == OK ? base_copy_tokenizer(j->base.b->tokenizer, folder) : st;
}

static status declare(job *j) {
    status st = OK;
    base_job *b = &j->base;
    params *both[] = {&b->text, &j->head};
    TRY(text_declare(&b->text, &b->b->text, NULL));
    TRY(params_declare(&j->head, "sketch.weight", SHAPE(j->square, b->b->text.hidden_size), false));
    TRY(params_declare(&j->head, "sketch.bias", SHAPE(j->square), true));
    for (size_t k = 0; k < ARRAY_LEN(both); k++) {
        for (int i = 0; i < both[k]->n; i++) both[k]->p[i].trainable = true;
        TRY(params_allocate(both[k]));
        TRY(init_text(both[k], b->p->seed));
    }
    if (b->b->from) TRY(import_part(&b->text, PART_TEXT, b->b->from));
out:
    return st;
}

static status prepare(job *j) {
    status st = OK;
    base_job *b = &j->base;
    const train_base_params *o = b->b;
    if (o->h % SQUARES || o->w % SQUARES || b->tokens <= PLACES)
        TRY(fail(E_USAGE, "latents of %dx%d and prompts of %d ids: expected multiples of %d, and more than %d ids",
                 o->w, o->h, b->tokens, SQUARES, PLACES));
    j->square = (int64_t)b->one / PLACES;
    TRY(base_prepare(b));
    j->squares = mem_zalloc(sizeof *j->squares * (size_t)b->p->batch * b->one);
    j->guess = mem_zalloc(sizeof *j->guess * (size_t)b->p->batch * b->one);
    if (!j->squares || !j->guess)
        TRY(fail(E_HOST_MEMORY, "no host memory for a batch of %d", b->p->batch));
    TRY(declare(j));
    TRY(record(j, true, &b->step));
    TRY(record(j, false, &b->ask));
out:
    return st;
}

status train_text(device *dev, dtype type, const train_params *p, const train_base_params *b) {
    status st = OK;
    job j = {0};
    base_init(&j.base, dev, type, p, b);
    params_init(&j.head, dev, type);
    TRY(prepare(&j));
    train_stage s = {.what = "text",
                     .type = type,
                     .step = j.base.step,
                     .part = {&j.base.text, &j.head},
                     .part_name = {"text_encoder", "sketch"},
                     .n_parts = 2,
                     .show = {"loss"},
                     .n_show = 1,
                     .feed = feed,
                     .sheet = sheet,
                     .save = save,
                     .ctx = &j};
    TRY(train_run(p, &s));
out:
    base_fini(&j.base);
    params_fini(&j.head);
    mem_free(j.squares), mem_free(j.guess);
    return st;
}
