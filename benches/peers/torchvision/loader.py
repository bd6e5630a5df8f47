#!/usr/bin/env python3
"""Images a second of data loading: torchvision with the augmentation of DINOv2 and POA, and the loader of poa-gpu.

Both make 2 crops of 224 and 8 of 96 pixels of the same JPEGs on the same number of cores, in turn, so that whatever
else the machine does falls on both. Prints every round, the medians and their ratio.
"""

import argparse
import glob
import os
import re
import statistics
import subprocess
import sys
import time

REPOSITORY = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
GLOBAL, LOCAL, LOCALS = 224, 96, 8


def augmentation():
    """DINOv2's `DataAugmentationDINO` with the blur probabilities of the paper's table."""
    from torchvision import transforms as T

    def crop(size, scale):
        return T.Compose([
            T.RandomResizedCrop(size, scale=scale, interpolation=T.InterpolationMode.BICUBIC),
            T.RandomHorizontalFlip(0.5),
            T.RandomApply([T.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
            T.RandomGrayscale(0.2),
        ])

    def blur(p):
        return T.RandomApply([T.GaussianBlur(9, sigma=(0.1, 2.0))], p=p)

    tensor = T.Compose([T.ToTensor(), T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])
    solarize = T.RandomSolarize(128, p=0.2)
    a = T.Compose([crop(GLOBAL, (0.32, 1.0)), blur(1.0), tensor])
    b = T.Compose([crop(GLOBAL, (0.32, 1.0)), blur(0.1), solarize, tensor])
    local = T.Compose([crop(LOCAL, (0.05, 0.32)), blur(0.5), tensor])
    return lambda image: ([a(image), b(image)], [local(image) for _ in range(LOCALS)])


def torchvision_rate(args):
    """Images a second of torchvision's side, after a warm-up of three batches as on the other side."""
    import torch
    from PIL import Image

    class Images(torch.utils.data.Dataset):
        def __init__(self, paths):
            self.paths, self.augment = paths, augmentation()

        def __len__(self):
            return len(self.paths)

        def __getitem__(self, i):
            with open(self.paths[i], "rb") as file:
                return self.augment(Image.open(file).convert("RGB"))

    def collate(samples):
        stack = lambda part, count: torch.stack([s[part][i] for i in range(count) for s in samples])
        return stack(0, 2), stack(1, LOCALS)

    torch.set_num_threads(1)
    paths = glob.glob(os.path.join(args.dir, "**", "*"), recursive=True)
    paths = sorted(p for p in paths if p.lower().endswith(ENDINGS))
    if not paths:
        sys.exit(f"{args.dir}: holds no images")
    loader = torch.utils.data.DataLoader(
        Images(paths), args.batch, shuffle=True, num_workers=args.threads, drop_last=True, collate_fn=collate,
        worker_init_fn=lambda _: torch.set_num_threads(1), persistent_workers=True,
    )

    def endless():
        while True:
            count = 0
            for batch in loader:
                count += 1
                yield batch
            if count == 0:
                sys.exit(f"{args.dir}: fewer than {args.batch} images")

    batches = endless()
    for _ in range(3):
        next(batches)
    start, images = time.perf_counter(), 0
    while time.perf_counter() - start < args.seconds:
        images += len(next(batches)[0]) // 2
    return images / (time.perf_counter() - start)


def ours(args, binary):
    """Images a second of poa-gpu's loader, as its own benchmark prints them."""
    command = [binary, "--bench", args.dir, "--threads", str(args.threads)]
    command += ["--seconds", str(args.seconds), "--batch", str(args.batch)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"([\d.]+) images/s", out)
    if not found:
        sys.exit(f"{binary} measured nothing: {out}")
    return float(found[1])


def build():
    """Builds the Rust benchmark and returns the path of its program."""
    command = ["cargo", "bench", "--bench", "loader", "--no-run"]
    err = subprocess.run(command, cwd=REPOSITORY, check=True, stderr=subprocess.PIPE, text=True).stderr
    found = re.search(r"\(([^()]*loader-[0-9a-f]+[^()]*)\)", err)
    if not found:
        sys.exit(f"cargo did not name the benchmark it built:\n{err}")
    return os.path.join(REPOSITORY, found[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", metavar="DIR", help="a folder of images, any depth")
    parser.add_argument("--threads", type=int, default=2, help="workers of torchvision, threads of poa-gpu")
    parser.add_argument("--seconds", type=float, default=15, help="length of one measurement")
    parser.add_argument("--batch", type=int, default=32, help="images a batch")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each")
    parser.add_argument("--bench", metavar="PROGRAM", help="the built Rust benchmark; built by cargo if not given")
    parser.add_argument("--only-torchvision", action="store_true", help="one measurement of torchvision alone")
    args = parser.parse_args()
    if args.only_torchvision:
        print(f"torchvision: {torchvision_rate(args):.1f} images/s")
        return
    binary = args.bench or build()
    rates = {"torchvision": [], "poa-gpu": []}
    for round_number in range(1, args.rounds + 1):
        # A process of its own, so that neither side finds the other's threads or memory.
        alone = [sys.executable, __file__, args.dir, "--only-torchvision", "--threads", str(args.threads)]
        alone += ["--seconds", str(args.seconds), "--batch", str(args.batch)]
        out = subprocess.run(alone, check=True, capture_output=True, text=True).stdout
        rates["torchvision"].append(float(re.search(r"([\d.]+) images/s", out)[1]))
        rates["poa-gpu"].append(ours(args, binary))
        print(f"round {round_number}: " + ", ".join(f"{k} {v[-1]:.1f} images/s" for k, v in rates.items()), flush=True)
    medians = {k: statistics.median(v) for k, v in rates.items()}
    for name, rate in medians.items():
        print(f"{name:12} {rate:7.1f} images/s, {rate / max(args.threads, 1):7.1f} per core (median of {args.rounds})")
    print(f"ratio {medians['poa-gpu'] / medians['torchvision']:.2f}")


if __name__ == "__main__":
    main()
