#!/usr/bin/env python3
"""poa-gpu beside PyTorch: the same kernels and the same training steps, in turn, as ratios of medians.

Each round runs `cargo bench`'s program and then PyTorch, each in a process of its own, so that neither side finds the
other's threads or memory and whatever else the machine does falls on both. Both check their results before they time
anything. A ratio above one says that poa-gpu is faster.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys

from kernels import kernels
from recipe import REPOSITORY, STEPS
from timing import PRECISIONS

HERE = os.path.dirname(os.path.abspath(__file__))
LINE = re.compile(r"^(?P<name>\S+/.+)/(?P<device>cpu|gpu)\s+(?P<ms>[\d.]+) ms")


def build():
    """Builds the Rust benchmark and returns the path of its program."""
    command = ["cargo", "bench", "--bench", "bench", "--no-run"]
    err = subprocess.run(command, cwd=REPOSITORY, check=True, stderr=subprocess.PIPE, text=True).stderr
    found = re.search(r"\(([^()]*bench-[0-9a-f]+[^()]*)\)", err)
    if not found:
        sys.exit(f"cargo did not name the benchmark it built:\n{err}")
    return os.path.join(REPOSITORY, found[1])


def run(command, **changes):
    """The output of a program, which must succeed."""
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, env={**os.environ, **changes})
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def ours(args, names):
    """Seconds by name, as the benchmark prints its own medians."""
    kind = "cpu" if args.device == "cpu" else "gpu"
    # with the device behind it a name fits one case alone; --test leaves out criterion's own statistics
    filters = [f"{name}/{kind}" for name in names]
    out = run([args.bench, "--test", *filters], POA_BENCH_DEVICE=args.device, RAYON_NUM_THREADS=str(args.threads),
              POA_BENCH_PRECISION=args.precision)
    lines = (LINE.match(line) for line in out.splitlines())
    times = {found["name"]: float(found["ms"]) / 1e3 for found in lines if found}
    missing = [name for name in names if name not in times]
    if missing:
        sys.exit(f"poa-gpu has not timed {', '.join(missing)}:\n{out}")
    return times


def theirs(args, names):
    """Seconds by precision and name."""
    common = ["--json", "--device", args.peer, "--threads", str(args.threads)]
    times = {}
    alone = [name for name in names if not name.startswith("step/")]
    if alone:
        out = run([sys.executable, os.path.join(HERE, "kernels.py"), *common, *alone])
        times = json.loads(out)["seconds"]
    for step in (name.removeprefix("step/") for name in names if name.startswith("step/")):
        for precision in PRECISIONS if args.peer == "cuda" else dict.fromkeys(("f32", args.precision)):
            command = [sys.executable, os.path.join(HERE, "step.py"), step, "--precision", precision, *common]
            times.setdefault(precision, {}).update(json.loads(run(command))["seconds"])
    return times


def table(args, our_rounds, their_rounds):
    """Medians over the rounds, as Markdown and as values."""
    precisions = list(their_rounds[0])
    rows = [["kernel", f"poa-gpu, {args.device}"], ["---", "---"]]
    for precision in precisions:
        rows[0] += [f"PyTorch, {args.peer}, {precision}", "ratio"]
        rows[1] += ["---", "---"]
    values = {}
    for name in our_rounds[0]:
        mine = statistics.median(r[name] for r in our_rounds)
        row, values[name] = [name, f"{mine * 1e3:.3f} ms"], {"poa-gpu": mine}
        for precision in precisions:
            other = statistics.median(r[precision][name] for r in their_rounds)
            row += [f"{other * 1e3:.3f} ms", f"{other / mine:.2f}"]
            values[name][precision] = other
        rows.append(row)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows), values


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("filters", nargs="*", help="parts of names, as matmul or step/tiny; all kernels and the steps "
                        "tiny and vit-s if none is given (step/vit-l needs 14 GiB, and time or a GPU)")
    parser.add_argument("--device", default="cpu", help="of poa-gpu: cpu, gpu, or part of an adapter's name")
    parser.add_argument("--peer", choices=("cpu", "cuda"), default="cpu", help="device of PyTorch")
    parser.add_argument("--precision", choices=("f32", "bf16"), default="f32",
                        help="of steps on CPUs: bf16 is train.precision=bf16 beside PyTorch in f32 and by autocast")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads of each side")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side")
    parser.add_argument("--bench", metavar="PROGRAM", help="the built Rust benchmark; built by cargo if not given")
    parser.add_argument("--json", metavar="FILE", help="write the medians here, in seconds")
    args = parser.parse_args()
    everything = [kernel.name for kernel in kernels()] + [f"step/{step}" for step in STEPS]
    wanted = args.filters or [name for name in everything if name != "step/vit-l"]
    names = [name for name in everything if any(text in name for text in wanted)]
    if not names:
        parser.error(f"nothing contains {' or '.join(args.filters)}; there are {', '.join(everything)}")
    if args.precision == "bf16" and not (args.device == args.peer == "cpu" and all(n.startswith("step/") for n in names)):
        parser.error("--precision bf16 is for steps of both on CPUs")
    args.bench = os.path.abspath(args.bench) if args.bench else build()
    our_rounds, their_rounds = [], []
    for number in range(1, args.rounds + 1):
        our_rounds.append(ours(args, names))
        their_rounds.append(theirs(args, names))
        print(f"round {number} of {args.rounds} done", file=sys.stderr, flush=True)
    text, values = table(args, our_rounds, their_rounds)
    print(text)
    if args.json:
        with open(args.json, "w") as file:
            json.dump(values, file, indent=1)


if __name__ == "__main__":
    main()
