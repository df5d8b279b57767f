/* eval.c: imago eval: measures what imago made. SPDX-License-Identifier: MIT */
#include "cli/eval.h"
#include "eval/eval.h"
#include "engine/engine.h"
#include "op/op.h"
#include <math.h>
#include <stdio.h>

enum { MAX_FOLDERS = 300 }; /* a panel of the chart each, and pictures have at most 32768 rows */

typedef struct eval_command {
    const char *path[1 + MAX_FOLDERS], *judge, *out, *device, *fit, *model, *data;
    morph_inputs in;
    int n, threads;
    bool json, overwrite;
    morph_measures measured[MAX_FOLDERS];
    arena mem;
} eval_command;

static void print_row(const char *name, int frames, const sequence_measures *s, eval_kind k) {
    char count[16] = "", first[16] = "-", last[16] = "-";
    if (frames) snprintf(count, sizeof count, "%d", frames);
    if (!isnan(s->to_first)) snprintf(first, sizeof first, "%.4f", s->to_first);
    if (!isnan(s->to_last)) snprintf(last, sizeof last, "%.4f", s->to_last);
    printf("%-8s %6s %8.4f %9.3f %8.2f %6.3f %6.2f %6.2f %8s %8s  %s\n",
           k == BY_FEATURES ? "features" : "pixels", count, s->of.path, s->of.ppl, s->of.largest,
           s->of.gini, s->of.first, s->of.last, first, last, name);
}

static void print_naturalness(const eval_command *c) {
    double mean = naturalness_mean(c->measured, c->n);
    printf("\n    loss of frames between      of ends    ratio\n");
    for (int i = 0; i < c->n; i++) {
        const score_measures *s = &c->measured[i].score[BY_LOSS];
        printf("%26.4f %12.4f %8.3f  %s\n", s->between, s->ends, s->between / s->ends, c->measured[i].dir);
    }
    if (c->n > 1) printf("%48.3f  mean of all\n", mean);
    printf("The model's denoising loss: ratio 1 = frames are as natural to it as the two pictures; "
           "blur lowers it.\n");
}

static void print_nearest(const eval_command *c) {
    score_measures mean = scores_mean(c->measured, c->n, BY_NEAREST);
    printf("\nnearest to frames between      to ends\n");
    for (int i = 0; i < c->n; i++)
        printf("%25.4f %12.4f  %s\n", c->measured[i].score[BY_NEAREST].between,
               c->measured[i].score[BY_NEAREST].ends, c->measured[i].dir);
    if (c->n > 1) printf("%25.4f %12.4f  mean of all\n", mean.between, mean.ends);
    printf("Distance to the nearest picture of the corpus but the two of the morph, by what SqueezeNet "
           "says they show: 0 = one of them. Beside the ends': how far real pictures are apart.\n");
}

static void print_table(const eval_command *c) {
    printf("distance frames     path       PPL max/mean   Gini  first   last  input A  input B  "
           "folder\n");
    for (int k = 0; k < EVAL_KINDS; k++) {
        for (int i = 0; i < c->n; i++)
            print_row(c->measured[i].dir, c->measured[i].frames, &c->measured[i].by[k],
                      (eval_kind)k);
        sequence_measures mean = sequences_mean(c->measured, c->n, (eval_kind)k);
        if (c->n > 1) print_row("mean of all", 0, &mean, (eval_kind)k);
    }
    printf("first, last: that gap / mean gap. input A, B: from the picture to its frame. PPL is on "
           "our "
           "features: not comparable with printed ones.\n");
    if (c->model) print_naturalness(c);
    if (c->data) print_nearest(c);
}

static status report_path(const eval_command *c, const char *name, char path[1200]) {
    snprintf(path, 1200, "%.1000s/%s", c->out, name);
    if (!c->overwrite && os_file_exists(path))
        return fail(E_USAGE, "%s is there already: choose another --output, or give --overwrite",
                    path);
    return OK;
}

/* Before anything is measured: a folder that cannot be written to is known at once. */
static status prepare_output(const eval_command *c, char table[1200], char chart[1200]) {
    status st = OK;
    if (!c->out) return OK;
    if (!c->out[0] || strlen(c->out) > 1000)
        return fail(E_USAGE, "output '%.60s': expected the name of a folder", c->out);
    TRY(report_path(c, "eval.json", table));
    TRY(report_path(c, "gaps.png", chart));
    TRY(os_mkdir_p(c->out));
out:
    return st;
}

static status report(const eval_command *c, const char *table, const char *chart) {
    status st = OK;
    char *text = NULL;
    image im = {0};
    TRY(morphs_json(c->measured, c->n, &text));
    if (c->json)
        printf("%s\n", text);
    else
        print_table(c);
    if (!c->out) goto out;
    TRY(file_write_atomic(table, text, strlen(text)));
    TRY(morphs_chart(c->measured, c->n, &im));
    TRY(image_save_png(chart, &im, NULL, 0));
out:
    mem_free(text);
    image_free(&im);
    return st;
}

static status surprise(void *model, const image *frame, double *loss) {
    return picture_surprise(model, frame, loss);
}

static status nearest(void *pictures, const image *frame, double *distance) {
    int which;
    return gallery_nearest(pictures, frame, distance, &which);
}

static status pass_over(void *pictures, const image *first, const image *last) {
    return gallery_pass_over(pictures, first, last);
}

static status run(eval_command *c) {
    status st = OK;
    device *dev = NULL;
    judge *j = NULL;
    imago *im = NULL;
    gallery *pictures = NULL;
    frame_score score[EVAL_SCORES] = {0};
    char table[1200], chart[1200], cache[512];
    TRY(cli_need_judge(c->judge));
    TRY(prepare_output(c, table, chart));
    TRY(device_open(&op_all,
                    &(device_params){.name = c->device,
                                     .cache_dir = cli_cache_dir(cache),
                                     .threads = c->threads},
                    &dev));
    TRY(judge_open(dev, c->judge, &j));
    if (c->model) {
        imago_open_params open = {.model = c->model, .device = c->device, .threads = c->threads,
                                  .cache_dir = cli_cache_dir(cache), .cancelled = cli_cancelled};
        st = (status)imago_open(&open, &im);
        if (st != OK) goto out;
        score[BY_LOSS] = (frame_score){surprise, NULL, im};
    }
    if (c->data) {
        TRY(cli_corpus_gallery(j, c->data, c->judge, &pictures));
        score[BY_NEAREST] = (frame_score){nearest, pass_over, pictures};
    }
    for (int i = 0; i < c->n; i++)
        TRY(morph_measure(j, c->path[i + 1], &c->in, score, &c->mem, &c->measured[i]));
    TRY(report(c, table, chart));
out:
    imago_close(im);
    gallery_close(pictures);
    judge_close(j);
    device_close(dev);
    return st;
}

static status check(eval_command *c, const positionals *args) {
    if (strcmp(c->path[0], "morph") != 0)
        return fail(E_USAGE, "'%s' cannot be evaluated: usage: imago eval %s", c->path[0],
                    args->usage);
    c->n = args->n - 1;
    c->in.fit = strcmp(c->fit, "pad") == 0 ? FIT_PAD : FIT_CROP;
    if (c->in.fit == FIT_CROP && strcmp(c->fit, "crop") != 0)
        return fail(E_USAGE, "--fit wants crop or pad, not '%s'", c->fit);
    if (c->threads < 0)
        return fail(E_USAGE, "--threads wants a number from 0 on, not %d", c->threads);
    return OK;
}

int cmd_eval(int argc, char **argv) {
    static const struct {
        const char *name;
        int (*run)(int argc, char **argv);
    } others[] = {{"base", cmd_eval_base},
                  {"adapter", cmd_eval_adapter},
                  {"personalize", cmd_eval_personalize},
                  {"grid", cmd_eval_grid}};
    for (size_t i = 0; argc > 1 && i < ARRAY_LEN(others); i++)
        if (strcmp(argv[1], others[i].name) == 0) return others[i].run(argc - 1, argv + 1);
    char judge_path[1200];
    static const command self = {"eval",
                                 "Measures morphs: how long and how even the way from frame to "
                                 "frame is, and how true its ends are. See also --help of imago "
                                 "eval base, adapter, personalize, grid.",
                                 NULL};
    eval_command *c = mem_zalloc(sizeof *c);
    if (!c) return cli_fail(fail(E_HOST_MEMORY, "no host memory to begin"));
    c->judge = cli_asset(CLI_JUDGE, judge_path), c->device = "auto", c->fit = "crop";
    positionals args = {"morph DIR [DIR …]", c->path, 2, 1 + MAX_FOLDERS, 0};
    bool help = false;
    const option table[] = {
        {"json", OPT_FLAG, &c->json, "print JSON instead of a table", NULL},
        {"output", OPT_STRING, &c->out,
         "folder for eval.json and gaps.png, a panel of bars per DIR", "o"},
        {"first", OPT_STRING, &c->in.first,
         "the picture every morph begins with: how true is its first frame?", NULL},
        {"last", OPT_STRING, &c->in.last, "the picture every morph ends with", NULL},
        {"fit", OPT_STRING, &c->fit, "how these two were made to fit: crop (default) or pad", NULL},
        {"judge", OPT_STRING, &c->judge,
         "SqueezeNet's weights (the bundled ones)", NULL},
        {"model", OPT_STRING, &c->model,
         "how natural are frames to this model? Its denoising loss, of frames between and of ends",
         "m"},
        {"data", OPT_STRING, &c->data,
         "the corpus (a folder that examples/corpus makes): how far are frames from its nearest picture?",
         NULL},
        {"device", OPT_STRING, &c->device, "auto, cpu, vulkan or vulkan:N", NULL},
        {"threads", OPT_INT, &c->threads, "on cpu (all cores)", "t"},
        {"overwrite", OPT_FLAG, &c->overwrite, "replace existing files", NULL}};
    status st = cli_parse(&self, argc, argv, table, ARRAY_LEN(table), &args, &help);
    if (st == OK && !help) st = check(c, &args);
    if (st == OK && !help) st = run(c);
    int code = st == OK ? 0 : cli_fail(st);
    arena_fini(&c->mem);
    mem_free(c);
    return code;
}
