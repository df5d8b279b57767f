/* generate.h: what generate.c and its option handling (generate_options.c) share.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "cli/cli.h"
#include "file/image.h"
#include "imago.h"
#include <cjson/cJSON.h>

typedef struct generate_job {
    imago *im; imago_open_params open; imago_generate_params p;
    const char **prompt; int n_prompts;
    const char *output, *like, *init_path, *mask_path, *sheet_path;
    image sheet;                           /* all pictures of the run, row by row */
    char preview_path[1200];
    imago_picture init, mask;
    bool json, overwrite, numbered;        /* numbered: output has a %d */
    int first_number;
    progress bar; arena mem;
} generate_job;

/* --like PNG, if argv has it: its settings become the defaults of j. */
status like_read(generate_job *j, int argc, char **argv);
/* The options that are more than a value: prompts, seed, size, output name. */
status settle(generate_job *j, const char *prompt, const char *seed, const char *size, int width, int height);
/* E_USAGE when a file to be written is there already. */
status check_outputs(generate_job *j, int batch);
void   output_path(const generate_job *j, int number, char path[1200]);
