/* personalize_feed.c: pictures become latents and captions features (or ids) once; batches are put
 * together from them. What a batch holds depends on its number alone, so a run that goes on sees
 * what it would have seen. SPDX-License-Identifier: MIT */
#include "engine/personalize_job.h"
#include "train/noising.h"
#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>

enum { CLASS_STEPS = 20, CLASS_BATCH = 4 };

/* ---- buckets: shapes of about the same area ---- */

/* Sides are multiples of what the deepest level of the UNet halves without a remainder. */
static void bucket_sides(const job *j, int w, int h, int *to_w, int *to_h) {
    int unit = latent_factor(j->im) << (j->im->ck->unet.levels - 1), side = j->side / unit * unit;
    double best = INFINITY;
    *to_w = *to_h = j->side;
    if (!j->p->buckets || side < unit) return;
    for (int a = MAX(side / 2 / unit, 1) * unit; a <= 2 * side; a += unit) {
        int b = MIN(j->side * j->side / a / unit * unit, 2 * side);
        double off = b ? fabs(log((double)a / b * h / w)) : INFINITY;
        if (off < best - 1e-9) best = off, *to_w = a, *to_h = b;
    }
}

static status into_bucket(job *j, int picture) {
    int w, h, f = latent_factor(j->im), i = 0;
    status st = instance_size(&j->set.it[picture], &w, &h);
    if (st != OK) return st;
    bucket_sides(j, w, h, &w, &h);
    for (; i < j->n_buckets; i++)
        if (j->bucket[i].w == w / f && j->bucket[i].h == h / f) break;
    bucket *b = &j->bucket[i];
    if (i == j->n_buckets) {
        *b = (bucket){.w = w / f, .h = h / f, .it = arena_new(&j->mem, int, j->set.n)};
        if (!b->it) return fail(E_HOST_MEMORY, "no host memory for %d pictures", j->set.n);
        j->n_buckets++;
    }
    b->it[b->n++] = picture;
    j->masked |= j->set.it[picture].mask != NULL;
    return OK;
}

status feed_buckets(job *j) {
    status st = OK;
    j->ways = j->p->flip ? 2 : 1;
    j->rows = j->run.batch * (j->p->class_images ? 2 : 1);
    if (!(j->bucket = arena_new(&j->mem, bucket, j->set.n)))
        return fail(E_HOST_MEMORY, "no host memory for %d pictures", j->set.n);
    for (int i = 0; i < j->set.n; i++) TRY(into_bucket(j, i));
    for (int i = 0; i < j->n_buckets; i++) {
        j->chunks += div_up(j->bucket[i].n, j->run.batch);
        if (j->p->buckets)
            log_info("%d picture%s at %dx%d", j->bucket[i].n, j->bucket[i].n == 1 ? "" : "s",
                     j->bucket[i].w * latent_factor(j->im), j->bucket[i].h * latent_factor(j->im));
    }
out:
    return st;
}

/* ---- pictures of the class ---- */
static void class_path(const job *j, int i, char path[1200]) {
    snprintf(path, 1200, "%s/class/class-%04d.png", j->folder, i + 1);
}

/* What the pictures are made with; others, made with something else, go before that is noted. */
static status class_settle(const job *j) {
    status st = OK;
    char path[1200], note[1200], text[2048];
    uint8_t *old = NULL;
    size_t bytes;
    snprintf(note, sizeof note, "%s/class", j->folder);
    TRY(os_mkdir_p(note));
    snprintf(note, sizeof note, "%s/class/made_with.txt", j->folder);
    snprintf(text, sizeof text, "%.1000s\n%s\n%d px, %d steps, seed %u\n", j->im->ck->path,
             j->class_prompt, j->side, CLASS_STEPS, j->run.seed);
    if (os_file_exists(note)) TRY(file_read(note, sizeof text, &old, &bytes));
    if (old && strcmp((const char *)old, text) == 0) goto out;
    for (int i = 0; i < j->p->class_images; i++) {
        class_path(j, i, path);
        if (os_file_exists(path) && remove(path) != 0)
            TRY(fail(E_IO, "%s: cannot be removed", path));
    }
    TRY(file_write_atomic(note, text, strlen(text)));
out:
    mem_free(old);
    return st;
}

static status class_draw(job *j, int first, int n) {
    status st = OK;
    imago_picture *pics = NULL;
    char path[1200];
    TRY((status)imago_generate(
        j->im,
        &IMAGO_GENERATE(.prompt = j->class_prompt, .plain_prompt = true, .width = j->side,
                        .height = j->side, .steps = CLASS_STEPS,
                        .seed = j->run.seed + 1000 + (uint64_t)first, .batch = n),
        &pics));
    for (int i = 0; i < n; i++) {
        class_path(j, first + i, path);
        TRY((status)imago_save_picture(&pics[i], path));
    }
out:
    imago_free_pictures(pics, n);
    return st;
}

/* Of n pictures from i on, is one not there? */
static bool class_missing(const job *j, int i, int n) {
    char path[1200];
    bool missing = false;
    for (int k = i; k < i + n; k++) {
        class_path(j, k, path);
        missing |= !os_file_exists(path);
    }
    return missing;
}

status feed_class_pictures(job *j) {
    status st = OK;
    progress bar;
    int all = j->p->class_images;
    if (!all) return OK;
    TRY(class_settle(j));
    if (!class_missing(j, 0, all)) return OK;
    progress_begin(&bar, "class pictures", all);
    for (int i = 0; st == OK && i < all; i += CLASS_BATCH) {
        int n = MIN(CLASS_BATCH, all - i);
        if (class_missing(j, i, n)) st = class_draw(j, i, n);
        progress_step(&bar, i + n, NULL);
    }
    progress_end(&bar);
    latents_fini(j->im);
out:
    return st;
}

/* ---- encoding ---- */
static status encode_one(job *j, const bucket *b, const instance *it, bool flip, float *px,
                         float *z) {
    int f = latent_factor(j->im);
    status st = instance_load(it, b->w * f, b->h * f, flip, px);
    if (st == OK) st = vae_encode_pixels(j->im, px, b->h * f, b->w * f, NULL, z);
    for (size_t k = 0; st == OK && k < latent_of(j, b); k++)
        if (!isfinite(z[k]))
            st = fail(E_FORMAT, "%s: the autoencoder makes NaN of it: try --precision f32",
                      it->path);
    return st;
}

static status encode_bucket(job *j, bucket *b) {
    status st = OK;
    size_t f = (size_t)latent_factor(j->im), n = (size_t)(b->n * j->ways), one = latent_of(j, b);
    char path[1200];
    float *px = mem_alloc(sizeof *px * cells_of(b) * f * f * 3);
    b->z = mem_alloc(sizeof *b->z * one * n);
    b->mask = j->masked ? mem_alloc(sizeof *b->mask * cells_of(b) * n) : NULL;
    b->prior =
        j->p->class_images ? mem_alloc(sizeof *b->prior * one * (size_t)j->p->class_images) : NULL;
    if (!px || !b->z || (j->masked && !b->mask) || (j->p->class_images && !b->prior))
        TRY(fail(E_HOST_MEMORY, "no host memory for %d pictures", j->set.n));
    for (int i = 0; i < (int)n; i++) {
        const instance *it = &j->set.it[b->it[i / j->ways]];
        TRY(encode_one(j, b, it, i % j->ways, px, b->z + one * (size_t)i));
        if (j->masked)
            TRY(instance_load_mask(it, b->w, b->h, i % j->ways, b->mask + cells_of(b) * (size_t)i));
    }
    for (int i = 0; i < j->p->class_images; i++) {
        class_path(j, i, path);
        TRY(encode_one(j, b, &(instance){.path = path}, false, px, b->prior + one * (size_t)i));
    }
out:
    mem_free(px);
    return st;
}

/* Ids as generation makes them: one chunk, padded to the encoder's length. */
static status tokenize(job *j, int text) {
    arena a = {0};
    prompt_tokens t;
    status st = prompt_tokenize(j->im->tok, j->set.text[text],
                                &(prompt_options){.plain = true, .truncate = true}, &a, &t);
    if (st == OK && !j->ids) {
        j->tokens = t.length;
        j->ids = mem_alloc(sizeof *j->ids * (size_t)t.length * (size_t)j->set.n_texts);
        if (!j->ids) st = fail(E_HOST_MEMORY, "no host memory for captions");
    }
    if (st == OK)
        memcpy(j->ids + (size_t)text * (size_t)j->tokens, t.ids,
               sizeof *j->ids * (size_t)j->tokens);
    arena_fini(&a);
    return st;
}

static status encode_text(job *j, int text) {
    float *one = NULL;
    int entries = 0;
    status st = text_features(j->im, &(text_params){.prompt = j->set.text[text], .plain = true},
                              &one, &entries, &j->tokens);
    if (st == OK && !j->context &&
        !(j->context = mem_alloc(sizeof *one * text_of(j) * (size_t)j->set.n_texts)))
        st = fail(E_HOST_MEMORY, "no host memory for %d captions", j->set.n_texts);
    if (st == OK) memcpy(j->context + text_of(j) * (size_t)text, one, sizeof *one * text_of(j));
    mem_free(one);
    return st;
}

status feed_encode(job *j) {
    status st = OK;
    for (int i = 0; i < j->n_buckets; i++) TRY(encode_bucket(j, &j->bucket[i]));
    for (int i = 0; i < j->set.n_texts; i++) {
        if (j->reads)
            TRY(tokenize(j, i));
        else
            TRY(encode_text(j, i));
    }
out:
    return st;
}

status feed_batch_memory(job *j) {
    size_t n = (size_t)j->rows, most = 0, ids = n * (size_t)j->tokens;
    for (int i = 0; i < j->n_buckets; i++) most = MAX(most, latent_of(j, &j->bucket[i]));
    j->x = mem_alloc(sizeof *j->x * n * most);
    j->m = mem_alloc(sizeof *j->m * n * most);
    j->y = mem_alloc(sizeof *j->y * n * text_of(j));
    j->t = mem_alloc(sizeof *j->t * n), j->weight = mem_alloc(sizeof *j->weight * n);
    j->sample = mem_alloc(sizeof *j->sample * n);
    j->row_ids = mem_alloc(sizeof *j->row_ids * ids), j->pick = mem_alloc(sizeof *j->pick * ids);
    j->level_x = mem_alloc(sizeof *j->level_x * n), j->level_v = mem_alloc(sizeof *j->level_v * n);
    j->abar = mem_alloc(sizeof *j->abar * (size_t)j->im->ck->schedule.num_train_timesteps);
    if (!j->x || !j->m || !j->y || !j->t || !j->weight || !j->sample || !j->row_ids || !j->pick ||
        !j->level_x || !j->level_v || !j->abar)
        return fail(E_HOST_MEMORY, "no host memory for a batch of %d", j->rows);
    return schedule_alphas_cumprod(&j->im->ck->schedule, j->abar);
}

/* ---- batches ---- */

/* An epoch holds every bucket's batches in an order of its own. *turn: the how-manieth batch of its
 * bucket it is. */
bucket *feed_bucket(const job *j, uint64_t batch, uint64_t *turn) {
    uint64_t epoch = batch / (uint64_t)j->chunks, place = batch % (uint64_t)j->chunks;
    if (j->n_buckets > 1)
        place = (uint64_t)instance_of(j->run.seed ^ 0x62756b74u, batch, (int)j->chunks);
    for (int i = 0;; i++) {
        uint64_t n = (uint64_t)div_up(j->bucket[i].n, j->run.batch);
        *turn = epoch * n + place;
        if (place < n) return &j->bucket[i];
        place -= n;
    }
}

void feed_picture(job *j, const bucket *b, int row, int which, int way) {
    size_t one = latent_of(j, b), cells = cells_of(b), at = (size_t)(which * j->ways + way);
    memcpy(j->x + one * (size_t)row, b->z + one * at, sizeof *j->x * one);
    for (size_t k = 0; k < cells; k++)
        j->m[cells * (size_t)row + k] = b->mask ? b->mask[cells * at + k] : 1.0f;
    feed_text(j, row, j->set.it[b->it[which]].text);
}

void feed_text(job *j, int row, int text) {
    size_t n = (size_t)j->tokens, at = (size_t)row, of = (size_t)text;
    if (j->reads)
        memcpy(j->row_ids + n * at, j->ids + n * of, sizeof *j->ids * n);
    else
        memcpy(j->y + text_of(j) * at, j->context + text_of(j) * of, sizeof *j->y * text_of(j));
}

static void feed_class(job *j, const bucket *b, int row, uint64_t sample) {
    size_t one = latent_of(j, b), cells = cells_of(b);
    rng_key key = {{j->run.seed, 0}, rng_stream("class pictures")};
    int n = j->p->class_images, which = MIN((int)(rng_uniform(key, sample, 0) * n), n - 1);
    memcpy(j->x + one * (size_t)row, b->prior + one * (size_t)which, sizeof *j->x * one);
    for (size_t k = 0; k < cells; k++) j->m[cells * (size_t)row + k] = 1;
    feed_text(j, row, j->class_text);
}

/* What the network is to answer, as weights of (x0, noise), and how much the sample counts. */
void feed_target(const job *j, int row, double factor) {
    float *level_v = j->level_v[row];
    double abar = j->abar[(int64_t)j->t[row]], snr = abar / (1 - abar), gamma = j->p->snr_gamma,
           kept = gamma > 0 ? MIN(snr, gamma) : snr, counts = 1;
    switch (j->im->ck->schedule.prediction_type) {
    case PREDICTION_EPSILON:
        level_v[0] = 0, level_v[1] = 1;
        if (gamma > 0 && snr > 0) counts = kept / snr;
        break;
    case PREDICTION_SAMPLE:
        level_v[0] = 1, level_v[1] = 0;
        if (gamma > 0) counts = kept;
        break;
    case PREDICTION_V: /* as noising_draw has it */
    case PREDICTION_COUNT:
        if (gamma > 0) counts = kept / (snr + 1);
        break;
    }
    j->weight[row] = (float)(counts * factor);
}

status feed_write(job *j, plan *p) {
    status st = OK;
    uint32_t seed[2] = {j->run.seed, 0};
    TRY(plan_write(p, "x0", j->x));
    TRY(plan_write(p, "t", j->t));
    TRY(plan_write(p, "level_x", j->level_x));
    TRY(plan_write(p, "level_v", j->level_v));
    TRY(plan_write(p, "weight", j->weight));
    TRY(plan_write(p, "seed", seed));
    TRY(plan_write(p, "sample", j->sample));
    if (j->masked) TRY(plan_write(p, "mask", j->m));
    if (!j->reads) return plan_write(p, "context", j->y);
    TRY(plan_write(p, "ids", j->row_ids));
    if (j->p->vectors) {
        text_extra_pick(&j->im->ck->text, j->row_ids, (int64_t)j->rows * j->tokens, j->pick);
        TRY(plan_write(p, "pick", j->pick));
    }
out:
    return st;
}

plan *feed_plan(void *ctx, uint64_t first) {
    const job *j = ctx;
    uint64_t turn;
    return feed_bucket(j, first / (uint64_t)j->run.batch, &turn)->step;
}

status feed_step(void *ctx, int64_t step, uint64_t first) {
    job *j = ctx;
    uint64_t turn, n = (uint64_t)j->run.batch, batch = first / n;
    const bucket *b = feed_bucket(j, batch, &turn);
    const schedule_config *c = &j->im->ck->schedule;
    rng_key flips = {{j->run.seed, 0}, rng_stream("flips")};
    uint32_t of_bucket = j->run.seed + (uint32_t)(b - j->bucket) * 0x9e3779b9u;
    j->last = step + 1 == j->run.lr.steps;
    /* the micro-batch's place is the key: accumulated batches need timesteps of their own */
    for (int k = 0; k < j->rows; k += (int)n) /* the class draws its own timesteps */
        noising_draw(c, j->abar, k ? j->run.seed ^ 0x70726f72u : j->run.seed, (int64_t)batch, 1,
                     (int)n, j->t + k, j->level_x + k, j->level_v + k);
    for (int i = 0; i < (int)n; i++) {
        uint64_t s = first + (uint64_t)i;
        int way = j->ways > 1 && rng_uniform(flips, s, 0) < 0.5;
        feed_picture(j, b, i, instance_of(of_bucket, turn * n + (uint64_t)i, b->n), way);
        j->sample[i] = (uint32_t)s;
        if (j->rows == (int)n) continue;
        feed_class(j, b, i + (int)n, s);
        j->sample[i + (int)n] = (uint32_t)s ^ 0x80000000u;
    }
    /* a mean over all rows becomes the sum of the two means */
    for (int i = 0; i < j->rows; i++)
        feed_target(j, i, j->rows == (int)n ? 1 : 2 * (i < (int)n ? 1 : j->p->prior_weight));
    return feed_write(j, feed_plan(j, first));
}
