/* eval_personal_words.c: whether a model that was taught a subject still follows prompts: which of
 * a corpus' pictures what it draws is nearest to, as imago eval base asks, but with fewer of them.
 * SPDX-License-Identifier: MIT */
#include "cli/eval_personal.h"
#include "train/caption.h"
#include "train/compose.h"

enum { CANDIDATES = 40, ASKED = 2 }; /* of a style */

typedef struct words {
    corpus *c;
    extractor *eyes;
    int *candidate, *first, n; /* pictures by style; first [styles + 1] */
    float *seen;               /* [n, EXTRACTOR_FLOATS] */
    int *asked, n_asked;       /* pictures */
    const char **thing, *(*style)[2];
} words;

int words_asked(const words *w) { return w->n_asked; }
int words_styles(const words *w) { return w->c->n_styles; }
const char *words_thing(const words *w, int i) { return w->thing[i]; }
const char *words_style(const words *w, int i, bool base) { return w->style[i][base]; }

static bool may_be(const corpus *c, int i, int style) {
    const corpus_picture *p = &c->pictures[i];
    return p->style == style && p->split == SPLIT_TRAIN &&
           c->concepts[p->concept].group != CORPUS_SYMBOLS;
}

/* Trained pictures, spread over each style; of these a few are asked for. */
static status choose(personal_eval *e, words *w) {
    int styles = w->c->n_styles;
    w->candidate = arena_new(&e->mem, int, styles *CANDIDATES);
    w->asked = arena_new(&e->mem, int, styles *ASKED);
    w->first = arena_new(&e->mem, int, styles + 1);
    if (!w->candidate || !w->asked || !w->first)
        return fail(E_HOST_MEMORY, "no host memory for candidates");
    for (int s = 0; s < styles; s++) {
        int64_t all = 0, at = 0, taken = 0;
        w->first[s] = w->n;
        for (int i = 0; i < w->c->n_pictures; i++) all += may_be(w->c, i, s);
        for (int i = 0; i < w->c->n_pictures; i++)
            if (may_be(w->c, i, s) && at++ * CANDIDATES / all >= taken && taken < CANDIDATES)
                w->candidate[w->n++] = i, taken++;
        for (int k = 0; k < ASKED && k < taken; k++)
            w->asked[w->n_asked++] =
                w->candidate[w->first[s] + (int)(taken * (2 * k + 1) / (2 * ASKED))];
    }
    w->first[styles] = w->n;
    return w->n ? OK : fail(E_FORMAT, "%s: no trained pictures to compare with", e->data);
}

static status write_prompts(personal_eval *e, words *w) {
    int styles = w->c->n_styles;
    w->thing = arena_new(&e->mem, const char *, w->n_asked);
    w->style = arena_alloc(&e->mem, sizeof *w->style * (size_t)styles);
    bool good = w->thing && w->style;
    for (int i = 0; good && i < w->n_asked; i++) {
        caption text;
        compose_plain_caption(w->c, w->asked[i], &text);
        good = (w->thing[i] = arena_printf(&e->mem, "%s", text.text)) != NULL;
    }
    for (int s = 0; good && s < styles; s++) {
        const char *phrase = w->c->styles[s].phrase;
        caption plain = {0};
        caption_add(&plain, phrase);
        caption_add(&plain, " of ");
        caption_add_thing(&plain, NULL, e->class_word);
        w->style[s][0] = arena_printf(&e->mem, "%s of a %s %s", phrase, e->token, e->class_word);
        w->style[s][1] = arena_printf(&e->mem, "%s", plain.text);
        good = w->style[s][0] && w->style[s][1];
    }
    return good ? OK : fail(E_HOST_MEMORY, "no host memory for prompts");
}

static status look(personal_eval *e, words *w) {
    status st = OK;
    image im = {0};
    progress bar;
    progress_begin(&bar, "corpus", w->n);
    w->seen = mem_alloc(sizeof *w->seen * (size_t)w->n * EXTRACTOR_FLOATS);
    if (!w->seen) TRY(fail(E_HOST_MEMORY, "no host memory for %d pictures", w->n));
    for (int i = 0; i < w->n; i++) {
        if (os_cancelled()) TRY(fail(E_CANCELLED, "stopped"));
        TRY(cli_corpus_picture(w->c, w->candidate[i], e->side, &im));
        TRY(extractor_read(w->eyes, 1, im.px, w->seen + (size_t)i * EXTRACTOR_FLOATS));
        image_free(&im);
        progress_step(&bar, i + 1, NULL);
    }
out:
    progress_end(&bar);
    image_free(&im);
    return st;
}

status words_open(personal_eval *e) {
    status st = OK;
    words *w = arena_new(&e->mem, words, 1);
    if (!w) return fail(E_HOST_MEMORY, "no host memory for a corpus");
    e->words = w;
    TRY(corpus_open(e->data, &w->c));
    TRY(choose(e, w));
    TRY(write_prompts(e, w));
    TRY(extractor_open(e->dev, e->judge_path, e->side, 1, &w->eyes));
    TRY(look(e, w));
out:
    return st;
}

void words_close(personal_eval *e) {
    if (!e->words) return;
    extractor_close(e->words->eyes);
    corpus_close(e->words->c);
    mem_free(e->words->seen);
}

/* The candidate of [from, to) nearest to v. */
static int nearest(const words *w, const float *v, int from, int to) {
    int best = from;
    double least = INFINITY;
    for (int i = from; i < to; i++) {
        double d = features_distance(v, w->seen + (size_t)i * EXTRACTOR_FLOATS);
        if (d < least) least = d, best = i;
    }
    return w->candidate[best];
}

status words_measure(personal_eval *e, row *r) {
    status st = OK;
    const words *w = e->words;
    int things = 0, styles = 0;
    float *v = mem_alloc(sizeof *v * EXTRACTOR_FLOATS);
    r->thing = r->style = NAN;
    if (!w) goto out;
    if (!v) TRY(fail(E_HOST_MEMORY, "no host memory for features"));
    for (int i = 0; i < r->unrelated.n && !e->unrelated.n; i++) {
        const corpus_picture *asked = &w->c->pictures[w->asked[i]];
        TRY(extractor_read(w->eyes, 1, r->unrelated.it[i].im.px, v));
        int at = nearest(w, v, w->first[asked->style], w->first[asked->style + 1]);
        things += w->c->pictures[at].concept == asked->concept;
    }
    for (int s = 0; s < r->styled.n; s++) {
        TRY(extractor_read(w->eyes, 1, r->styled.it[s].im.px, v));
        styles += w->c->pictures[nearest(w, v, 0, w->n)].style == s;
    }
    if (!e->unrelated.n) r->thing = (double)things / MAX(r->unrelated.n, 1);
    r->style = (double)styles / MAX(r->styled.n, 1);
out:
    mem_free(v);
    return st;
}
