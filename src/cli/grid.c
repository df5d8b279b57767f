/* grid.c: imago grid: pictures into the cells of a grid, the missing ones made: edit, subject and compose say it in words
 * people think in, --cell says it in full.
 * SPDX-License-Identifier: MIT */
#include "cli/cli.h"
#include "engine/grid.h"
#include <stdio.h>

typedef struct grid_command {
    imago *im; imago_open_params open; imago_grid_params p;
    const char *word[1 + GRID_MAX_CELLS], *size, *rows_cols, *out, *fit, *prompt;
    string_list cells, prompts, adapters;
    imago_picture picture[GRID_MAX_CELLS];
    bool overwrite;
    progress bar;
} grid_command;

static void show_progress(void *ctx, const imago_progress *p) {
    grid_command *c = ctx;
    if (p->stage != IMAGO_SAMPLING || !p->steps) return;
    if (p->step == 0) progress_begin(&c->bar, "filling", p->steps);
    progress_step(&c->bar, p->step, NULL);
    if (p->step == p->steps) progress_end(&c->bar);
}

/* ---- what is wished ---- */
static status read_shape(grid_command *c) {
    char rest;
    if (!c->rows_cols) return OK;
    if (sscanf(c->rows_cols, "%dx%d%c", &c->p.rows, &c->p.cols, &rest) == 2 && c->p.rows >= 1 && c->p.rows <= 2 && c->p.cols >= 1 && c->p.cols <= 3 &&
        c->p.rows * c->p.cols > 1)
        return OK;
    return fail(E_USAGE, "--grid-size wants rows x columns, 1x2, 1x3, 2x2 or 2x3, not '%s'", c->rows_cols);
}

/* "tl=rest": which cell, and the rest. */
static status split(const grid_command *c, const char *what, const char *text, int *cell, const char **rest) {
    char name[8], all[64] = "", one[4];
    const char *eq = strchr(text, '=');
    if (!eq || !eq[1]) return fail(E_USAGE, "--%s wants NAME=…, as tl=mine.png, not '%s'", what, text);
    snprintf(name, sizeof name, "%.*s", (int)MIN(eq - text, 7), text);
    *rest = eq + 1;
    if ((*cell = grid_cell_find(c->p.rows, c->p.cols, name)) >= 0) return OK;
    for (int i = 0; i < c->p.rows * c->p.cols; i++) {
        size_t used = strlen(all);
        snprintf(all + used, sizeof all - used, "%s%s", i ? ", " : "", grid_cell_name(c->p.rows, c->p.cols, i, one));
    }
    return fail(E_USAGE, "--%s %s: no such cell; a grid of %dx%d has %s", what, text, c->p.rows, c->p.cols, all);
}

static status read_cells(grid_command *c) {
    status st = OK;
    for (int i = 0; i < c->cells.n; i++) {
        int cell = -1;
        const char *path = NULL;
        TRY(split(c, "cell", c->cells.value[i], &cell, &path));
        if (c->p.source[cell]) TRY(fail(E_USAGE, "--cell %s: that cell is given already, as %s", c->cells.value[i], c->p.source[cell]));
        c->p.source[cell] = path;
    }
out:
    return st;
}

static status read_task(grid_command *c, int n) {
    const char *task = n ? c->word[0] : NULL;
    int given = n - 1;
    bool edit = task && strcmp(task, "edit") == 0, effect = task && strcmp(task, "effect") == 0;
    if (!task) return read_cells(c);
    if (c->cells.n || c->rows_cols || c->p.layout) return fail(E_USAGE, "%s says what its cells are: leave out --cell, --grid-size and --layout", task);
    if (edit || effect) {
        if (given != 3) return fail(E_USAGE, "usage: imago grid %s BEFORE AFTER MINE", task);
        c->p.layout = task;
    } else if (strcmp(task, "subject") == 0) {
        if (given < 1 || given > 5) return fail(E_USAGE, "usage: imago grid subject REF [REF …] --prompt TEXT, 1 to 5 pictures");
        if (given > 3) c->p.cols = 3;
        c->p.layout = given == 1 ? "recon1" : given == 3 ? "recon3" : NULL;
    } else if (strcmp(task, "compose") == 0) {
        if (given != 2) return fail(E_USAGE, "usage: imago grid compose A B --prompt TEXT");
        c->p.layout = task;
    } else {
        return fail(E_USAGE, "'%s': expected edit, effect, subject or compose, or --cell NAME=FILE", task);
    }
    for (int i = 0; i < given; i++) c->p.source[i] = c->word[1 + i];
    return OK;
}

static status read_prompts(grid_command *c) {
    status st = OK;
    for (int i = 0; i < GRID_MAX_CELLS; i++) c->p.prompt[i] = c->prompt;
    for (int i = 0; i < c->prompts.n; i++) {
        int cell = -1;
        const char *text = NULL;
        TRY(split(c, "cell-prompt", c->prompts.value[i], &cell, &text));
        if (c->p.source[cell]) TRY(fail(E_USAGE, "--cell-prompt %s: that cell is given, only cells that are made have a prompt", c->prompts.value[i]));
        c->p.prompt[cell] = text;
    }
out:
    return st;
}

/* ---- files ---- */
static void path_of(const grid_command *c, const char *name, char path[1200]) { snprintf(path, 1200, "%.1000s/%s.png", c->out, name); }

static status prepare_output(const grid_command *c) {
    char path[1200], name[4];
    if (!c->out[0] || strlen(c->out) > 1000) return fail(E_USAGE, "output '%.60s': expected the name of a folder", c->out);
    for (int i = -1; i < c->p.rows * c->p.cols && !c->overwrite; i++) {
        path_of(c, i < 0 ? "grid" : grid_cell_name(c->p.rows, c->p.cols, i, name), path);
        if (os_file_exists(path)) return fail(E_USAGE, "%s is there already: choose another --output, or give --overwrite", path);
    }
    return os_mkdir_p(c->out);
}

static status load_cells(grid_command *c) {
    status st = OK;
    for (int i = 0; i < c->p.rows * c->p.cols; i++) {
        if (!c->p.source[i]) continue;
        st = (status)imago_load_picture(c->p.source[i], &c->picture[i]);
        if (st != OK) return st;
        c->p.cell[i] = &c->picture[i];
    }
    return OK;
}

/* All cells in one picture, 2 px of white between them. */
static status save_grid(const grid_command *c, const imago_picture *pic, const char *text, const char *path) {
    status st = OK;
    image im = {0};
    int n = c->p.rows * c->p.cols, w = pic[0].width, h = pic[0].height;
    TRY(image_sheet(n, c->p.cols, w, h, &im));
    for (int i = 0; i < n; i++) image_sheet_put(&im, c->p.cols, i, w, h, pic[i].rgb);
    TRY(image_save_png(path, &im, &(png_text){"imago", text}, 1));
out:
    image_free(&im);
    return st;
}

static status save_all(const grid_command *c, const imago_picture *pic) {
    status st = OK;
    char path[1200], name[4];
    const char *text = NULL;
    for (int i = 0; i < c->p.rows * c->p.cols; i++) {
        path_of(c, grid_cell_name(c->p.rows, c->p.cols, i, name), path);
        st = (status)imago_save_picture(&pic[i], path);
        if (st != OK) return st;
        if (!pic[i].json) continue;
        text = pic[i].json;
        printf("%s  seed %llu\n", path, (unsigned long long)pic[i].seed);
    }
    path_of(c, "grid", path);
    TRY(save_grid(c, pic, text, path));
    printf("%s\n", path);
out:
    return st;
}

static status run(grid_command *c, int n_words) {
    status st = OK;
    imago_picture *pic = NULL;
    imago_report r;
    grid_role role[GRID_MAX_CELLS];
    bool made[GRID_MAX_CELLS];
    const char *name;
    if ((st = cli_need_model(c->open.model)) != OK) return st;
    if (!c->p.adapter) return fail(E_USAGE, "no grid adapter: give --grid with a file that imago train-grid made");
    c->p.pad = strcmp(c->fit, "pad") == 0;
    if (!c->p.pad && strcmp(c->fit, "crop") != 0) return fail(E_USAGE, "--fit wants crop or pad, not '%s'", c->fit);
    TRY(read_shape(c));
    TRY(cli_read_size(c->size, "the side of a cell", &c->p.width, &c->p.height));
    TRY(read_task(c, n_words));
    TRY(read_prompts(c));
    TRY(load_cells(c));
    TRY(grid_roles(&c->p, role, made, &name));
    TRY(prepare_output(c));
    c->open.progress = show_progress, c->open.cancelled = cli_cancelled, c->open.ctx = c;
    c->open.adapters = c->adapters.value, c->open.n_adapters = c->adapters.n;
    st = (status)imago_open(&c->open, &c->im);
    if (st == OK) st = (status)imago_grid(c->im, &c->p, &pic);
    if (st != OK) return st;
    TRY(save_all(c, pic));
    imago_get_report(c->im, &r);
    fprintf(stderr, "load %.1f s, encode %.2f s, %d steps in %.2f s (%d cells a step), decode %.2f s\n", r.load_s, r.encode_s, r.steps, r.sample_s,
            r.evaluations / MAX(r.steps, 1), r.decode_s);
out:
    imago_free_pictures(pic, c->p.rows * c->p.cols);
    return st;
}

int cmd_grid(int argc, char **argv) {
    static const command self = {"grid",
                                 "Fills a grid: pictures that are given say what the missing ones are. edit: MINE changed as BEFORE became AFTER; effect: the same for "
                                 "colour, shadow, outline, turn and ground; subject: what REF shows, as --prompt says; compose: A and B together. "
                                 "Or --cell for each given cell: tl, tr, bl, br (1x2: l, r; 1x3: l, m, r; 2x3: tl, tm, tr, bl, bm, br).",
                                 NULL};
    grid_command c = {.p = IMAGO_GRID(.steps = 20), .out = "grid", .fit = "crop"};
    positionals words = {"[edit BEFORE AFTER MINE | subject REF… | compose A B]", c.word, 0, ARRAY_LEN(c.word), 0};
    int seed = 0;
    bool help = false;
    char cache[512], model[1200];
    const option table[] = {
        {"model", OPT_STRING, &c.open.model, "diffusers folder, .safetensors or .gguf (the bundled one)", "m"},
        {"grid", OPT_STRING, &c.p.adapter, "the grid adapter: a file that imago train-grid made", "g"},
        {"strength", OPT_FLOAT, &c.p.strength, "of the grid adapter (1)", NULL},
        {"cell", OPT_LIST, &c.cells, "NAME=FILE: a given cell; may be repeated", NULL},
        {"grid-size", OPT_STRING, &c.rows_cols, "rows x columns: 1x2, 1x3, 2x2 (default) or 2x3", NULL},
        {"layout", OPT_STRING, &c.p.layout, "edit, effect, recon3, recon1 or compose (by which cells are given)", NULL},
        {"prompt", OPT_STRING, &c.prompt, "of all cells that are made (none)", "p"},
        {"cell-prompt", OPT_LIST, &c.prompts, "NAME=TEXT: of one of them", NULL},
        {"negative", OPT_STRING, &c.p.negative, "what it should not be", "n"},
        {"output", OPT_STRING, &c.out, "folder for grid.png and every cell (grid)", "o"},
        {"size", OPT_STRING, &c.size, "of a cell: side or WxH in pixels (the model's own)", NULL},
        {"fit", OPT_STRING, &c.fit, "pictures of another shape: crop (default) or pad", NULL},
        {"ref-strength", OPT_FLOAT, &c.p.ref_strength, "of the given cells: 0 ignores them, 1 as learned (1.5)", NULL},
        {"cfg", OPT_FLOAT, &c.p.guidance, "of the prompt (4)", "cfg-scale guidance-scale"},
        {"steps", OPT_INT, &c.p.steps, "sampling steps (20)", NULL},
        {"sampler", OPT_STRING, &c.p.sampler, "see imago generate --help (ddim, trailing)", NULL},
        {"seed", OPT_INT, &seed, "of the noise (0)", "s"},
        {"canvas", OPT_FLAG, &c.p.canvas, "compute the cells as one tiled picture: the same, otherwise computed", NULL},
        {"adapter", OPT_LIST, &c.adapters, "LoRA, OFT, BOFT, ... merged into the model first: FILE or FILE:0.8", NULL},
        {"prediction", OPT_STRING, &c.open.prediction, "epsilon or v_prediction, where the files do not say", NULL},
        {"vae", OPT_STRING, &c.open.vae, "another autoencoder", NULL},
        {"device", OPT_STRING, &c.open.device, "auto, cpu, vulkan, vulkan:N", NULL},
        {"precision", OPT_STRING, &c.open.precision, "auto, f32, f16, bf16", "type"},
        {"threads", OPT_INT, &c.open.threads, "cpu threads (all cores)", "t"},
        {"overwrite", OPT_FLAG, &c.overwrite, "replace existing files", NULL}};
    status st = cli_parse(&self, argc, argv, table, ARRAY_LEN(table), &words, &help);
    if (st == OK && help) return 0;
    c.open.cache_dir = cli_cache_dir(cache);
    if (!c.open.model) c.open.model = cli_default_model(model);
    if (st == OK && seed < 0) st = fail(E_USAGE, "--seed wants a number from 0 on, not %d", seed);
    c.p.seed = (uint64_t)seed;
    if (st == OK) st = run(&c, words.n);
    int code = st == OK ? 0 : cli_fail(st);
    imago_close(c.im);
    for (int i = 0; i < GRID_MAX_CELLS; i++) imago_clear_picture(&c.picture[i]);
    return code;
}
