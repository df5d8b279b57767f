#!/usr/bin/env python3
"""Loads what imago wrote with PEFT, diffusers, LyCORIS and kohya's scripts, and compares the tiny UNet's answers.

Run after test_adapter_files, which leaves its files in a folder:
  v/bin/python tests/golden/check_adapters.py build/tests/test_adapter_files_cpu     (v, paths: see make_adapters.py)
LyCORIS and kohya's scripts are used where PYTHONPATH has them. Prints the largest difference of each file and fails above 1e-4.
SPDX-License-Identifier: MIT
"""
import os
import sys
import types
import torch
from safetensors.torch import load_file
from make_adapters import answer, unet

folder = sys.argv[1]
want = load_file(os.path.join(folder, "answers.safetensors"))
bad = 0


def report(path, got, label, limit=1e-4):
    global bad
    off = (got - want[label]).abs().max().item()
    bad += not off < limit
    print(f"{'ok ' if off < limit else 'BAD'} {off:.1e}  {path}")


def peft_folder(path):
    import peft
    from peft.tuners.boft import layer
    layer.get_fbd_cuda = lambda: object()  # more than one factor, see make_adapters.py
    layer.FastBlockDiag = types.SimpleNamespace(apply=lambda b: torch.stack(
        [torch.block_diag(*b[i]) for i in range(b.shape[0])]))
    return answer(peft.PeftModel.from_pretrained(unet(), path).merge_and_unload())


def diffusers_file(path):
    """As StableDiffusionPipeline.load_lora_weights, without the rest of a pipeline."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Mixin
    net = unet()
    state, alphas = Mixin.lora_state_dict(path, unet_config=net.config)[:2]
    Mixin.load_lora_into_unet(state, network_alphas=alphas, unet=net, adapter_name="a")
    return answer(net)


def lycoris_file(path):
    from lycoris.kohya import create_network_from_weights
    net = unet()
    network, state = create_network_from_weights(1.0, path, None, [], net)
    network.apply_to([], net, False, True)
    network.load_state_dict(state, strict=False)
    return answer(network.eval() and net)


def whole(path):
    net = unet()
    names = {n.replace(".", "_"): n for n, _ in net.named_modules()}
    for key, delta in load_file(path).items():
        net.get_submodule(names[key[len("lora_unet_"):-len(".diff")]]).weight.data += delta
    return answer(net)


for name in sorted(os.listdir(folder)):
    path = os.path.join(folder, name)
    kind, _, label = name.removesuffix(".safetensors").partition("_")
    if label not in want:
        continue
    if kind == "peft":
        report(path, peft_folder(path), label)
    elif kind == "diffusers":
        report(path, diffusers_file(path), label)
    elif kind == "diff":
        report(path, whole(path), label)
    elif kind == "kohya" and label in ("lora", "rslora"):
        report(path, diffusers_file(path), label)
    if kind == "kohya" and label in ("lora", "rslora", "dora", "oft_output"):  # it cannot load its own old DoRA
        try:
            import lycoris  # noqa: F401
        except ImportError:
            continue
        report(path + " (LyCORIS)", lycoris_file(path), label)
sys.exit(bad > 0)
