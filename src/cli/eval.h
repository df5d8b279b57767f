/* eval.h: the kinds of imago eval that have a file of their own.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "cli/cli.h"

int cmd_eval_base(int argc, char **argv);        /* argv[0]: "base" */
int cmd_eval_adapter(int argc, char **argv);     /* argv[0]: "adapter" */
int cmd_eval_personalize(int argc, char **argv); /* argv[0]: "personalize" */
int cmd_eval_grid(int argc, char **argv);        /* argv[0]: "grid" */
