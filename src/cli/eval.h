/* eval.h: the kinds of imago eval that have a file of their own.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "cli/cli.h"
#include "eval/eval.h"

int cmd_eval_base(int argc, char **argv);        /* argv[0]: "base" */
int cmd_eval_adapter(int argc, char **argv);     /* argv[0]: "adapter" */
int cmd_eval_personalize(int argc, char **argv); /* argv[0]: "personalize" */
int cmd_eval_grid(int argc, char **argv);        /* argv[0]: "grid" */
struct corpus;
/* Picture `index` on white, side x side.   errors  E_FORMAT: it does not decode; E_HOST_MEMORY */
status cli_corpus_picture(const struct corpus *c, int index, int side, image *out);
/* Every picture of the corpus in `folder`, on white, by these weights of SqueezeNet, which j has.
 *   errors  those of corpus_open and gallery_open    owner  caller: gallery_close */
status cli_corpus_gallery(judge *j, const char *folder, const char *weights, gallery **out);
