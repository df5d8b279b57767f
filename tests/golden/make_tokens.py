"""make_tokens.py: writes tokens.safetensors, what tests/test_text.c compares with.

Run:  python3.11 -m venv v && v/bin/pip install transformers==5.24.0 tokenizers==0.23.3 safetensors==0.8.0 numpy==2.4.6
      v/bin/python tests/golden/make_tokens.py
Python 3.11 has Unicode 14, so no character is newer than utf8proc's tables. Every run gives the same file. Lists of texts
are one blob of UTF-8 and the ends of the texts in it; lists of ids likewise.

    text, text_end, id, id_end       texts and CLIPTokenizer's ids
    learn, learn_end, learn_count    texts to learn a vocabulary of SIZE ids from
    learned                          the merges.txt that comes of it, by the plainest algorithm there is;
                                     note all_size: ids when nothing is left to learn
    small_id, small_id_end           ids of the texts in that vocabulary
    prompt, prompt_end, chunk_end    prompts with weights; where each one's chunks end in `chunk`
    chunk, chunk_id, chunk_weight    where each chunk's ids end; ids and weights without bos, eos, padding

The prompts' rules are a transcription of what A1111's stable-diffusion-webui documents and does.
SPDX-License-Identifier: MIT
"""
import gzip, json, logging, os, random, re, tempfile, unicodedata

import numpy as np
from safetensors.numpy import save_file
from transformers import CLIPTokenizer

SIZE = 580
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def byte_symbols():
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    symbols = {b: chr(b) for b in shown} | {b: chr(256 + i) for i, b in enumerate(hidden)}
    return symbols, [symbols[b] for b in shown + hidden]


def open_clip(merges, folder):
    """merges: lines "left right" -> a tokenizer opened from files."""
    base = byte_symbols()[1]
    vocab = base + [s + "</w>" for s in base] + list(dict.fromkeys(m.replace(" ", "") for m in merges)) + [BOS, EOS]
    json.dump({s: i for i, s in enumerate(vocab)}, open(f"{folder}/vocab.json", "w"))
    open(f"{folder}/merges.txt", "w").write("#version: 0.2\n" + "\n".join(merges) + "\n")
    return CLIPTokenizer.from_pretrained(folder), len(vocab)


# ---- texts ----
WORDS = ("a photo of the dog's cat don't we've I'm you'll they're he'd 1girl, masterpiece best-quality 8k (detailed:1.2) [x] "
         "ultra-realistic!! \u00e9t\u00e9 stra\u00dfe \u0130stanbul \u03a3\u0399\u03a3\u03a5\u03a6\u039f\u03a3 nai\u0308ve \u212b \ufb01ne \u01c5 "
         "<|startoftext|> <|endoftext|> <|STARTOFTEXT|> <|EndOfText|> </w> , . ... \U0001F468\u200D\U0001F469\u200D\U0001F467 "
         "\U0001F1E9\U0001F1EA \u2764\ufe0f \U0001F44D\U0001F3FD \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u0928\u092e\u0938\u094d\u0924\u0947 "
         "\u3053\u3093\u306b\u3061\u306f \u4e16\u754c \uac00\u11a8 \u1100\u1161\u11a8 'S 'T 'RE ''s '' 's's 'll'll \u2019s \u00b2\u00bd\u2163 "
         "\u0661\u0662 12345 3.14 http://x.y/z?q=1&b=2 e-mail@ex.com <s1> !!<|startoftext|>!! ##").split(" ")
BLOCKS = [(0x20, 0x7f), (0xa0, 0x250), (0x370, 0x400), (0x400, 0x530), (0x590, 0x700), (0x900, 0xe00), (0xe00, 0x1000),
          (0x1100, 0x1200), (0x1e00, 0x2000), (0x2000, 0x2c00), (0x3040, 0x3100), (0x4e00, 0x9fff), (0xac00, 0xd7a4),
          (0x1f300, 0x1fb00), (0x1d400, 0x1d800)]
ASSIGNED = [c for c in range(1, 0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Co", "Cs")]
MARKS = [c for c in ASSIGNED if unicodedata.combining(chr(c))]
COMPOSED = [c for c in ASSIGNED if unicodedata.decomposition(chr(c))]
CONTROLS = " \t\n\r\x0b\x0c\x1c\x85\u00a0\u200b\u200d\ufeff'sdtrevml<|>!,ab1\u0001\u007f"


def make_text(r):
    kind = r.randrange(8)
    pick = lambda list, low, high: [r.choice(list) for _ in range(r.randrange(low, high))]
    if kind == 0: return " ".join(pick(WORDS, 1, 16))
    if kind == 1: return "".join(map(chr, pick(ASSIGNED, 1, 10)))
    if kind == 2: return "".join(map(chr, pick(range(*r.choice(BLOCKS)), 1, 12)))
    if kind == 3: return "".join(b + "".join(map(chr, pick(MARKS, 0, 5))) for b in pick("aeiouAO\u0391\u0930\u1100\u1161", 1, 5))
    if kind == 4: return "".join(r.choice([chr(r.choice(COMPOSED)), chr(r.choice(MARKS)), r.choice("ab \u0085\u00a0\u2003")])
                                 for _ in range(r.randrange(1, 8)))
    if kind == 5: return "".join(pick(CONTROLS, 0, 24))
    if kind == 6: return "".join(pick(WORDS, 1, 7))
    return "".join(c.upper() if r.random() < .5 else c for c in r.choice(WORDS)) + r.choice(["", "\u0301", "!"]) * r.randrange(3)


def make_texts(r):
    """Every kind, and the edges: nothing, one long word, long runs of marks, the newest of them."""
    texts = ["", " ", "\n", "a", "!", "'", "'s", "x'S", "a" * 1500, "ab1!" * 300, "a" + "\u0301\u0323" * 40,
             "e\u0301\u0898\u0301 e\u0323\u1abf\u0301", "\U00011935\U00011930 \U00011938", "\u0130I\u0131i", "\u1e9e\u00df \u01c4\u01c5\u01c6"]
    return texts + [make_text(r) for _ in range(2400)]


# ---- learning a vocabulary ----
LEARN = ["a photo of a cat", "a photo of a dog", "a glossy 3D render of a teapot", "a flat illustration of the robot",
         "Hedgehog on the beach", "the cat's hat isn't red", "\u00e9t\u00e9 \u00e0 la plage", "rendering, rendered; renders", "1234 12",
         "\u4e16\u754c", "banana bananas", "aaaaaaa aaaa aa", "the there their these then", "say \"hi\" \\ o/"]


def learn(samples, size):
    """The plainest way: count all pairs anew for every merge. Ties: the symbol made earlier, bytes in order of value."""
    symbols = byte_symbols()[0]
    texts = [symbols[b] for b in range(256)] + [symbols[b] + "</w>" for b in range(256)]
    number = {s: i for i, s in enumerate(texts)}
    pieces = re.compile("'s|'t|'re|'ve|'m|'ll|'d|[^\\W\\d_]+|\\d|[^\\s\\w]+")
    words = {}
    for text, count in samples:
        for p in pieces.findall(unicodedata.normalize("NFC", text).lower()):
            b = p.encode()
            key = tuple(b[:-1]) + (b[-1] + 256,)
            words[key] = words.get(key, 0) + count
    merges = []
    while len(texts) + 2 < size:
        pairs = {}
        for w, count in words.items():
            for p in zip(w, w[1:]): pairs[p] = pairs.get(p, 0) + count
        if not pairs: break
        left, right = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(texts[left] + " " + texts[right])
        both = texts[left] + texts[right]
        if both not in number: number[both] = len(texts); texts.append(both)
        after = {}
        for w, count in words.items():
            out, i = [], 0
            while i < len(w):
                if w[i:i + 2] == (left, right): out.append(number[both]); i += 2
                else: out.append(w[i]); i += 1
            after[tuple(out)] = after.get(tuple(out), 0) + count
        words = after
    return merges


# ---- prompts ----
TOKEN = re.compile(r"(?P<escape>\\[()\[\]\\]?)|(?P<open>[(\[])|:\s*(?P<weight>[+-]?[.\d]+)\s*\)|(?P<close>[)\]])|[^\\()\[\]:]+|:")


def parse(prompt):
    parts, open_at = [], {"(": [], "[": []}

    def weigh(start, factor):
        for p in parts[start:]: p[1] *= factor

    for m in TOKEN.finditer(prompt):
        close = m["close"] and {")": "(", "]": "["}[m["close"]]
        if m["escape"]: parts.append([m[0][1:], 1.0])
        elif m["open"]: open_at[m[0]].append(len(parts))
        elif m["weight"] is not None and open_at["("]: weigh(open_at["("].pop(), float(m["weight"]))
        elif close and open_at[close]: weigh(open_at[close].pop(), 1.1 if close == "(" else 1 / 1.1)
        else:
            for i, text in enumerate(re.split(r"\s*\bBREAK\b\s*", m[0])):
                if i: parts.append(["BREAK", -1])
                parts.append([text, 1.0])
    for kind, factor in (("(", 1.1), ("[", 1 / 1.1)):
        for start in open_at[kind]: weigh(start, factor)
    joined = []
    for text, weight in parts or [["", 1.0]]:
        if joined and joined[-1][1] == weight: joined[-1][0] += text
        else: joined.append([text, weight])
    return joined


def chunk(prompt, tokenizer, room=75, back=20):
    comma = tokenizer.get_vocab()[",</w>"]
    chunks, now, last = [], [], -1
    for text, weight in parse(prompt):
        if text == "BREAK" and weight == -1:
            chunks.append(now); now, last = [], -1
            continue
        for id in tokenizer(text, add_special_tokens=False).input_ids:
            if id == comma: last = len(now)
            elif len(now) == room and last != -1 and room - last <= back:
                chunks.append(now[:last + 1]); now, last = now[last + 1:], -1
            if len(now) == room: chunks.append(now); now, last = [], -1
            now.append((id, weight))
    return chunks + [now] if now or not chunks else chunks


def make_prompt(r):
    kind = r.randrange(3)
    words = "cat dog, blue very masterpiece, best quality, BREAK BREAKFAST xBREAK BREAK, sky".split(" ")
    if kind == 0: return "".join(r.choice(["(", ")", "[", "]", ":1.2)", ": 0.5 )", ":-2)", ":", "\\", "\\(", "\\]", " ", "cat", "dog,", "BREAK",
                                           " BREAK ", "un", "do", ":.5)", ":1.)", "\u00e9", "\n"]) for _ in range(r.randrange(0, 24)))
    if kind == 1: return " ".join(r.choice(words) for _ in range(r.randrange(1, 60)))
    out = []
    while len(out) < r.choice([74, 75, 76, 95, 150, 170]): out.append(r.choice(["tree"] * 12 + [",", "(sky:1.3)", "[sea]", "\\("]))
    return " ".join(out)


def lists(name, values, dtype):
    flat = [x for v in values for x in v]
    return {name: np.array(flat, dtype), name + "_end": np.cumsum([len(v) for v in values], dtype=np.uint32)}


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    out = here + "/tokens.safetensors"
    logging.disable(logging.CRITICAL)
    r = random.Random(7)
    texts = make_texts(r)
    prompts = ["", "BREAK", "a BREAK b", "(a BREAK b:1.2)", "BREAK BREAK", "(unbalanced", "a) b]", "[[x", "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky)))."]
    prompts += ["tree " * n + ", " + "sky " * 40 for n in (53, 54, 55, 56, 73, 74, 75)]  # commas near the end of a chunk
    prompts += [make_prompt(r) for _ in range(240)]
    samples = [(t, 1 + (i * 7) % 5) for i, t in enumerate(LEARN)]
    with tempfile.TemporaryDirectory() as folder:
        merges = gzip.open(here + "/../../assets/clip/bpe_simple_vocab_16e6.txt.gz").read().decode().split("\n")[1:49152 - 256 - 2 + 1]
        clip, size = open_clip(merges, folder)
        assert size == 49408
        ids = clip(texts, add_special_tokens=False).input_ids
        chunks = [chunk(p, clip) for p in prompts]
    merges = learn(samples, SIZE)
    with tempfile.TemporaryDirectory() as folder:
        small, size = open_clip(merges, folder)
        small_ids = small(texts[:600], add_special_tokens=False).input_ids
        learned = open(f"{folder}/merges.txt").read()
    blob = lambda list: [t.encode() for t in list]
    all_chunks = [c for p in chunks for c in p]
    save_file({
        **lists("text", blob(texts), np.uint8), **lists("id", ids, np.uint16),
        **lists("learn", blob(t for t, _ in samples), np.uint8), "learn_count": np.array([c for _, c in samples], np.uint32),
        "learned": np.frombuffer(learned.encode(), np.uint8).copy(), **lists("small_id", small_ids, np.uint16),
        **lists("prompt", blob(prompts), np.uint8), "chunk_end": np.cumsum([len(p) for p in chunks], dtype=np.uint32),
        "chunk": np.cumsum([len(c) for c in all_chunks], dtype=np.uint32),
        "chunk_id": np.array([i for c in all_chunks for i, _ in c], np.uint16),
        "chunk_weight": np.array([w for c in all_chunks for _, w in c], np.float32),
    }, out, {"all_size": str(514 + len({m.replace(" ", "") for m in learn(samples, 1 << 20)}))})
    print(len(texts), "texts,", len(prompts), "prompts,", size, "learned,", os.path.getsize(out), "bytes")


main()
