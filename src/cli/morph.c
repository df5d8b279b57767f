/* morph.c: imago morph: pictures to frames, a strip, an animation and a page. Frames are written as they come, so a run that is
 * stopped leaves what was finished.
 * SPDX-License-Identifier: MIT */
#include "cli/morph.h"
#include <math.h>
#include <stdio.h>

typedef struct morph_command {
    imago *im; imago_open_params open; imago_morph_params p;
    const char *path[MORPH_MAX_PICTURES], *prompt[MORPH_MAX_PICTURES];
    imago_picture picture[MORPH_MAX_PICTURES];
    uint8_t background[3];
    morph_output out; bool overwrite;
    image before; progress bar; arena mem;
    char judge_path[1200];
    char trouble[512];                     /* why a frame could not be kept */
} morph_command;

static void show_progress(void *ctx, const imago_progress *p) {
    morph_command *c = ctx;
    if (p->stage == IMAGO_LOADING && p->step == p->steps && c->im) {
        imago_report r;
        imago_get_report(c->im, &r);
        fprintf(stderr, "memory: weights %.0f MB, compute %.0f MB\n", (double)r.weight_bytes / 1e6, (double)r.compute_bytes / 1e6);
    }
    if (p->stage != IMAGO_SAMPLING || !p->steps) return;
    if (p->step == 0) progress_begin(&c->bar, "morphing", p->steps);
    progress_step(&c->bar, p->step, NULL);
    if (p->step == p->steps) progress_end(&c->bar);
}

/* Root of the mean squared difference of two pictures of one size, 0..1. */
static double distance(const uint8_t *a, const uint8_t *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)(a[i] - b[i]) * (double)(a[i] - b[i]);
    return sqrt(sum / (double)n) / 255;
}

static bool write_frame(void *ctx, int index, int total, const imago_picture *p) {
    morph_command *c = ctx;
    char path[1200];
    size_t bytes = (size_t)p->width * (size_t)p->height * 3;
    (void)total;
    morph_frame_path(&c->out, index, path);
    c->out.width = p->width, c->out.height = p->height;
    if (imago_save_picture(p, path) != IMAGO_OK || (!c->before.px && image_create(p->width, p->height, 3, &c->before) != OK)) {
        snprintf(c->trouble, sizeof c->trouble, "%s", error_message());
        return false;
    }
    if (index) c->out.gap[index] = distance(c->before.px, p->rgb, bytes);
    memcpy(c->before.px, p->rgb, bytes);
    c->out.written++;
    return !os_cancelled();
}

/* ---- settings ---- */
static status read_colour(const char *text, uint8_t rgb[3]) {
    unsigned v;
    char rest;
    if (!text) return OK;
    if (*text == '#') text++;
    if (strlen(text) != 6 || sscanf(text, "%6x%c", &v, &rest) != 1) return fail(E_USAGE, "--background wants RRGGBB, as ffffff, not '%s'", text);
    for (int i = 0; i < 3; i++) rgb[i] = (uint8_t)(v >> (16 - 8 * i));
    return OK;
}

/* As counted with both pictures; 0 = not given. */
static status read_frames(bool inbetween, int *frames) {
    int least = inbetween ? 1 : 2, most = inbetween ? 998 : 1000;
    if (!*frames) return OK;
    if (*frames < least || *frames > most) return fail(E_USAGE, "--frames wants %d to %d%s, not %d", least, most, inbetween ? " between two pictures" : "", *frames);
    *frames += inbetween ? 2 : 0;
    return OK;
}

static status read_prompts(morph_command *c, const string_list *all, const char *a, const char *b) {
    if (all->n && (a || b)) return fail(E_USAGE, "give either --prompt for every picture, or --prompt-a and --prompt-b");
    if (all->n && all->n != c->p.n_pictures) return fail(E_USAGE, "%d pictures and %d prompts: give one for each", c->p.n_pictures, all->n);
    for (int i = 0; i < all->n; i++) c->prompt[i] = all->value[i];
    if (!all->n) c->prompt[0] = a, c->prompt[1] = b;
    return OK;
}

static void mention_prompts(const morph_command *c) {
    int n = 0;
    for (int i = 0; i < c->p.n_pictures; i++) n += c->prompt[i] != NULL;
    if (!n) fprintf(stderr, "no prompts: the pictures alone guide the morph (--prompt-a and --prompt-b say what they show)\n");
    else if (n < c->p.n_pictures) fprintf(stderr, "%d of %d pictures have a prompt: the others count as without words\n", n, c->p.n_pictures);
}

static status load_pictures(morph_command *c) {
    status st = OK;
    for (int i = 0; i < c->p.n_pictures; i++) {
        image im = {0};
        TRY(image_load(c->path[i], &im));
        st = image_flatten(&im, c->background);
        if (st != OK) image_free(&im);
        TRY(st);
        c->picture[i] = (imago_picture){.width = im.w, .height = im.h, .rgb = im.px};
    }
out:
    return st;
}

static status prepare_output(morph_command *c) {
    status st = OK;
    static const char *const names[] = {"frame-0001.png", "strip.png", "morph.webp", "morph.html", "morph.mp4"};
    char path[1200];
    morph_output *o = &c->out;
    if (!o->dir[0] || strlen(o->dir) > 1000) return fail(E_USAGE, "output '%s': expected the name of a folder", o->dir);
    for (size_t i = 0; i < ARRAY_LEN(names) && !c->overwrite; i++) {
        morph_file_path(o, names[i], path);
        if (os_file_exists(path)) return fail(E_USAGE, "%s is there already: choose another --output, or give --overwrite", path);
    }
    o->total = imago_morph_count(&c->p);
    o->gap = arena_new(&c->mem, double, MAX(o->total, 1));
    for (int i = 0; i < c->p.n_pictures; i++) {
        const char *slash = strrchr(c->path[i], '/'), *name = slash ? slash + 1 : c->path[i];
        o->title = i && o->title ? arena_printf(&c->mem, "%s \xe2\x86\x92 %s", o->title, name) : arena_printf(&c->mem, "%s", name);
    }
    if (!o->gap || !o->title) return fail(E_HOST_MEMORY, "no host memory for %d frames", o->total);
    TRY(os_mkdir_p(o->dir));
    if (c->overwrite) TRY(morph_remove_stale(o));
out:
    return st;
}

static void print_report(const morph_command *c, bool video) {
    imago_report r;
    imago_get_report(c->im, &r);
    fprintf(stderr, "load %.1f s, text %.2f s, encode %.2f s, %d evaluations in %.1f s, decode %.2f s; weights %.0f MB, compute %.0f MB, peak host memory %.0f MB\n",
            r.load_s, r.text_s, r.encode_s, r.evaluations, r.sample_s, r.decode_s, (double)r.weight_bytes / 1e6, (double)r.compute_bytes / 1e6, (double)os_peak_memory_bytes() / 1e6);
    double sum = 0, most = 0;
    for (int i = 1; i < c->out.total; i++) sum += c->out.gap[i], most = fmax(most, c->out.gap[i]);
    double mean = sum / MAX(c->out.total - 1, 1);
    printf("%d frames in %s: path %.3f, largest gap / mean %.2f (pixel distance)%s; open %s/morph.html\n", c->out.total, c->out.dir, sum, mean > 0 ? most / mean : 1.0, video ? ", morph.mp4" : "", c->out.dir);
}

static status open_model(morph_command *c) {
    imago_open_params o = c->open;
    if (c->im) return OK;
    o.progress = show_progress, o.cancelled = cli_cancelled, o.ctx = c;
    status st = (status)imago_open(&o, &c->im);
    if (st == OK) fprintf(stderr, "%s\n", imago_describe_model(c->im));
    return st;
}

static void forget_pictures(morph_command *c) {
    for (int i = 0; i < c->p.n_pictures; i++) imago_clear_picture(&c->picture[i]);
    image_free(&c->before);
    c->out.written = 0;
}

/* One morph: the pictures, prompts and folder that c has now. */
static status run(morph_command *c) {
    status st = OK;
    bool video = false;
    TRY(load_pictures(c));
    TRY(prepare_output(c));
    st = open_model(c);
    if (st != OK) return st;
    mention_prompts(c);
    if (!c->p.judge && !c->p.uneven) {
        const char *judge = cli_asset(CLI_JUDGE, c->judge_path);
        if (os_file_exists(judge)) c->p.judge = judge;
        else fprintf(stderr, "no SqueezeNet weights found (%s, or --judge FILE): pixels decide where frames lie\n", judge);
    }
    c->p.picture = c->picture, c->p.prompt = c->prompt, c->p.frame = write_frame, c->p.frame_ctx = c;
    memcpy(c->p.fill, c->background, sizeof c->p.fill);
    st = (status)imago_morph(c->im, &c->p, NULL);
    if (c->trouble[0]) return fail(E_IO, "%s", c->trouble);
    if (st == E_CANCELLED) return fail(st, "stopped: %d of %d frames are in %s", c->out.written, c->out.total, c->out.dir);
    if (st != OK) return st;
    TRY(morph_write_strip(&c->out));
    TRY(morph_write_animation(&c->out));
    TRY(morph_write_page(&c->out));
    TRY(morph_write_video(&c->out, &video));
    print_report(c, video);
out:
    return st;
}

static status run_manifest(morph_command *c, const char *path) {
    status st = OK;
    manifest_line *line = NULL;
    int n = 0;
    const char *dir = c->out.dir;
    if (c->p.n_pictures) return fail(E_USAGE, "give either pictures or a manifest");
    TRY(manifest_read(path, &c->mem, &line, &n));
    for (int i = 0; i < n; i++) {
        c->p.n_pictures = line[i].n;
        memcpy(c->path, line[i].path, sizeof c->path);
        memcpy(c->prompt, line[i].prompt, sizeof c->prompt);
        c->out.dir = arena_printf(&c->mem, "%s/%s", dir, line[i].id);
        if (!c->out.dir) TRY(fail(E_HOST_MEMORY, "no host memory for a file name"));
        TRY(run(c));
        forget_pictures(c);
    }
out:
    return st;
}

int cmd_morph(int argc, char **argv) {
    static const command self = {"morph", "Turns a picture into another, and that into the next, frame by frame: PNGs, strip.png, morph.webp, morph.html, and morph.mp4 where ffmpeg is.", NULL};
    morph_command c = {.p = IMAGO_MORPH(.n_pictures = 0), .background = {255, 255, 255}, .out = {.dir = "morph", .fps = 8}};
    positionals pictures = {"PICTURE PICTURE [PICTURE …]", c.path, 0, MORPH_MAX_PICTURES, 0};
    string_list prompts = {0};
    const char *manifest = NULL, *prompt_a = NULL, *prompt_b = NULL, *size = NULL, *fit = "crop", *background = NULL;
    int seed = 42;
    bool help = false, inbetween = false;
    const option options[] = {
        {"model", OPT_STRING, &c.open.model, "diffusers folder, .safetensors or .gguf (the bundled one)", "m"},
        {"prompt-a", OPT_STRING, &prompt_a, "what the first picture shows", NULL},
        {"prompt-b", OPT_STRING, &prompt_b, "what the second one shows", NULL},
        {"prompt", OPT_LIST, &prompts, "the same, once for every picture in turn", "p"},
        {"manifest", OPT_STRING, &manifest, "FILE of many morphs, a JSON object a line: exp_id, image_paths, prompts; each gets its folder", NULL},
        {"output", OPT_STRING, &c.out.dir, "folder to write to (morph)", "o"},
        {"frames", OPT_INT, &c.p.frames, "from one picture to the next, both counted (7)", NULL},
        {"inbetween", OPT_FLAG, &inbetween, "--frames counts the frames made between two pictures (5), which stand at the ends as they are", NULL},
        {"loop", OPT_FLAG, &c.p.loop, "back to the first picture at the end", NULL},
        {"size", OPT_STRING, &size, "side or WxH in pixels, multiples of 8 (the model's own)", NULL},
        {"fit", OPT_STRING, &fit, "pictures of another shape: crop (default) or pad", NULL},
        {"background", OPT_STRING, &background, "RRGGBB under transparent pictures and around padded ones (ffffff)", NULL},
        {"method", OPT_STRING, &c.p.method, "imago (default); freemorph, as released; or slerp, its baseline", NULL},
        {"judge", OPT_STRING, &c.p.judge, "SqueezeNet's weights, which place the frames (assets/squeezenet of imago's sources)", NULL},
        {"uneven", OPT_FLAG, &c.p.uneven, "imago: equal shares instead of equal distances; quicker", NULL},
        {"no-detail", OPT_FLAG, &c.p.no_detail, "imago: nothing of the pictures but what the model makes of them", NULL},
        {"own-keys", OPT_FLAG, &c.p.own_keys, "imago: frames do not look at the two pictures", NULL},
        {"steps", OPT_INT, &c.p.steps, "imago: steps of a way (8); else of the whole schedule (50)", "num-inference-steps"},
        {"strength", OPT_FLOAT, &c.p.strength, "how much of the schedule runs, 0 to 1 (0.7; else 0.8)", NULL},
        {"inner", OPT_INT, &c.p.inner, "fixed-point iterations per step of inversion (5), for imago at most", NULL},
        {"cfg", OPT_FLOAT, &c.p.guidance, "guidance scale on the way down (2, less near the pictures; else 7.5); 1 = none", "cfg-scale guidance-scale"},
        {"seed", OPT_INT, &seed, "of the noise (42)", "s"},
        {"fps", OPT_INT, &c.out.fps, "frames a second of the animation and the page (8)", NULL},
        {"prediction", OPT_STRING, &c.open.prediction, "epsilon or v_prediction, where the files do not say", NULL},
        {"vae", OPT_STRING, &c.open.vae, "another autoencoder", NULL},
        {"tile", OPT_FLAG, &c.p.tile, "decode in tiles, for large pictures", "vae-tiling"},
        {"device", OPT_STRING, &c.open.device, "auto, cpu, vulkan, vulkan:N", NULL},
        {"precision", OPT_STRING, &c.open.precision, "auto, f32, f16, bf16", "type"},
        {"threads", OPT_INT, &c.open.threads, "cpu threads (all cores)", "t"},
        {"overwrite", OPT_FLAG, &c.overwrite, "replace existing files", NULL}};
    char cache[512], model[1200];
    status st = cli_parse(&self, argc, argv, options, ARRAY_LEN(options), &pictures, &help);
    if (st == OK && help) return 0;
    c.open.cache_dir = cli_cache_dir(cache);
    c.p.n_pictures = pictures.n, c.p.seed = (uint64_t)seed, c.p.pad = strcmp(fit, "pad") == 0, c.out.loop = c.p.loop;
    if (!c.open.model) c.open.model = cli_default_model(model);
    if (st == OK) st = cli_need_model(c.open.model);
    if (st == OK && !c.p.pad && strcmp(fit, "crop") != 0) st = fail(E_USAGE, "--fit wants crop or pad, not '%s'", fit);
    if (st == OK && seed < 0) st = fail(E_USAGE, "--seed wants a number from 0 on, not %d", seed);
    if (st == OK && (c.out.fps < 1 || c.out.fps > 100)) st = fail(E_USAGE, "--fps wants 1 to 100, not %d", c.out.fps);
    if (st == OK) st = read_frames(inbetween, &c.p.frames);
    if (st == OK && !manifest && pictures.n < 2) st = fail(E_USAGE, "usage: imago morph %s; see imago morph --help", pictures.usage);
    if (st == OK) st = read_colour(background, c.background);
    if (st == OK) st = cli_read_size(size, "a side", &c.p.width, &c.p.height);
    if (st == OK && !manifest) st = read_prompts(&c, &prompts, prompt_a, prompt_b);
    if (st == OK) st = manifest ? run_manifest(&c, manifest) : run(&c);
    int code = st == OK ? 0 : cli_fail(st);
    imago_close(c.im);
    forget_pictures(&c);
    arena_fini(&c.mem);
    return code;
}
