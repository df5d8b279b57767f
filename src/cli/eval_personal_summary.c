/* eval_personal_summary.c: reports of several subjects as one: mean curves of likeness over drift,
 * and what each kind of adapter costs in drift where it is as good as the others. Likeness is
 * counted from the model itself, since subjects differ in how like it already draws them.
 * SPDX-License-Identifier: MIT */
#include "cli/eval_personal.h"
#include <cjson/cJSON.h>
#include <stdio.h>

enum { MOST_REPORTS = MOST_ADAPTERS, MOST_CURVES = PLOT_LINES, MOST_POINTS = 32, LEVELS = 3 };
static const double share[LEVELS] = {0.5, 0.75, 1}; /* of what all curves reach */

typedef struct curve {
    char name[64];
    double m[MOST_POINTS][MEASURES]; /* [0]: the model itself, asked with the token */
    int n;
    bool right; /* the last: nearest to its own subject */
} curve;

typedef struct report {
    char subject[128];
    curve of[MOST_CURVES];
    int n;
    bool right, asked; /* of the model itself; was there a choice? */
} report;

typedef struct summary {
    report *r, mean;
    int n, right[MOST_CURVES], base_right, asked;
    double at[MOST_CURVES][LEVELS]; /* mean of the subjects' drift at equal likeness */
    int counted[LEVELS], less[MOST_CURVES];
} summary;

/* ---- reading ---- */
static double number(const cJSON *o, const char *name) {
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);
    return cJSON_IsNumber(v) ? v->valuedouble : (double)NAN;
}

static const char *text(const cJSON *o, const char *name) {
    const char *v = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(o, name));
    return v ? v : "";
}

static status read_row(report *r, const cJSON *o, const double base[MEASURES], const char *path) {
    const char *name = text(o, "curve");
    curve *c = r->n ? &r->of[r->n - 1] : NULL;
    if (!*name) return fail(E_FORMAT, "%s: an adapter without a curve: not a report", path);
    if (!c || strcmp(c->name, name) != 0) {
        if (r->n == MOST_CURVES)
            return fail(E_FORMAT, "%s: more than %d curves", path, MOST_CURVES);
        c = &r->of[r->n++];
        snprintf(c->name, sizeof c->name, "%.60s", name);
        memcpy(c->m[c->n++], base, sizeof c->m[0]);
    }
    if (c->n == MOST_POINTS)
        return fail(E_FORMAT, "%s: more than %d adapters of '%s'", path, MOST_POINTS - 1, name);
    for (int k = 0; k < MEASURES; k++) c->m[c->n][k] = number(o, personal_measures[k]);
    if (isnan(c->m[c->n][TARGETS]) || isnan(c->m[c->n][DRIFT]))
        return fail(E_FORMAT, "%s: an adapter without targets or drift: not a report", path);
    c->n++;
    c->right = strcmp(text(o, "nearest"), r->subject) == 0;
    return OK;
}

static status read_report(const char *folder, report *r) {
    status st = OK;
    char path[1200];
    uint8_t *data = NULL;
    size_t bytes;
    json *root = NULL;
    double base[MEASURES];
    snprintf(path, sizeof path, "%.1000s/eval.json", folder);
    TRY(file_read(path, (size_t)1 << 24, &data, &bytes));
    TRY(json_parse((const char *)data, bytes, path, &root));
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(root, "adapters"),
                *first = cJSON_GetArrayItem(list, MODEL_ITSELF),
                *start = cJSON_GetArrayItem(list, UNTRAINED);
    if (!cJSON_IsArray(list) || !start) TRY(fail(E_FORMAT, "%s: no adapters: not a report", path));
    snprintf(r->subject, sizeof r->subject, "%.120s", text(root, "subject"));
    r->asked = *r->subject && *text(first, "nearest");
    r->right = r->asked && strcmp(text(first, "nearest"), r->subject) == 0;
    for (int k = 0; k < MEASURES; k++) base[k] = number(start, personal_measures[k]);
    for (const cJSON *o = start->next; o; o = o->next) TRY(read_row(r, o, base, path));
out:
    mem_free(data);
    json_free(root);
    return st;
}

static status same_curves(const report *a, const report *b, const char *where) {
    bool same = a->n == b->n;
    for (int i = 0; same && i < a->n; i++)
        same = a->of[i].n == b->of[i].n && strcmp(a->of[i].name, b->of[i].name) == 0;
    return same ? OK
                : fail(E_FORMAT,
                       "%s: other curves, or other numbers of adapters, than in the "
                       "first report",
                       where);
}

/* ---- reckoning ---- */

/* Drift where the curve first gains `wanted` likeness over the model itself, between its points. */
static double drift_at(const curve *c, double wanted) {
    for (int i = 1; i < c->n; i++) {
        double from = c->m[i - 1][TARGETS] - c->m[0][TARGETS],
               to = c->m[i][TARGETS] - c->m[0][TARGETS];
        if (to < wanted) continue;
        double f = to > from ? (wanted - from) / (to - from) : 1;
        return c->m[i - 1][DRIFT] + MAX(f, 0) * (c->m[i][DRIFT] - c->m[i - 1][DRIFT]);
    }
    return NAN;
}

/* The most that all curves gain; 0 or less: one of them learned nothing. */
static double common_gain(const report *r) {
    double least = INFINITY;
    for (int i = 0; i < r->n; i++) {
        double most = -INFINITY;
        for (int k = 1; k < r->of[i].n; k++)
            most = fmax(most, r->of[i].m[k][TARGETS] - r->of[i].m[0][TARGETS]);
        least = fmin(least, most);
    }
    return least;
}

static void reckon(summary *s) {
    report *mean = &s->mean;
    *mean = s->r[0];
    for (int i = 0; i < mean->n; i++)
        for (int p = 0; p < mean->of[i].n; p++)
            for (int k = 0; k < MEASURES; k++) {
                double sum = 0;
                for (int r = 0; r < s->n; r++) sum += s->r[r].of[i].m[p][k];
                mean->of[i].m[p][k] = sum / s->n;
            }
    for (int r = 0; r < s->n; r++) {
        double gain = common_gain(&s->r[r]);
        s->asked += s->r[r].asked, s->base_right += s->r[r].right;
        for (int i = 0; i < mean->n; i++) s->right[i] += s->r[r].asked && s->r[r].of[i].right;
        for (int l = 0; l < LEVELS && gain > 0; l++) {
            s->counted[l]++;
            for (int i = 0; i < mean->n; i++)
                s->at[i][l] += drift_at(&s->r[r].of[i], share[l] * gain);
        }
        for (int i = 1; i < mean->n && gain > 0; i++)
            s->less[i] += drift_at(&s->r[r].of[i], gain) < drift_at(&s->r[r].of[0], gain);
    }
    for (int i = 0; i < mean->n; i++)
        for (int l = 0; l < LEVELS; l++) s->at[i][l] /= MAX(s->counted[l], 1);
}

/* ---- reporting ---- */
static void print_summary(const summary *s) {
    printf("%d subjects. Means by station:\n%-12s", s->n, "");
    for (int k = 0; k < MEASURES; k++) printf(" %10s", personal_measures[k]);
    for (int i = 0; i < s->mean.n; i++)
        for (int p = i ? 1 : 0; p < s->mean.of[i].n; p++) {
            printf("\n%-12s", p ? s->mean.of[i].name : "(untrained)");
            for (int k = 0; k < MEASURES; k++) printf(" %10.4f", s->mean.of[i].m[p][k]);
        }
    printf(
        "\n\nDrift where likeness to targets is equal (50, 75, 100 %% of what all of a subject's "
        "curves gain), subjects with less than %s at 100 %%, and those drawn nearest to "
        "themselves:\n",
        s->mean.of[0].name);
    if (s->asked)
        printf("%-12s %32s %8s %8d of %d\n", "(the model)", "", "", s->base_right, s->asked);
    for (int i = 0; i < s->mean.n; i++) {
        printf("%-12s %10.4f %10.4f %10.4f", s->mean.of[i].name, s->at[i][0], s->at[i][1],
               s->at[i][2]);
        printf(" %8d", s->less[i]);
        if (s->asked) printf(" %8d of %d", s->right[i], s->asked);
        printf("\n");
    }
}

static char *summary_json(const summary *s) {
    cJSON *root = cJSON_CreateObject(), *list = NULL;
    bool ok = root && cJSON_AddNumberToObject(root, "subjects", s->n) &&
              cJSON_AddNumberToObject(root, "compared", s->counted[0]) &&
              cJSON_AddNumberToObject(root, "asked_nearest", s->asked) &&
              cJSON_AddNumberToObject(root, "base_nearest", s->base_right) &&
              (list = cJSON_AddArrayToObject(root, "curves"));
    for (int i = 0; ok && i < s->mean.n; i++) {
        const curve *c = &s->mean.of[i];
        cJSON *o = cJSON_CreateObject(), *points = NULL, *at;
        ok = o && cJSON_AddItemToArray(list, o) && cJSON_AddStringToObject(o, "curve", c->name) &&
             cJSON_AddNumberToObject(o, "nearest", s->right[i]) &&
             cJSON_AddNumberToObject(o, "less_drift_than_first", s->less[i]) &&
             (at = cJSON_CreateDoubleArray(s->at[i], LEVELS)) &&
             cJSON_AddItemToObject(o, "drift_at_equal_likeness", at) &&
             (points = cJSON_AddArrayToObject(o, "points"));
        for (int p = 0; ok && p < c->n; p++) {
            cJSON *point = cJSON_CreateObject();
            ok = point && cJSON_AddItemToArray(points, point);
            for (int k = 0; ok && k < MEASURES; k++)
                if (!isnan(c->m[p][k])) ok = cJSON_AddNumberToObject(point, personal_measures[k], c->m[p][k]);
        }
    }
    char *made = ok ? cJSON_Print(root) : NULL;
    cJSON_Delete(root);
    return made;
}

static status write_curves(const summary *s, const char *path) {
    plot_line line[MOST_CURVES];
    double x[MOST_CURVES][MOST_POINTS], y[MOST_CURVES][MOST_POINTS];
    for (int i = 0; i < s->mean.n; i++) {
        const curve *c = &s->mean.of[i];
        for (int p = 0; p < c->n; p++) x[i][p] = c->m[p][DRIFT], y[i][p] = c->m[p][TARGETS];
        line[i] = (plot_line){c->name, x[i], y[i], c->n};
    }
    return personal_curves(line, s->mean.n, path);
}

/* The subjects' picks.png below each other. */
static status write_picks(const char *const *folder, int n, const char *path) {
    status st = OK;
    image all = {0}, im = {0};
    for (int i = 0; i < n; i++) {
        char from[1200];
        snprintf(from, sizeof from, "%.1000s/picks.png", folder[i]);
        TRY(image_load(from, &im));
        if (i == 0) TRY(image_sheet(n, 1, im.w, im.h, &all));
        if (im.channels != 3 || all.w != im.w || all.h != n * (im.h + 2) - 2)
            TRY(fail(E_FORMAT, "%s: of another size than the first report's", from));
        image_sheet_put(&all, 1, i, im.w, im.h, im.px);
        image_free(&im);
    }
    TRY(image_save_png(path, &all, NULL, 0));
out:
    image_free(&im);
    image_free(&all);
    return st;
}

static status write_all(const summary *s, const char *const *folder, const char *out,
                        const char *made, bool overwrite) {
    status st = OK;
    char path[1200];
    TRY(os_mkdir_p(out));
    snprintf(path, sizeof path, "%.1000s/summary.json", out);
    if (os_file_exists(path) && !overwrite)
        TRY(fail(E_USAGE, "%s is there already: another --output, or --overwrite", path));
    TRY(file_write_atomic(path, made, strlen(made)));
    snprintf(path, sizeof path, "%.1000s/curves.png", out);
    TRY(write_curves(s, path));
    snprintf(path, sizeof path, "%.1000s/sheet.png", out);
    TRY(write_picks(folder, s->n, path));
out:
    return st;
}

status personal_summary(const char *const *folder, int n, const char *out, bool as_json,
                        bool overwrite) {
    status st = OK;
    char *made = NULL;
    summary *s = mem_zalloc(sizeof *s);
    report *r = mem_zalloc(sizeof *r * (size_t)n);
    if (!s || !r) TRY(fail(E_HOST_MEMORY, "no host memory for %d reports", n));
    s->r = r, s->n = n;
    for (int i = 0; i < n; i++) {
        TRY(read_report(folder[i], &r[i]));
        if (!r[i].n) TRY(fail(E_FORMAT, "%s: a report without adapters", folder[i]));
        TRY(same_curves(&r[0], &r[i], folder[i]));
    }
    reckon(s);
    if (!(made = summary_json(s))) TRY(fail(E_HOST_MEMORY, "no host memory for the summary"));
    if (as_json)
        printf("%s\n", made);
    else
        print_summary(s);
    if (out) TRY(write_all(s, folder, out, made, overwrite));
out:
    cJSON_free(made);
    mem_free(r);
    mem_free(s);
    return st;
}
