"""Images, crops and masks as the official code makes them: torchvision's transforms on PIL images, iBOT's masks.

Data sets are those that `poa-gpu` reads: `folder:DIR` (a sub-folder a class) and `cifar10:DIR` (the binary version).
Everything is decoded once and kept, so they should be small.
"""

import math
import os
import random
import subprocess
import tomllib

import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_ROW = 1 + 3 * 32 * 32


def load(spec, part):
    """PIL images and labels of a data set; `part` is `train` or `val`."""
    kind, _, path = spec.partition(":")
    if kind == "cifar10":
        names = ["test_batch"] if part == "val" else [f"data_batch_{i}" for i in range(1, 6)]
        rows = np.concatenate([np.fromfile(os.path.join(path, f"{n}.bin"), np.uint8) for n in names])
        rows = rows.reshape(-1, CIFAR_ROW)
        pixels = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return [Image.fromarray(p) for p in pixels], rows[:, 0].astype(np.int64)
    if kind != "folder":
        raise SystemExit(f"`{spec}`: folder:DIR or cifar10:DIR is wanted")
    images, labels = [], []
    for label, name in enumerate(sorted(os.listdir(path))):
        for file in sorted(os.listdir(os.path.join(path, name))):
            images.append(Image.open(os.path.join(path, name, file)).convert("RGB"))
            labels.append(label)
    return images, np.array(labels)


def arguments(parser):
    """What every trainer here is told, read from the command line; seeds what is random."""
    parser.add_argument("recipe", help="every setting as TOML, as `poa-gpu config` prints it")
    parser.add_argument("--train", required=True, metavar="DATA", help="images, as folder:DIR or cifar10:DIR")
    parser.add_argument("--val", required=True, metavar="DATA", help="images that are classified")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of metrics.jsonl")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    random.seed(args.seed)
    with open(args.recipe, "rb") as file:
        return args, tomllib.load(file)


def picked(count, most):
    """Random indices, the same ones every time."""
    return sorted(random.Random(0).sample(range(count), min(count, most or count)))


def evaluation_view(size):
    """The official view of an image that is to be classified; one of `size` pixels a side is taken as it is."""
    to_tensor = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    resized = transforms.Compose(
        [
            transforms.Resize(size * 256 // 224, interpolation=InterpolationMode.BICUBIC),
            transforms.CenterCrop(size),
            to_tensor,
        ]
    )
    return lambda image: to_tensor(image) if image.size == (size, size) else resized(image)


class Augmentation:
    """Two global crops and some local ones of an image, of the recipe's `[crops]`."""

    def __init__(self, c):
        jitter = transforms.ColorJitter(*c["color_jitter"])
        colours = [
            transforms.RandomApply([jitter], p=c["color_jitter_probability"]),
            transforms.RandomGrayscale(p=c["grayscale_probability"]),
        ]
        # the paper's table; the official code takes 1 - p for p
        blurred = {"paper": (1.0, 0.1, 0.5), "code": (0.0, 0.9, 0.5), "none": (0.0, 0.0, 0.0)}[c["blur"]]
        blur = lambda p: transforms.RandomApply([transforms.GaussianBlur(9, (0.1, 2.0))], p=p)
        solarize = transforms.RandomSolarize(threshold=128, p=c["solarize_probability"])
        last = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]

        def view(size, scale, p, *more):
            crop = transforms.RandomResizedCrop(size, scale=tuple(scale), interpolation=InterpolationMode.BICUBIC)
            flip = transforms.RandomHorizontalFlip(p=c["flip_probability"])
            return transforms.Compose([crop, flip, *colours, blur(p), *more, *last])

        large = c["global_crops_size"], c["global_crops_scale"]
        self.views = [view(*large, blurred[0]), view(*large, blurred[1], solarize)]
        local = view(c["local_crops_size"], c["local_crops_scale"], blurred[2])
        self.views += [local] * c["local_crops_number"]

    def __call__(self, image):
        return [view(image) for view in self.views]


def block_mask(side, wanted):
    """iBOT's mask of a `side` × `side` grid: blocks of at least 4 cells until `wanted` cells are masked, or ten
    tries in a row add nothing."""
    mask, masked = np.zeros((side, side), bool), 0
    while masked < wanted:
        left, before = wanted - masked, masked
        for _ in range(10):
            area = random.uniform(4, left)
            aspect = math.exp(random.uniform(math.log(0.3), math.log(1 / 0.3)))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if w >= side or h >= side:
                continue
            top, start = random.randint(0, side - h), random.randint(0, side - w)
            block = mask[top : top + h, start : start + w]
            new = h * w - int(block.sum())
            if 0 < new <= left:
                block[:] = True
                masked += new
                break
        if masked == before:
            break
    return mask


def masks(crops, side, share, ratios):
    """Masks of a batch of global crops, `[crops, side²]`: a share of them, of ratios spread over the range."""
    count = int(crops * share)
    bounds = np.linspace(*ratios, count + 1)
    all_ = [block_mask(side, int(side * side * random.uniform(bounds[i], bounds[i + 1]))) for i in range(count)]
    all_ += [np.zeros((side, side), bool)] * (crops - count)
    random.shuffle(all_)
    return torch.from_numpy(np.stack(all_)).flatten(1)


class Batches:
    """Batches without end: every pass over the images is a shuffle of them, and batches run on over its end."""

    def __init__(self, images, recipe):
        self.images, self.augment = images, Augmentation(recipe["crops"])
        self.batch = recipe["train"]["batch_size_per_gpu"]
        self.side = recipe["crops"]["global_crops_size"] // recipe["student"]["patch_size"]
        self.ibot = recipe["ibot"]
        self.left = []

    def next(self):
        """Global crops `[2·B, 3, n, n]` (all first views, then all second ones), local crops, masks."""
        while len(self.left) < self.batch:
            self.left += random.sample(range(len(self.images)), len(self.images))
        now, self.left = self.left[: self.batch], self.left[self.batch :]
        views = list(zip(*(self.augment(self.images[i]) for i in now)))
        stack = lambda groups: torch.stack([crop for group in groups for crop in group])
        masked = masks(2 * self.batch, self.side, self.ibot["mask_sample_probability"], self.ibot["mask_ratio_min_max"])
        return stack(views[:2]), stack(views[2:]) if views[2:] else None, masked


def streamed(program, recipe, c, data, seed):
    """Global crops, local crops or None, and masks of every step of a recipe's run, as poa-gpu's loader makes them;
    `program` is the example `proof`, `c` the recipe."""
    crops, batch = c["crops"], c["train"]["batch_size_per_gpu"]
    side = crops["global_crops_size"] // c["student"]["patch_size"]
    shapes = [(2 * batch, 3, *[crops["global_crops_size"]] * 2)]
    shapes += [(crops["local_crops_number"] * batch, 3, *[crops["local_crops_size"]] * 2), (2 * batch, side * side)]
    with subprocess.Popen([program, "batches", recipe, data, str(seed)], stdout=subprocess.PIPE) as loader:
        while True:
            parts = []
            for shape in shapes:
                values = loader.stdout.read(4 * math.prod(shape))
                if len(values) < 4 * math.prod(shape):
                    return
                parts.append(torch.from_numpy(np.frombuffer(values, np.float32).copy()).view(shape))
            yield parts[0], parts[1] if len(parts[1]) else None, parts[2].bool()
