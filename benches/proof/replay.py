#!/usr/bin/env python3
"""The first steps of a run of poa-gpu once more in PyTorch, on the same images, from the same first weights, with the
same sub-networks: what the three recorded steps of the official code say of the step, over hundreds of them.

    replay.py recipe.toml --first runs/first/checkpoints/step-00000001 --run runs/replayed --batches PROOF --data SPEC

Prints both losses and their relative difference; `benches/proof/replay` makes the runs and calls this.
"""

import argparse
import json
import os
import tomllib

import torch
from safetensors.torch import load_file

import images
import train


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="every setting as TOML, of the run")
    parser.add_argument("--first", required=True, metavar="DIR", help="checkpoint with the first weights")
    parser.add_argument("--run", required=True, metavar="DIR", help="the run, with a line of metrics every step")
    parser.add_argument("--batches", required=True, metavar="PROGRAM", help="the example `proof`")
    parser.add_argument("--data", required=True, metavar="SPEC", help="images, as poa-gpu takes them")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with open(args.recipe, "rb") as file:
        c = tomllib.load(file)
    train.refuse(c)
    trainer = train.steps.Trainer(train.sizes(c), "cpu", torch.float32)
    first = load_file(os.path.join(args.first, "student.safetensors"))
    trainer.load(first, first)
    with open(os.path.join(args.run, "metrics.jsonl")) as file:
        lines = [json.loads(line) for line in file]
    lines = {line["step"]: line for line in lines if "loss" in line}
    pace = train.Pace(c, trainer)
    worst = 0.0
    for step, (crops, local, masks) in enumerate(images.streamed(args.batches, args.recipe, c, args.data, args.seed)):
        ours = lines[step]
        masks = pace.set(step, masks)
        total, _, _ = trainer.step((crops, local, masks), tuple(map(int, ours["network"].split("x"))))
        apart = abs(float(total) / ours["loss"] - 1.0)
        worst = max(worst, apart)
        if step % 10 == 0 or step + 1 == pace.schedules.steps:
            print(f"step {step}: {ours['loss']:.6f} and {float(total):.6f}, {apart:.1e} apart, at most {worst:.1e}")
    if step + 1 != pace.schedules.steps:
        raise SystemExit(f"the loader ended after {step + 1} of {pace.schedules.steps} steps")


if __name__ == "__main__":
    main()
