/* report.c: what was measured, as JSON and as a chart. SPDX-License-Identifier: MIT */
#include "eval/eval.h"
#include <cjson/cJSON.h>
#include <math.h>

sequence_measures sequences_mean(const morph_measures *m, int n, eval_kind k) {
    sequence_measures s = {0};
    for (int i = 0; i < n; i++) {
        const sequence_measures *one = &m[i].by[k];
        s.of.path += one->of.path / n, s.of.ppl += one->of.ppl / n;
        s.of.largest += one->of.largest / n, s.of.gini += one->of.gini / n;
        s.of.first += one->of.first / n, s.of.last += one->of.last / n;
        s.to_first += one->to_first / n, s.to_last += one->to_last / n;
    }
    return s;
}

double naturalness_mean(const morph_measures *m, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += m[i].score[BY_LOSS].between / m[i].score[BY_LOSS].ends / n;
    return sum;
}

score_measures scores_mean(const morph_measures *m, int n, eval_score k) {
    score_measures s = {0};
    for (int i = 0; i < n; i++)
        s.between += m[i].score[k].between / n, s.ends += m[i].score[k].ends / n;
    return s;
}

/* ---- JSON ---- */
static const char *const kind_key[EVAL_KINDS] = {"features", "pixels"};

static bool add_sequence(cJSON *to, const char *key, const sequence_measures *s, int gaps) {
    cJSON *o = cJSON_AddObjectToObject(to, key);
    bool ok = o && cJSON_AddNumberToObject(o, "path", s->of.path) &&
              cJSON_AddNumberToObject(o, "ppl", s->of.ppl) &&
              cJSON_AddNumberToObject(o, "largest_over_mean", s->of.largest) &&
              cJSON_AddNumberToObject(o, "gini", s->of.gini) &&
              cJSON_AddNumberToObject(o, "first_over_mean", s->of.first) &&
              cJSON_AddNumberToObject(o, "last_over_mean", s->of.last);
    if (ok && !isnan(s->to_first)) ok = cJSON_AddNumberToObject(o, "to_first_input", s->to_first);
    if (ok && !isnan(s->to_last)) ok = cJSON_AddNumberToObject(o, "to_last_input", s->to_last);
    if (!ok || !s->gap) return ok;
    cJSON *list = cJSON_CreateDoubleArray(s->gap, gaps);
    ok = list && cJSON_AddItemToObject(o, "gaps", list);
    if (!ok) cJSON_Delete(list);
    return ok;
}

static bool add_scores(cJSON *to, const score_measures *s) {
    static const char *const key[EVAL_SCORES][2] = {{"loss_ends", "loss_between"},
                                                    {"nearest_ends", "nearest_between"}};
    bool ok = true;
    for (int k = 0; k < EVAL_SCORES; k++) {
        if (ok && !isnan(s[k].ends)) ok = cJSON_AddNumberToObject(to, key[k][0], s[k].ends);
        if (ok && !isnan(s[k].between)) ok = cJSON_AddNumberToObject(to, key[k][1], s[k].between);
    }
    return ok;
}

static bool add_morph(cJSON *list, const morph_measures *m) {
    cJSON *o = cJSON_CreateObject();
    if (!o || !cJSON_AddItemToArray(list, o)) return false;
    bool ok = cJSON_AddStringToObject(o, "folder", m->dir) &&
              cJSON_AddNumberToObject(o, "frames", m->frames) &&
              cJSON_AddNumberToObject(o, "width", m->w) &&
              cJSON_AddNumberToObject(o, "height", m->h);
    if (ok) ok = add_scores(o, m->score);
    for (int k = 0; ok && k < EVAL_KINDS; k++)
        ok = add_sequence(o, kind_key[k], &m->by[k], m->frames - 1);
    return ok;
}

status morphs_json(const morph_measures *m, int n, char **text) {
    cJSON *root = cJSON_CreateObject();
    cJSON *list = root ? cJSON_AddArrayToObject(root, "morphs") : NULL;
    bool ok = list != NULL;
    char *made = NULL;
    *text = NULL;
    for (int i = 0; ok && i < n; i++) ok = add_morph(list, &m[i]);
    cJSON *mean = ok ? cJSON_AddObjectToObject(root, "mean") : NULL;
    ok = mean != NULL;
    double natural = naturalness_mean(m, n);
    if (ok && !isnan(natural)) ok = cJSON_AddNumberToObject(mean, "loss_between_over_ends", natural);
    score_measures scores[EVAL_SCORES];
    for (int k = 0; k < EVAL_SCORES; k++) scores[k] = scores_mean(m, n, (eval_score)k);
    if (ok) ok = add_scores(mean, scores);
    for (int k = 0; ok && k < EVAL_KINDS; k++) {
        sequence_measures s = sequences_mean(m, n, (eval_kind)k);
        ok = add_sequence(mean, kind_key[k], &s, 0);
    }
    if (ok) made = cJSON_Print(root);
    size_t bytes = made ? strlen(made) + 1 : 0;
    if (made && (*text = mem_alloc(bytes))) memcpy(*text, made, bytes);
    cJSON_free(made);
    cJSON_Delete(root);
    return *text ? OK : fail(E_HOST_MEMORY, "no host memory for the report");
}

/* ---- chart ---- */
enum { PANEL_W = 640, PANEL_H = 96, MARGIN = 8 };
static const uint8_t bar[3] = {70, 120, 200}, line[3] = {200, 90, 40}, ground[3] = {225, 225, 225};

static void box(image *im, int x, int y, int w, int h, const uint8_t c[3]) {
    for (int j = MAX(y, 0); j < MIN(y + h, im->h); j++)
        for (int i = MAX(x, 0); i < MIN(x + w, im->w); i++)
            memcpy(im->px + 3 * ((size_t)j * (size_t)im->w + (size_t)i), c, 3);
}

static void draw_panel(image *im, int top, const sequence_measures *s, int gaps, double most) {
    int base = top + PANEL_H - MARGIN, width = PANEL_W - 2 * MARGIN, height = PANEL_H - 2 * MARGIN;
    double mean = s->of.path / gaps;
    for (int i = 0; mean > 0 && i < gaps; i++) {
        int x = (int)((int64_t)width * i / gaps), next = (int)((int64_t)width * (i + 1) / gaps);
        int h = (int)lround(s->gap[i] / mean / most * height);
        box(im, MARGIN + x, base - h, MAX(next - x - (next - x > 3 ? 2 : 0), 1), h, bar);
    }
    box(im, MARGIN, base - (int)lround(height / most), width, 1, line);
    box(im, MARGIN, base, width, 1, ground);
}

status morphs_chart(const morph_measures *m, int n, image *out) {
    double most = 1;
    status st = image_create(PANEL_W, n * PANEL_H, 3, out);
    if (st != OK) return st;
    memset(out->px, 255, 3 * (size_t)out->w * (size_t)out->h);
    for (int i = 0; i < n; i++) most = fmax(most, m[i].by[BY_FEATURES].of.largest);
    for (int i = 0; i < n; i++)
        draw_panel(out, i * PANEL_H, &m[i].by[BY_FEATURES], m[i].frames - 1, most);
    return OK;
}
