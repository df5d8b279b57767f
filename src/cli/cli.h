/* cli.h: what the subcommands share. exit() and printing to people live in cli/ only.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "base/base.h"
#include "graph/graph.h"

typedef struct command { const char *name, *summary; int (*run)(int argc, char **argv); } command;

/* Options are "--name value" or "--name=value"; a table describes them. alias: other spellings without their dashes,
 * separated by spaces ("o out-dir"); one letter is written with one dash. */
typedef struct option {
    const char *name; enum { OPT_FLAG, OPT_STRING, OPT_INT, OPT_FLOAT, OPT_LIST } kind; void *value; const char *help;
    const char *alias;
} option;
/* OPT_LIST: a string option that may be repeated. */
typedef struct string_list { const char *value[32]; int n; } string_list;
/* What stands on the command line beside options. The caller gives room for `max` and the words for usage ("FILE|DIR"). */
typedef struct positionals { const char *usage, **value; int min, max, n; } positionals;
/* Fills the table's values and args (NULL = none allowed); E_USAGE names what was not understood. "--" ends options.
 * Prints help and sets *help for --help. */
status cli_parse(const command *c, int argc, char **argv, const option *o, int n, positionals *args, bool *help);
int    cli_fail(status st);                       /* one line to stderr; the process's exit code */
const char *cli_cache_dir(char buf[512]);         /* $XDG_CACHE_HOME/imago or ~/.cache/imago, NULL if neither */
/* What comes with the program ("models/imago-base"): beside its folder, as in a source tree; in ../share/imago, as installed;
 * below the current folder. Where it is nowhere: its name as it is, for messages. */
const char *cli_asset(const char *name, char buf[1200]);
const char *cli_default_model(char buf[1200]);    /* the bundled model's folder; NULL where it is not */
bool   cli_cancelled(void *ctx);                  /* was Ctrl-C pressed? ctx is not looked at */
/* --size: "512" or "512x768" of `what`; text NULL = not given.   errors  E_USAGE */
status cli_read_size(const char *text, const char *what, int *width, int *height);
status cli_need_model(const char *model);         /* E_USAGE: none was given, and none is bundled */
status cli_need_judge(const char *path);          /* E_IO: no SqueezeNet weights there */
#define CLI_JUDGE "assets/squeezenet/squeezenet_v1.0.safetensors"
extern const command commands[];
