#!/usr/bin/env python3
"""Makes grid_adapter.safetensors (a grid adapter of random values for pipelines/sd2) and grid.safetensors: what diffusers' network
makes of grids with it, in float64: one network call with coupled self-attention, and whole fills.

Run:  python3 -m venv v && v/bin/pip install torch==2.13.0 diffusers==0.42.1 transformers==5.24.0 safetensors==0.8.0
      v/bin/python tests/golden/make_grid.py          (after make_pipelines.py)
z [4, 8, 8, 4]: latents of the cells. NAME.made [8, 8, 4]: the last cell of a grid "edit", filled.   SPDX-License-Identifier: MIT
"""
import json
import os
import torch
import diffusers as d
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

here = os.path.dirname(os.path.abspath(__file__))
model = os.path.join(here, "pipelines", "sd2")
unet = d.UNet2DConditionModel.from_pretrained(model, subfolder="unet", torch_dtype=torch.float32).double().eval()
text = CLIPTextModel.from_pretrained(model, subfolder="text_encoder", torch_dtype=torch.float32).double().eval()
tok = CLIPTokenizer.from_pretrained(model, subfolder="tokenizer")
schedule = d.DDIMScheduler.from_pretrained(model, subfolder="scheduler")
RANK, ROLES, SLOTS = 2, 7, 6
EX_IN, EX_OUT, QUERY, OUT = 2, 3, 4, 5
g = torch.Generator().manual_seed(11)
adapter = {}

# ---- the adapter: LoRA on every attention projection, folded in; channels and role vectors beside
for name, m in unet.named_modules():
    if isinstance(m, torch.nn.Linear) and name.split(".")[-1] in ("to_q", "to_k", "to_v") or name.endswith("to_out.0"):
        a, b = torch.randn(RANK, m.in_features, generator=g) * 0.3, torch.randn(m.out_features, RANK, generator=g) * 0.3
        adapter[f"adapter.{name}.lora_A.weight"], adapter[f"adapter.{name}.lora_B.weight"] = a, b
        m.weight.data += b.double() @ a.double()
width = unet.config.block_out_channels[0]
adapter["grid.conv_in.weight"] = torch.randn(width, 5, 3, 3, generator=g) * 0.2
adapter["grid.role.weight"] = torch.randn(4 * width, ROLES + SLOTS, generator=g) * 0.3
note = dict(version=1, adapter="lora", rank=RANK, alpha=0, block=0, factors=0, eps=0, sight="given", given="clean", slots=True, banks=False)
save_file(adapter, os.path.join(here, "grid_adapter.safetensors"), {"imago.grid": json.dumps(note)})
old = unet.conv_in
unet.conv_in = torch.nn.Conv2d(9, width, 3, padding=1).double()
unet.conv_in.weight.data = torch.cat([old.weight.data, adapter["grid.conv_in.weight"].double()], 1)
unet.conv_in.bias.data = old.bias.data
state = {}
unet.time_embedding.register_forward_hook(lambda m, i, y: y + state["traits"] @ adapter["grid.role.weight"].double().T)


class Coupled:
    """Self-attention over the keys of all entries that state["sees"] shows; cross-attention as it is."""

    def __call__(self, attn, x, encoder_hidden_states=None, **kw):
        context = x if encoder_hidden_states is None else encoder_hidden_states
        n, t, c = x.shape
        k, heads = context.shape[1], attn.heads
        split = lambda y: y.reshape(y.shape[0], y.shape[1], heads, c // heads).transpose(1, 2)
        query, key, value = split(attn.to_q(x)), split(attn.to_k(context)), split(attn.to_v(context))
        if encoder_hidden_states is None:
            join = lambda y: y.transpose(0, 1).reshape(1, heads, n * k, c // heads).expand(n, -1, -1, -1)
            mask = torch.where(state["sees"], 0.0, float("-inf")).double().repeat_interleave(k, 1)[:, None, None, :]
            y = torch.nn.functional.scaled_dot_product_attention(query, join(key), join(value), mask)
        else:
            y = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        return attn.to_out[0](y.transpose(1, 2).reshape(n, t, c))


unet.set_attn_processor(Coupled())


def encode(prompt):
    ids = tok(prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    return text(ids).last_hidden_state[0]


roles = [EX_IN, EX_OUT, QUERY, OUT]
made = torch.tensor([False, False, False, True])
z = torch.randn(4, 4, 8, 8, generator=g).double()


def call(cells, x, t, sees, words):
    """The network on some of the cells: x of the last one at t, the given ones clean at 0."""
    n = len(cells)
    traits = torch.zeros(n, ROLES + SLOTS).double()
    rows, seen, times = [], [], []
    for i, c in enumerate(cells):
        traits[i, roles[c]] = traits[i, ROLES + c] = 1
        rows.append(x if made[c] else z[c])
        hole = torch.ones(1, 8, 8).double() if made[c] else torch.zeros(1, 8, 8).double()
        shown = z[2] * (n > 1) if made[c] else z[c]  # what is made is shown the query, but where nothing is given
        seen.append(torch.cat([shown, hole]))
        times.append(t if made[c] else 0)
    state.update(traits=traits, sees=sees)
    context = torch.stack([encode(words if made[c] else "") for c in cells])
    inputs = torch.cat([torch.stack(rows), torch.stack(seen)], 1)
    return unet(inputs, torch.tensor(times), encoder_hidden_states=context).sample[-1]


def fill(sight, ref, cfg, prompt, seed, steps=4):
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator("cpu").manual_seed(seed + 3))[0].double()
    see_all = torch.ones(4, 4, dtype=torch.bool)
    if sight == "given":
        see_all[:3, 3] = False
    if sight == "own":
        see_all = torch.eye(4, dtype=torch.bool)
        see_all[3] = True
    schedule.set_timesteps(steps)
    for t in schedule.timesteps:
        e0 = call([3], x, int(t), torch.ones(1, 1, dtype=torch.bool), "")
        e1 = call([0, 1, 2, 3], x, int(t), see_all, "")
        e2 = call([0, 1, 2, 3], x, int(t), see_all, prompt)
        x = schedule.step(e0 + ref * (e1 - e0) + cfg * (e2 - e1), t, x).prev_sample
    return x.permute(1, 2, 0).float().contiguous()


with torch.no_grad():
    out = {"z": z.permute(0, 2, 3, 1).float().contiguous()}
    for sight in ("given", "all", "own"):
        out[sight + ".made"] = fill(sight, 1.5, 3.0, "a red fox", 5)
    out["plain.made"] = fill("given", 1.0, 1.0, "", 6, steps=8)
save_file(out, os.path.join(here, "grid.safetensors"))
print({k: (tuple(v.shape), float(v.abs().max())) for k, v in out.items()})
