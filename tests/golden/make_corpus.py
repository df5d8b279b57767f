"""Makes corpus/: twelve things of the emoji128 corpus, packed like the whole, for test_corpus and test_compose.
Run:   python3 make_corpus.py FOLDER   (FOLDER as examples/corpus/build.sh made it)
Needs: Python 3.9 or later, nothing else; made with 3.11.
One thing of each kind that the code tells apart: held out whole (teapot), pairs held out, a scene
(desert, night with stars), a group that is not drawn (OK button), one that is not mirrored (tilted left), people."""
import pathlib
import sys

KEYS = ["1f600", "1f468-200d-1f527", "1f98a", "1f431", "1f34e", "1f347", "1fad6", "1f3dc", "1f303", "1f697",
        "1f50d", "1f197"]
source, target = pathlib.Path(sys.argv[1]), pathlib.Path(__file__).parent / "corpus"


def rows(name):
    head, *lines = (source / name).read_text(encoding="utf-8").splitlines()
    return head, [line.split("\t") for line in lines]


def write(name, head, lines):
    text = "".join("\t".join(map(str, r)) + "\n" for r in [head.split("\t"), *lines])
    (target / name).write_text(text, encoding="utf-8", newline="\n")


target.mkdir(exist_ok=True)
head, concepts = rows("concepts.tsv")
write("concepts.tsv", head, [c for c in concepts if c[0] in KEYS])
head, pictures = rows("index.tsv")
index, packs = [], {}
for style, key, offset, length, split in pictures:
    if key in KEYS:
        whole = (source / f"{style}.pngs").read_bytes()
        pack = packs.setdefault(style, bytearray())
        index.append([style, key, len(pack), length, split])
        pack += whole[int(offset):int(offset) + int(length)]
write("index.tsv", head, index)
head, styles = rows("styles.tsv")
for s in styles:
    s[2], s[3] = sum(i[0] == s[0] for i in index), len(packs[s[0]])
    (target / f"{s[0]}.pngs").write_bytes(packs[s[0]])
write("styles.tsv", head, styles)
