#!/usr/bin/env python3
"""Makes bundled.safetensors: what diffusers' StableDiffusionPipeline makes of models/imago-base; and morph_bundled.png, a morph of
it (make_morph_imago.py). To be run again whenever those weights change; nothing else in the tests depends on them.

Run:  python3 -m venv v && v/bin/pip install torch==2.13.0 diffusers==0.42.1 transformers==5.24.0 safetensors==0.8.0 pillow numpy
      v/bin/python tests/golden/make_bundled.py
pictures [N, 128, 128, 3] u8, in f32 on the CPU. The prompts and settings are the table in tests/test_bundled.c.   SPDX-License-Identifier: MIT
"""
import os
import diffusers as d
import numpy as np
import torch
from safetensors.numpy import save_file
import make_morph_imago

here = os.path.dirname(os.path.abspath(__file__))
torch.set_num_threads(1)
pipe = d.StableDiffusionPipeline.from_pretrained(os.path.join(here, "../../models/imago-base"), torch_dtype=torch.float32, safety_checker=None)
pipe.set_progress_bar_config(disable=True)
calls = [("a glossy 3D render of a grinning face", 1, 20, 4.0), ("a flat illustration of a red heart", 2, 20, 4.0),
         ("a black ink drawing of an automobile", 3, 20, 4.0), ("a shaded vector icon of a red apple", 4, 8, 1.0)]
pictures = [pipe(p, num_inference_steps=n, guidance_scale=g, eta=0.0, width=128, height=128, output_type="np",
                 generator=torch.Generator("cpu").manual_seed(seed)).images[0] for p, seed, n, g in calls]
save_file({"pictures": np.ascontiguousarray((np.stack(pictures) * 255).round().astype(np.uint8))}, os.path.join(here, "bundled.safetensors"))
make_morph_imago.bundled()
