"""Loads networks of `--format transformers` and compares features and images with those that `poa-gpu features` wrote.

    poa-gpu extract --checkpoint RUN --network 128x5 --out net --format transformers
    poa-gpu features --checkpoint RUN --network 128x5 --data folder:photos --most 64 --patches --images --out f.safetensors
    python docs/check_transformers.py net f.safetensors [photos]

Several pairs of network and features can follow one another before the folder of the images. Needs torch, transformers,
safetensors and Pillow; timm for what transformers loads by its wrapper of it. Ends with status 1 where features differ by more
than 1e-4 (relative to the largest), where a tensor is missing or one too many, or where the image processor does not make the
pixels that the program saw, up to how either resamples (sizes whose middle they place half a pixel apart are left out).
"""
import json
import sys
from pathlib import Path

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModel

TOLERANCE = 1e-4
# of normalised values, which the two resample in other precision
PIXELS = 0.05


def features(model, images, patches):
    """Class tokens (or means of maps), and means of patch tokens."""
    kind = model.config.model_type
    if kind.startswith("dinov2"):
        found = model(images)
        return found.pooler_output, found.last_hidden_state[:, -patches:].mean(1)
    if kind == "swin":
        found = model(images)
        return found.pooler_output, found.last_hidden_state.mean(1)
    found = model(images, do_pooling=True)
    pooled = found.pooler_output.flatten(1)
    return pooled, pooled


def check(network, path, folder):
    ours = load_file(path)
    model, loading = AutoModel.from_pretrained(network, output_loading_info=True)
    model.eval()
    wrong = [f"{kind}: {sorted(keys)}" for kind, keys in loading.items() if keys]
    with torch.no_grad():
        cls, mean = features(model, ours["images"], ours["patches"].shape[1])
    for name, theirs in {"cls": cls, "mean": mean}.items():
        mine = ours[name]
        error = ((theirs - mine).abs().max() / mine.abs().max()).item()
        print(f"{type(model).__name__:26} {name:4} {tuple(mine.shape)!s:12} largest difference {error:.1e}")
        if not error <= TOLERANCE:
            wrong.append(f"{name} differs by {error}")
    prepare = AutoImageProcessor.from_pretrained(network)
    if folder:
        with safe_open(path, "pt") as file:
            names = file.metadata()["names"].splitlines() if "names" in (file.metadata() or {}) else None
        names = names or bytes(ours["names"].tolist()).decode().splitlines()
        images = [Image.open(Path(folder, name)) for name in names]
        if model.config.model_type == "timm_wrapper":
            pixels = torch.cat([prepare(image, return_tensors="pt")["pixel_values"] for image in images])
        else:
            pixels = prepare(images, return_tensors="pt")["pixel_values"]
        if pixels.shape != ours["images"].shape:
            wrong.append(f"images are {tuple(pixels.shape)}, not {tuple(ours['images'].shape)}")
        elif (pixels.shape[-1] * 256 // 224 - pixels.shape[-1]) % 2:
            # the middle of the resized image lies between two pixels, and processors take the one before
            print(f"{type(prepare).__name__:26} pixels            half a pixel apart, not compared")
        else:
            error = (pixels - ours["images"]).abs().max().item()
            print(f"{type(prepare).__name__:26} pixels            largest difference {error:.1e}")
            if not error <= PIXELS:
                wrong.append(f"pixels differ by {error}")
    for problem in wrong:
        print(f"{network}: {problem}")
    return not wrong


arguments = sys.argv[1:]
folder = arguments.pop() if len(arguments) % 2 else None
right = [check(*pair, folder) for pair in zip(arguments[::2], arguments[1::2])]
print(json.dumps({"networks": len(right), "right": sum(right)}))
sys.exit(not right or not all(right))
