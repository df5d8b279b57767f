/* main.c: finds the subcommand and its options.
 * SPDX-License-Identifier: MIT */
#include "cli/cli.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define COMMAND(id, name, summary) int cmd_##id(int argc, char **argv);
#include "cli/commands.def"
#undef COMMAND

const command commands[] = {
#define COMMAND(id, name, summary) {name, summary, cmd_##id},
#include "cli/commands.def"
#undef COMMAND
    {0}};

int cli_fail(status st) {
    static const int code[STATUS_COUNT] = {[E_USAGE] = 2, [E_CANCELLED] = 130};
    fprintf(stderr, "imago: %s\n", error_message());
    log_debug("%s: %s", status_name(st), error_backtrace());
    return code[st] ? code[st] : 1;
}

const char *cli_cache_dir(char buf[512]) {
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n = -1;
    if (xdg && *xdg) n = snprintf(buf, 512, "%s/imago", xdg);
    else if (home && *home) n = snprintf(buf, 512, "%s/.cache/imago", home);
    return n > 0 && n < 512 ? buf : NULL;
}

const char *cli_asset(const char *name, char buf[1200]) {
    static const char *const from[] = {"..", "../share/imago"};
    char folder[1024];
    if (os_program_folder(folder))
        for (size_t i = 0; i < ARRAY_LEN(from); i++) {
            int n = snprintf(buf, 1200, "%s/%s/%s", folder, from[i], name);
            if (n > 0 && n < 1200 && os_file_exists(buf)) return buf;
        }
    return name;
}

const char *cli_default_model(char buf[1200]) {
    const char *model = cli_asset("models/imago-base", buf);
    return os_is_folder(model) ? model : NULL;
}

bool cli_cancelled(void *ctx) {
    (void)ctx;
    return os_cancelled();
}

status cli_read_size(const char *text, const char *what, int *width, int *height) {
    char rest;
    if (!text) return OK;
    if (sscanf(text, "%dx%d%c", width, height, &rest) == 2 && *width > 0 && *height > 0) return OK;
    if (sscanf(text, "%d%c", width, &rest) == 1 && *width > 0) return *height = *width, OK;
    return fail(E_USAGE, "--size wants %s or WIDTHxHEIGHT, as 512 or 512x768, not '%s'", what, text);
}

status cli_need_model(const char *model) {
    return model ? OK : fail(E_USAGE, "no model: give --model with a diffusers folder, a .safetensors or a .gguf file");
}

status cli_need_judge(const char *path) {
    if (os_file_exists(path)) return OK;
    return fail(E_IO, "%s: no SqueezeNet weights there: give --judge FILE, the one in assets/squeezenet of imago's sources", path);
}

static status set_value(const option *o, const char *text) {
    char *end = NULL;
    switch (o->kind) {
    case OPT_FLAG: *(bool *)o->value = true; return OK;
    case OPT_STRING: *(const char **)o->value = text; return OK;
    case OPT_LIST: {
        string_list *l = o->value;
        if (l->n == (int)ARRAY_LEN(l->value)) return fail(E_USAGE, "--%s is given more than %d times", o->name, l->n);
        l->value[l->n++] = text;
        return OK;
    }
    case OPT_INT: {
        long v = strtol(text, &end, 10);
        if (end == text || *end || v < -2000000000L || v > 2000000000L) return fail(E_USAGE, "--%s wants a whole number, not '%s'", o->name, text);
        *(int *)o->value = (int)v;
        return OK;
    }
    case OPT_FLOAT: {
        double v = strtod(text, &end);
        if (end == text || *end || !isfinite(v)) return fail(E_USAGE, "--%s wants a number, not '%s'", o->name, text);
        *(float *)o->value = (float)v;
        return OK;
    }
    }
    return OK;
}

static void print_options(const command *c, const option *o, int n, const positionals *args) {
    printf("usage: imago %s %s%s[options]\n%s\n\n", c->name, args ? args->usage : "", args ? " " : "", c->summary);
    for (int i = 0; i < n; i++) {
        char name[64];
        bool letter = o[i].alias && (!o[i].alias[1] || o[i].alias[1] == ' ');
        snprintf(name, sizeof name, "--%s%s%.1s", o[i].name, letter ? ", -" : "", letter ? o[i].alias : "");
        printf("  %-18s %s\n", name, o[i].help);
    }
}

static bool spells(const option *o, const char *name, size_t len) {
    if (strlen(o->name) == len && strncmp(o->name, name, len) == 0) return true;
    for (const char *a = o->alias; a && *a; a += strspn(a, " ")) {
        size_t word = strcspn(a, " ");
        if (word == len && strncmp(a, name, len) == 0) return true;
        a += word;
    }
    return false;
}

/* The option that an argument names, "--name", "--name=value" or "-n"; its value, if in the same argument, in *eq. */
static const option *find_option(const char *arg, const option *o, int n, const char **eq) {
    size_t dashes = strspn(arg, "-");
    const char *name = arg + dashes;
    *eq = strchr(name, '=');
    size_t len = *eq ? (size_t)(*eq - name) : strlen(name);
    if (dashes > 2 || len == 0 || (dashes == 1) != (len == 1)) return NULL;
    for (int k = 0; k < n; k++)
        if (spells(&o[k], name, len)) return &o[k];
    return NULL;
}

static status add_positional(const command *c, positionals *args, const char *arg) {
    if (!args) return fail(E_USAGE, "%s: '%s' is not an option; see imago %s --help", c->name, arg, c->name);
    if (args->n == args->max) return fail(E_USAGE, "%s: '%s' is one too many; usage: imago %s %s", c->name, arg, c->name, args->usage);
    args->value[args->n++] = arg;
    return OK;
}

status cli_parse(const command *c, int argc, char **argv, const option *o, int n, positionals *args, bool *help) {
    status st = OK;
    bool options = true;
    *help = false;
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i], *eq = NULL;
        if (options && (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0)) {
            print_options(c, o, n, args);
            *help = true;
            return OK;
        }
        if (options && strcmp(arg, "--") == 0) {
            options = false;
            continue;
        }
        if (!options || arg[0] != '-' || !arg[1]) {
            TRY(add_positional(c, args, arg));
            continue;
        }
        const option *hit = find_option(arg, o, n, &eq);
        if (!hit) return fail(E_USAGE, "%s: '%s' is not an option; see imago %s --help", c->name, arg, c->name);
        if (hit->kind == OPT_FLAG && eq) return fail(E_USAGE, "--%s takes no value", hit->name);
        const char *value = eq ? eq + 1 : hit->kind == OPT_FLAG ? "" : i + 1 < argc ? argv[++i] : NULL;
        if (!value) return fail(E_USAGE, "--%s wants a value", hit->name);
        TRY(set_value(hit, value));
    }
    if (args && args->n < args->min) return fail(E_USAGE, "usage: imago %s %s; see imago %s --help", c->name, args->usage, c->name);
out:
    return st;
}

static void usage(FILE *f) {
    fprintf(f, "imago: adapts image diffusion models on any GPU\n\nusage: imago COMMAND [options]   (imago COMMAND --help)\n\n");
    for (const command *c = commands; c->name; c++) fprintf(f, "  %-14s %s\n", c->name, c->summary);
    fprintf(f, "\nenvironment (for debugging)\n"
               "  IMAGO_LOG=error|warn|info|debug      how much is said\n"
               "  IMAGO_CHECK=finite,ref,guard         check every node: NaN, its plain-C meaning, memory overruns\n"
               "  IMAGO_DUMP=dir                       write every node's outputs\n"
               "  IMAGO_PROFILE=1                      time per op\n");
}

/* GNU OpenMP reads its settings before main. Its idle threads spin for milliseconds, which beside any other
 * busy process costs whole time slices (measured: 40 tiny steps 0.4 s alone, 24 s beside a busy compiler);
 * 10,000 turns keep the speed when alone and give way otherwise. What the user set is left alone. */
static void calm_threads(char **argv) {
    if (!getenv("GOMP_SPINCOUNT") && !getenv("OMP_WAIT_POLICY")) os_restart_with("GOMP_SPINCOUNT", "10000", argv);
}

int main(int argc, char **argv) {
    calm_threads(argv);
    if (argc < 2) return usage(stderr), 2;
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) return usage(stdout), 0;
    if (strcmp(argv[1], "--version") == 0) return printf("imago 0.1.0\n"), 0;
    os_cancel_on_interrupt();
    for (const command *c = commands; c->name; c++)
        if (strcmp(c->name, argv[1]) == 0) return c->run(argc - 1, argv + 1);
    fail(E_USAGE, "'%s' is not a command; see imago --help", argv[1]);
    return cli_fail(E_USAGE);
}
