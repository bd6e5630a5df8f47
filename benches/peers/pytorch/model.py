"""POA's elastic ViT and projection heads as PyTorch modules, under the official parameter names.

Every forward pass takes the network (width, depth) it is to run as. Sub-networks are slices of the parameters.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

NORM_EPS = 1e-6


class ElasticNorm(nn.Module):
    """LayerNorm with the first entries of its weight and bias."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, x):
        width = x.shape[-1]
        return F.layer_norm(x, (width,), self.norm.weight[:width], self.norm.bias[:width], NORM_EPS)


class ElasticLinear(nn.Module):
    """A linear layer of `parts` outputs side by side (three for q, k and v), each cut to its first rows; the input is
    scaled by largest over actual width."""

    # without it for the paper's Table 16
    scaled = True

    def __init__(self, inputs, outputs, parts=1):
        super().__init__()
        self.linear = nn.Linear(inputs, parts * outputs)
        self.inputs, self.outputs, self.parts = inputs, outputs, parts
        nn.init.trunc_normal_(self.linear.weight, std=0.02, a=-2.0, b=2.0)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x, outputs):
        inputs = x.shape[-1]
        weight, bias = self.linear.weight, self.linear.bias
        if (inputs, outputs) != (self.inputs, self.outputs):
            parts = weight.view(self.parts, self.outputs, self.inputs)
            weight = parts[:, :outputs, :inputs].reshape(self.parts * outputs, inputs)
            bias = bias.view(self.parts, self.outputs)[:, :outputs].reshape(-1)
        if self.scaled and inputs != self.inputs:
            x = x * (self.inputs / inputs)
        return F.linear(x, weight, bias)


class Attention(nn.Module):
    def __init__(self, width, head_dim):
        super().__init__()
        self.head_dim = head_dim
        self.qkv = ElasticLinear(width, width, parts=3)
        self.proj = ElasticLinear(width, width)

    def forward(self, x):
        images, tokens, width = x.shape
        qkv = self.qkv(x, width).view(images, tokens, 3, width // self.head_dim, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(images, tokens, width), width)


class Mlp(nn.Module):
    def __init__(self, width, ratio):
        super().__init__()
        self.ratio = ratio
        self.fc1 = ElasticLinear(width, ratio * width)
        self.fc2 = ElasticLinear(ratio * width, width)

    def forward(self, x):
        width = x.shape[-1]
        return self.fc2(F.gelu(self.fc1(x, self.ratio * width)), width)


class LayerScale(nn.Module):
    def __init__(self, width, start):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), start))

    def forward(self, x):
        return x * self.gamma[: x.shape[-1]]


class Block(nn.Module):
    def __init__(self, width, head_dim, ratio, layerscale):
        super().__init__()
        self.norm1, self.attn, self.ls1 = ElasticNorm(width), Attention(width, head_dim), LayerScale(width, layerscale)
        self.norm2, self.mlp, self.ls2 = ElasticNorm(width), Mlp(width, ratio), LayerScale(width, layerscale)

    def forward(self, x):
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    def __init__(self, width, patch):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, images, width):
        x = F.conv2d(images, self.proj.weight[:width], self.proj.bias[:width], stride=self.proj.stride)
        return x.flatten(2).transpose(1, 2)


class ElasticVit(nn.Module):
    """Images to normed tokens `[images, 1 + patches, width]`, the class token first."""

    def __init__(self, recipe):
        super().__init__()
        width, side = recipe.width, recipe.global_size // recipe.patch
        self.depth, self.patch, self.side = recipe.depth, recipe.patch, side
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 1e-6)
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + side * side, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        nn.init.trunc_normal_(self.pos_embed, std=0.02, a=-2.0, b=2.0)
        self.patch_embed = PatchEmbed(width, recipe.patch)
        block = lambda: Block(width, recipe.head_dim, recipe.mlp_ratio, recipe.layerscale)
        self.blocks = nn.ModuleList(block() for _ in range(recipe.depth))
        self.norm = ElasticNorm(width)

    def positions(self, side, width):
        """The position embedding, resampled where the images have another number of patches."""
        positions = self.pos_embed[..., :width]
        if side == self.side:
            return positions
        patches = positions[:, 1:].transpose(1, 2).reshape(1, width, self.side, self.side)
        scale = (side + 0.1) / self.side
        patches = F.interpolate(patches, scale_factor=(scale, scale), mode="bicubic")
        return torch.cat([positions[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)

    def kept_blocks(self, depth):
        """Indices of the blocks of a network of this depth: evenly spread, cut to whole numbers."""
        if depth == 1:
            return [0]
        return [int(i * ((self.depth - 1) / (depth - 1))) for i in range(depth - 1)] + [self.depth - 1]

    def forward(self, images, width, depth, masks=None):
        x = self.patch_embed(images, width)
        if masks is not None:
            x = torch.where(masks.unsqueeze(-1), self.mask_token[:, :width].to(x.dtype), x)
        cls = self.cls_token[..., :width].expand(len(x), -1, -1)
        x = torch.cat([cls, x], dim=1) + self.positions(images.shape[-1] // self.patch, width)
        for i in self.kept_blocks(depth):
            x = self.blocks[i](x)
        return self.norm(x)


class Prototypes(nn.Module):
    """A weight-normed linear layer without bias."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(outputs, 1))
        self.weight_v = nn.Parameter(torch.empty(outputs, inputs))
        nn.init.trunc_normal_(self.weight_v, std=0.02, a=-2.0, b=2.0)

    def forward(self, x):
        return F.linear(x, self.weight_v * (self.weight_g / self.weight_v.norm(dim=1, keepdim=True)))


class MultiHead(nn.Module):
    """Projection heads of several numbers of prototypes over the same features of any width."""

    def __init__(self, recipe):
        super().__init__()
        self.hidden, self.count = recipe.hidden, len(recipe.prototypes)
        for h, prototypes in enumerate(recipe.prototypes):
            plain = [nn.Linear(recipe.hidden, recipe.hidden), nn.Linear(recipe.hidden, recipe.bottleneck)]
            for layer in plain:
                nn.init.trunc_normal_(layer.weight, std=0.02, a=-2.0, b=2.0)
                nn.init.zeros_(layer.bias)
            first = ElasticLinear(recipe.width, recipe.hidden)
            self.add_module(f"mlp{h}", nn.Sequential(first, nn.GELU(), plain[0], nn.GELU(), plain[1]))
            self.add_module(f"last_layer{h}", Prototypes(recipe.bottleneck, prototypes))

    def forward(self, h, x):
        """Logits of head h for features `[rows, width]`."""
        mlp = getattr(self, f"mlp{h}")
        x = mlp[1:](mlp[0](x, self.hidden))
        return getattr(self, f"last_layer{h}")(F.normalize(x, dim=-1, eps=1e-12))


class Network(nn.Module):
    """Backbone and heads of one of the two networks, student or teacher."""

    def __init__(self, recipe):
        super().__init__()
        self.backbone = ElasticVit(recipe)
        self.dino_head = MultiHead(recipe)


def multipliers(name, depth, decay, patch_embed_lr):
    """Factors of learning rate and weight decay of a parameter, by its official name."""
    parts = name.split(".")
    if parts[0] == "backbone" and parts[1] in ("patch_embed", "pos_embed", "cls_token", "mask_token"):
        layer = 0
    elif parts[:2] == ["backbone", "blocks"]:
        layer = int(parts[2]) + 1
    else:
        layer = depth + 1
    rate = math.pow(decay, depth + 1 - layer) * (patch_embed_lr if parts[1] == "patch_embed" else 1.0)
    return rate, 0.0 if name.endswith(".bias") or "norm" in name or "gamma" in name else 1.0
