/* generate_options.c: options of imago generate that are more than a value: prompt lists, seeds, sizes, numbered outputs, and
 * settings taken from a PNG.
 * SPDX-License-Identifier: MIT */
#include "cli/generate.h"
#include "file/image.h"
#include <stdio.h>
#include <stdlib.h>

/* ---- --like ---- */
static const char *keep(generate_job *j, const char *s) { return s ? arena_printf(&j->mem, "%s", s) : NULL; }

static void take_string(generate_job *j, const json *o, const char *key, const char **out) {
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, key);
    if (cJSON_IsString(v)) *out = keep(j, v->valuestring);
}
static double number_of(const json *o, const char *key, double otherwise) {
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, key);
    return cJSON_IsNumber(v) && v->valuedouble >= -1e6 && v->valuedouble <= 1e6 ? v->valuedouble : otherwise;
}

static status like_json(generate_job *j, const char *text) {
    json *o = NULL;
    imago_generate_params *p = &j->p;
    const char *seed = NULL, *prompt = NULL;
    status st = json_parse(text, strlen(text), j->like, &o);
    if (st != OK) return st;
    take_string(j, o, "prompt", &prompt);
    take_string(j, o, "negative", &p->negative);
    take_string(j, o, "sampler", &p->sampler);
    take_string(j, o, "schedule", &p->schedule);
    take_string(j, o, "rng", &p->rng);
    take_string(j, o, "rng_dtype", &p->rng_dtype);
    take_string(j, o, "precision", &j->open.precision);
    take_string(j, o, "seed", &seed);
    p->width = (int)number_of(o, "width", 0);
    p->height = (int)number_of(o, "height", 0);
    p->steps = (int)number_of(o, "steps", -1);
    p->guidance = (float)number_of(o, "cfg", -1);
    p->guidance_rescale = (float)number_of(o, "cfg_rescale", 0);
    p->eta = (float)number_of(o, "eta", -1);
    p->clip_skip = (int)number_of(o, "clip_skip", 0);
    p->strength = (float)number_of(o, "strength", -1);
    p->plain_prompt = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(o, "plain_prompt"));
    if (seed) p->seed = strtoull(seed, NULL, 10);
    if (cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(o, "adapters")) > 0)
        log_warn("%s was made with adapters (see imago info): give them with --adapter", j->like);
    p->prompt = prompt;
    json_free(o);
    return OK;
}

/* A1111: prompt lines, "Negative prompt: ", then one line of "Key: value" pairs from "Steps: " on. */
static status like_a1111(generate_job *j, const char *text) {
    imago_generate_params *p = &j->p;
    char *copy = arena_printf(&j->mem, "%s", text), *steps, *negative, *end = NULL;
    if (!copy) return fail(E_HOST_MEMORY, "no host memory for the settings of %s", j->like);
    steps = strncmp(copy, "Steps: ", 7) == 0 ? copy : strstr(copy, "\nSteps: ");
    if (!steps) return fail(E_FORMAT, "%s: its \"parameters\" text has no line \"Steps: …\"", j->like);
    if (*steps == '\n') *steps++ = 0;
    negative = strstr(copy, "\nNegative prompt: ");
    if (negative) *negative = 0, p->negative = negative + strlen("\nNegative prompt: ");
    p->prompt = copy == steps ? "" : copy;
    for (char *pair = strtok_r(steps, ",", &end); pair; pair = strtok_r(NULL, ",", &end)) {
        pair += strspn(pair, " ");
        char *value = strstr(pair, ": ");
        if (!value) continue;
        *value = 0, value += 2;
        if (strcmp(pair, "Steps") == 0) p->steps = atoi(value);
        else if (strcmp(pair, "Sampler") == 0) p->sampler = value;
        else if (strcmp(pair, "CFG scale") == 0) p->guidance = (float)atof(value);
        else if (strcmp(pair, "Seed") == 0) p->seed = strtoull(value, NULL, 10);
        else if (strcmp(pair, "Clip skip") == 0) p->clip_skip = atoi(value);
        else if (strcmp(pair, "Denoising strength") == 0) p->strength = (float)atof(value);
        else if (strcmp(pair, "RNG") == 0) p->rng = strcmp(value, "CPU") == 0 ? "cpu" : "philox";
        else if (strcmp(pair, "Schedule type") == 0 && strcmp(value, "Karras") == 0) p->schedule = "karras";
        else if (strcmp(pair, "Schedule type") == 0 && strcmp(value, "Exponential") == 0) p->schedule = "exponential";
        else if (strcmp(pair, "Size") == 0 && sscanf(value, "%dx%d", &p->width, &p->height) != 2) p->width = p->height = 0;
    }
    return OK;
}

status like_read(generate_job *j, int argc, char **argv) {
    status st = OK;
    png_text *text = NULL;
    int n = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--like") == 0 && i + 1 < argc) j->like = argv[i + 1];
        if (strncmp(argv[i], "--like=", 7) == 0) j->like = argv[i] + 7;
    }
    if (!j->like) return OK;
    TRY(png_read_text(j->like, &j->mem, &text, &n));
    const char *ours = NULL, *a1111 = NULL;
    for (int i = 0; i < n; i++) {
        if (strcmp(text[i].key, "imago") == 0) ours = text[i].text;
        if (strcmp(text[i].key, "parameters") == 0) a1111 = text[i].text;
    }
    if (!ours && !a1111) TRY(fail(E_FORMAT, "%s carries no settings: neither an \"imago\" nor a \"parameters\" text", j->like));
    if (ours) TRY(like_json(j, ours));
    else TRY(like_a1111(j, a1111));
out:
    return st;
}

/* ---- prompts ---- */
static status prompt_lines(generate_job *j, const char *path) {
    status st = OK;
    uint8_t *data = NULL;
    size_t bytes = 0;
    int n = 1;
    TRY(file_read(path, (size_t)16 << 20, &data, &bytes));
    for (size_t i = 0; i < bytes; i++) n += data[i] == '\n';
    char *copy = arena_printf(&j->mem, "%s", (char *)data), *end = NULL;
    j->prompt = arena_new(&j->mem, const char *, n);
    if (!copy || !j->prompt) TRY(fail(E_HOST_MEMORY, "no host memory for the prompts of %s", path));
    for (char *line = strtok_r(copy, "\r\n", &end); line; line = strtok_r(NULL, "\r\n", &end))
        if (line[strspn(line, " \t")]) j->prompt[j->n_prompts++] = line;
    if (!j->n_prompts) TRY(fail(E_FORMAT, "%s holds no prompt: write one a line", path));
out:
    mem_free(data);
    return st;
}

static status read_prompts(generate_job *j, const char *prompt) {
    if (!prompt) prompt = j->p.prompt;
    if (!prompt) return fail(E_USAGE, "no prompt: give --prompt \"…\" (or --prompt @FILE, a prompt a line)");
    if (prompt[0] == '@') return prompt_lines(j, prompt + 1);
    if (strcmp(prompt, "-") == 0) return prompt_lines(j, "/dev/stdin");
    j->prompt = arena_new(&j->mem, const char *, 1);
    if (!j->prompt) return fail(E_HOST_MEMORY, "no host memory for a prompt");
    j->prompt[j->n_prompts++] = prompt;
    return OK;
}

static status read_seed(generate_job *j, const char *seed) {
    char *end = NULL;
    if (!seed) return OK;
    long long v = strtoll(seed, &end, 10);
    if (end == seed || *end) return fail(E_USAGE, "--seed wants a whole number, not '%s'", seed);
    if (v < 0) v = (long long)(uint32_t)(os_entropy() & 0x7fffffff);
    j->p.seed = (uint64_t)v;
    return OK;
}

/* ---- outputs ---- */

/* Accepts one %d or %0Nd and no other conversion. */
static bool number_pattern(const char *s) {
    const char *at = strchr(s, '%');
    if (!at) return false;
    const char *p = at + 1;
    if (*p == '0') p++;
    while (*p >= '0' && *p <= '9' && p - at < 4) p++;
    return *p == 'd' && !strchr(p, '%');
}

void output_path(const generate_job *j, int number, char path[1200]) {
    int digits = 0;
    if (!j->numbered) {
        snprintf(path, 1200, "%s", j->output);
        return;
    }
    const char *at = strchr(j->output, '%'), *end = strchr(at, 'd');
    sscanf(at + 1, "%d", &digits);
    snprintf(path, 1200, "%.*s%0*d%s", (int)(at - j->output), j->output, digits, j->first_number + number, end + 1);
}

/* "out.png" for several pictures: "out-%04d.png". */
static status number_output(generate_job *j) {
    const char *dot = strrchr(j->output, '.');
    j->output = arena_printf(&j->mem, "%.*s-%%04d%s", (int)(dot - j->output), j->output, dot);
    j->numbered = true;
    j->first_number = 1;
    return j->output ? OK : fail(E_HOST_MEMORY, "no host memory for a file name");
}

static status settle_output(generate_job *j) {
    status st = OK;
    char path[1200];
    bool chosen = j->output != NULL;
    if (!chosen) j->output = "imago-%04d.png";
    size_t n = strlen(j->output);
    if (n < 5 || n > 1000 || strcmp(j->output + n - 4, ".png") != 0) return fail(E_USAGE, "output '%s': imago writes PNG, end the name in .png", j->output);
    j->numbered = number_pattern(j->output);
    if (!j->numbered && strchr(j->output, '%')) return fail(E_USAGE, "output '%s': the only place-holder is one %%d (or %%04d)", j->output);
    j->first_number = j->numbered;
    if (!j->numbered && j->n_prompts * MAX(j->p.batch, 1) > 1) TRY(number_output(j));
    while (!chosen && j->first_number < 100000) {
        output_path(j, 0, path);
        if (!os_file_exists(path)) break;
        j->first_number++;
    }
    snprintf(j->preview_path, sizeof j->preview_path, "%.*s.preview.png", (int)(strcspn(j->output, "%") < n ? strcspn(j->output, "%") : n - 4), j->output);
out:
    return st;
}

status check_outputs(generate_job *j, int batch) {
    char path[1200];
    size_t n = j->sheet_path ? strlen(j->sheet_path) : 0;
    if (j->sheet_path && (n < 5 || strcmp(j->sheet_path + n - 4, ".png") != 0))
        return fail(E_USAGE, "sheet '%s': imago writes PNG, end the name in .png", j->sheet_path);
    if (j->sheet_path && !j->overwrite && os_file_exists(j->sheet_path))
        return fail(E_USAGE, "%s is there already: choose another --sheet, or give --overwrite", j->sheet_path);
    for (int i = 0; i < j->n_prompts * batch && !j->overwrite; i++) {
        output_path(j, i, path);
        if (os_file_exists(path)) return fail(E_USAGE, "%s is there already: choose another --output, or give --overwrite", path);
    }
    return OK;
}

/* A zero that was given means itself, not the default. */
static status settle_zeros(imago_generate_params *p) {
    if (p->steps == 0) return fail(E_USAGE, "--steps 0 makes no picture: give 1 or more");
    if (p->strength == 0)
        return fail(E_USAGE, "--strength 0 would change nothing: give more than 0, up to 1");
    if (p->guidance == 0) p->guidance = 1;
    if (p->steps == -1) p->steps = 0;
    if (p->strength == -1) p->strength = 0;
    if (p->guidance == -1) p->guidance = 0;
    return OK;
}

status settle(generate_job *j, const char *prompt, const char *seed, const char *size, int width, int height) {
    status st = OK;
    char rest = 0;
    TRY(settle_zeros(&j->p));
    TRY(read_prompts(j, prompt));
    TRY(read_seed(j, seed));
    if (size && (sscanf(size, "%dx%d%c", &j->p.width, &j->p.height, &rest) != 2 || j->p.width < 1 || j->p.height < 1))
        TRY(fail(E_USAGE, "--size wants WIDTHxHEIGHT, as 512x768, not '%s'", size));
    if (width) j->p.width = width;
    if (height) j->p.height = height;
    j->p.preview_every = MAX((j->p.steps ? j->p.steps : 20) / 5, 1);
    TRY(settle_output(j));
    TRY(cli_need_model(j->open.model));
out:
    return st;
}
