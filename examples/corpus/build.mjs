// build.mjs MODULES TABLES OUT: renders eight emoji sets at 128 px and packs them; see README.md.
// Everything that decides what the corpus is: which pictures, which names, which are held out.
// SPDX-License-Identifier: MIT
import { execFile } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import zlib from 'node:zlib';

const [modules, tables, out] = process.argv.slice(2);
const SIDE = 128;

// colors: the palette pngquant may use. join: how the pack's names meet code points.
const STYLES = [
    { style: '3d', phrase: 'a glossy 3D render', pack: '@lobehub/fluent-emoji-3d', colors: 256, by: 'Fluent Emoji, (c) Microsoft Corporation' },
    { style: 'flat', phrase: 'a flat illustration', pack: '@iconify-json/fluent-emoji-flat', colors: 96, by: 'Fluent Emoji Flat, (c) Microsoft Corporation' },
    { style: 'line', phrase: 'a black ink drawing', pack: '@iconify-json/fluent-emoji-high-contrast', colors: 16, by: 'Fluent Emoji High Contrast, (c) Microsoft Corporation' },
    { style: 'noto', phrase: 'a shaded vector icon', pack: '@iconify-json/noto', colors: 160, by: 'Noto Emoji, (c) Google Inc.' },
    { style: 'blob', phrase: 'a soft cartoon sticker', pack: '@iconify-json/noto-v1', colors: 96, by: 'Noto Emoji (v1), (c) Google Inc.' },
    { style: 'twe', phrase: 'a simple clip art', pack: '@iconify-json/twemoji', colors: 96, by: 'Twemoji, (c) Twitter, Inc. and other contributors' },
    { style: 'one', phrase: 'a detailed clip art', pack: '@iconify-json/emojione', colors: 96, by: 'Emoji One, continued as EmojiTwo' },
    { style: 'fx', phrase: 'a muted poster icon', pack: '@iconify-json/fxemoji', colors: 96, by: 'FxEmojis, (c) Mozilla' },
];

// Pictures that fill their square and work as the background of another.
const SCENES = {
    '1f3d4': 'with a snowy mountain in the background', '1f30b': 'in front of a volcano', '1f3d5': 'at a campsite',
    '1f3d6': 'on the beach', '1f3dc': 'in the desert', '1f3dd': 'on a desert island', '1f3de': 'in a national park',
    '1f301': 'in the fog', '1f303': 'in a city at night', '1f3d9': 'with a city in the background',
    '1f304': 'with a sunrise over mountains', '1f305': 'at sunrise by the sea', '1f306': 'in a city at dusk',
    '1f307': 'in a city at sunset', '1f309': 'in front of a bridge at night', '1f30c': 'under the milky way',
    '1f308': 'under a rainbow', '1f30a': 'with a big wave',
};

// Things kept out of training in every style: what personalization is measured on.
const HELD_OUT = ['robot', 'lion', 'unicorn', 'mammoth', 'hedgehog', 'panda', 'dodo', 'flamingo', 'peacock',
    'tropical fish', 'lobster', 'cactus', 'avocado', 'teapot', 'skateboard', 'sailboat', 'rocket', 'snowman',
    'snowman without snow', 'jack-o-lantern', 'teddy bear', 'backpack', 'high-heeled shoe', 'accordion', 'moai'];

const readJson = (...p) => JSON.parse(fs.readFileSync(path.join(modules, ...p), 'utf8'));
const version = (pack) => readJson(pack, 'package.json').version;
const licence = (pack) => {
    const l = readJson(pack, 'package.json').license;
    return l === 'CC-BY-4.0' || l === 'MIT' || l === 'Apache-2.0' ? l : die(`${pack}: licence ${l} is not one of those known`);
};
function die(message) { throw new Error(message); }

// ---- names and keys ----
// Code points in hex, without variation selectors and leading zeros.
const keyOfPoints = (points) => points.map((p) => p.toString(16)).filter((p) => p !== 'fe0f').join('-');
const keyOfHex = (hex) => keyOfPoints(hex.split('-').map((p) => parseInt(p, 16)));
const keyOfEmoji = (emoji) => keyOfPoints([...emoji].map((c) => c.codePointAt(0)));
const bare = (name) => name.toLowerCase().replace(/[^a-z0-9]/g, '');

function concepts() {
    const words = readJson('emojilib', 'dist', 'emoji-en-US.json');
    const list = [];
    for (const [emoji, e] of Object.entries(readJson('unicode-emoji-json', 'data-by-emoji.json'))) {
        if (e.group === 'Flags') continue;
        const keywords = (words[emoji] ?? []).map((w) => w.replaceAll('_', ' ')).filter((w) => w !== e.name && /^[\x20-\x7e]*$/.test(w));
        const key = keyOfEmoji(emoji);
        list.push({ key, name: e.name, group: e.group, scene: SCENES[key] ?? '',
            split: HELD_OUT.includes(e.name) ? 'subject_holdout' : 'train', keywords: [...new Set(keywords)], styles: [] });
    }
    for (const name of HELD_OUT) list.some((c) => c.name === name) || die(`held-out concept ${name} does not exist`);
    return list;
}

// Single pictures kept out: one in twenty, by a hash that anyone can recompute (FNV-1a, 32 bit).
function fnv1a(text) {
    let h = 2166136261;
    for (const byte of Buffer.from(text, 'utf8')) h = Math.imul(h ^ byte, 16777619) >>> 0;
    return h;
}
const splitOf = (style, c) => c.split !== 'train' ? c.split : fnv1a(`${style}:${c.key}`) % 20 === 0 ? 'pair_holdout' : 'train';

// ---- where a style keeps the picture of a concept ----
function iconifyFinder(pack, namesOf) {
    const set = readJson(pack, 'icons.json');
    const byBare = new Map();
    for (const name of [...Object.keys(set.icons), ...Object.keys(set.aliases ?? {})]) {
        if (!byBare.has(bare(name))) byBare.set(bare(name), name);
    }
    return (concept) => {
        for (const wanted of namesOf(concept)) {
            let name = wanted && byBare.get(bare(wanted));
            while (name && !set.icons[name]) name = set.aliases[name].parent;
            if (name) return { set, icon: set.icons[name] };
        }
        return null;
    };
}

function charsOf(pack) {
    const map = new Map();
    for (const [hex, name] of Object.entries(readJson(pack, 'chars.json'))) map.set(keyOfHex(hex), name);
    return map;
}

function finderOf(s) {
    if (s.style === '3d') {
        const folder = path.join(modules, s.pack, 'assets');
        const files = new Map();
        for (const f of fs.readdirSync(folder).sort()) { // some are there twice, with and without fe0f
            const key = keyOfHex(path.basename(f, '.webp'));
            if (f.endsWith('.webp') && !files.has(key)) files.set(key, path.join(folder, f));
        }
        return (c) => files.has(c.key) ? { webp: files.get(c.key) } : null;
    }
    // Packs without code points are joined by name: noto-v1 by the names of its successor too.
    if (s.style === 'one' || s.style === 'fx') return iconifyFinder(s.pack, (c) => [c.name]);
    const chars = charsOf(s.style === 'blob' ? '@iconify-json/noto' : s.pack);
    return iconifyFinder(s.pack, (c) => s.style === 'blob' ? [chars.get(c.key), c.name] : [chars.get(c.key)]);
}

// ---- rendering ----
const run = (program, args, input) => new Promise((resolve, reject) => {
    const child = execFile(program, args, { encoding: 'buffer', maxBuffer: 1 << 26 }, (error, stdout, stderr) =>
        error ? reject(new Error(`${program} ${args.join(' ')}: ${error.message} ${stderr}`)) : resolve(stdout));
    child.stdin.on('error', () => {}); // a program that stops early reports through its exit code
    child.stdin.end(input);
});

// Icons that are not square are centred.
function svgOf({ set, icon }) {
    const get = (field, otherwise) => icon[field] ?? set[field] ?? otherwise;
    return `<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="${SIDE}" height="${SIDE}" ` +
        `viewBox="${get('left', 0)} ${get('top', 0)} ${get('width', 16)} ${get('height', 16)}">${icon.body}</svg>`;
}

function parsePam(pam) {
    const end = pam.indexOf('ENDHDR\n');
    const field = (name) => Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(pam.toString('latin1', 0, end))?.[1]);
    const image = { w: field('WIDTH'), h: field('HEIGHT'), px: pam.subarray(end + 7) };
    if (end < 0 || field('DEPTH') !== 4 || image.px.length !== image.w * image.h * 4) die('dwebp wrote something else than RGBA');
    return image;
}

// One axis of a Lanczos-3 reduction (rows of `n` pixels to SIDE), 8-bit result. Weights are integers
// over 2^22, so that ties round alike everywhere: the palette that follows amplifies any difference.
function lanczosRows(px, n, rows) {
    const sinc = (x) => x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
    const scale = n / SIDE, reach = 3 * scale, to = Buffer.alloc(rows * SIDE * 4);
    for (let o = 0; o < SIDE; o++) {
        const center = (o + 0.5) * scale;
        const first = Math.max(0, Math.trunc(center - reach + 0.5)), last = Math.min(n, Math.trunc(center + reach + 0.5));
        const w = [];
        for (let i = first; i < last; i++) {
            const x = (i + 0.5 - center) / scale;
            w.push(x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0);
        }
        const sum = w.reduce((a, b) => a + b, 0);
        const fixed = w.map((v) => Math.round(Math.abs(v / sum) * 2 ** 22) * Math.sign(v));
        for (let r = 0; r < rows; r++) for (let c = 0; c < 4; c++) {
            let v = 2 ** 21;
            for (let k = 0; k < fixed.length; k++) v += fixed[k] * px[(r * n + first + k) * 4 + c];
            to[(o * rows + r) * 4 + c] = Math.max(0, Math.min(255, v >> 22)); // transposed: the other axis is next
        }
    }
    return to;
}

// The centred square of a picture, as 8-bit premultiplied colour: averaging must weigh by alpha, else
// what lies under transparency bleeds in.
function squareOf({ w, h, px }) {
    const n = Math.min(w, h), x0 = (w - n) >> 1, y0 = (h - n) >> 1, to = Buffer.alloc(n * n * 4);
    for (let y = 0; y < n; y++) px.copy(to, y * n * 4, ((y0 + y) * w + x0) * 4, ((y0 + y) * w + x0 + n) * 4);
    for (let i = 0; i < to.length; i += 4) for (let c = 0; c < 3; c++) to[i + c] = Math.round(to[i + c] * to[i + 3] / 255);
    return { n, pre: to };
}

function reduce(image) {
    const { n, pre } = squareOf(image);
    const small = lanczosRows(lanczosRows(pre, n, n), n, SIDE);
    for (let i = 0; i < small.length; i += 4) for (let c = 0; c < 3; c++) {
        const a = small[i + 3];
        if (a !== 0 && a !== 255) small[i + c] = Math.min(255, Math.floor(small[i + c] * 255 / a));
    }
    return small;
}

function pngOf(rgba) {
    const chunk = (type, data) => {
        const body = Buffer.concat([Buffer.from(type, 'latin1'), data]), frame = Buffer.alloc(8);
        frame.writeUInt32BE(data.length, 0);
        frame.writeUInt32BE(crc(body), 4);
        return Buffer.concat([frame.subarray(0, 4), body, frame.subarray(4)]);
    };
    const head = Buffer.alloc(13);
    head.writeUInt32BE(SIDE, 0), head.writeUInt32BE(SIDE, 4), head.set([8, 6, 0, 0, 0], 8);
    const raw = Buffer.alloc(SIDE * (1 + SIDE * 4));
    for (let y = 0; y < SIDE; y++) rgba.copy(raw, y * (1 + SIDE * 4) + 1, y * SIDE * 4, (y + 1) * SIDE * 4);
    return Buffer.concat([Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'), chunk('IHDR', head), chunk('IDAT', zlib.deflateSync(raw, { level: 1 })), chunk('IEND', Buffer.alloc(0))]);
}

function crc(bytes) {
    let c = 0xffffffff;
    for (const b of bytes) {
        c ^= b;
        for (let k = 0; k < 8; k++) c = c & 1 ? (c >>> 1) ^ 0xedb88320 : c >>> 1;
    }
    return (c ^ 0xffffffff) >>> 0;
}

async function render(source, colors) {
    const full = source.webp ? pngOf(reduce(parsePam(await run('dwebp', ['-quiet', '-pam', source.webp, '-o', '-']))))
        : await run('rsvg-convert', ['-w', String(SIDE), '-h', String(SIDE)], svgOf(source));
    return run('pngquant', ['--speed', '1', '--nofs', String(colors), '-'], full);
}

// ---- the pack ----
const tsv = (rows) => rows.map((r) => r.map((v) => /[\t\n\r]/.test(String(v)) ? die(`a table cell holds a tab or a line end: ${v}`) : v).join('\t') + '\n').join('');

async function main() {
    const all = concepts();
    const index = [['style', 'key', 'offset', 'length', 'split']];
    const styles = [['style', 'phrase', 'images', 'bytes', 'npm_package', 'version', 'licence', 'attribution']];
    for (const s of STYLES) {
        const find = finderOf(s);
        const jobs = all.map((concept) => ({ concept, source: find(concept) })).filter((j) => j.source);
        const pngs = new Array(jobs.length);
        let next = 0;
        await Promise.all(Array.from({ length: os.availableParallelism() }, async () => {
            for (let i = next++; i < jobs.length; i = next++) pngs[i] = await render(jobs[i].source, s.colors);
        }));
        let offset = 0;
        jobs.forEach(({ concept }, i) => {
            index.push([s.style, concept.key, offset, pngs[i].length, splitOf(s.style, concept)]);
            concept.styles.push(s.style);
            offset += pngs[i].length;
        });
        fs.writeFileSync(path.join(out, `${s.style}.pngs`), Buffer.concat(pngs));
        styles.push([s.style, s.phrase, jobs.length, offset, s.pack, version(s.pack), licence(s.pack), s.by]);
        console.log(`${s.style}: ${jobs.length} pictures, ${offset} bytes`);
    }
    const table = [['key', 'name', 'group', 'scene_phrase', 'split', 'styles', 'keywords'],
        ...all.map((c) => [c.key, c.name, c.group, c.scene, c.split, c.styles.join(','), c.keywords.join(',')])];
    fs.writeFileSync(path.join(out, 'index.tsv'), tsv(index));
    fs.writeFileSync(path.join(out, 'concepts.tsv'), tsv(table));
    fs.writeFileSync(path.join(out, 'styles.tsv'), tsv(styles));
    fs.copyFileSync(path.join(tables, 'style_grids.tsv'), path.join(out, 'style_grids.tsv'));
}

await main();
