/* eval_personal.h: one evaluation of adapters that were taught a subject, as the files of imago eval personalize share it.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "cli/eval.h"
#include "engine/personalize.h"
#include "eval/eval.h"
#include "train/corpus.h"
#include "train/record.h"

enum { MOST_ADAPTERS = 64, MOST_AMONG = 64 };
/* Rows. UNTRAINED: the model itself, asked with the token, which means nothing to it: where every curve begins. */
enum { MODEL_ITSELF, UNTRAINED, ADAPTERS };

typedef struct picture { image im; float v[JUDGE_EMBED]; } picture;
typedef struct album { picture *it; int n; } album;
typedef struct subject { const char *name; float v[JUDGE_EMBED]; } subject; /* v: mean of its pictures */

/* What a row measures, in tables and under these names in eval.json. */
enum { REFERENCES, TARGETS, DISTANCE, FIDELITY, THING, STYLE, DIVERSITY, DRIFT, MEASURES };
extern const char *const personal_measures[MEASURES];

/* Adapters that are stations of one run are a curve: OUTPUT.run/adapter-STEP.safetensors is of "OUTPUT", others are of their own name. */
typedef struct row {
    const char *name;
    char curve[64];                        /* "" = the model itself */
    album seen, unrelated, styled;         /* [targets][batch]; [unrelated]; [styles of the corpus], empty without one */
    double references, targets, distance, fidelity, diversity, drift, thing, style; /* distance: of features,
                                              to the target of the caption, place by place; thing, style: NAN without a corpus */
    const char *nearest;                   /* NULL = not asked */
} row;

typedef struct personal_eval {
    imago_open_params open;
    const char *adapter[MOST_ADAPTERS], *references, *targets, *among, *token, *out, *judge_path, *data, *class_word, *subject_name;
    string_list embeddings, unrelated;
    int n, batch, steps, seed, side;
    float guidance;
    bool json, overwrite, summary;
    instance_set ref_set, target_set;
    album ref, target;
    subject *subject;
    int n_subjects;
    row *row; int n_rows;                  /* MODEL_ITSELF, UNTRAINED, then the adapters */
    judge *j;
    device *dev;
    struct words *words;                   /* NULL without a corpus */
    arena mem;
} personal_eval;

const char *personal_unrelated(const personal_eval *e, int i);
int personal_unrelated_count(const personal_eval *e);

/* ---- eval_personal_words.c: are prompts followed? Asked with the pictures of a corpus ----
 * thing: of unrelated prompts, each a trained picture's caption: is the nearest of that style's candidates the thing itself?
 * style: of "STYLE of a TOKEN CLASS", in every style: has the nearest of all candidates that style? */
status words_open(personal_eval *e);       /* e->data, e->class_word; once dev and side are known */
void   words_close(personal_eval *e);      /* accepts none */
int    words_asked(const struct words *w); /* things */
const char *words_thing(const struct words *w, int i);
int    words_styles(const struct words *w);
const char *words_style(const struct words *w, int i, bool base); /* base: the token is left out */
status words_measure(personal_eval *e, row *r);

/* ---- eval_personal_report.c: table or JSON; with an output folder eval.json, sheet.png, picks.png, curves.png ---- */
status personal_report(const personal_eval *e);
status personal_curves(const plot_line *line, int n, const char *path); /* likeness over drift, as a PNG */

/* ---- eval_personal_summary.c: reports of several subjects as one ---- */
status personal_summary(const char *const *folder, int n, const char *out, bool as_json, bool overwrite);
