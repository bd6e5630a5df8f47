"""Records an elastic ViT with SwiGLU and registers, whole and cut to a width, for tests/vit_variants.rs.

    python swiglu_registers.py ../../../kernels-tests/fixtures/vit_swiglu_registers/record.safetensors

In float64, of values that are rounded to float32 first: parameters under their official names, global crops with masks and
local crops, cotangents of the features that are read (class tokens of all crops, patches that are masked), and for each
network those features and the gradient of every parameter; of the local crops the last block's attention of the class token to
the patches. Needs torch and safetensors.
"""
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

WIDTH, DEPTH, HEAD, PATCH, SIDE, LOCAL, REGISTERS = 24, 2, 8, 4, 16, 8, 3
HIDDEN = (int(WIDTH * 4 * 2 / 3) + 7) // 8 * 8
NETWORKS = {"whole": (WIDTH, [0, 1]), "cut": (16, [0, 1]), "shallow": (16, [0])}
torch.manual_seed(7)


def random(*shape, scale=1.0):
    return (torch.randn(*shape) * scale).float().double()


P = {
    "cls_token": random(1, 1, WIDTH),
    "pos_embed": random(1, 1 + (SIDE // PATCH) ** 2, WIDTH, scale=0.5),
    "register_tokens": random(1, REGISTERS, WIDTH),
    "mask_token": random(1, WIDTH),
    "patch_embed.proj.weight": random(WIDTH, 3, PATCH, PATCH, scale=0.15),
    "patch_embed.proj.bias": random(WIDTH, scale=0.1),
    "norm.norm.weight": 1 + random(WIDTH, scale=0.1),
    "norm.norm.bias": random(WIDTH, scale=0.1),
}
for k in range(DEPTH):
    sizes = {
        "attn.qkv": (3 * WIDTH, WIDTH),
        "attn.proj": (WIDTH, WIDTH),
        "mlp.w12": (2 * HIDDEN, WIDTH),
        "mlp.w3": (WIDTH, HIDDEN),
    }
    for name, (rows, columns) in sizes.items():
        P[f"blocks.{k}.{name}.linear.weight"] = random(rows, columns, scale=columns**-0.5)
        P[f"blocks.{k}.{name}.linear.bias"] = random(rows, scale=0.1)
    for i in (1, 2):
        P[f"blocks.{k}.norm{i}.norm.weight"] = 1 + random(WIDTH, scale=0.1)
        P[f"blocks.{k}.norm{i}.norm.bias"] = random(WIDTH, scale=0.1)
        P[f"blocks.{k}.ls{i}.gamma"] = random(WIDTH, scale=0.7)
P = {f"backbone.{name}": value.float().double().requires_grad_() for name, value in P.items()}


def elastic(x, name, out, groups=1):
    """(α·x)·Wᵀ + b of the first rows of each group."""
    weight, bias = P[f"{name}.linear.weight"], P[f"{name}.linear.bias"]
    inputs, most = weight.shape[1], weight.shape[0] // groups
    weight = weight.reshape(groups, most, inputs)[:, :out, : x.shape[-1]].reshape(groups * out, -1)
    return F.linear(x * (inputs / x.shape[-1]), weight, bias.reshape(groups, most)[:, :out].reshape(-1))


def norm(x, name):
    width = x.shape[-1]
    weight, bias = P[f"{name}.norm.weight"], P[f"{name}.norm.bias"]
    return F.layer_norm(x, (width,), weight[:width], bias[:width], 1e-6)


def positions(side, width):
    pos = P["backbone.pos_embed"][..., :width]
    home, grid = SIDE // PATCH, side // PATCH
    if grid != home:
        patches = pos[:, 1:].reshape(1, home, home, width).permute(0, 3, 1, 2)
        scale = (grid + 0.1) / home
        patches = F.interpolate(patches, mode="bicubic", scale_factor=(scale, scale))
        pos = torch.cat([pos[:, :1], patches.permute(0, 2, 3, 1).reshape(1, -1, width)], 1)
    return pos


def backbone(images, width, blocks, masks=None):
    """Normed tokens, and the last block's attention of the class token to the patches."""
    x = F.conv2d(images, P["backbone.patch_embed.proj.weight"][:width], P["backbone.patch_embed.proj.bias"][:width], PATCH)
    x = x.flatten(2).transpose(1, 2)
    if masks is not None:
        x = torch.where(masks[..., None], P["backbone.mask_token"][:, None, :width], x)
    n = len(x)
    x = torch.cat([P["backbone.cls_token"][..., :width].expand(n, -1, -1), x], 1) + positions(images.shape[-1], width)
    x = torch.cat([x[:, :1], P["backbone.register_tokens"][..., :width].expand(n, -1, -1), x[:, 1:]], 1)
    for k in blocks:
        name = f"backbone.blocks.{k}"
        qkv = elastic(norm(x, f"{name}.norm1"), f"{name}.attn.qkv", width, 3)
        q, key, v = qkv.reshape(n, -1, 3, width // HEAD, HEAD).permute(2, 0, 3, 1, 4)
        weights = (q @ key.transpose(-1, -2) * HEAD**-0.5).softmax(-1)
        y = elastic((weights @ v).transpose(1, 2).reshape(x.shape), f"{name}.attn.proj", width)
        x = x + y * P[f"{name}.ls1.gamma"][:width]
        hidden = int(width / WIDTH * HIDDEN)
        gate, value = elastic(norm(x, f"{name}.norm2"), f"{name}.mlp.w12", hidden, 2).chunk(2, -1)
        x = x + elastic(F.silu(gate) * value, f"{name}.mlp.w3", width) * P[f"{name}.ls2.gamma"][:width]
    return norm(x, "backbone.norm"), weights[:, :, 0, 1 + REGISTERS :]


globals_, locals_ = random(2, 3, SIDE, SIDE), random(3, 3, LOCAL, LOCAL)
masks = torch.rand(2, (SIDE // PATCH) ** 2) < 0.4
rows = 2 + int(masks.sum()) + 3
cotangent = random(rows, WIDTH)
record = {"globals": globals_, "locals": locals_, "masks": masks.to(torch.uint8), "cotangent": cotangent}
record |= {f"parameter.{name}": value.detach() for name, value in P.items()}
for case, (width, blocks) in NETWORKS.items():
    both, _ = backbone(globals_, width, blocks, masks)
    local, attention = backbone(locals_, width, blocks)
    patches = both[:, 1 + REGISTERS :][masks]
    features = torch.cat([both[:, 0], patches, local[:, 0]])
    names, values = zip(*P.items())
    gradients = torch.autograd.grad((features * cotangent[:, :width]).sum(), values, allow_unused=True)
    record[f"{case}.features"] = features.detach()
    record[f"{case}.attention"] = attention.detach()
    if case == "shallow":
        continue
    record |= {f"{case}.gradient.{name}": g for name, g in zip(names, gradients) if g is not None}
save_file({name: (v if v.dtype == torch.uint8 else v.float()).contiguous() for name, v in record.items()}, sys.argv[1])
