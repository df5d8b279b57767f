#!/usr/bin/env python3
"""Makes images/ (small pictures of every kind) and images.safetensors (the pixels they should give).

Run:  python3 -m venv v && v/bin/pip install pillow==13.0.0 numpy==2.4.6 safetensors==0.8.0
      v/bin/python tests/golden/make_images.py
PNGs that Pillow cannot write (interlaced, 16 bits, few bits) are written here; what they should give is computed from
the samples, and compared with Pillow where it reads them the same way. Other pixels are Pillow's.
Tensors, all U8 [h, w, c]:  file.NAME  the picture images/NAME, upright, alpha only where it shows
  in.rgb in.rgba in.grey    sources of: resize.SRC.WxH, crop.SRC.WxH, pad.SRC.WxH (Pillow's LANCZOS, fit, pad on (10, 20, 30))
The fuzzers take these pictures as seeds, so each is under 2 KB.   SPDX-License-Identifier: MIT
"""
import io
import os
import struct
import zlib
import numpy as np
from PIL import Image, ImageOps, PngImagePlugin
from safetensors.numpy import save_file

here = os.path.dirname(os.path.abspath(__file__))
folder = os.path.join(here, "images")
os.makedirs(folder, exist_ok=True)
expected = {}
rng = np.random.default_rng(1)
W, H = 13, 9


def put(name, data, pixels):
    assert len(data) <= 2048, (name, len(data))
    with open(os.path.join(folder, name), "wb") as f:
        f.write(data)
    if pixels is not None:
        if pixels.shape[2] == 4 and (pixels[..., 3] == 255).all():
            pixels = pixels[..., :3]
        expected["file." + name] = np.ascontiguousarray(pixels.astype(np.uint8))


def smooth(w, h, c):
    """Gradients and a disc: compresses well, has edges, no two channels alike."""
    y, x = np.mgrid[0:h, 0:w].astype(float)
    disc = ((x - w * .4) ** 2 + (y - h * .5) ** 2 < (min(w, h) * .3) ** 2) * 90
    planes = [x / w * 160 + disc, y / h * 160 + disc * .7, (1 - x / w) * 120 + y / h * 60, 255 - y / h * 250 * (x > w / 2)]
    return np.stack(planes[:c], -1).clip(0, 255).round().astype(np.uint8)


# ---- PNG ----
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def pack(samples, depth):
    """[h, w, c] samples to unfiltered scanlines."""
    rows = b""
    for row in samples:
        flat = row.reshape(-1)
        if depth == 16:
            line = flat.astype(">u2").tobytes()
        elif depth == 8:
            line = flat.astype(np.uint8).tobytes()
        else:
            bits = "".join(format(int(v), f"0{depth}b") for v in flat)
            bits += "0" * (-len(bits) % 8)
            line = bytes(int(bits[i:i + 8], 2) for i in range(0, len(bits), 8))
        rows += b"\0" + line
    return rows


def png(samples, depth, kind, interlaced=False, extra=(), after=()):
    h, w, c = samples.shape
    assert c == CHANNELS[kind]
    raw = b""
    if interlaced:
        for x0, y0, dx, dy in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)):
            part = samples[y0::dy, x0::dx]
            if part.size:
                raw += pack(part, depth)
    else:
        raw = pack(samples, depth)
    out = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, depth, kind, 0, 0, interlaced))
    out += b"".join(chunk(*e) for e in extra) + chunk(b"IDAT", zlib.compress(raw, 9))
    return out + b"".join(chunk(*e) for e in after) + chunk(b"IEND", b"")


def to_8(samples, depth):
    return (samples.astype(float) * 255 / (2 ** depth - 1)).round().astype(np.uint8)


def grey_rgb(a):
    return np.repeat(a[..., :1], 3, -1)


def make_pngs():
    for depth in (1, 2, 4, 8, 16):
        s = rng.integers(0, 2 ** depth, (H, W, 1))
        for lace in (False, True):
            tag = f"grey{depth}{'i' if lace else ''}.png"
            data = png(s, depth, 0, lace)
            put(tag, data, grey_rgb(to_8(s, depth)))
            if depth <= 8:
                assert (np.asarray(Image.open(io.BytesIO(data)).convert("L")) == to_8(s, depth)[..., 0]).all()
        # the grey of one pixel is made transparent; compared in full depth
        key = int(s[2, 3, 0])
        alpha = np.where(s == key, 0, 255)
        put(f"grey{depth}_trns.png", png(s, depth, 0, extra=[(b"tRNS", struct.pack(">H", key))]), np.concatenate([grey_rgb(to_8(s, depth)), alpha], -1))
    for depth in (1, 2, 4, 8):
        n = min(2 ** depth, 40)
        s = rng.integers(0, n, (H, W, 1))
        table = rng.integers(0, 256, (n, 3)).astype(np.uint8)
        plte = (b"PLTE", table.tobytes())
        put(f"palette{depth}.png", png(s, depth, 3, depth == 4, [plte]), table[s[..., 0]])
        some = rng.integers(0, 256, n // 2).astype(np.uint8)  # a short tRNS: the rest is opaque
        alpha = np.concatenate([some, np.full(n - n // 2, 255)])[s]
        put(f"palette{depth}_trns.png", png(s, depth, 3, False, [plte, (b"tRNS", some.tobytes())]), np.concatenate([table[s[..., 0]], alpha], -1))
    for depth in (8, 16):
        for lace in (False, True):
            tag = f"{depth}{'i' if lace else ''}.png"
            s = rng.integers(0, 2 ** depth, (H, W, 4))
            put("rgb" + tag, png(s[..., :3], depth, 2, lace), to_8(s[..., :3], depth))
            put("rgba" + tag, png(s, depth, 6, lace), to_8(s, depth))
            put("grey_alpha" + tag, png(s[..., :2], depth, 4, lace), to_8(s[..., [0, 0, 0, 1]], depth))
        s = rng.integers(0, 2 ** depth, (H, W, 3))
        alpha = np.full((H, W, 1), 255)
        alpha[1, 1] = 0
        put(f"rgb{depth}_trns.png", png(s, depth, 2, extra=[(b"tRNS", s[1, 1].astype(">u2").tobytes())]), np.concatenate([to_8(s, depth), alpha], -1))
    opaque = smooth(W, H, 4)
    opaque[..., 3] = 255
    put("opaque.png", png(opaque, 8, 6), opaque)
    one = np.array([[[9, 80, 200]]])
    put("pixel.png", png(one, 8, 2, True), one)
    # every filter: Pillow chooses them
    im = Image.fromarray(smooth(31, 23, 3))
    buf = io.BytesIO()
    im.save(buf, "PNG", optimize=True)
    put("filters.png", buf.getvalue(), np.asarray(im))
    gamma = smooth(W, H, 3)
    put("gamma.png", png(gamma, 8, 2, extra=[(b"gAMA", struct.pack(">I", 100000))]), gamma)
    lying = smooth(W, H, 3)
    put("exif6.png", png(lying, 8, 2, extra=[(b"eXIf", exif(6)[6:])]), np.rot90(lying, -1))
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "a cat\nSteps: 20, caf\u00e9")
    text.add_text("packed", "x" * 300, zip=True)
    text.add_itxt("Title", "\u732b \u20ac", "ja", "\u984c")
    text.add_itxt("long", "\u00e9" * 200, zip=True)
    buf = io.BytesIO()
    Image.fromarray(one.astype(np.uint8)).save(buf, "PNG", pnginfo=text)
    data = buf.getvalue()
    end = data.index(b"IEND") - 4
    put("text.png", data[:end] + chunk(b"tEXt", b"late\0after the picture") + data[end:], one)


# ---- JPEG and WebP ----
def exif(orientation):
    e = Image.Exif()
    e[0x0112] = orientation
    return e.tobytes()


def pillow(name, im, **how):
    buf = io.BytesIO()
    im.save(buf, "JPEG" if name.endswith("jpg") else "WEBP", **how)
    back = Image.open(io.BytesIO(buf.getvalue()))
    back = ImageOps.exif_transpose(back)
    put(name, buf.getvalue(), np.asarray(back if back.mode == "RGBA" else back.convert("RGB")))


def make_jpegs():
    im = Image.fromarray(smooth(29, 21, 3))
    pillow("grey.jpg", im.convert("L"), quality=90)
    pillow("rgb444.jpg", im, quality=90, subsampling="4:4:4")
    pillow("rgb422.jpg", im, quality=90, subsampling="4:2:2")
    pillow("rgb420.jpg", im, quality=90, subsampling="4:2:0")
    pillow("progressive.jpg", im, quality=90, progressive=True)
    pillow("restart.jpg", im, quality=80, restart_marker_blocks=2)
    pillow("keep_rgb.jpg", im, quality=90, keep_rgb=True)
    pillow("cmyk.jpg", Image.fromarray(smooth(17, 11, 4), "CMYK"), quality=90)
    pillow("pixel.jpg", Image.new("RGB", (1, 1), (200, 100, 50)), quality=90)
    for i in range(1, 9):
        pillow(f"exif{i}.jpg", im, quality=85, exif=exif(i))
    data = open(os.path.join(folder, "rgb444.jpg"), "rb").read()
    little = b"II*\0" + struct.pack("<IH", 8, 2) + struct.pack("<HHI4s", 0x0100, 3, 1, b"\7\0\0\0") + struct.pack("<HHIHH", 0x0112, 3, 1, 3, 0)
    segment = b"Exif\0\0" + little
    put("exif3_little.jpg", data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:],
        np.rot90(expected["file.rgb444.jpg"], 2))


def make_webps():
    rgb, rgba = Image.fromarray(smooth(29, 21, 3)), Image.fromarray(smooth(29, 21, 4))
    pillow("lossy.webp", rgb, quality=80)
    pillow("lossless.webp", rgb, lossless=True)
    pillow("lossy_alpha.webp", rgba, quality=80)
    pillow("lossless_alpha.webp", rgba, lossless=True, exact=True)
    pillow("exif8.webp", rgb, quality=80, exif=exif(8))
    pillow("pixel.webp", Image.new("RGB", (1, 1), (200, 100, 50)), lossless=True)
    buf = io.BytesIO()
    rgb.save(buf, "WEBP", save_all=True, append_images=[rgb.transpose(Image.Transpose.ROTATE_180)], quality=20)
    put("animated.webp", buf.getvalue(), None)  # refused


# ---- sizes ----
def make_sizes():
    noise = rng.integers(-40, 40, (47, 61, 4))
    source = (smooth(61, 47, 4).astype(int) + noise).clip(0, 255).astype(np.uint8)
    source[5:20, 5:20, 3] = 0
    for name, mode, c in (("rgb", "RGB", slice(0, 3)), ("rgba", "RGBA", slice(0, 4)), ("grey", "L", 0)):
        im = Image.fromarray(np.ascontiguousarray(source[..., c]), mode)
        expected["in." + name] = np.asarray(im).reshape(47, 61, -1)
        for w, h in ((20, 15), (61, 20), (30, 47), (90, 70), (1, 1), (3, 60), (61, 47)):
            expected[f"resize.{name}.{w}x{h}"] = np.asarray(im.resize((w, h), Image.Resampling.LANCZOS)).reshape(h, w, -1)
        fill = (10, 20, 30, 255)[:len(im.getbands())] if mode != "L" else 10
        for w, h in ((32, 32), (40, 24), (16, 50), (61, 47), (24, 1)):
            expected[f"crop.{name}.{w}x{h}"] = np.asarray(ImageOps.fit(im, (w, h), Image.Resampling.LANCZOS)).reshape(h, w, -1)
            expected[f"pad.{name}.{w}x{h}"] = np.asarray(ImageOps.pad(im, (w, h), Image.Resampling.LANCZOS, color=fill)).reshape(h, w, -1)


make_pngs()
make_jpegs()
make_webps()
make_sizes()
save_file({k: np.ascontiguousarray(v) for k, v in expected.items()}, os.path.join(here, "images.safetensors"))
print(len(expected), "tensors,", sum(v.nbytes for v in expected.values()), "bytes")
