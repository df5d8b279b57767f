"""make_morph_imago.py: whole morphs of the method imago in float64 by PyTorch and diffusers: on two tiny random pipelines, with
frames placed by pixels and by SqueezeNet, and on the bundled model. Written from what the method is said to do (the head of
src/engine/morph_imago.c, morph.h and eval.h), with make_morph.py's attention, random numbers and slerp.

      python3 -m venv v && v/bin/pip install torch==2.13.0 diffusers==0.42.1 transformers==5.24.0 safetensors==0.8.0 pillow numpy
      v/bin/python tests/golden/make_morph_imago.py [tiny] [bundled]
tiny: morph_imago.safetensors, per run NAME.latent [7, h, w, C] and NAME.image [5, H, W, 3] u8, the frames between.
bundled: morph_bundled.png, to be made again whenever models/imago-base changes (make_bundled.py does it): from left to right the five frames between of
a morph of 7 frames in 8 steps, then the one of a morph of 3 frames in 6 steps. Its pictures lie in corpus/.
SPDX-License-Identifier: MIT
"""
import io
import math
import sys
import diffusers as d
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.numpy import load_file
from safetensors.torch import save_file
import make_morph as fm

STRENGTH, INNER, STILL, GUIDANCE = 0.7, 5, 2e-3, 2.0


# ---- how far two pictures are apart ----
def by_pixels(a, b):
    return math.sqrt(np.mean((a.astype(np.float64) - b) ** 2)) / 255


class BySqueezeNet:
    def __init__(self):
        w = load_file(f"{fm.here}/../../assets/squeezenet/squeezenet_v1.0.safetensors")
        self.w = {k: torch.tensor(v.astype(np.float64)) for k, v in w.items()}

    def taps(self, picture):
        conv = lambda x, name, **how: F.conv2d(x, self.w[name + ".weight"], self.w[name + ".bias"], **how)
        x = torch.tensor(picture.astype(np.float64)).permute(2, 0, 1).flip(0)[None] - torch.tensor([104.0, 117.0, 123.0]).reshape(1, 3, 1, 1)
        x = F.relu(conv(x, "conv1", stride=2))
        yield x
        for i in range(2, 10):
            if i in (2, 5, 9):
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            s = F.relu(conv(x, f"fire{i}/conv1x1_1"))
            x = F.relu(torch.cat([conv(s, f"fire{i}/conv1x1_2"), conv(s, f"fire{i}/conv3x3_2", padding=1)], 1))
            yield x

    def __call__(self, a, b):
        d = [(F.normalize(u, dim=1) - F.normalize(v, dim=1)).square().sum(1).mean().item() for u, v in zip(self.taps(a), self.taps(b))]
        return math.sqrt(sum(d) / len(d))  # roots add up along a way


# ---- models ----
class Tiny(fm.Model):
    def decode(self, z):
        return to_bytes(self.vae.decode(z / self.vae.config.scaling_factor).sample)


class Bundled(fm.Model):
    def __init__(self):
        p = d.StableDiffusionPipeline.from_pretrained(f"{fm.here}/../../models/imago-base", torch_dtype=torch.float32, safety_checker=None, requires_safety_checker=False)
        self.unet, self.vae, self.text, self.tok = p.unet.double(), p.vae.double(), p.text_encoder.double(), p.tokenizer
        self.unet.set_attn_processor(fm.Modes())
        s = p.scheduler.config
        root = torch.cumprod(1 - torch.linspace(s.beta_start**0.5, s.beta_end**0.5, 1000, dtype=torch.float64) ** 2, 0).sqrt()
        if s.rescale_betas_zero_snr:
            root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        self.abar, self.v = root**2, s.prediction_type == "v_prediction"
        assert torch.allclose(self.abar, p.scheduler.alphas_cumprod.double(), atol=1e-5) and s.beta_schedule == "scaled_linear"

    def encode_text(self, s):
        n = self.text.config.max_position_embeddings
        return self.text(self.tok(s, padding="max_length", max_length=n, truncation=True, return_tensors="pt").input_ids)[0]

    def encode(self, px, _):
        return self.vae.encode(torch.from_numpy(px).double().permute(2, 0, 1)[None] / 255 * 2 - 1).latents[0]

    def decode(self, z):
        return to_bytes(self.vae.decode(z).sample)


def to_bytes(x):
    return torch.round((x / 2 + 0.5).clamp(0, 1) * 255).permute(0, 2, 3, 1).numpy().astype(np.uint8)


# ---- the method ----
class Morph:
    def __init__(self, model, pictures, prompts, frames, steps, distance):
        self.m, self.pictures, self.n, self.steps, self.distance = model, pictures, frames, steps, distance
        self.text = [model.encode_text(s) for s in ("", *prompts)]
        self.times = self.ladder()
        draws = fm.Draws(42)
        draws(model.unet.config.in_channels, *[v // 8 for v in pictures[0].shape[:2]])  # what FreeMorph would inject
        self.ends = torch.stack([model.encode(p, draws) for p in pictures])
        lost = [p.astype(np.float64) - model.decode(z[None])[0] for p, z in zip(pictures, self.ends)]
        self.detail = lambda s: (1 - s) ** 3 * lost[0] + s**3 * lost[1]
        self.top = self.invert()

    def ladder(self):
        """Whole times whose angles are nearest to even ones, each later than the last."""
        angle = torch.arccos(self.m.abar.sqrt()).numpy()
        top = round(STRENGTH * 999)
        times = [0]
        for i in range(1, self.steps + 1):
            want = angle[0] + (angle[top] - angle[0]) * i / self.steps
            free = np.arange(times[-1] + 1, top - (self.steps - i) + 1)
            times.append(int(free[np.abs(angle[free] - want).argmin()]))
        return times

    def invert(self):
        """The noise from which a step down leads back, found by iteration. A step down is linear in both its latent and the
        network's word: x' = p x + q word, so x = (x' - q word) / p."""
        z, text = self.ends, torch.cat(self.text[1:])
        one = torch.ones(1, dtype=torch.float64)
        for low, high in zip(self.times, self.times[1:]):
            p, q = self.m.move(one, 0 * one, high, low), self.m.move(0 * one, one, high, low)
            x = z
            for _ in range(INNER):
                old, x = x, (z - q * self.m.predict(x, high, text, "P")) / p
                if max((a - b).norm() / a.norm() for a, b in zip(x, old)) <= STILL:
                    break
            z = x
        return z

    def descend(self, shares, stride):
        empty, first, last = self.text
        z = torch.stack([fm.slerp_rows(*self.top, s) for s in shares])
        text = torch.cat([first + s * (last - first) for s in shares])
        c = [fm.beta_quantile(float(s)) for s in shares]
        guidance = torch.tensor([1 + (GUIDANCE - 1) * 4 * s * (1 - s) for s in shares]).reshape(-1, 1, 1, 1)
        for i in range(self.steps, 0, -stride):
            done = self.steps - i
            mode = "B" if done < int(self.steps * 0.2) else "F" if done < int(self.steps * 0.6) else "P"
            word = self.m.predict(z, self.times[i], text, mode, c)
            bare = self.m.predict(z[1:-1], self.times[i], empty.expand(len(z) - 2, -1, -1), "P")
            word[1:-1] = bare + guidance[1:-1] * (word[1:-1] - bare)
            z = self.m.move(z, word, self.times[i], self.times[max(i - stride, 0)])
        frames = [np.floor((self.m.decode(v[None])[0] + self.detail(s)).clip(0, 255) + 0.5).astype(np.uint8) for v, s in zip(z[1:-1], shares[1:-1])]
        return z, frames

    def run(self):
        shares = np.linspace(0, 1, self.n)
        for _ in range(2):
            _, frames = self.descend(shares, 2)
            row = [self.pictures[0], *frames, self.pictures[1]]
            way = np.cumsum([0] + [self.distance(a, b) for a, b in zip(row, row[1:])])
            shares = np.interp(np.linspace(0, way[-1], self.n), way, shares)
        print("shares", shares.round(4))
        return self.descend(shares, 1)


def from_corpus(style, key):
    """A picture of the small corpus, on white."""
    for line in open(f"{fm.here}/corpus/index.tsv", encoding="utf-8").read().splitlines()[1:]:
        s, k, offset, length, _ = line.split("\t")
        if (s, k) == (style, key):
            data = open(f"{fm.here}/corpus/{style}.pngs", "rb").read()[int(offset):int(offset) + int(length)]
            p = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")).astype(np.float64)
            a = p[..., 3:] / 255
            return np.round(p[..., :3] * a + 255 * (1 - a)).astype(np.uint8)
    raise KeyError(key)


def tiny():
    out = {}
    for name, distance in (("sd1", by_pixels), ("sd2", BySqueezeNet())):
        z, frames = Morph(Tiny(name), fm.pictures, fm.PROMPTS, 7, 6, distance).run()
        out[f"{name}.latent"] = z.permute(0, 2, 3, 1).float().contiguous()
        out[f"{name}.image"] = torch.from_numpy(np.stack(frames))
    save_file(out, f"{fm.here}/morph_imago.safetensors")


def bundled():
    model, pictures = Bundled(), [from_corpus("3d", "1f98a"), from_corpus("3d", "1f431")]
    prompts = ["a glossy 3D render of a fox", "a glossy 3D render of a cat face"]
    row = [f for n, steps in ((7, 8), (3, 6)) for f in Morph(model, pictures, prompts, n, steps, BySqueezeNet()).run()[1]]
    Image.fromarray(np.concatenate(row, 1)).save(f"{fm.here}/morph_bundled.png", optimize=True)


if __name__ == "__main__":
    for what in sys.argv[1:] or ["tiny", "bundled"]:
        {"tiny": tiny, "bundled": bundled}[what]()
