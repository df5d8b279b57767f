"""make_morph.py: whole small morphs in float64: FreeMorph as its code was released (spec: Cao et al. 2025 and the released
steps, restated), with attention processors that spell the five modes out and the noise injection as the original does it,
on the tiny pipelines of make_pipelines.py.

      python3 -m venv v && v/bin/pip install torch==2.13.0 diffusers==0.42.1 transformers==5.24.0 safetensors==0.8.0 pillow numpy
      v/bin/python tests/golden/make_morph.py
Writes morph.safetensors. Per run NAME.inverted, NAME.start, NAME.latent [frames, h, w, C] (after inversion, after injection,
after denoising) and NAME.image [frames, H, W, 3] u8; per model and mode MODEL.mode.NAME [7, h, w, C], the network's prediction
of MODEL.mode.x at t = 400; pictures a.png and b.png.  SPDX-License-Identifier: MIT
"""
import math
import os
import numpy as np
import torch
import diffusers as d
from PIL import Image
from safetensors.torch import save_file

torch.set_num_threads(1)
torch.set_grad_enabled(False)
here = os.path.dirname(os.path.abspath(__file__))
pipes = f"{here}/pipelines"
PROMPTS = ["a red fox in the snow", "at the foot of it"]
out = {}


# ---- random numbers: what torch's CUDA generator draws in f16, by Philox4x32-10 ----
def philox(counter, key):
    c, (k0, k1) = list(counter), key
    for _ in range(10):
        a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(b >> 32) ^ c[1] ^ k0, b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k1, a & 0xFFFFFFFF]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c


class Draws:
    def __init__(self, seed):
        self.seed, self.q = seed, 0

    def __call__(self, *shape):
        v = []
        for i in range(math.prod(shape)):
            r = philox((self.q, 0, i, 0), (self.seed & 0xFFFFFFFF, self.seed >> 32))
            u, w = r[0] * 2.0**-32 + 2.0**-33, (r[1] + 0.5) * 2 * math.pi * 2.0**-32
            v.append(math.sqrt(-2 * math.log(u)) * math.sin(w))
        self.q += 1
        return torch.tensor(v).half().double().reshape(shape)


check = Draws(42)(8)
assert torch.allclose(check, torch.tensor([0.1940, 2.1614, -0.1721, 0.8491, -1.9244, 0.6530, -0.6494, -0.8175]).double(), atol=1e-3), check  # rounded to f16


# ---- attention ----
class Modes:
    """One rule for every attention layer. mode and c are set from outside."""
    mode, c = "P", None

    def __call__(self, attn, x, encoder_hidden_states=None, attention_mask=None, temb=None):
        y = x if encoder_hidden_states is None else encoder_hidden_states
        heads, n = attn.heads, x.shape[0]
        split = lambda z: z.unflatten(-1, (heads, -1)).transpose(1, 2)
        q, k, v = split(attn.to_q(x)), split(attn.to_k(y)), split(attn.to_v(y))

        def look(i, keys, values):
            p = torch.softmax(q[i] @ keys.transpose(-1, -2) / math.sqrt(q.shape[-1]), -1)
            return p @ values

        h = []
        for j in range(n):
            if Modes.mode in "PM":
                h.append(look(j, k[j], v[j]))
            elif Modes.mode == "E":
                h.append(0.5 * look(j, k[0], v[0]) + 0.5 * look(j, k[-1], v[-1]))
            elif Modes.mode == "B":
                h.append((1 - Modes.c[j]) * look(j, k[0], v[0]) + Modes.c[j] * look(j, k[-1], v[-1]))
            else:
                both = lambda e: look(j, torch.cat([k[j], k[e]], 1), torch.cat([v[j], v[e]], 1))
                h.append((1 - Modes.c[j]) * both(0) + Modes.c[j] * both(-1))
        h = torch.stack(h).transpose(1, 2).flatten(2)
        if Modes.mode == "M":
            h = h.mean(0, keepdim=True).expand_as(h)
        return attn.to_out[0](h)


# ---- mathematics ----
def slerp_rows(a, b, w):
    """a, b [C, h, w]: one angle per (channel, row)."""
    res = torch.empty_like(a)
    for ch in range(a.shape[0]):
        for r in range(a.shape[1]):
            u, v = a[ch, r], b[ch, r]
            dot = (u @ v / (u.norm() * v.norm())).item()
            if abs(dot) > 0.9995 or math.isnan(dot):
                res[ch, r] = u + w * (v - u)
            else:
                th = math.acos(dot)
                res[ch, r] = math.sin((1 - w) * th) / math.sin(th) * u + math.sin(w * th) / math.sin(th) * v
    return res


def beta_quantile(p):
    if p in (0.0, 1.0):
        return p
    cdf = lambda x: sum(math.comb(39, k) * x**k * (1 - x)**(39 - k) for k in range(20, 40))
    lo, hi = 0.0, 1.0
    for _ in range(200):
        mid = (lo + hi) / 2
        lo, hi = (mid, hi) if cdf(mid) < p else (lo, mid)
    return lo


assert np.allclose([beta_quantile(j / 6) for j in range(7)], [0, 0.4234937, 0.4657748, 0.5, 0.5342252, 0.5765063, 1], atol=1e-7)


def cut(n, share):
    """The threshold in cells: released as 44 and 42 of 48; below 1 something always goes."""
    half = (n + 1) // 2
    return min(math.floor(share / 48 * half + 0.5), half - 1)


def inject(x, g, share):
    """x, g [C, h, w], as the original: shift, cut the square out, shift back, real part."""
    h, w = x.shape[1:]
    fx, fg = (torch.fft.fftshift(torch.fft.fftn(t, dim=(1, 2)), dim=(1, 2)) for t in (x, g))
    th, tw, ch, cw = cut(h, share), cut(w, share), h // 2, w // 2
    m = torch.zeros(h, w, dtype=torch.float64)
    m[ch - th:ch + th, cw - tw:cw + tw] = 1
    return torch.fft.ifftn(torch.fft.ifftshift(fx * m + fg * (1 - m), dim=(1, 2)), dim=(1, 2)).real


# ---- pictures ----
y, x = np.mgrid[0:64, 0:48] / 64.0
a = np.stack([255 * x, 255 * y, 128 + 100 * np.sin(9 * x + 5 * y)], -1)
b = np.stack([200 - 150 * y, 60 + 180 * (np.hypot(x - 0.4, y - 0.5) < 0.25), 230 * (1 - x)], -1)
pictures = [p.clip(0, 255).astype(np.uint8) for p in (a, b)]


class Model:
    def __init__(self, name):
        p = d.StableDiffusionPipeline.from_pretrained(f"{pipes}/{name}", torch_dtype=torch.float32, safety_checker=None, requires_safety_checker=False)
        self.unet, self.vae, self.text, self.tok = p.unet.double(), p.vae.double(), p.text_encoder.double(), p.tokenizer
        self.unet.set_attn_processor(Modes())
        s = p.scheduler
        self.abar, self.v = s.alphas_cumprod.double(), s.config.prediction_type == "v_prediction"
        # in double, not as rounded in the scheduler
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        abar = torch.cumprod(1 - betas, 0)
        if s.config.rescale_betas_zero_snr:
            r = abar.sqrt()
            r = (r - r[-1]) * r[0] / (r[0] - r[-1])
            abar = r**2
        assert torch.allclose(abar, self.abar, atol=1e-5)
        self.abar = abar

    def encode_text(self, s):
        ids = self.tok(s, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        return self.text(ids)[0]

    def encode(self, px, draws):
        t = torch.from_numpy(px).double().permute(2, 0, 1)[None] / 255 * 2 - 1
        dist = self.vae.encode(t).latent_dist
        return self.vae.config.scaling_factor * (dist.mean + dist.std * draws(*dist.mean.shape[1:])[None])[0]

    def predict(self, z, t, y, mode, c=None):
        Modes.mode, Modes.c = mode, c
        return self.unet(z, t, encoder_hidden_states=y).sample

    def move(self, z, out, f, t):
        """From level f to level t; the prediction belongs to z at level f."""
        cf, sf, ct, st = self.abar[f].sqrt(), (1 - self.abar[f]).sqrt(), self.abar[t].sqrt(), (1 - self.abar[t]).sqrt()
        x0, eps = (cf * z - sf * out, sf * z + cf * out) if self.v else ((z - sf * out) / cf, out)
        return ct * x0 + st * eps


def morph(model, name, n=7, steps=12, strength=0.84, inner=5, guidance=7.5, seed=42, slerp_only=False):
    stride, run = 1000 // steps, int(steps * strength + 1e-9)
    draws = Draws(seed)
    g = draws(4, 8, 6)
    ends = [model.encode(p, draws) for p in pictures]
    w = [j / (n - 1) for j in range(n)]
    c = [beta_quantile(v) for v in w]
    y0, y6 = (model.encode_text(s) for s in PROMPTS)
    text = torch.cat([y0 + v * (y6 - y0) for v in w])
    empty = model.encode_text("").expand(n, -1, -1)
    z = torch.stack([slerp_rows(*ends, v) for v in w])
    if slerp_only:
        z, text = z[[0, -1]], text[[0, -1]]
    for i in range(run):
        mode = "M" if int(steps * 0.3) < i < int(steps * 0.6) else "E" if i > int(steps * 0.6) else "P"
        if slerp_only:
            mode = "P"
        base, t = z, i * stride
        for _ in range(inner):
            z = model.move(base, model.predict(z, t, text, mode), max(t - stride, 0), t)
    if slerp_only:
        z, text = torch.stack([slerp_rows(z[0], z[1], v) for v in w]), torch.cat([y0 + v * (y6 - y0) for v in w])
    out[name + ".inverted"] = z.clone()
    for j in range(1, n - 1):
        if not slerp_only:
            z[j] = inject(z[j], g, 44 if j == 1 else 42)
    out[name + ".start"] = z.clone()
    for s in range(run):
        t = (run - 1 - s) * stride
        mode = "P" if slerp_only else "B" if s < int(run * 0.2) else "F" if s < int(run * 0.6) else "P"
        cond, un = model.predict(z, t, text, mode, c), model.predict(z, t, empty, "P")
        z = model.move(z, un + guidance * (cond - un), t, max(t - stride, 0))
    out[name + ".latent"] = z.clone()
    px = (model.vae.decode(z / model.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    px = torch.round(px * 255).to(torch.uint8).permute(0, 2, 3, 1)
    px[0], px[-1] = (torch.from_numpy(p) for p in pictures)
    out[name + ".image"] = px


def main():
    os.makedirs(f"{here}/morph", exist_ok=True)
    for p, n in zip(pictures, "ab"):
        Image.fromarray(p).save(f"{here}/morph/{n}.png")
    for name in ("sd1", "sd2"):
        m = Model(name)
        morph(m, name)
        morph(m, name + ".slerp", slerp_only=True, guidance=3.0)
        torch.manual_seed(1)
        z, t = torch.randn(7, 4, 8, 6, dtype=torch.float64).float().double(), 400
        y0, y6 = (m.encode_text(s) for s in PROMPTS)
        text = torch.cat([y0 + j / 6 * (y6 - y0) for j in range(7)])
        c = [beta_quantile(j / 6) for j in range(7)]
        out[f"{name}.mode.x"] = z
        for mode in "PMEBF":
            out[f"{name}.mode.{mode}"] = m.predict(z, t, text, mode, c)
    nhwc = lambda t: t if t.dtype == torch.uint8 else t.permute(0, 2, 3, 1)
    save_file({k: (v if v.dtype == torch.uint8 else nhwc(v).float()).contiguous() for k, v in out.items()}, f"{here}/morph.safetensors")
    for k, v in out.items():
        print(k, tuple(v.shape), v.double().abs().max().item())


if __name__ == "__main__":
    main()
