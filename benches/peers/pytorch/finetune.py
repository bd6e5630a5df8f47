#!/usr/bin/env python3
"""A fine-tuning step of a ViT-S at 224 pixels beside timm's in PyTorch, in turn, on the CPU, in single precision.

    python benches/peers/pytorch/finetune.py target/release/poa-gpu [--rounds 3] [--batch 16] [--threads 2]

Both run forward, cross-entropy against mixed labels, backward, AdamW and the moving average of the weights. Ours decodes and
augments its images beside that, on the same cores; PyTorch gets a batch that is ready. A ratio above one says that poa-gpu
is faster. Needs torch and timm.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

WARM, STEPS = 2, 7


def ours(args):
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "run")
        command = [args.program, "-q", "finetune", "--random", "--config", "imagenet", "--train", "shapes:256x256", "--device", "cpu",
                   "--steps", str(WARM + STEPS), "--out", out, f"train.batch_size_per_gpu={args.batch}", "train.log_every=1",
                   "student.min_embed_dim=384", "student.max_embed_dim=384", "student.min_depth=12", "student.max_depth=12",
                   "finetune.eval_epochs=1000", "train.saveckp_freq=1000", "data.val=shapes:20x256"]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "RAYON_NUM_THREADS": str(args.threads)})
        if done.returncode != 0:
            sys.exit(done.stderr)
        lines = [json.loads(line) for line in open(os.path.join(out, "metrics.jsonl"))]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == WARM + STEPS and all(0 < loss < 20 for loss in losses), losses
    times = [line["time"]["elapsed"] for line in lines if "loss" in line]
    return [b - a for a, b in zip(times, times[1:])][WARM:]


def theirs(args):
    import timm
    import torch
    from timm.loss import SoftTargetCrossEntropy

    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    model = timm.create_model("vit_small_patch16_224", num_classes=10, init_values=1e-5, drop_path_rate=0.1).train()
    average = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    images = torch.randn(args.batch, 3, 224, 224)
    targets = torch.softmax(torch.randn(args.batch, 10), dim=1)
    criterion, times = SoftTargetCrossEntropy(), []
    for _ in range(WARM + STEPS):
        start = time.perf_counter()
        loss = criterion(model(images), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(average, [p.detach() for p in model.parameters()], 0.3)
        times.append(time.perf_counter() - start)
        assert 0 < loss.item() < 20
    return times[WARM:]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer", action="store_true", help="PyTorch alone, as JSON")
    args = parser.parse_args()
    if args.peer:
        print(json.dumps(theirs(args)))
        return
    if not args.program:
        parser.error("give the program, as target/release/poa-gpu")
    ratios, rows = [], []
    for _ in range(args.rounds):
        own = statistics.median(ours(args))
        command = [sys.executable, __file__, "--peer", "--batch", str(args.batch), "--threads", str(args.threads)]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        peer = statistics.median(json.loads(out.splitlines()[-1]))
        rows.append((own, peer))
        ratios.append(peer / own)
        print(f"poa-gpu {own:.3f} s, PyTorch {peer:.3f} s, ratio {peer / own:.2f}")
    print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
