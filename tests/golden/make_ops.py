#!/usr/bin/env python3
"""Makes ops.safetensors: each op family forward and backward by PyTorch, small shapes, f32.

Run:  python3 -m venv v && v/bin/pip install torch==2.13.0 safetensors==0.8.0 diffusers==0.35.1
      v/bin/python tests/golden/make_ops.py
Per case: NAME.in0.. inputs, NAME.out the result, NAME.dy the incoming gradient, NAME.g0.. the gradients of the
inputs that have one. Images are stored [N, H, W, C], as imago keeps them; weights [O, I, kh, kw].
The calls on imago's side are the table in tests/test_golden_ops.c.   SPDX-License-Identifier: MIT
"""
import os
import torch
import torch.nn.functional as F
import safetensors
from safetensors.torch import save_file

torch.manual_seed(7)
out = {}
nchw = lambda x: x.permute(0, 3, 1, 2)
nhwc = lambda x: x.permute(0, 2, 3, 1)
R = lambda *s: torch.randn(*s)


def case(name, fn, *inputs):
    """fn takes and returns imago's layout; float inputs get gradients."""
    xs = [x.clone().requires_grad_(x.is_floating_point()) for x in inputs]
    y = fn(*xs)
    for i, x in enumerate(inputs):
        out[f"{name}.in{i}"] = x if x.is_floating_point() else x.to(torch.int32)
    out[f"{name}.out"] = y.detach()
    if y.requires_grad:
        dy = torch.randn_like(y)
        y.backward(dy)
        out[f"{name}.dy"] = dy
        for i, x in enumerate(xs):
            if x.grad is not None:
                out[f"{name}.g{i}"] = x.grad


def conv(stride, pads):  # pads: top, left, bottom, right
    t, l, b, r = pads
    return lambda x, w, bias: nhwc(F.conv2d(F.pad(nchw(x), (l, r, t, b)), w, bias, stride=stride))


case("linear", F.linear, R(3, 5, 12), R(7, 12), R(7))
case("matmul_batched", lambda a, b: a @ b, R(4, 5, 6), R(4, 6, 3))
case("matmul_tn", lambda a, b: a.transpose(1, 2) @ b, R(4, 6, 5), R(4, 6, 3))
case("conv3x3", conv(1, (1, 1, 1, 1)), R(2, 7, 5, 6), R(8, 6, 3, 3), R(8))
case("conv3x3_s2_asym", conv(2, (0, 0, 1, 1)), R(2, 8, 6, 4), R(5, 4, 3, 3), R(5))
case("conv1x1", conv(1, (0, 0, 0, 0)), R(2, 4, 3, 9), R(10, 9, 1, 1), R(10))
case("conv2x2", conv(1, (0, 1, 1, 0)), R(1, 5, 5, 3), R(4, 3, 2, 2), R(4))
case("conv7x7", conv(1, (3, 3, 3, 3)), R(1, 9, 8, 2), R(3, 2, 7, 7), R(3))
case("group_norm", lambda x, s, b: nhwc(F.group_norm(nchw(x), 4, s, b, 1e-5)), R(2, 5, 3, 12), R(12), R(12))
case("group_norm_silu", lambda x, s, b: nhwc(F.silu(F.group_norm(nchw(x), 2, s, b, 1e-6))), R(2, 4, 4, 6), R(6), R(6))
case("layer_norm", lambda x, s, b: F.layer_norm(x, (20,), s, b, 1e-5), R(3, 7, 20), R(20), R(20))
case("rms_norm", lambda x, s: F.rms_norm(x, (20,), s, 1e-6), R(3, 7, 20), R(20))
case("softmax", lambda x: F.softmax(x, -1), R(4, 3, 11))


def heads(x, h):
    n, t, c = x.shape
    return x.view(n, t, h, c // h).transpose(1, 2)


def attention(h, causal=False):
    def f(q, k, v, *bias):
        y = F.scaled_dot_product_attention(heads(q, h), heads(k, h), heads(v, h), attn_mask=bias[0].detach() if bias else None, is_causal=causal)
        return y.transpose(1, 2).reshape(q.shape)
    return f


case("attention", attention(2), R(2, 9, 16), R(2, 9, 16), R(2, 9, 16))
case("attention_cross", attention(4), R(2, 6, 20), R(2, 77, 20), R(2, 77, 20))
case("attention_causal", attention(2, True), R(1, 10, 12), R(1, 10, 12), R(1, 10, 12))
case("attention_bias", attention(2), R(2, 5, 12), R(2, 8, 12), R(2, 8, 12), R(1, 2, 5, 8))
for name, fn in dict(silu=F.silu, gelu=F.gelu, gelu_tanh=lambda x: F.gelu(x, approximate="tanh"), quick_gelu=lambda x: x * torch.sigmoid(1.702 * x),
                     relu=F.relu, sigmoid=torch.sigmoid, tanh=torch.tanh, exp=torch.exp, abs=torch.abs).items():
    case(name, fn, 3 * R(37))
case("sqrt", torch.sqrt, torch.rand(19) + 0.1)
case("geglu", lambda x: x.chunk(2, -1)[0] * F.gelu(x.chunk(2, -1)[1]), R(3, 4, 10))
case("add", torch.add, R(2, 3, 4), R(3, 1))
case("sub", torch.sub, R(2, 1, 4), R(2, 3, 4))
case("mul", torch.mul, R(2, 3, 4), R(4))
case("div", torch.div, R(2, 3, 4), torch.rand(2, 1, 1) + 0.5)
case("scale", lambda x: 1.5 * x - 0.25, R(11))
case("clamp", lambda x: x.clamp(-0.5, 0.7), R(50))
case("upsample", lambda x: nhwc(F.interpolate(nchw(x), size=(7, 9), mode="nearest")), R(2, 3, 4, 5))
case("avg_pool", lambda x: nhwc(F.avg_pool2d(nchw(x), 3, 2, 1, ceil_mode=True)), R(2, 8, 7, 3))
case("max_pool", lambda x: nhwc(F.max_pool2d(nchw(x), 3, 2, 0, ceil_mode=True)), R(2, 8, 7, 3))
case("pad", lambda x: F.pad(x, (1, 0, 2, 3), value=0.5), R(3, 4, 5))
case("concat", lambda a, b: torch.cat([a, b], 1), R(2, 3, 4), R(2, 5, 4))
case("slice", lambda x: x[:, 1:4], R(2, 6, 3))
case("transpose", lambda x: x.permute(2, 0, 1).contiguous(), R(2, 3, 4))
case("embedding", lambda table, ids: F.embedding(ids, table), R(9, 5), torch.tensor([[1, 8, 1], [0, 3, 8]]))
case("sum", lambda x: x.sum((0, 2), keepdim=True), R(3, 4, 5))
case("mean", lambda x: x.mean((1,), keepdim=True), R(3, 4, 5))
case("std", lambda x: x.std((1, 2), keepdim=True), R(3, 4, 5))
case("norm2", lambda x: torch.linalg.vector_norm(x, dim=(0, 1, 2), keepdim=True), R(3, 4, 5))


def loss(fn):
    def f(p, t, w, m):
        return ((fn(p, t) * m.detach()).flatten(1).mean(1) * w.detach()).mean().reshape(1)
    return f


w, m = torch.rand(3), torch.rand(3, 4, 1)
case("mse", loss(lambda p, t: F.mse_loss(p, t, reduction="none")), R(3, 4, 5), R(3, 4, 5), w, m)
case("l1", loss(lambda p, t: F.l1_loss(p, t, reduction="none")), R(3, 4, 5), R(3, 4, 5), w, m)
case("huber", loss(lambda p, t: F.huber_loss(p, t, reduction="none", delta=0.7)), R(3, 4, 5), R(3, 4, 5), w, m)
case("inverse", torch.linalg.inv, R(2, 6, 6) + 4 * torch.eye(6))
case("solve", torch.linalg.solve, R(2, 5, 5) + 4 * torch.eye(5), R(2, 5, 3))
case("block_matmul", lambda x, r: torch.einsum("nbj,bjk->nbk", x.view(4, 3, 5), r).reshape(4, 15), R(4, 15), R(3, 5, 5))

from diffusers.models.embeddings import get_timestep_embedding
t = torch.tensor([0.0, 1.0, 499.5, 999.0])
out["time_embedding.in0"] = t
out["time_embedding.out"] = get_timestep_embedding(t, 32, flip_sin_to_cos=True, downscale_freq_shift=0)
out["time_embedding_shift.in0"] = t
out["time_embedding_shift.out"] = get_timestep_embedding(t, 31, flip_sin_to_cos=False, downscale_freq_shift=1)

# AdamW: three steps on one vector with fixed gradients
p = torch.nn.Parameter(R(33))
out["adamw.p"] = p.detach().clone()
opt = torch.optim.AdamW([p], lr=0.01, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
for i in range(3):
    p.grad = R(33)
    out[f"adamw.grad{i}"] = p.grad.clone()
    opt.step()
out["adamw.out"] = p.detach().clone()

here = os.path.dirname(os.path.abspath(__file__))
save_file({k: v.detach().clone().contiguous() for k, v in out.items()}, os.path.join(here, "ops.safetensors"),
          metadata={"made_by": "tests/golden/make_ops.py", "torch": torch.__version__, "safetensors": safetensors.__version__})
print(len(out), "tensors")
