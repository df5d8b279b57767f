/* record.h: what a run leaves to look at: train.log, the curve of its loss, and sheets of pictures.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "file/image.h"

#define RECORD_MAX_VALUES 12

/* ---- record_log.c: one JSON object a line, appended and flushed ---- */
typedef struct record_value { const char *key; double value; } record_value;
typedef struct train_log train_log;
/* Opens or starts the file. Lines of steps after `step` belong to a run that was cut off and is now repeated: dropped.
 *   errors  E_IO; E_FORMAT: a line that is no log line of ours; E_HOST_MEMORY     owner  caller: train_log_close (accepts NULL) */
status train_log_open(const char *path, int64_t step, train_log **out);
void   train_log_close(train_log *l);
/* {"step":50,"loss":0.25,...}; n <= RECORD_MAX_VALUES. Values that are not finite are written as null. */
status train_log_add(train_log *l, int64_t step, const record_value *v, int n);
/* The values of one key over the steps, as a PNG of 960 x 540; both axes with numbers, the vertical one logarithmic. */
status train_log_plot(const train_log *l, const char *key, const char *path);

/* ---- record_plot.c ---- */
/* y over x, n points, x rising; y <= 0 and what is not finite is left out. Thin: the values; thick: their running mean. */
status plot_curve(const double *x, const double *y, int64_t n, image *out);

/* Lines of a name each, by colours; a dot at every point, axes from the least to the most of all; at most PLOT_LINES of them, others
 * are left out. Names are drawn in letters, digits, - and _. */
#define PLOT_LINES 8
typedef struct plot_line { const char *name; const double *x, *y; int n; } plot_line;
status plot_lines(const plot_line *line, int n, const char *x_name, const char *y_name, image *out);

/* Pictures [n, side, side, 3] in rows of `columns`, 2 px between them, as a PNG. */
status sheet_save(const uint8_t *rgb, int n, int side, int columns, const char *path);
