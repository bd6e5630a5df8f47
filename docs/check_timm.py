"""Loads an extracted network in timm and compares its features with those that `poa-gpu features` wrote.

    poa-gpu extract --checkpoint RUN --network 128x5 --out net
    poa-gpu features --checkpoint RUN --network 128x5 --data folder:photos --most 64 --patches --images --out f.safetensors
    python docs/check_timm.py net f.safetensors

Needs torch, timm and safetensors. Ends with status 1 where they differ by more than 1e-5 (relative to the largest).
"""
import sys

import timm
import torch
from safetensors.torch import load_file

network, features = sys.argv[1:]
model = timm.create_model(f"local-dir:{network}", pretrained=True).eval()
ours = load_file(features)
with torch.no_grad():
    tokens = model.forward_features(ours["images"])
pairs = {
    "cls": (tokens[:, 0], ours["cls"]),
    "mean": (tokens[:, 1:].mean(1), ours["mean"]),
    "patches": (tokens[:, 1:], ours["patches"]),
}
worst = 0.0
for name, (theirs, mine) in pairs.items():
    error = ((theirs - mine).abs().max() / mine.abs().max()).item()
    worst = max(worst, error)
    print(f"{name:8} {tuple(mine.shape)!s:18} largest difference {error:.1e}")
sys.exit(worst > 1e-5)
