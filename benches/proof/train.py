#!/usr/bin/env python3
"""POA in plain PyTorch, a whole run of it: the step of `benches/peers/pytorch`, which agrees with the official code's
record, on batches that torchvision makes, with schedules and k-NN of its own.

    poa-gpu config demo > demo.toml        # every setting, as poa-gpu would use it
    train.py demo.toml --train folder:shapes/train --val folder:shapes/val --seed 1 --out runs/pytorch-1

Nothing here is poa-gpu's but the settings (and with --batches the crops): random numbers, decoding, augmentation, masks, order of the images, draw of
the sub-networks, initial values, updates, averages and evaluation are others. `metrics.jsonl` has the same keys.
"""

import argparse
import json
import math
import os
import random
import sys
import time

import numpy as np
import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "peers", "pytorch"))
import images  # noqa: E402
import knn  # noqa: E402
import recipe as recipes  # noqa: E402
import step as steps  # noqa: E402


def sizes(c):
    """What the step of `benches/peers/pytorch` needs of a recipe."""
    student, crops, dino, optim, teacher = (c[s] for s in ("student", "crops", "dino", "optim", "teacher"))
    return recipes.Recipe(
        patch=student["patch_size"],
        width=student["max_embed_dim"],
        depth=student["max_depth"],
        head_dim=student["head_dim"],
        network=None,
        global_size=crops["global_crops_size"],
        local_size=crops["local_crops_size"],
        local_crops=crops["local_crops_number"],
        batch=c["train"]["batch_size_per_gpu"],
        prototypes=dino["head_n_prototypes"],
        hidden=dino["head_hidden_dim"],
        bottleneck=dino["head_bottleneck_dim"],
        mlp_ratio=student["mlp_ratio"],
        layerscale=student["layerscale"],
        lambda_ie=dino["lambda_ie"],
        student_temperature=dino["student_temp"],
        teacher_temperature=teacher["teacher_temp"],
        sinkhorn_iterations=dino["sinkhorn_iterations"],
        koleo_weight=dino["koleo_loss_weight"],
        ibot_weight=c["ibot"]["loss_weight"],
        lr=1.0,
        weight_decay=1.0,
        clip=optim["clip_grad"] or math.inf,
        momentum=teacher["momentum_teacher"],
        layerwise_decay=optim["layerwise_decay"],
        patch_embed_lr=optim["patch_embed_lr_mult"],
    )


def refuse(c):
    """Ends where a recipe wants what is not written here."""
    wanted = {
        "student.arch": "vit_dynamic",
        "student.drop_path_rate": 0.0,
        "student.fixed_network": "",
        "train.centering": "sinkhorn_knopp",
        "train.accumulation_steps": 1,
        "dino.koleo": "half",
        "dino.loss_weight": 1.0,
        "ibot.separate_head": False,
    }
    for key, value in wanted.items():
        section, name = key.split(".")
        if c[section][name] != value:
            raise SystemExit(f"{key} is {c[section][name]!r}; this trainer knows {value!r} alone")
    if not c["dino"]["head_n_prototypes"]:
        raise SystemExit("dino.head_n_prototypes is empty; poa-gpu's run says in its config.toml what follows")


def grid(student):
    """All sub-networks of a cycle, each as often as it is drawn."""
    widths = range(
        student["min_embed_dim"], student["max_embed_dim"] + 1, student["head_dim"] * student["width_interval"]
    )
    depths = range(student["min_depth"], student["max_depth"] + 1, student["depth_interval"])
    s = student["net_select_scale"]
    a, b = np.linspace(s, 1, len(widths)), np.linspace(s, 1, len(depths))
    times = lambda i, j: int(np.round(a[i] * b[j]))
    all_ = [(w, d) for i, w in enumerate(widths) for j, d in enumerate(depths) for _ in range(times(i, j))]
    # the last one, the intact network, is no elastic student
    return [(w, d) for w in widths for d in depths], all_[:-1]


@torch.no_grad()
def draw_weights(network, c):
    """First weights of the linear layers: of the recipe's deviation, or where that is 0 of 1/sqrt(inputs)."""
    for name, p in network.named_parameters():
        if name.endswith((".weight", ".weight_v")) and p.ndim == 2:
            std = c["student"]["init_std"] if ".blocks." in name else c["dino"]["head_init_std"]
            torch.nn.init.trunc_normal_(p, std=std or p.shape[1] ** -0.5, a=-2.0, b=2.0)


class Schedules:
    """Learning rate, weight decay, momentum and temperature of a step, as arrays."""

    def __init__(self, c):
        o, t, train = c["optim"], c["teacher"], c["train"]
        self.steps = train["total_steps"] or o["epochs"] * train["OFFICIAL_EPOCH_LENGTH"]
        self.of_epochs = lambda epochs: epochs * self.steps // o["epochs"]
        layout = int(self.steps / o["iter_num_scale"])
        self.lr = self.cosine(o["lr"], o["min_lr"], self.of_epochs(o["warmup_epochs"]), layout)
        self.weight_decay = self.cosine(o["weight_decay"], o["weight_decay_end"], 0, layout)
        self.momentum = self.cosine(t["momentum_teacher"], t["final_momentum_teacher"], 0, layout)
        warmup = self.of_epochs(t["warmup_teacher_temp_epochs"])
        self.temp = np.full(self.steps, t["teacher_temp"])
        self.temp[:warmup] = np.linspace(t["warmup_teacher_temp"], t["teacher_temp"], warmup)[: self.steps]
        self.frozen = self.of_epochs(o["freeze_last_layer_epochs"])
        self.masked_from = self.of_epochs(o["ibot_activate_epochs"])

    def cosine(self, base, end, warmup, layout):
        rest = np.arange(layout - warmup)
        curve = end + 0.5 * (base - end) * (1 + np.cos(np.pi * rest / len(rest)))
        return np.concatenate([np.linspace(0, base, warmup), curve])[: self.steps]


class Pace:
    """Gives a trainer what its next step has of the schedules."""

    def __init__(self, c, trainer):
        self.c, self.trainer, self.schedules = c, trainer, Schedules(c)
        prototypes = {id(p) for n, p in trainer.student.named_parameters() if ".last_layer" in n}
        for group in list(trainer.optimizer.param_groups):
            group["factors"] = group["lr"], group["weight_decay"]
            last = [p for p in group["params"] if id(p) in prototypes]
            if last:
                group["params"] = [p for p in group["params"] if id(p) not in prototypes]
                trainer.optimizer.add_param_group({**group, "params": last, "prototypes": True})

    def set(self, step, masks):
        """Sets rates, momentum and temperature of a step; returns its masks, empty before their loss counts."""
        s = self.schedules
        for group in self.trainer.optimizer.param_groups:
            lr, wd = group["factors"]
            frozen = group.get("prototypes") and step < s.frozen
            group["lr"] = 0.0 if frozen else s.lr[step] * lr
            group["weight_decay"] = s.weight_decay[step] * wd
        self.trainer.recipe.teacher_temperature = s.temp[step]
        self.trainer.recipe.momentum = s.momentum[step]
        masked = step >= s.masked_from and self.c["ibot"]["loss_weight"]
        return masks if masked else torch.zeros_like(masks)


class Run:
    def __init__(self, c, args):
        self.c, self.args = c, args
        self.trainer = steps.Trainer(sizes(c), "cpu", torch.float32)
        draw_weights(self.trainer.student, c)
        self.trainer.load(*[self.trainer.student.state_dict()] * 2)
        self.pace = Pace(c, self.trainer)
        self.networks, self.cycle = grid(c["student"])
        self.left = []
        if args.batches:
            self.seen = images.streamed(args.batches, args.recipe, c, args.train, args.seed)
        else:
            batches = images.Batches(self.labelled("train")[0], c)
            self.seen = iter(batches.next, None)
        self.votes, self.classified = (self.evaluated(part) for part in ("train", "val"))
        self.metrics = open(os.path.join(args.out, "metrics.jsonl"), "w", buffering=1)
        self.started = time.time()

    def labelled(self, part):
        if not hasattr(self, "loaded"):
            self.loaded = {p: images.load(getattr(self.args, p), p) for p in ("train", "val")}
        return self.loaded[part]

    def evaluated(self, part):
        """Normalised images and labels that vote or are classified."""
        pictures, labels = self.labelled(part)
        view = images.evaluation_view(self.c["crops"]["global_crops_size"])
        of = images.picked(len(pictures), self.c["evaluation"][f"{part}_images"])
        return torch.stack([view(pictures[i]) for i in of]), torch.from_numpy(labels[of])

    def network(self):
        if not self.left:
            self.left = random.sample(self.cycle, len(self.cycle))
        return self.left.pop()

    def write(self, step, values):
        time_ = {"seconds": time.time() - self.started, "cpu_seconds": time.process_time()}
        self.metrics.write(json.dumps({"step": step, **values, "time": time_}) + "\n")

    def evaluate(self, done):
        named = {"smallest": self.networks[0], "intact": self.networks[-1]}
        named["middle"] = self.networks[len(self.networks) // 2]
        values = {}
        for name in self.c["evaluation"]["networks"]:
            width, depth = named.get(name) or map(int, name.split("x"))
            feature = lambda batch: self.trainer.teacher.backbone(batch, width, depth)[:, 0]
            top1 = knn.accuracies(feature, self.votes, self.classified, self.c["evaluation"])
            values |= {f"knn.{width}x{depth}.{k}": a for k, a in top1.items()}
        self.write(done, values)
        print(done, {k: round(100 * v, 1) for k, v in values.items()}, flush=True)

    def run(self):
        s, every = self.pace.schedules, self.c["evaluation"]["eval_period_iterations"]
        self.evaluate(0)
        for step in range(s.steps):
            crops, local, masks = next(self.seen)
            masks = self.pace.set(step, masks)
            total, components, _ = self.trainer.step((crops, local, masks), self.network())
            if step % self.c["train"]["log_every"] == 0 or step + 1 == s.steps:
                losses = {name: float(v.detach()) for name, v in components.items()}
                self.write(step, {"loss": float(total), **losses})
            if (every and (step + 1) % every == 0) or step + 1 == s.steps:
                self.evaluate(step + 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", metavar="PROGRAM", help="the example `proof`: poa-gpu's crops instead of own ones")
    args, c = images.arguments(parser)
    refuse(c)
    Run(c, args).run()


if __name__ == "__main__":
    main()
