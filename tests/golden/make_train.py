#!/usr/bin/env python3
"""Makes train_tiny.safetensors: ten AdamW losses of a tiny UNet on fixed data, by diffusers and PyTorch.

Run:  python3 -m venv v && v/bin/pip install torch==2.13.0 diffusers==0.35.1 safetensors==0.8.0
      v/bin/python tests/golden/make_train.py
The network is diffusers' UNet2DConditionModel with the numbers of unet_tiny in src/family/unet.c.
Holds: w.* start weights, lora.* start LoRA factors, x, t, context, target (NHWC), loss_full [10],
loss_lora [10], grad.* first-step gradients of the full run.   SPDX-License-Identifier: MIT
"""
import os
import torch
import diffusers
import safetensors
from safetensors.torch import save_file

torch.manual_seed(1)
torch.use_deterministic_algorithms(True)
LR, WD, RANK, ALPHA, STEPS = 1e-3, 1e-2, 4, 4.0, 10
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


def make_unet():
    return diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=24, attention_head_dim=2, norm_num_groups=4)


class Lora(torch.nn.Module):
    def __init__(self, base, rank, alpha):
        super().__init__()
        self.base, self.scale = base, alpha / rank
        self.A = torch.nn.Parameter(torch.empty(rank, base.in_features))
        self.B = torch.nn.Parameter(torch.zeros(base.out_features, rank))
        torch.nn.init.kaiming_uniform_(self.A, a=5 ** 0.5)

    def forward(self, x):
        return self.base(x) + self.scale * (x @ self.A.T) @ self.B.T


def run(net, params, data, steps=STEPS):
    decay = [p for p in params if p.ndim > 1]
    plain = [p for p in params if p.ndim <= 1]
    opt = torch.optim.AdamW([{"params": decay, "weight_decay": WD}, {"params": plain, "weight_decay": 0.0}], lr=LR)
    x, t, context, target = data
    losses, grads = [], None
    for _ in range(steps):
        loss = torch.nn.functional.mse_loss(net(x, t, context).sample, target)
        opt.zero_grad()
        loss.backward()
        if grads is None:
            grads = [p.grad.clone() for p in params]
        opt.step()
        losses.append(loss.item())
    return torch.tensor(losses), grads


net = make_unet()
start = {k: v.clone() for k, v in net.state_dict().items()}
data = (torch.randn(2, 4, 8, 8), torch.tensor([13.0, 871.0]), torch.randn(2, 7, 24), torch.randn(2, 4, 8, 8))
nhwc = lambda v: v.permute(0, 2, 3, 1).contiguous()
out = {"x": nhwc(data[0]), "t": data[1], "context": data[2], "target": nhwc(data[3])}
with torch.no_grad():
    out["y"] = nhwc(net(*data[:3]).sample)
names = [n for n, _ in net.named_parameters()]
out["loss_full"], grads = run(net, list(net.parameters()), data)
out.update({"w." + k: v for k, v in start.items()})
out.update({"grad." + n: g for n, g in zip(names, grads)})

net = make_unet()
net.load_state_dict(start)
net.requires_grad_(False)
loras = {}
for name, module in list(net.named_modules()):
    if isinstance(module, torch.nn.Linear) and name.endswith(TARGETS):
        parent = net.get_submodule(name.rsplit(".", 1)[0])
        lora = Lora(module, RANK, ALPHA)
        leaf = name.rsplit(".", 1)[1]
        parent.__setitem__(int(leaf), lora) if leaf.isdigit() else setattr(parent, leaf, lora)
        loras[name] = lora
for name, lora in loras.items():
    out[f"lora.{name}.lora_A.weight"] = lora.A.detach().clone()
    out[f"lora.{name}.lora_B.weight"] = lora.B.detach().clone()
out["loss_lora"], _ = run(net, [p for lo in loras.values() for p in (lo.A, lo.B)], data)
print("full", out["loss_full"].tolist())
print("lora", out["loss_lora"].tolist())
here = os.path.dirname(os.path.abspath(__file__))
save_file({k: v.float().contiguous() for k, v in out.items()}, os.path.join(here, "train_tiny.safetensors"),
          metadata={"made_by": "tests/golden/make_train.py", "torch": torch.__version__, "diffusers": diffusers.__version__,
                    "safetensors": safetensors.__version__, "lr": str(LR), "weight_decay": str(WD), "rank": str(RANK), "alpha": str(ALPHA)})
