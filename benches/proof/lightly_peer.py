#!/usr/bin/env python3
"""What a user of lightly-train would do: its pre-training of timm's VisionTransformer of the recipe's intact size, on the
same images, with its own augmentation and settings for the method, at the recipe's image size.

    lightly_peer.py dino demo.toml --train folder:shapes/train --val folder:shapes/val --seed 1 --out runs/lightly-1 --epochs 2

Its default, `distillation`, learns from a DINOv2 or DINOv3 teacher that it downloads; where that cannot be had, its
methods without a teacher remain: `dino` and `simclr`. `metrics.jsonl` has the k-NN before and after, and the seconds.
"""

import argparse
import os

import lightly_train
import torch

import images
import peers


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=("distillation", "dino", "simclr"))
    parser.add_argument("--epochs", type=int, required=True, help="passes over the images")
    args, c = images.arguments(parser)
    size = c["crops"]["global_crops_size"]
    judge = peers.Judge(args, c)
    body = peers.backbone(c, size)
    body.pretrained_cfg = {}  # asked for when the weights are exported
    judge.evaluate(0, body)
    local = c["crops"]["local_crops_number"]
    views = {"num_views": local, "view_size": (c["crops"]["local_crops_size"],) * 2} if local else None
    transform = {"image_size": (size, size), "normalize": {"mean": images.MEAN, "std": images.STD}}
    if args.method == "dino":
        transform["local_view"] = views
    batch, folder = c["train"]["batch_size_per_gpu"], args.train.partition(":")[2]
    lightly_train.pretrain(
        out=os.path.join(args.out, "lightly"),
        data=folder,
        model=body,
        method=args.method,
        epochs=args.epochs,
        batch_size=batch,
        num_workers=0,
        devices=1,
        accelerator="cpu",
        seed=args.seed,
        transform_args=transform,
    )
    exported = os.path.join(args.out, "lightly", "exported_models", "exported_last.pt")
    body.load_state_dict(torch.load(exported, map_location="cpu"))
    judge.evaluate(args.epochs * len(judge.pictures) // batch, body)


if __name__ == "__main__":
    main()
