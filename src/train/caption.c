/* caption.c: English enough for captions. Names are those of Unicode: short, without articles, some
 * plural, some proper. Rules with word lists decide the article; a wrong one costs little, since a
 * text encoder hardly minds, so the lists stop where the corpus's common things are right.
 * SPDX-License-Identifier: MIT */
#include "train/caption.h"

#include <assert.h>

/* Far enough apart that a person gives each the same word. */
const caption_color caption_colors[CAPTION_COLORS] = {
    {"white", {255, 255, 255}, true},      {"red", {214, 48, 49}, false},
    {"orange", {244, 140, 44}, false},     {"yellow", {252, 217, 84}, true},
    {"green", {86, 176, 92}, false},       {"blue", {58, 112, 214}, false},
    {"light blue", {170, 217, 246}, true}, {"purple", {136, 84, 188}, false},
    {"pink", {250, 176, 202}, true},       {"brown", {132, 88, 56}, false},
    {"gray", {150, 152, 156}, false},      {"black", {24, 24, 28}, false},
    {"beige", {240, 226, 198}, true},
};

const caption_hue caption_hues[CAPTION_HUES] = {
    {"red", 0, 1, 0.6f},       {"orange", 28, 1, 0.85f}, {"yellow", 52, 1, 0.85f},
    {"green", 125, 1, 0.4f},   {"blue", 218, 1, 0.5f},   {"purple", 276, 1, 0.5f},
    {"pink", 335, 0.6f, 0.9f},
};

static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

/* Bytes of UTF-8 beyond ASCII count as parts of words: piñata is one. */
static bool in_word(char c) {
    return is_letter(c) || (c >= '0' && c <= '9') || c == '\'' || (c & 0x80);
}

/* The plain form of a typographic quote at s, or NULL. */
static const char *plain_quote(const char *s) {
    if (!strncmp(s, "\xe2\x80\x98", 3) || !strncmp(s, "\xe2\x80\x99", 3)) return "'";
    if (!strncmp(s, "\xe2\x80\x9c", 3) || !strncmp(s, "\xe2\x80\x9d", 3)) return "\"";
    return NULL;
}

void caption_add(caption *c, const char *text) {
    while (*text) {
        const char *plain = plain_quote(text);
        assert(c->used + 1 < sizeof c->text);
        c->text[c->used++] = plain ? *plain : *text;
        text += plain ? 3 : 1;
    }
    c->text[c->used] = 0;
}

static bool word_is(const char *word, size_t n, const char *other) {
    return strlen(other) == n && !memcmp(word, other, n);
}

static bool listed(const char *word, size_t n, const char *const *list, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (word_is(word, n, list[i])) return true;
    return false;
}
#define LISTED(word, n, list) listed((word), (n), (list), ARRAY_LEN(list))

bool caption_has_word(const char *name, const char *word) {
    size_t n = strlen(word);
    for (const char *s = name; (s = strstr(s, word)); s++)
        if ((s == name || !in_word(s[-1])) && !in_word(s[n])) return true;
    return false;
}

bool caption_names_color(const char *name) {
    static const char *const more[] = {"golden", "rainbow", "dark", "light", "colored"};
    for (size_t i = 0; i < CAPTION_COLORS; i++)
        if (caption_has_word(name, caption_colors[i].word)) return true;
    for (size_t i = 0; i < ARRAY_LEN(more); i++)
        if (caption_has_word(name, more[i])) return true;
    return false;
}

static const char *const plurals[] = {"people", "men", "women", "children", "skis", "maracas"};

/* The noun that decides: the last word before "with", "of", a comma, or a verb ("men holding
 * hands"). */
static const char *head_noun(const char *name, size_t *n) {
    static const char *const stops[] = {"with", "of",      "in",   "on",    "at", "and", "from",
                                        "for",  "without", "over", "under", "up", "to",  "facing"};
    const char *head = name;
    *n = 0;
    for (const char *s = name; *s;) {
        size_t len = 0;
        while (s[len] && s[len] != ' ' && s[len] != ',') len++;
        bool verb = len > 4 && !memcmp(s + len - 3, "ing", 3) &&
                    (s[len] == ' ' || LISTED(head, *n, plurals));
        if (s != name && (verb || LISTED(s, len, stops))) break;
        head = s, *n = len;
        if (s[len] != ' ') break;
        s += len + 1;
    }
    return head;
}

static bool is_plural(const char *w, size_t n) {
    if (LISTED(w, n, plurals)) return true;
    if (n < 3 || w[n - 1] != 's') return false;
    return !strchr("suia'o", w[n - 2]); /* glass, cactus, tennis, canvas, rhinoceros: one thing */
}

static bool takes_no_article(const char *name) {
    static const char *const proper[] = {"mount fuji", "Tokyo tower", "Santa Claus", "Mrs. Claus",
                                         "Mx Claus"};
    static const char *const mass[] = {
        "rice",      "bread",     "bacon",   "popcorn", "salt",     "butter",   "honey",
        "sushi",     "racing",    "money",   "poo",     "ginger",   "garlic",   "broccoli",
        "fog",       "lightning", "curling", "karate",  "football", "hockey",   "lacrosse",
        "badminton", "tennis",    "golf",    "camping", "confetti", "droplets", "sunrise",
        "sunset",    "snow",      "fire"};
    size_t n;
    const char *head = head_noun(name, &n);
    if (LISTED(name, strlen(name), proper)) return true;
    if (strstr(name, "o\xe2\x80\x99"
                     "clock") ||
        strstr(name, "-thirty"))
        return true;
    /* "pot of food" has a countable head, "cooked rice" has not */
    return is_plural(head, n) || LISTED(head, n, mass);
}

static bool takes_an(const char *word) {
    static const char *const sounded[] = {"uni", "one", "eu", "ewe", "use", "uto", "ufo"};
    if (!strncmp(word, "hour", 4) || !strncmp(word, "x-ray", 5) || !strncmp(word, "SOS", 3))
        return true;
    for (size_t i = 0; i < ARRAY_LEN(sounded); i++)
        if (!strncmp(word, sounded[i], strlen(sounded[i]))) return false;
    return strchr("aeiouAEIOU", word[0]) != NULL;
}

void caption_add_thing(caption *c, const char *adjective, const char *name) {
    const char *first = adjective ? adjective : name;
    if (!strncmp(name, "Statue of", 9))
        caption_add(c, "the ");
    else if (!takes_no_article(name))
        caption_add(c, takes_an(first) ? "an " : "a ");
    if (adjective) caption_add(c, adjective), caption_add(c, " ");
    caption_add(c, name);
}
