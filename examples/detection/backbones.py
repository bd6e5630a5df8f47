"""Networks that `poa-gpu extract` wrote, as backbones of a detector: maps at four strides, and a pyramid of 256 channels.

    ViT     tokens after blocks at a third, a half, two thirds and the end of the depth (3, 5, 7, 11 of 12), without the final norm;
            two transposed convolutions, one, none and a pooling make strides 4 to 32 of patches of 16, as in the official configuration
    Swin    the maps of its four stages, each normalised
    ResNet  the maps of its four stages
"""

import json
import sys
from collections import OrderedDict
from pathlib import Path

import timm
import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

sys.path.append(str(Path(__file__).resolve().parents[2] / "docs"))


def blocks_of(depth):
    """The blocks after which a ViT's tokens are taken."""
    return [max(0, round(depth * share) - 1) for share in (1 / 3, 1 / 2, 2 / 3, 1)]


def load(folder, drop_path):
    """timm's network of a folder, for images of any size; what it is called."""
    config = json.loads(Path(folder, "config.json").read_text())
    if "architecture" in config:
        kind = next((kind for kind in ("vit", "swin", "resnet") if config["architecture"].startswith(kind)), None)
        if kind is None and "resnet" in config["architecture"]:
            kind = "resnet"
        more = {} if kind == "resnet" else {"dynamic_img_size": True}
        if kind != "resnet" or drop_path:
            more["drop_path_rate"] = drop_path
        model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0, **more)
        images = config["pretrained_cfg"]
    elif config.get("arch") == "swin":
        sys.exit(f"{folder}: a Swin of --format poa; give one that timm has (poa-gpu extract --format timm)")
    else:
        sys.exit(f"{folder}: is no folder of `poa-gpu extract --format timm`")
    return model, kind, images["mean"], images["std"]


class Maps(nn.Module):
    """Four maps of a network, from fine to coarse."""

    def __init__(self, model, kind):
        super().__init__()
        self.model, self.kind = model, kind
        if kind == "vit":
            width, self.blocks = model.embed_dim, blocks_of(len(model.blocks))
            self.channels = [width] * 4
            self.patch = model.patch_embed.patch_size[0]
            norm = lambda: nn.GroupNorm(1, width)
            self.resize = nn.ModuleList([
                nn.Sequential(nn.ConvTranspose2d(width, width, 2, 2), norm(), nn.GELU(), nn.ConvTranspose2d(width, width, 2, 2)),
                nn.ConvTranspose2d(width, width, 2, 2), nn.Identity(), nn.MaxPool2d(2)])
            model.norm = nn.Identity()
        else:
            # of a ResNet the stem is the first feature
            infos = model.feature_info[-4:]
            self.channels, self.blocks = [info["num_chs"] for info in infos], list(range(len(model.feature_info)))[-4:]
            self.patch = 32
            norms = [nn.GroupNorm(1, c) if kind == "swin" else nn.Identity() for c in self.channels]
            self.resize = nn.ModuleList(norms)

    def forward(self, images):
        found = self.model.forward_intermediates(images, indices=sorted(set(self.blocks)), norm=False, intermediates_only=True)
        by_block = dict(zip(sorted(set(self.blocks)), found))
        return [resize(by_block[block]) for block, resize in zip(self.blocks, self.resize)]

    def layers(self):
        """How many layers learn at rates of their own: embeddings, blocks (of a Swin or ResNet: stages), what comes after."""
        return 2 + (len(self.model.blocks) if self.kind == "vit" else 4)

    def layer(self, name):
        """The layer of one of the network's parameters: 0 for embeddings."""
        parts = name.split(".")
        if parts[0] == "blocks":
            return int(parts[1]) + 1
        if parts[0] == "layers":
            return int(parts[1]) + 1
        if parts[0].startswith("layer"):
            return int(parts[0][5:])
        return self.layers() - 1 if parts[0] in ("norm", "fc_norm") else 0


class Pyramid(nn.Module):
    """A backbone as torchvision's detectors take it: five maps of 256 channels."""

    def __init__(self, maps, channels=256):
        super().__init__()
        self.maps, self.out_channels = maps, channels
        self.fpn = FeaturePyramidNetwork(maps.channels, channels, extra_blocks=LastLevelMaxPool())

    def forward(self, images):
        return self.fpn(OrderedDict((str(i), m) for i, m in enumerate(self.maps(images))))


def parameter_groups(detector, lr, decay, weight_decay):
    """AdamW's groups: the rate falls by `decay` from layer to layer towards the input; heads learn at the full rate."""
    maps, groups = detector.backbone.maps, {}
    for name, parameter in detector.named_parameters():
        if not parameter.requires_grad:
            continue
        own = name.removeprefix("backbone.maps.model.")
        layer = maps.layer(own) if own != name else maps.layers() - 1
        decays = parameter.ndim > 1 and not any(part in name for part in ("pos_embed", "cls_token", "relative_position_bias_table"))
        group = groups.setdefault((layer, decays), {
            "params": [], "lr": lr * decay ** (maps.layers() - 1 - layer), "weight_decay": weight_decay if decays else 0.0})
        group["params"].append(parameter)
    return list(groups.values())
