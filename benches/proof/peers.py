#!/usr/bin/env python3
"""What a user would write instead: SimCLR or DINO around timm's VisionTransformer, of the recipe's intact size, on the
recipe's crops, for as many steps, with AdamW and a warm-up and cosine of the learning rate.

    peers.py simclr demo.toml --train folder:shapes/train --val folder:shapes/val --seed 1 --out runs/simclr-1

Each with the settings that its authors give for small batches: SimCLR a projection of two layers to 128 channels,
temperature 0.2, two global crops alone; DINO a head of three layers to 4,096 prototypes, centring, temperatures 0.1 and
0.04, momentum 0.996 to 1, local crops seen by the student alone. Learning rate 5e-4 · images / 256, at least 1e-3 for
such small networks. `metrics.jsonl` is as poa-gpu's.
"""

import argparse
import copy
import json
import math
import os
import time

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import images
import knn


def backbone(c, size):
    s = c["student"]
    width = s["max_embed_dim"]
    return VisionTransformer(
        img_size=size,
        patch_size=s["patch_size"],
        embed_dim=width,
        depth=s["max_depth"],
        num_heads=width // s["head_dim"],
        mlp_ratio=s["mlp_ratio"],
        num_classes=0,
        global_pool="token",
        dynamic_img_size=True,
    )


def mlp(*widths):
    layers = []
    for a, b in zip(widths, widths[1:]):
        layers += [nn.Linear(a, b), nn.GELU()]
    return nn.Sequential(*layers[:-1])


class SimClr(nn.Module):
    def __init__(self, c):
        super().__init__()
        width = c["student"]["max_embed_dim"]
        self.backbone = backbone(c, c["crops"]["global_crops_size"])
        self.head = nn.Sequential(nn.Linear(width, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 128))

    def loss(self, crops, _local, _share):
        z = F.normalize(self.head(self.backbone(crops)), dim=1)
        scores = z @ z.T / 0.2
        scores.fill_diagonal_(-math.inf)
        other = torch.arange(len(z)).roll(len(z) // 2)
        return F.cross_entropy(scores, other)

    def after_step(self, _share):
        pass


class Dino(nn.Module):
    PROTOTYPES = 4096

    def __init__(self, c):
        super().__init__()
        width = c["student"]["max_embed_dim"]
        self.backbone = backbone(c, c["crops"]["global_crops_size"])
        self.head = mlp(width, 512, 512, 128)
        self.last = nn.utils.parametrizations.weight_norm(nn.Linear(128, self.PROTOTYPES, bias=False))
        self.last.parametrizations.weight.original0.data.fill_(1.0)
        self.last.parametrizations.weight.original0.requires_grad = False
        # outside the module: no parameters to train
        self.teacher = [copy.deepcopy(m).requires_grad_(False) for m in (self.backbone, self.head, self.last)]
        self.center = torch.zeros(1, self.PROTOTYPES)

    @staticmethod
    def scores(parts, crops):
        body, head, last = parts
        return last(F.normalize(head(body(crops)), dim=1))

    def loss(self, crops, local, _share):
        own = self.backbone, self.head, self.last
        with torch.no_grad():
            scores = self.scores(self.teacher, crops)
            targets = F.softmax((scores - self.center) / 0.04, dim=1).chunk(2)
            self.center = 0.9 * self.center + 0.1 * scores.mean(dim=0, keepdim=True)
        views = list(self.scores(own, crops).chunk(2))
        if local is not None:
            views += self.scores(own, local).split(len(views[0]))
        terms = [
            -(target * F.log_softmax(view / 0.1, dim=1)).sum(dim=1).mean()
            for t, target in enumerate(targets)
            for v, view in enumerate(views)
            if v != t
        ]
        return sum(terms) / len(terms)

    @torch.no_grad()
    def after_step(self, share):
        momentum = 1 - 0.004 * 0.5 * (1 + math.cos(math.pi * share))
        for old, new in zip(self.teacher, (self.backbone, self.head, self.last)):
            torch._foreach_lerp_(list(old.parameters()), list(new.parameters()), 1 - momentum)


class Judge:
    """Classifies the held-out images by a backbone's features, and writes `metrics.jsonl`."""

    def __init__(self, args, c):
        self.evaluation, self.view = c["evaluation"], images.evaluation_view(c["crops"]["global_crops_size"])
        self.pictures, self.votes = self.labelled(args, "train")
        _, self.classified = self.labelled(args, "val")
        self.name = f"{c['student']['max_embed_dim']}x{c['student']['max_depth']}"
        self.metrics = open(os.path.join(args.out, "metrics.jsonl"), "w", buffering=1)
        self.started = time.time()

    def labelled(self, args, part):
        """All pictures of a part, and the normalised images and labels that vote or are classified."""
        pictures, labels = images.load(getattr(args, part), part)
        of = images.picked(len(pictures), self.evaluation[f"{part}_images"])
        return pictures, (torch.stack([self.view(pictures[i]) for i in of]), torch.from_numpy(labels[of]))

    def write(self, step, values):
        clock = {"seconds": time.time() - self.started, "cpu_seconds": time.process_time()}
        self.metrics.write(json.dumps({"step": step, **values, "time": clock}) + "\n")

    def evaluate(self, step, body):
        body.eval()
        top1 = knn.accuracies(body, self.votes, self.classified, self.evaluation)
        body.train()
        values = {f"knn.{self.name}.{k}": a for k, a in top1.items()}
        self.write(step, values)
        print(step, {k: round(100 * v, 1) for k, v in values.items()}, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=("simclr", "dino"))
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    args, c = images.arguments(parser)
    train = c["train"]
    total = args.steps or train["total_steps"] or c["optim"]["epochs"] * train["OFFICIAL_EPOCH_LENGTH"]

    model = (SimClr if args.method == "simclr" else Dino)(c)
    rate = max(5e-4 * train["batch_size_per_gpu"] / 256, 1e-3)
    flat = [p for p in model.parameters() if p.ndim < 2 and p.requires_grad]
    weights = [p for p in model.parameters() if p.ndim >= 2 and p.requires_grad]
    optimizer = torch.optim.AdamW([{"params": weights, "weight_decay": 0.04}, {"params": flat, "weight_decay": 0.0}])

    judge = Judge(args, c)
    batches = images.Batches(judge.pictures, c)

    def evaluate(done):
        judge.evaluate(done, model.teacher[0] if args.method == "dino" else model.backbone)

    evaluate(0)
    every, warmup = c["evaluation"]["eval_period_iterations"], max(total // 10, 1)
    for step in range(total):
        share = max(step - warmup, 0) / max(total - warmup, 1)
        lr = rate * min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * share)))
        for group in optimizer.param_groups:
            group["lr"] = lr
        crops, local, _ = batches.next()
        loss = model.loss(crops, local, share)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 3.0)
        optimizer.step()
        model.after_step(step / total)
        if step % train["log_every"] == 0:
            judge.write(step, {"loss": loss.item()})
        if (every and (step + 1) % every == 0) or step + 1 == total:
            evaluate(step + 1)


if __name__ == "__main__":
    main()
