"""Golden of SqueezeNet v1.0 (tests/test_training.c): features and logits of a small picture, by plain PyTorch in f32, from the
weights in assets/squeezenet. Before writing, the same code must call Pembroke corgi (ImageNet class 263) what the weights'
own reference picture shows, where that file is given.

    python tests/golden/make_squeezenet.py [squeezenet_golden.safetensors]

torch 2.13, safetensors 0.6, numpy 2
SPDX-License-Identifier: MIT"""
import pathlib
import sys

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file, save_file

here = pathlib.Path(__file__).parent
w = {k: torch.tensor(v.astype(np.float32)) for k, v in load_file(here / "../../assets/squeezenet/squeezenet_v1.0.safetensors").items()}


def conv(x, name, **how):
    return F.conv2d(x, w[name + ".weight"], w[name + ".bias"], **how)


def features(rgb_u8):
    bgr = torch.tensor(rgb_u8.astype(np.float32)).flip(1) - torch.tensor([104.0, 117.0, 123.0]).reshape(1, 3, 1, 1)
    x = F.relu(conv(bgr, "conv1", stride=2))
    taps = [x]
    for i in range(2, 10):
        if i in (2, 5, 9):
            x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        s = F.relu(conv(x, f"fire{i}/conv1x1_1"))
        x = F.relu(torch.cat([conv(s, f"fire{i}/conv1x1_2"), conv(s, f"fire{i}/conv3x3_2", padding=1)], 1))
        taps.append(x)
    return taps, F.relu(conv(x, "conv_final", padding=1)).mean((2, 3))


if len(sys.argv) > 1:
    reference = load_file(sys.argv[1])
    logits = features(reference["image_rgb_u8"])[1]
    print("reference: class", int(logits.argmax()), "largest difference", float((logits - torch.tensor(reference["logits"])).abs().max()))
    assert int(logits.argmax()) == 263 and float((logits - torch.tensor(reference["logits"])).abs().max()) < 1e-4

rng = np.random.default_rng(7)
coarse = rng.uniform(0, 255, (1, 3, 9, 8)).astype(np.float32)
picture = F.interpolate(torch.tensor(coarse), size=(71, 66), mode="bicubic").clamp(0, 255).round().numpy().astype(np.uint8)
taps, logits = features(picture)
out = {"picture_u8": picture, "logits": logits.numpy()}
for i in (0, 3, 8):
    out[f"tap{i}"] = taps[i][:, ::4].numpy().copy()  # every fourth channel: small
save_file(out, here / "squeezenet.safetensors")
