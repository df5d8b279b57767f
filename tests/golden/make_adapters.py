#!/usr/bin/env python3
"""Makes adapters/: adapter files by the programs that people use, and what the tiny UNet answers with each of them.

Run (the UNet, its input and its weights are those of train_tiny.safetensors, see make_train.py):
  V="v/bin/python tests/golden/make_adapters.py"          # v: torch 2.13.0, diffusers 0.42.1, transformers 5.24.0, safetensors 0.8.0
  $V diffusers; $V peft                                   # peft 0.21.2
  PYTHONPATH=peft-VERSION $V peft                         # VERSION 0.13.0, 0.15.2, 0.17.0, 0.18.0: pip install --no-deps --target
                                                          # (0.17.0: without its import of HybridCache, which transformers 5 lacks)
  PYTHONPATH=lycoris $V lycoris                           # lycoris-lora 3.4.0, einops 0.8.1, toml 0.10.2
  PYTHONPATH=sd-scripts $V kohya                          # github.com/kohya-ss/sd-scripts 48d368fa
  $V made                                                 # last: from the others' files
Writes adapters/NAME.safetensors or folders adapters/NAME (PEFT), and adapters/answers_MAKER.safetensors: NAME -> [2, 8, 8, 4],
always of the merged weights, since PEFT's forward of OFT on 3x3 convolutions is not what it merges.
SPDX-License-Identifier: MIT
"""
import json
import os
import sys
import types
import torch
from safetensors.torch import load_file, save_file

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "adapters")
DATA = load_file(os.path.join(HERE, "train_tiny.safetensors"))
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
EVERY = ATTENTION + ["proj_in", "conv1", "ff.net.0.proj", "downsamplers.0.conv"]
answers = {}


def here(name):
    """Adapters sit on the first block only: small files."""
    return "down_blocks.0." in name or "down_blocks_0_" in name


def targets(ends):
    return [n for n, m in unet().named_modules() if here(n) and any(n.endswith("." + e) for e in ends)]


def unet():
    import diffusers
    net = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=24, attention_head_dim=2, norm_num_groups=4)
    net.load_state_dict({k[2:]: v for k, v in DATA.items() if k.startswith("w.")})
    return net.eval().requires_grad_(False)


@torch.no_grad()
def answer(net):
    y = net(DATA["x"].permute(0, 3, 1, 2), DATA["t"], DATA["context"]).sample
    return y.permute(0, 2, 3, 1).contiguous()


@torch.no_grad()
def scramble(params, size):
    for name, p in params:
        gen = torch.Generator().manual_seed(sum(map(ord, name)))
        noise = torch.randn(p.shape, generator=gen) * size
        own = any(k in name for k in ("_s", "magnitude", "rescale", "dora_scale")) and "lora_A" not in name
        p.copy_(p * (1 + noise) if own else p + noise)


def keep(name, net, plain):
    answers[name] = answer(net)
    moved = (answers[name] - plain).abs().max().item()
    print(f"{name}: moves the answer by {moved:.3f}")
    assert moved > 1e-2


def make_peft():
    import peft
    import peft.helpers
    if not hasattr(peft.helpers, "disable_input_dtype_casting"):  # and diffusers this
        peft.helpers.disable_input_dtype_casting = None
    global ATTENTION, EVERY
    ATTENTION, EVERY = targets(ATTENTION), targets(EVERY)
    version = tuple(map(int, peft.__version__.split(".")[:2]))
    tag = f"peft{peft.__version__}"
    cases = {}
    if version >= (0, 21):
        L = peft.LoraConfig
        cases = {
            "lora": L(r=4, lora_alpha=6, target_modules=EVERY),
            "rslora": L(r=4, lora_alpha=6, use_rslora=True, target_modules=ATTENTION),
            "pattern": L(r=4, lora_alpha=4, rank_pattern={"to_q": 2}, alpha_pattern={"attn1.to_q": 8}, target_modules=ATTENTION),
            "dora": L(r=4, lora_alpha=6, use_dora=True, target_modules=EVERY),
        }
    if version <= (0, 13):
        cases["oft"] = peft.OFTConfig(r=4, target_modules=EVERY, init_weights=True)
        cases["coft"] = peft.OFTConfig(r=4, target_modules=ATTENTION, coft=True, eps=3e-2)
    elif version <= (0, 15):
        cases["oft"] = peft.OFTConfig(r=0, oft_block_size=4, target_modules=EVERY)
        cases["share"] = peft.OFTConfig(r=0, oft_block_size=4, block_share=True, target_modules=ATTENTION)
    else:
        O = lambda **k: peft.OFTConfig(r=0, oft_block_size=8, **k)
        cases["oft"] = O(target_modules=EVERY, use_cayley_neumann=True)
        cases["exact"] = O(target_modules=EVERY, use_cayley_neumann=False)
    if version >= (0, 21):
        cases["terms"] = O(target_modules=EVERY, use_cayley_neumann=True, num_cayley_neumann_terms=6)
        cases["share"] = O(target_modules=ATTENTION, use_cayley_neumann=True, block_share=True)
        cases["coft"] = O(target_modules=ATTENTION, use_cayley_neumann=False, coft=True, eps=0.3)
    if version <= (0, 13) or version >= (0, 21):
        from peft.tuners.boft import layer
        # PEFT gives up on more than one factor without its CUDA extension; its plain path knows them
        layer.get_fbd_cuda = lambda: object()
        layer.FastBlockDiag = types.SimpleNamespace(apply=lambda b: torch.stack(
            [torch.block_diag(*b[i]) for i in range(b.shape[0])]))
        # up to 0.13 PEFT cut the memory of a convolution's [O, I, k, k] as if it were [I, k, k, O]; no file tells
        convs = [] if version <= (0, 13) else ["conv1", "proj_in"]
        cases["boft"] = peft.BOFTConfig(boft_block_size=4, boft_n_butterfly_factor=1, target_modules=ATTENTION + targets(convs))
        cases["butterfly"] = peft.BOFTConfig(boft_block_size=4, boft_n_butterfly_factor=2, target_modules=targets(["to_q", "to_v"] + convs[1:]))
    for name, config in cases.items():
        torch.manual_seed(0)
        net = unet()
        plain = answer(net)
        wrapped = peft.get_peft_model(net, config)
        scramble([(n, p) for n, p in wrapped.named_parameters() if p.requires_grad], 0.1)
        wrapped.eval()
        wrapped.save_pretrained(os.path.join(OUT, f"{tag}-{name}"))
        readme = os.path.join(OUT, f"{tag}-{name}", "README.md")
        if os.path.exists(readme):
            os.remove(readme)
        forward = answer(wrapped)
        merged = wrapped.merge_and_unload()
        keep(f"{tag}-{name}", merged, plain)
        print(f"   its own forward differs from its merge by {(forward - answers[f'{tag}-{name}']).abs().max():.2g}")
    return tag


def make_diffusers():
    import peft
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import convert_state_dict_to_diffusers
    plain = answer(unet())
    for name, old in (("new", False), ("old", True), ("processor", True)):
        torch.manual_seed(0)
        net = unet()
        net.add_adapter(peft.LoraConfig(r=2, lora_alpha=2, init_lora_weights="gaussian", target_modules=ATTENTION))
        scramble([(n, p) for n, p in net.named_parameters() if p.requires_grad], 0.15)
        state = peft.get_peft_model_state_dict(net)
        if old:
            state = convert_state_dict_to_diffusers(state)
        StableDiffusionPipeline.save_lora_weights(OUT, unet_lora_layers=state, weight_name=f"diffusers-{name}.safetensors")
        if name == "processor":  # diffusers of early 2023
            path = os.path.join(OUT, f"diffusers-{name}.safetensors")
            renamed = {}
            for k, v in load_file(path).items():
                stem, kind = k.split(".lora.")
                block, leaf = stem.split("attn1.") if "attn1." in stem else stem.split("attn2.")
                attn = "attn1" if "attn1." in stem else "attn2"
                renamed[f"{block}{attn}.processor.{leaf.replace('.0', '')}_lora.{kind}"] = v.contiguous()
            save_file(renamed, path)
        net.fuse_lora()
        keep(f"diffusers-{name}", net, plain)
    return "diffusers"


def save_network(name, network, plain, net, metadata=None):
    state = {k: v.contiguous() for k, v in network.state_dict().items()}
    save_file(state, os.path.join(OUT, f"{name}.safetensors"), metadata)
    keep(name, net, plain)


def make_lycoris():
    from lycoris.kohya import create_network
    plain = answer(unet())
    cases = {
        "oft": dict(algo="diag-oft"),
        "oft-limited": dict(algo="diag-oft", constraint=1e-2, rescaled=True),
        "boft": dict(algo="boft", rescaled=True),
        "lora": dict(algo="lora", conv_dim=4, conv_alpha=2),
        "tucker": dict(algo="lora", conv_dim=4, conv_alpha=2, use_tucker=True),
        "dora": dict(algo="lora", dora_wd=True),
        "dora-columns": dict(algo="lora", dora_wd=True, wd_on_output=False),
        "norm": dict(algo="lora", train_norm=True),
    }
    for name, kwargs in cases.items():
        torch.manual_seed(0)
        net = unet()
        network = create_network(1.0, 4, 2.0, None, [], net, **kwargs)
        network.loras = [m for m in network.loras if here(m.lora_name)]
        network.unet_loras = network.loras
        network.apply_to([], net, False, True)
        scramble([(n, p) for n, p in network.named_parameters()], 0.1)
        save_network(f"lycoris-{name}", network.eval(), plain, net)
    return "lycoris"


def make_kohya():
    library = types.ModuleType("library")
    library.utils = types.ModuleType("library.utils")
    library.utils.setup_logging = lambda *a, **k: None
    xl = types.ModuleType("library.sdxl_original_unet")
    xl.SdxlUNet2DConditionModel = type("SdxlUNet2DConditionModel", (), {})
    sys.modules.update({"library": library, "library.utils": library.utils, "library.sdxl_original_unet": xl})
    from networks import lora, oft
    plain = answer(unet())
    for name, make in (
            ("lora", lambda n: lora.LoRANetwork([], n, lora_dim=4, alpha=2, conv_lora_dim=2, conv_alpha=1)),
            ("oft", lambda n: oft.OFTNetwork([], n, dim=4, alpha=1e-1, enable_all_linear=True, enable_conv=True))):
        torch.manual_seed(0)
        net = unet()
        network = make(net)
        kind = "unet_ofts" if name == "oft" else "unet_loras"
        setattr(network, kind, [m for m in getattr(network, kind) if here(getattr(m, "oft_name", getattr(m, "lora_name", "")))])
        network.apply_to([], net, False, True)
        scramble([(n, p) for n, p in network.named_parameters()], 0.1)
        save_network(f"kohya-{name}", network.eval(), plain, net, {"ss_network_module": f"networks.{name}"})
    return "kohya"


def make_made():
    """Spellings of programs that do not run here: the tensors of PEFT's files under other names."""
    base = load_file(os.path.join(OUT, "diffusers-old.safetensors"))
    plain = answer(unet())

    def lora(state):
        net = unet()
        for k in [k for k in state if k.endswith("down.weight")]:
            w = net.get_submodule(k[len("unet."):].split(".lora.")[0]).weight
            w += state[k.replace(".down.weight", ".up.weight")] @ state[k]
        return net
    # cloneofsimo: numbers, mid block last, GEGLU between the attentions
    order = [f"{b}.transformer_blocks.0.{a}" for b in (
        "down_blocks.0.attentions.0", "down_blocks.1.attentions.0", "up_blocks.0.attentions.0", "up_blocks.0.attentions.1",
        "up_blocks.1.attentions.0", "up_blocks.1.attentions.1", "mid_block.attentions.0")
        for a in ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj",
                  "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")]
    state, made = dict(base), {}
    for i, layer in enumerate(order):
        down, up = f"unet.{layer}.lora.down.weight", f"unet.{layer}.lora.up.weight"
        if down not in state:
            gen = torch.Generator().manual_seed(i)
            w = unet().get_submodule(layer).weight
            state[down], state[up] = torch.randn(2, w.shape[1], generator=gen) * .1, torch.randn(w.shape[0], 2, generator=gen) * .1
        made[f"unet:{i}:down"], made[f"unet:{i}:up"] = state[down], state[up]
    made["<s1>"] = torch.zeros(24)
    save_file(made, os.path.join(OUT, "made-cloneofsimo.safetensors"))
    keep("made-cloneofsimo", lora(state), plain)
    # whole differences, as LyCORIS and ComfyUI spell them
    made, net = {}, unet()
    for i, name in enumerate(("conv_in.weight", "conv_in.bias", "mid_block.attentions.0.proj_in.weight", "conv_norm_out.weight")):
        p = net.get_parameter(name)
        delta = torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * .1
        layer, field = name.rsplit(".", 1)
        end = "w_norm" if "norm" in layer else {"weight": "diff", "bias": "diff_b"}[field]
        made[f"lora_unet_{layer.replace('.', '_')}.{end}"] = delta
        p += delta
    save_file(made, os.path.join(OUT, "made-full.safetensors"))
    keep("made-full", net, plain)
    # rotations themselves, of which the first LyCORIS's files consist: those of kohya's file
    made = {}
    for k, v in load_file(os.path.join(OUT, "kohya-oft.safetensors")).items():
        if k.endswith("oft_blocks"):
            q = v - v.transpose(1, 2)
            eye = torch.eye(v.shape[1])
            made[k.replace("oft_unet_", "lora_unet_").replace("oft_blocks", "oft_diag")] = ((eye + q) @ (eye - q).inverse()).contiguous()
    save_file(made, os.path.join(OUT, "made-diag.safetensors"))
    answers["made-diag"] = load_file(os.path.join(OUT, "answers_kohya.safetensors"))["kohya-oft"]
    return "made"


if __name__ == "__main__":
    os.makedirs(OUT, exist_ok=True)
    tag = {"peft": make_peft, "diffusers": make_diffusers, "lycoris": make_lycoris, "kohya": make_kohya, "made": make_made}[sys.argv[1]]()
    save_file(answers, os.path.join(OUT, f"answers_{tag}.safetensors"))
