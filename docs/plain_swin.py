"""Loads a Swin that `poa-gpu extract --format poa` wrote: `load` as a plain PyTorch module, `load_timm` as one of timm's.

    model = load("net")                       # needs torch and safetensors
    maps = model(images)                      # [n, channels, side, side], normalised -> [n, side / 32, side / 32, channels]
    features = maps.mean((1, 2))

What differs from a usual Swin, and why: docs/extracted-swins.md.
"""
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn


def relative_positions(w):
    """Row of the bias table for every query and key of a window of w x w cells."""
    at = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(w), indexing="ij")).flatten(1)
    rows, columns = at[:, :, None] - at[:, None, :] + w - 1
    return rows * (2 * w - 1) + columns


class Attention(nn.Module):
    def __init__(self, width, heads, window):
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("index", relative_positions(window), persistent=False)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x, mask):                   # [n, windows, cells, width], [windows, 1, cells, cells] or None
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        bias = self.relative_position_bias_table[self.index].permute(2, 0, 1)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias if mask is None else bias + mask)
        return self.proj(x.transpose(2, 3).flatten(3))


class Block(nn.Module):
    def __init__(self, width, heads, window, shifted, ratio, eps):
        super().__init__()
        self.window, self.shift = window, window // 2 if shifted else 0
        self.norm1, self.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.attn = Attention(width, heads, window)
        self.mlp = nn.Sequential()
        self.mlp.fc1, self.mlp.act = nn.Linear(width, ratio * width), nn.GELU()
        self.mlp.fc2 = nn.Linear(ratio * width, width)

    def windows(self, x):                         # [n, side, side, width] -> [n, windows, cells, width]
        w = self.window
        x = x.unflatten(2, (-1, w)).unflatten(1, (-1, w)).transpose(2, 3)
        return x.flatten(3, 4).flatten(1, 2)

    def mask(self, side, device):
        """Cells that the shift brought together from different sides of the map do not see each other."""
        if self.shift == 0:
            return None
        at = torch.arange(side, device=device)
        region = (at >= side - self.window).long() + (at >= side - self.shift).long()
        cells = self.windows((3 * region[:, None] + region).float()[None, :, :, None])[0, :, :, 0]
        return torch.where(cells[:, None, :] == cells[:, :, None], 0.0, -100.0)[:, None]

    def forward(self, x):
        side, w, s = x.shape[1], self.window, self.shift
        y = F.pad(self.norm1(x), (0, 0, 0, -side % w, 0, -side % w))
        padded = y.shape[1]
        y = self.attn(self.windows(y.roll((-s, -s), (1, 2))), self.mask(padded, x.device))
        y = y.unflatten(2, (w, w)).unflatten(1, (padded // w, padded // w)).transpose(2, 3)
        y = y.flatten(3, 4).flatten(1, 2)
        x = x + y.roll((s, s), (1, 2))[:, :side, :side]
        return x + self.mlp(self.norm2(x))


class Merging(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * width, eps), nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x):
        x = F.pad(x, (0, 0, 0, x.shape[1] % 2, 0, x.shape[1] % 2))
        x = torch.cat([x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], -1)
        return self.reduction(self.norm(x))


class Embedding(nn.Module):
    """Patches are normed over all channels of the network this one was cut out of; the first are taken."""

    def __init__(self, channels, patch, width, taken, eps):
        super().__init__()
        self.taken = taken
        self.proj, self.norm = nn.Conv2d(channels, width, patch, patch), nn.LayerNorm(width, eps)

    def forward(self, images):
        return self.norm(self.proj(images).permute(0, 2, 3, 1))[..., : self.taken]


class Swin(nn.Module):
    def __init__(self, c):
        super().__init__()
        eps = c["layer_norm_eps"]
        channels = c.get("in_chans", 3)
        self.patch_embed = Embedding(channels, c["patch_size"], c["patch_embed_dim"], c["embed_dim"], eps)
        self.mask_token = nn.Parameter(torch.zeros(1, c["embed_dim"]))      # for pre-training; not used here
        self.layers = nn.Sequential()
        for stage, (shifted, heads) in enumerate(zip(c["shifted"], c["num_heads"])):
            width = c["embed_dim"] << stage
            layer = nn.Sequential()
            if stage > 0:
                layer.downsample = Merging(width // 2, eps)
            sizes = width, heads, c["window_size"]
            layer.blocks = nn.Sequential(*(Block(*sizes, s, c["mlp_ratio"], eps) for s in shifted))
            self.layers.append(layer)
        self.norm = nn.LayerNorm(width, eps)

    def forward(self, images):
        return self.norm(self.layers(self.patch_embed(images)))


def read(folder):
    return json.loads(Path(folder, "config.json").read_text()), load_file(Path(folder, "model.safetensors"))


def load(folder):
    config, weights = read(folder)
    model = Swin(config)
    model.load_state_dict(weights)
    return model.eval()


def load_timm(folder):
    """The same as timm's `SwinTransformer`, with the patch embedding above and with shifts where blocks have them."""
    from timm.models.swin_transformer import SwinTransformer

    c, weights = read(folder)
    grid = [-(-c["img_size"] // c["patch_size"] // 2**stage) for stage in range(4)]
    if any(any(shifted) and side % c["window_size"] for shifted, side in zip(c["shifted"], grid)):
        raise ValueError("timm pads a map after the shift instead of before: use load")
    model = SwinTransformer(
        in_chans=c.get("in_chans", 3), img_size=c["img_size"], patch_size=c["patch_size"], num_classes=0,
        embed_dim=c["embed_dim"],
        depths=c["depths"], num_heads=c["num_heads"], window_size=c["window_size"], always_partition=True,
        mlp_ratio=c["mlp_ratio"], drop_path_rate=0.0,
    )
    sizes = c.get("in_chans", 3), c["patch_size"], c["patch_embed_dim"], c["embed_dim"]
    model.patch_embed = Embedding(*sizes, c["layer_norm_eps"])
    for layer, shifted in zip(model.layers, c["shifted"]):
        for block, shift in zip(layer.blocks, shifted):
            block.shift_size = block.target_shift_size = (c["window_size"] // 2,) * 2 if shift else (0, 0)
            block.init_non_persistent_buffers()
    weights.pop("mask_token")
    model.load_state_dict(weights)
    return model.eval()
