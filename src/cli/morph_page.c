/* morph_page.c: morph.html: one self-contained page that scrubs and plays the frames and shows how even the steps between
 * them are. It loads nothing: frames are data URIs, the chart is drawn from the numbers in the page.
 * SPDX-License-Identifier: MIT */
#include "cli/morph.h"
#include <stdio.h>

static const char head[] =
    "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\n"
    "<style>\n"
    "body{font:16px/1.4 system-ui,sans-serif;margin:2rem auto;padding:0 1rem;max-width:48rem;background:#16181d;color:#e8e8ea}\n"
    "h1{font-size:1.1rem;font-weight:600}\n"
    "#view{display:block;width:100%;max-width:40rem;max-height:60vh;object-fit:contain;margin:auto;background:#000;border-radius:6px}\n"
    ".bar{display:flex;gap:1rem;align-items:center;margin:1rem 0}\n"
    "#at{flex:1}button{font:inherit;min-width:5rem;padding:.3rem .8rem}\n"
    "svg{width:100%;height:9rem;display:block}rect{fill:#6aa9ff;cursor:pointer}rect.on{fill:#ffc46a}line{stroke:#888;stroke-dasharray:4;vector-effect:non-scaling-stroke}\n"
    "p{color:#a9abb3;font-size:.9rem}\n"
    "</style>\n";

static const char tail[] =
    "<img id=\"view\" alt=\"frame\">\n"
    "<div class=\"bar\"><button id=\"play\">Play</button><input id=\"at\" type=\"range\" min=\"0\" step=\"1\" value=\"0\" aria-label=\"frame\"><output id=\"number\"></output></div>\n"
    "<svg id=\"chart\" role=\"img\" aria-label=\"gaps between neighbouring frames\"></svg>\n"
    "<p id=\"note\"></p>\n"
    "<script>\n"
    "'use strict';\n"
    "const $ = id => document.getElementById(id), last = frames.length - 1;\n"
    "let now = 0, timer = 0, step = 1;\n"
    "const bars = [];\n"
    "function show(i) {\n"
    "  now = i; $('view').src = frames[i]; $('at').value = i; $('number').textContent = (i + 1) + ' / ' + frames.length;\n"
    "  bars.forEach((b, k) => b.classList.toggle('on', k + 1 === i));\n"
    "}\n"
    "function stop() { clearInterval(timer); timer = 0; $('play').textContent = 'Play'; }\n"
    "function tick() {\n"
    "  if (loop) return show((now + 1) % frames.length);\n"
    "  if (now + step > last || now + step < 0) step = -step;\n"
    "  show(Math.min(Math.max(now + step, 0), last));\n"
    "}\n"
    "$('play').onclick = () => { if (timer) return stop(); timer = setInterval(tick, 1000 / fps); $('play').textContent = 'Pause'; };\n"
    "$('at').max = last;\n"
    "$('at').oninput = e => { stop(); show(+e.target.value); };\n"
    "function draw() {\n"
    "  const svg = $('chart'), ns = 'http://www.w3.org/2000/svg', top = Math.max(...gaps, 1e-9), n = gaps.length;\n"
    "  const mean = gaps.reduce((a, b) => a + b, 0) / n;\n"
    "  svg.setAttribute('viewBox', '0 0 ' + 10 * n + ' 100'); svg.setAttribute('preserveAspectRatio', 'none');\n"
    "  const add = (name, at) => { const e = document.createElementNS(ns, name); for (const k in at) e.setAttribute(k, at[k]); svg.append(e); return e; };\n"
    "  gaps.forEach((g, i) => { const e = add('rect', {x: 10 * i + 1, y: 100 - 96 * g / top, width: 8, height: 96 * g / top}); e.onclick = () => { stop(); show(i + 1); }; bars.push(e); });\n"
    "  add('line', {x1: 0, x2: 10 * n, y1: 100 - 96 * mean / top, y2: 100 - 96 * mean / top});\n"
    "  $('note').textContent = 'Each bar: how much a frame differs from the one before it (root mean square of pixel differences). '\n"
    "    + 'Largest ' + (100 * top).toFixed(1) + ' %, mean ' + (100 * mean).toFixed(1) + ' % (dashed), largest / mean ' + (top / Math.max(mean, 1e-9)).toFixed(2) + '.';\n"
    "}\n"
    "draw(); show(0);\n"
    "</script>\n</html>\n";

static status put(file_out *f, const char *s) { return file_out_write(f, s, strlen(s)); }

static status put_html(file_out *f, const char *s) {
    status st = OK;
    for (; *s; s++) {
        const char *safe = *s == '<' ? "&lt;" : *s == '&' ? "&amp;" : *s == '"' ? "&quot;" : NULL;
        if (safe) TRY(put(f, safe));
        else TRY(file_out_write(f, s, 1));
    }
out:
    return st;
}

static status put_base64(file_out *f, const uint8_t *data, size_t bytes) {
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    status st = OK;
    char out[4096];
    size_t n = 0;
    for (size_t i = 0; i < bytes; i += 3) {
        uint32_t v = (uint32_t)data[i] << 16 | (i + 1 < bytes ? (uint32_t)data[i + 1] << 8 : 0) | (i + 2 < bytes ? data[i + 2] : 0);
        for (int k = 0; k < 4; k++) out[n++] = i + (size_t)k > bytes ? '=' : digit[v >> (18 - 6 * k) & 63];
        if (n == sizeof out) {
            TRY(file_out_write(f, out, n));
            n = 0;
        }
    }
    TRY(file_out_write(f, out, n));
out:
    return st;
}

static status put_frames(file_out *f, const morph_output *o) {
    status st = OK;
    uint8_t *data = NULL;
    size_t bytes = 0;
    char path[1200];
    TRY(put(f, "<script>\nconst frames = [\n"));
    for (int i = 0; i < o->total; i++) {
        morph_frame_path(o, i, path);
        TRY(file_read(path, (size_t)1 << 30, &data, &bytes));
        TRY(put(f, "\"data:image/png;base64,"));
        TRY(put_base64(f, data, bytes));
        TRY(put(f, "\",\n"));
        mem_free(data);
        data = NULL;
    }
    TRY(put(f, "];\nconst gaps = ["));
    for (int i = 1; i < o->total; i++) {
        snprintf(path, sizeof path, "%.6f,", o->gap[i]);
        TRY(put(f, path));
    }
    snprintf(path, sizeof path, "], fps = %d, loop = %s;\n</script>\n", o->fps, o->loop ? "true" : "false");
    TRY(put(f, path));
out:
    mem_free(data);
    return st;
}

status morph_write_page(const morph_output *o) {
    status st = OK;
    file_out f;
    char path[1200];
    morph_file_path(o, "morph.html", path);
    st = file_out_open(path, &f);
    if (st != OK) return st;
    st = put(&f, head);
    if (st == OK) st = put(&f, "<title>");
    if (st == OK) st = put_html(&f, o->title);
    if (st == OK) st = put(&f, "</title>\n<h1>");
    if (st == OK) st = put_html(&f, o->title);
    if (st == OK) st = put(&f, "</h1>\n");
    if (st == OK) st = put_frames(&f, o);
    if (st == OK) st = put(&f, tail);
    if (st == OK) return file_out_commit(&f);
    file_out_abort(&f);
    return st;
}
