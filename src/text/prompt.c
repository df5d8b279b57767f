/* prompt.c: prompts with weights, as A1111's stable-diffusion-webui reads them
 * (parse_prompt_attention of its prompt_parser.py and tokenize_line of its sd_hijack_clip.py), so
 * that prompts written for it give the same ids and weights here. That includes what looks odd: a
 * backslash before another character vanishes; brackets left open weigh everything after them;
 * BREAK inside brackets is the word "break", with a negative weight. The text of the parts lies in
 * one buffer in their order, so joining neighbours is adding lengths. SPDX-License-Identifier: MIT
 */
#include "text/text_internal.h"

#include <assert.h>
#include <limits.h>
#include <math.h>

#define PROMPT_MAX_BYTES ((size_t)16 << 20)
#define ROUND            1.1
/* Brackets open at once: each costs a pass over what follows, and 1.1^256 is no weight. */
#define MAX_OPEN     256
#define BREAK_WEIGHT (-1) /* by which the marker is told from the word */
#define BACKTRACK    20   /* how far from the end of a chunk a comma may be, in ids */

typedef struct part {
    size_t start, bytes;
    double weight;
} part;
typedef struct parser {
    buffer text, parts;
    size_t bytes;                     /* of text */
    int n;                            /* parts */
    int open[2][MAX_OPEN], n_open[2]; /* part at which a ( or [ was opened */
} parser;

static part *part_at(parser *p, int i) { return (part *)p->parts.p + i; }

static status put_part(parser *p, const char *s, size_t n, double weight) {
    status st = OK;
    TRY(buffer_room(&p->parts, ((size_t)p->n + 1) * sizeof(part)));
    TRY(buffer_room(&p->text, p->bytes + n + 1));
    if (n) memcpy((char *)p->text.p + p->bytes, s, n);
    *part_at(p, p->n++) = (part){p->bytes, n, weight};
    p->bytes += n;
out:
    return st;
}

static void weigh_from(parser *p, int from, double weight) {
    for (int i = from; i < p->n; i++) part_at(p, i)->weight *= weight;
}

static status open_bracket(parser *p, int kind) {
    if (p->n_open[kind] == MAX_OPEN)
        return fail(
            E_USAGE,
            "the prompt has more than %d brackets open at once: write \\( and \\[ for plain ones",
            MAX_OPEN);
    p->open[kind][p->n_open[kind]++] = p->n;
    return OK;
}

/* ---- BREAK ---- */
static bool is_space(uint32_t c) { /* Python's */
    return char_class_of(c) == CHAR_SPACE || (c >= 0x1c && c <= 0x1f);
}

static bool is_word(uint32_t c) {
    char_class k = char_class_of(c);
    return k == CHAR_LETTER || k == CHAR_NUMBER || c == '_';
}

/* The character that ends before s[i]; i > 0. */
static uint32_t decode_before(const char *s, size_t i, size_t *used) {
    size_t from = i - 1;
    while (from > 0 && i - from < 4 && ((uint8_t)s[from] & 0xc0) == 0x80) from--;
    uint32_t c = utf8_decode(s + from, i - from, used);
    if (*used != i - from) *used = 1;
    return c;
}

static bool break_at(const char *s, size_t n, size_t i) {
    size_t used;
    return n - i >= 5 && !memcmp(s + i, "BREAK", 5) &&
           (i == 0 || !is_word(decode_before(s, i, &used))) &&
           (i + 5 == n || !is_word(utf8_decode(s + i + 5, n - i - 5, &used)));
}

/* Text without brackets, cut at the words BREAK, which take the white space around them with them.
 */
static status put_text(parser *p, const char *s, size_t n) {
    status st = OK;
    size_t from = 0, used;
    for (size_t i = 0; i < n; i++) {
        if (!break_at(s, n, i)) continue;
        size_t end = i;
        while (end > from && is_space(decode_before(s, end, &used))) end -= used;
        TRY(put_part(p, s + from, end - from, 1));
        TRY(put_part(p, "BREAK", 5, BREAK_WEIGHT));
        for (from = i + 5; from < n && is_space(utf8_decode(s + from, n - from, &used));)
            from += used;
        i = from - 1;
    }
    TRY(put_part(p, s + from, n - from, 1));
out:
    return st;
}

/* ---- weights ---- */
static size_t skip_space(const char *s, size_t n, size_t i) {
    for (size_t used; i < n && is_space(utf8_decode(s + i, n - i, &used));) i += used;
    return i;
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

/* ":1.2)" at s: its bytes, and where the number is; 0 = it is something else. */
static size_t weight_at(const char *s, size_t n, size_t *number, size_t *number_end) {
    size_t i = skip_space(s, n, 1);
    *number = i;
    if (i < n && (s[i] == '+' || s[i] == '-')) i++;
    size_t first = i;
    while (i < n && (is_digit(s[i]) || s[i] == '.')) i++;
    *number_end = i;
    if (i == first) return 0;
    i = skip_space(s, n, i);
    return i < n && s[i] == ')' ? i + 1 : 0;
}

/* No strtod: what it reads depends on the locale. Up to 15 digits the result is the nearest double.
 */
static status read_weight(const char *s, size_t n, double *out) {
    double digits = 0, scale = 1;
    int used = 0, seen = 0, points = 0;
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '.') points++;
        if (!is_digit(s[i])) continue;
        seen++;
        if (used < 15) {
            digits = digits * 10 + (s[i] - '0');
            used += digits > 0;
            if (points) scale *= 10;
        } else if (!points)
            scale /= 10;
    }
    if (points > 1 || !seen || n > 100)
        return fail(E_USAGE, "the prompt has the weight \"%.*s\": expected a number like 1.2",
                    (int)MIN(n, (size_t)100), s);
    *out = (*s == '-' ? -digits : digits) / scale;
    return OK;
}

/* ---- the syntax ---- */
static status parse(parser *p, const char *s, size_t n) {
    status st = OK;
    size_t used, number, number_end;
    for (size_t i = 0; i < n; i += used) {
        char c = s[i];
        used = 1;
        if (c == '\\') {
            if (i + 1 < n && strchr("()[]\\", s[i + 1])) used = 2;
            TRY(put_part(p, s + i + 1, used - 1, 1));
        } else if (c == '(' || c == '[')
            TRY(open_bracket(p, c == '['));
        else if (c == ':' && (used = weight_at(s + i, n - i, &number, &number_end)) &&
                 p->n_open[0]) {
            double weight = 1;
            TRY(read_weight(s + i + number, number_end - number, &weight));
            weigh_from(p, p->open[0][--p->n_open[0]], weight);
        } else if (c == ')' && p->n_open[0])
            weigh_from(p, p->open[0][--p->n_open[0]], ROUND);
        else if (c == ']' && p->n_open[1])
            weigh_from(p, p->open[1][--p->n_open[1]], 1 / ROUND);
        else {
            used = MAX(used, (size_t)1);
            if (!strchr(":)]", c))
                while (i + used < n && !strchr("\\()[]:", s[i + used])) used++;
            TRY(put_text(p, s + i, used));
        }
    }
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < p->n_open[k]; i++) weigh_from(p, p->open[k][i], k ? 1 / ROUND : ROUND);
    if (!p->n) TRY(put_part(p, "", 0, 1));
    int kept = 0;
    for (int i = 1; i < p->n; i++) {
        part *last = part_at(p, kept), *now = part_at(p, i);
        /* one text before it is cut into words: (un)(do) is "undo" */
        if (last->weight == now->weight)
            last->bytes += now->bytes;
        else
            *part_at(p, ++kept) = *now;
    }
    p->n = kept + 1;
out:
    return st;
}

/* ---- chunks ---- */
typedef struct chunker {
    const tokenizer *t;
    buffer ids, weights; /* [n_chunks + the open one, room]: what is in them, without bos, eos and
                            padding */
    buffer counts;       /* [n_chunks + 1] */
    int room, n_chunks;  /* finished ones */
    int used, comma;     /* of the open chunk; comma: where the last one is, -1 = none */
} chunker;

static status chunk_begin(chunker *c) {
    status st = OK;
    size_t all = (size_t)c->n_chunks + 1;
    c->used = 0, c->comma = -1;
    TRY(buffer_room(&c->ids, all * (size_t)c->room * sizeof(uint32_t)));
    TRY(buffer_room(&c->weights, all * (size_t)c->room * sizeof(float)));
    TRY(buffer_room(&c->counts, all * sizeof(int)));
out:
    return st;
}

static status chunk_end(chunker *c) {
    if (c->n_chunks == INT_MAX / (c->room + 2) - 1)
        return fail(E_USAGE, "a prompt of more than %d chunks", c->n_chunks);
    ((int *)c->counts.p)[c->n_chunks++] = c->used;
    return chunk_begin(c);
}

static uint32_t *ids_of(chunker *c, int chunk) {
    return (uint32_t *)c->ids.p + (size_t)chunk * (size_t)c->room;
}
static float *weights_of(chunker *c, int chunk) {
    return (float *)c->weights.p + (size_t)chunk * (size_t)c->room;
}

/* The open chunk is full: what follows its last comma moves to the next one. */
static status break_at_comma(chunker *c) {
    int keep = c->comma + 1, moved = c->used - keep, from = c->n_chunks;
    c->used = keep;
    status st = chunk_end(c);
    if (st != OK) return st;
    memcpy(ids_of(c, from + 1), ids_of(c, from) + keep, sizeof(uint32_t) * (size_t)moved);
    memcpy(weights_of(c, from + 1), weights_of(c, from) + keep, sizeof(float) * (size_t)moved);
    c->used = moved;
    return OK;
}

static status put_ids(chunker *c, const uint32_t *ids, int n, float weight) {
    status st = OK;
    for (int i = 0, group; i < n; i += group) {
        const added_token *a =
            ids[i] >= (uint32_t)c->t->size ? tokenizer_added_at(c->t, ids[i]) : NULL;
        group = a ? MIN(a->n, n - i) : 1;
        if (ids[i] == c->t->comma)
            c->comma = c->used;
        else if (c->used == c->room && c->comma >= 0 && c->used - c->comma <= BACKTRACK)
            TRY(break_at_comma(c));
        if (c->used == c->room) TRY(chunk_end(c));
        if (group > c->room)
            group = 1; /* the vectors of one placeholder stay together where they can */
        if (c->used + group > c->room) TRY(chunk_end(c));
        for (int k = 0; k < group; k++, c->used++) {
            ids_of(c, c->n_chunks)[c->used] = ids[i + k];
            weights_of(c, c->n_chunks)[c->used] = weight;
        }
    }
out:
    return st;
}

static status fill(chunker *c, parser *p, const prompt_options *o) {
    status st = OK;
    arena mem = {0};
    for (int i = 0; i < p->n; i++) {
        const part *now = part_at(p, i);
        uint32_t *ids;
        int n;
        const char *text = (const char *)p->text.p + now->start;
        if (now->weight == BREAK_WEIGHT && now->bytes == 5 && !memcmp(text, "BREAK", 5)) {
            if (!o->truncate) TRY(chunk_end(c));
            continue;
        }
        if (!isfinite((float)now->weight)) {
            st = fail(E_USAGE, "the weights of the prompt multiply to more than a number can hold");
            goto out;
        }
        TRY(tokenizer_encode(c->t, text, now->bytes, &mem, &ids, &n));
        if (o->truncate) n = MIN(n, c->room - c->used);
        TRY(put_ids(c, ids, n, (float)now->weight));
        arena_fini(&mem);
    }
    if (c->used || !c->n_chunks) TRY(chunk_end(c));
    while (c->n_chunks < o->min_chunks) TRY(chunk_end(c));
out:
    arena_fini(&mem);
    return st;
}

static status write_out(chunker *c, arena *a, prompt_tokens *out) {
    const size_t length = (size_t)c->room + 2, all = length * (size_t)c->n_chunks;
    uint32_t *ids = arena_new(a, uint32_t, all);
    float *weight = arena_new(a, float, all);
    if (!ids || !weight)
        return fail(E_HOST_MEMORY, "no memory for a prompt of %d chunks", c->n_chunks);
    for (size_t i = 0; i < all; i++) ids[i] = c->t->pad, weight[i] = 1;
    for (int k = 0; k < c->n_chunks; k++) {
        uint32_t *row = ids + (size_t)k * length;
        const int n = ((const int *)c->counts.p)[k];
        row[0] = c->t->bos;
        row[n + 1] = c->t->eos;
        memcpy(row + 1, ids_of(c, k), sizeof *row * (size_t)n);
        memcpy(weight + (size_t)k * length + 1, weights_of(c, k), sizeof *weight * (size_t)n);
    }
    *out = (prompt_tokens){c->n_chunks, (int)length, ids, weight};
    return OK;
}

status prompt_tokenize(const tokenizer *t, const char *prompt, const prompt_options *o, arena *a,
                       prompt_tokens *out) {
    status st = OK;
    parser p = {0};
    chunker c = {.t = t, .room = t->max_length - 2};
    const size_t bytes = strlen(prompt);
    *out = (prompt_tokens){0};
    assert(o->min_chunks >= 0);
    if (bytes > PROMPT_MAX_BYTES)
        return fail(E_USAGE, "a prompt of %zu bytes, at most %zu are accepted", bytes,
                    PROMPT_MAX_BYTES);
    if (o->plain)
        TRY(put_part(&p, prompt, bytes, 1));
    else
        TRY(parse(&p, prompt, bytes));
    TRY(chunk_begin(&c));
    TRY(fill(&c, &p, o));
    TRY(write_out(&c, a, out));
out:
    mem_free(p.text.p);
    mem_free(p.parts.p);
    mem_free(c.ids.p);
    mem_free(c.weights.p);
    mem_free(c.counts.p);
    return st;
}
