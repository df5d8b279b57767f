/* eval_personal_report.c: what imago eval personalize prints and leaves: a table or JSON, a sheet
 * of pictures, one picture a column for a sheet of many subjects, and curves of likeness over
 * drift. SPDX-License-Identifier: MIT */
#include "cli/eval_personal.h"
#include <cjson/cJSON.h>
#include <stdio.h>

const char *const personal_measures[MEASURES] = {"references", "targets", "distance",  "fidelity",
                                                 "thing",      "style",   "diversity", "drift"};

static void print_share(double v) {
    if (isnan(v))
        printf(" %6s", "-");
    else
        printf(" %6.2f", v);
}

static void print_table(const personal_eval *e) {
    printf("%10s %10s %9s %9s %6s %6s %10s %8s%s  adapter\n", "references", "targets", "distance",
           "fidelity", "thing", "style", "diversity", "drift",
           e->n_subjects ? "  nearest             " : "");
    for (int i = 0; i < e->n_rows; i++) {
        const row *r = &e->row[i];
        printf("%10.4f %10.4f %9.4f %9.2f", r->references, r->targets, r->distance, r->fidelity);
        print_share(r->thing);
        print_share(r->style);
        printf(" %10.4f %8.4f", r->diversity, r->drift);
        if (e->n_subjects) printf("  %-20s", r->nearest);
        printf("  %s\n", r->name);
    }
    printf(
        "references, targets: likeness to the subject's pictures, 1 = the same. distance: to the "
        "target, "
        "place by place. fidelity: share that is nearest to the target of its own caption.\nthing: "
        "share of other things that are "
        "drawn as themselves; style: share of the corpus' styles in which the subject is drawn "
        "(--data).\ndiversity: unlikeness of pictures "
        "of one caption. drift: distance from the base model's pictures of unrelated prompts.\n");
}

static bool add_row(cJSON *list, const row *r) {
    const double value[MEASURES] = {
        [REFERENCES] = r->references, [TARGETS] = r->targets,     [DISTANCE] = r->distance,
        [FIDELITY] = r->fidelity,     [THING] = r->thing,         [STYLE] = r->style,
        [DIVERSITY] = r->diversity,   [DRIFT] = r->drift};
    cJSON *o = cJSON_CreateObject();
    bool ok = o && cJSON_AddItemToArray(list, o) && cJSON_AddStringToObject(o, "adapter", r->name);
    if (ok && *r->curve) ok = cJSON_AddStringToObject(o, "curve", r->curve);
    for (int i = 0; ok && i < MEASURES; i++)
        if (!isnan(value[i])) ok = cJSON_AddNumberToObject(o, personal_measures[i], value[i]);
    if (ok && r->nearest) ok = cJSON_AddStringToObject(o, "nearest", r->nearest);
    return ok;
}

static char *report_json(const personal_eval *e) {
    cJSON *root = cJSON_CreateObject();
    bool ok = root != NULL;
    if (ok && e->subject_name) ok = cJSON_AddStringToObject(root, "subject", e->subject_name);
    cJSON *list = ok ? cJSON_AddArrayToObject(root, "adapters") : NULL;
    ok = list != NULL;
    for (int i = 0; ok && i < e->n_rows; i++) ok = add_row(list, &e->row[i]);
    char *text = ok ? cJSON_Print(root) : NULL;
    cJSON_Delete(root);
    return text;
}

/* ---- sheets ---- */

/* Rows: references, targets, the model's own pictures without and with the token, each adapter's;
 * of every caption the first. */
static status write_sheet(const personal_eval *e, const char *path) {
    int columns = MAX(e->ref.n, e->target.n), rows = 2 + e->n_rows;
    size_t one = (size_t)e->side * (size_t)e->side * 3;
    uint8_t *rgb = mem_alloc(one * (size_t)(columns * rows));
    if (!rgb) return fail(E_HOST_MEMORY, "no host memory for a sheet");
    memset(rgb, 255, one * (size_t)(columns * rows));
    for (int i = 0; i < columns * rows; i++) {
        int r = i / columns, c = i % columns, every = r < 2 ? 1 : e->batch;
        const album *a = r == 0 ? &e->ref : r == 1 ? &e->target : &e->row[r - 2].seen;
        if (c * every < a->n) memcpy(rgb + one * (size_t)i, a->it[c * every].im.px, one);
    }
    status st = sheet_save(rgb, columns * rows, e->side, columns, path);
    mem_free(rgb);
    return st;
}

/* Is row i the last of its curve? */
static bool is_last(const personal_eval *e, int i) {
    return i == e->n_rows - 1 || strcmp(e->row[i].curve, e->row[i + 1].curve) != 0;
}

/* One row: a reference, a target, and what the model and the last adapter of each curve draw for
 * it. */
static status write_picks(const personal_eval *e, const char *path) {
    size_t one = (size_t)e->side * (size_t)e->side * 3;
    int n = 2;
    uint8_t *rgb = mem_alloc(one * (size_t)(e->n_rows + 2));
    if (!rgb) return fail(E_HOST_MEMORY, "no host memory for a sheet");
    memcpy(rgb, e->ref.it[0].im.px, one);
    memcpy(rgb + one, e->target.it[0].im.px, one);
    for (int i = 0; i < e->n_rows; i++)
        if (i != UNTRAINED && (i == MODEL_ITSELF || is_last(e, i)))
            memcpy(rgb + one * (size_t)n++, e->row[i].seen.it[0].im.px, one);
    status st = sheet_save(rgb, n, e->side, n, path);
    mem_free(rgb);
    return st;
}

status personal_curves(const plot_line *line, int n, const char *path) {
    image im = {0};
    status st = plot_lines(line, n, "drift", "likeness", &im);
    if (st == OK) st = image_save_png(path, &im, NULL, 0);
    image_free(&im);
    return st;
}

/* Every curve begins at the model itself, asked with the token. */
static status write_curves(const personal_eval *e, const char *path) {
    plot_line line[MOST_ADAPTERS];
    double x[2 * MOST_ADAPTERS], y[2 * MOST_ADAPTERS];
    int n = 0, used = 0;
    for (int i = ADAPTERS; i < e->n_rows; i++) {
        if (i == ADAPTERS || is_last(e, i - 1)) {
            line[n++] = (plot_line){e->row[i].curve, x + used, y + used, 1};
            x[used] = 0, y[used++] = e->row[UNTRAINED].targets;
        }
        x[used] = e->row[i].drift, y[used++] = e->row[i].targets;
        line[n - 1].n++;
    }
    return personal_curves(line, n, path);
}

status personal_report(const personal_eval *e) {
    status st = OK;
    char path[1200], *text = report_json(e);
    if (!text) return fail(E_HOST_MEMORY, "no host memory for the report");
    if (e->json)
        printf("%s\n", text);
    else
        print_table(e);
    if (!e->out) goto out;
    snprintf(path, sizeof path, "%.1000s/sheet.png", e->out);
    TRY(write_sheet(e, path));
    snprintf(path, sizeof path, "%.1000s/picks.png", e->out);
    TRY(write_picks(e, path));
    snprintf(path, sizeof path, "%.1000s/curves.png", e->out);
    TRY(write_curves(e, path));
    snprintf(path, sizeof path, "%.1000s/eval.json", e->out); /* last: where it is, all is */
    TRY(file_write_atomic(path, text, strlen(text)));
out:
    cJSON_free(text);
    return st;
}
