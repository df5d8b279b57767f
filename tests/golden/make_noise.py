#!/usr/bin/env python3
"""Makes noise.safetensors: what torch's CPU generator draws, by type, seed and size.

Run:  python3 -m venv v && v/bin/pip install torch==2.13.0 safetensors==0.8.0
      v/bin/python tests/golden/make_noise.py
Holds: normal/TYPE/SEED/N, the values of torch.randn(N) (of 16384: the first and last 40 and every 61st);
calls/TYPE, randn of 3, 16, 5, 17, 100, 2, 16 in a row from one generator, joined; shape, randn(1, 4, 8, 8) flat;
uniform/TYPE, rand(5) then rand(600); below/N, 12 of randint(0, N, (1,)); mixed, randn(3), rand(2), randint(0, 1000), randn(4).
Types are widened to f32. CUDA's vectors are in tests/test_noise.c.   SPDX-License-Identifier: MIT
"""
import os
import safetensors
import torch
from safetensors.torch import save_file

assert torch.__version__[:6] == "2.13.0"
TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
SEEDS = (0, 42, 2 ** 32 + 7, 2 ** 63 - 25)
CALLS = (3, 16, 5, 17, 100, 2, 16)


def gen(seed):
    return torch.Generator("cpu").manual_seed(seed)


def sample(v):
    return torch.cat([v[:40], v[-40:], v[::61]]) if len(v) > 1000 else v


out = {}
for name, t in TYPES.items():
    for seed in SEEDS:
        for n in (3, 15, 16, 17, 100, 16384):
            v = torch.randn(n, generator=gen(seed), dtype=t)
            out["normal/%s/%d/%d" % (name, seed, n)] = sample(v.float())
    g = gen(5)
    out["calls/" + name] = torch.cat([torch.randn(n, generator=g, dtype=t) for n in CALLS]).float()
    g = gen(9)  # in bf16 some round to 1, which torch turns into 0
    out["uniform/" + name] = torch.cat([torch.rand(5, generator=g, dtype=t), torch.rand(600, generator=g, dtype=t)]).float()
assert (out["uniform/f32"] >= 1 - 2 ** -9).any() and (out["uniform/bf16"] < 1).all()
out["shape"] = torch.randn(1, 4, 8, 8, generator=gen(42)).flatten()
for n in (2, 1000, 2 ** 28 - 1, 2 ** 28, 2 ** 32 - 5):
    g = gen(0)
    out["below/%d" % n] = torch.cat([torch.randint(0, n, (1,), generator=g) for _ in range(12)])
g = gen(3)
out["mixed"] = torch.cat([torch.randn(3, generator=g), torch.rand(2, generator=g),
                          torch.randint(0, 1000, (1,), generator=g).float(), torch.randn(4, generator=g)])
here = os.path.dirname(os.path.abspath(__file__))
save_file({k: v.contiguous() for k, v in out.items()}, os.path.join(here, "noise.safetensors"),
          metadata={"torch": torch.__version__, "safetensors": safetensors.__version__})
