#!/usr/bin/env python3
"""Makes bundled.safetensors and bundled_adapter/: what diffusers' StableDiffusionPipeline makes of models/imago-base, as it is and with an
adapter by PEFT on its UNet; and morph_bundled.png, a morph of it (make_morph_imago.py). To be run again whenever those weights change;
nothing else in the tests depends on them.

Run:  python3 -m venv v && v/bin/pip install torch==2.13.0 diffusers==0.42.1 transformers==5.24.0 safetensors==0.8.0 peft==0.21.2 pillow numpy
      v/bin/python tests/golden/make_bundled.py
pictures, adapted [N, 128, 128, 3] u8, in f32 on the CPU. The prompts and settings are the tables in tests/test_bundled.c. The adapter is OFT with
exact Cayley rotations of random angles, large enough to be seen.   SPDX-License-Identifier: MIT
"""
import os
import diffusers as d
import numpy as np
import peft
import peft.helpers
import torch
from safetensors.numpy import save_file
import make_morph_imago

here = os.path.dirname(os.path.abspath(__file__))
torch.set_num_threads(1)
pipe = d.StableDiffusionPipeline.from_pretrained(os.path.join(here, "../../models/imago-base"), torch_dtype=torch.float32, safety_checker=None)
pipe.set_progress_bar_config(disable=True)


def draw(calls):
    pictures = [pipe(p, num_inference_steps=n, guidance_scale=g, eta=0.0, width=128, height=128, output_type="np",
                     generator=torch.Generator("cpu").manual_seed(seed)).images[0] for p, seed, n, g in calls]
    return np.ascontiguousarray((np.stack(pictures) * 255).round().astype(np.uint8))


def psnr(a, b):
    return [10 * np.log10(255.0 ** 2 / np.mean((x.astype(float) - y) ** 2)) for x, y in zip(a, b)]


plain = [("a glossy 3D render of a grinning face", 1, 20, 4.0), ("a flat illustration of a red heart", 2, 20, 4.0),
         ("a black ink drawing of an automobile", 3, 20, 4.0), ("a shaded vector icon of a red apple", 4, 8, 1.0)]
out = {"pictures": draw(plain)}

layers = [n for n, m in pipe.unet.named_modules() if n.endswith((".to_q", ".to_v"))]
pipe.unet = peft.get_peft_model(pipe.unet, peft.OFTConfig(r=0, oft_block_size=8, use_cayley_neumann=False, target_modules=layers))
with torch.no_grad():
    for i, (name, p) in enumerate((n, p) for n, p in pipe.unet.named_parameters() if p.requires_grad):
        p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * 0.15)
folder = os.path.join(here, "bundled_adapter")
pipe.unet.save_pretrained(folder)
if os.path.exists(os.path.join(folder, "README.md")):
    os.remove(os.path.join(folder, "README.md"))
pipe.unet = pipe.unet.merge_and_unload()
out["adapted"] = draw(plain[:2])
print("PSNR of pictures with and without the adapter:", psnr(out["adapted"], out["pictures"]))
assert max(psnr(out["adapted"], out["pictures"])) < 25
save_file(out, os.path.join(here, "bundled.safetensors"))
make_morph_imago.bundled()
