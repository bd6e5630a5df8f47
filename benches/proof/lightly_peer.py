#!/usr/bin/env python3
"""What a user of lightly-train would do: its pre-training of timm's VisionTransformer of the recipe's intact size, on the
same images, with its own augmentation and settings for the method, at the recipe's image size.

    lightly_peer.py dino demo.toml --train folder:shapes/train --val folder:shapes/val --seed 1 --out runs/lightly-1 --epochs 2

Its default, `distillation`, learns from a DINOv2 or DINOv3 teacher that it downloads; where that cannot be had, its
methods without a teacher remain: `dino` and `simclr`. `metrics.jsonl` has the k-NN before and after, and the seconds.
"""

import argparse
import json
import os
import time

import lightly_train
import torch

import images
import knn
import peers


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=("distillation", "dino", "simclr"))
    parser.add_argument("--epochs", type=int, required=True, help="passes over the images")
    args, c = images.arguments(parser)
    evaluation, size = c["evaluation"], c["crops"]["global_crops_size"]

    def labelled(part):
        pictures, labels = images.load(getattr(args, part), part)
        of = images.picked(len(pictures), evaluation[f"{part}_images"])
        view = images.evaluation_view(size)
        return torch.stack([view(pictures[i]) for i in of]), torch.from_numpy(labels[of])

    votes, classified = labelled("train"), labelled("val")
    body = peers.backbone(c, size)
    body.pretrained_cfg = {}  # asked for when the weights are exported
    name = f"{c['student']['max_embed_dim']}x{c['student']['max_depth']}"
    metrics = open(os.path.join(args.out, "metrics.jsonl"), "w", buffering=1)

    def evaluate(step):
        body.eval()
        top1 = knn.accuracies(body, votes, classified, evaluation)
        body.train()
        values = {f"knn.{name}.{k}": a for k, a in top1.items()}
        clock = {"seconds": time.time() - started, "cpu_seconds": time.process_time()}
        metrics.write(json.dumps({"step": step, **values, "time": clock}) + "\n")
        print(step, {k: round(100 * v, 1) for k, v in values.items()}, flush=True)

    started = time.time()
    evaluate(0)
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
    pictures = sum(len(files) for _, _, files in os.walk(folder))
    evaluate(args.epochs * pictures // batch)


if __name__ == "__main__":
    main()
