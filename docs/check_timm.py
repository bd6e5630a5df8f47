"""Loads an extracted network in timm and compares its features with those that `poa-gpu features` wrote.

    poa-gpu extract --checkpoint RUN --network 128x5 --out net
    poa-gpu features --checkpoint RUN --network 128x5 --data folder:photos --most 64 --patches --images --out f.safetensors
    python docs/check_timm.py net f.safetensors

A Swin of `--format poa` is loaded by docs/plain_swin.py, as plain PyTorch and into timm. Needs torch, timm and safetensors.
Ends with status 1 where features differ by more than 1e-5 (relative to the largest).
"""
import json
import sys
from math import isqrt
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file

import plain_swin


def models(folder):
    """How the network is loaded, and what makes tokens or maps of images."""
    config = json.loads(Path(folder, "config.json").read_text())
    if "architecture" in config:
        yield "timm", timm.create_model(f"local-dir:{folder}", pretrained=True).eval().forward_features
    elif config.get("arch") == "swin":
        yield "PyTorch", plain_swin.load(folder)
        try:
            yield "timm", plain_swin.load_timm(folder).forward_features
        except ValueError as reason:
            print(f"timm     {reason}")
    else:
        sys.exit(f"{folder}: timm loads networks of --format timm, and Swins of --format poa")


def features(output, patches, width):
    """Class tokens (or means of maps) and patch tokens, so many an image (a map's cells as often as patches stand on them)."""
    if output.ndim == 3:
        # registers lie between them
        return output[:, 0], output[:, -patches:]
    maps = output if output.shape[-1] == width else output.permute(0, 2, 3, 1)
    side = isqrt(patches)
    at = torch.arange(side) * maps.shape[1] // side
    return maps.mean((1, 2)), maps[:, at][:, :, at].flatten(1, 2)


network, path = sys.argv[1:]
ours = load_file(path)
worst = 0.0
for loaded, model in models(network):
    with torch.no_grad():
        cls, patches = features(model(ours["images"]), *ours["patches"].shape[1:])
    pairs = {"cls": cls, "mean": patches.mean(1), "patches": patches}
    for name, theirs in pairs.items():
        mine = ours[name]
        error = ((theirs - mine).abs().max() / mine.abs().max()).item()
        worst = max(worst, error)
        print(f"{loaded:8} {name:8} {tuple(mine.shape)!s:18} largest difference {error:.1e}")
sys.exit(worst > 1e-5)
