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
int    cli_eval_grid(int argc, char **argv);      /* eval_grid.c: imago eval grid */
extern const command commands[];
