"""COCO's files: images with boxes and masks, how good detections are, and images of shapes to try it on.

    python examples/detection/coco.py shapes 60       # writes shapes/train, shapes/val and their JSON files
"""

import json
import random
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch.utils.data import Dataset
from torchvision.ops import box_iou
from torchvision.transforms.functional import pil_to_tensor


def mask_of(segmentation, width, height):
    """A plane of 0 and 1, of polygons or of run lengths (column by column)."""
    if isinstance(segmentation, list):
        plane = Image.new("L", (width, height))
        for polygon in segmentation:
            ImageDraw.Draw(plane).polygon(polygon, fill=1)
        return np.asarray(plane)
    counts = segmentation["counts"]
    if isinstance(counts, str):
        from pycocotools import mask as rle  # packed run lengths are its own format

        return rle.decode({"size": segmentation["size"], "counts": counts.encode()})
    values = np.arange(len(counts)) % 2
    return np.repeat(values, counts).reshape(segmentation["size"][::-1]).T.astype(np.uint8)


class Coco(Dataset):
    """Images of a folder with the annotations of a JSON file, as torchvision's detectors take them. Crowds are left out."""

    def __init__(self, folder, annotations, augment=None):
        if not Path(annotations).is_file():
            sys.exit(f"{annotations}: no such file; give the JSON file of COCO's instances")
        all = json.loads(Path(annotations).read_text())
        self.folder, self.augment = Path(folder), augment
        ids = sorted(c["id"] for c in all["categories"])
        self.label = {id: i + 1 for i, id in enumerate(ids)}
        self.names = {self.label[c["id"]]: c["name"] for c in all["categories"]}
        self.images = sorted(all["images"], key=lambda image: image["id"])
        self.of = {image["id"]: [] for image in self.images}
        for a in all["annotations"]:
            if not a.get("iscrowd") and min(a["bbox"][2:]) >= 1 and a["image_id"] in self.of:
                self.of[a["image_id"]].append(a)

    def __len__(self):
        return len(self.images)

    def with_objects(self):
        """The numbers of the images that have an object."""
        return [i for i, image in enumerate(self.images) if self.of[image["id"]]]

    def __getitem__(self, i):
        about = self.images[i]
        image = Image.open(self.folder / about["file_name"]).convert("RGB")
        width, height = image.size
        own = self.of[about["id"]]
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in own)]
        masks = [mask_of(a["segmentation"], width, height) for a in own]
        target = {
            "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            "labels": torch.tensor([self.label[a["category_id"]] for a in own], dtype=torch.int64),
            "masks": torch.from_numpy(np.stack(masks) if masks else np.zeros((0, height, width), np.uint8)),
        }
        pixels = pil_to_tensor(image).float() / 255
        return self.augment(pixels, target) if self.augment else (pixels, target)


class Augment:
    """Mirrors half of the images; of half of them takes a part, of 384 to 600 pixels a side after the short side came to 400, 500
    or 600. What the detector resizes them to is drawn there."""

    def __init__(self, sides=(400, 500, 600), part=(384, 600), longest=1333):
        self.sides, self.part, self.longest = sides, part, longest

    def __call__(self, pixels, target):
        if random.random() < 0.5:
            pixels = pixels.flip(-1)
            boxes = target["boxes"].clone()
            boxes[:, [0, 2]] = pixels.shape[-1] - boxes[:, [2, 0]]
            target = {**target, "boxes": boxes, "masks": target["masks"].flip(-1)}
        if self.part and random.random() < 0.5:
            pixels, target = self.cropped(pixels, target)
        return pixels, target

    def cropped(self, pixels, target):
        height, width = pixels.shape[-2:]
        scale = min(random.choice(self.sides) / min(height, width), self.longest / max(height, width))
        size = [max(1, round(height * scale)), max(1, round(width * scale))]
        sides = [random.randint(min(s, self.part[0]), min(s, self.part[1])) for s in size]
        y, x = (random.randint(0, s - side) for s, side in zip(size, sides))
        inside = torch.tensor([x, y, x + sides[1], y + sides[0]], dtype=torch.float32)
        boxes = target["boxes"] * torch.tensor([size[1] / width, size[0] / height] * 2)
        boxes = torch.cat((torch.maximum(boxes[:, :2], inside[:2]), torch.minimum(boxes[:, 2:], inside[2:])), 1)
        keep = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)
        if len(keep) and not keep.any():
            return pixels, target  # a part without any object teaches nothing
        resize = torch.nn.functional.interpolate
        part = slice(y, y + sides[0]), slice(x, x + sides[1])
        pixels = resize(pixels[None], size, mode="bilinear", antialias=True)[0][(slice(None), *part)]
        masks = target["masks"][keep]
        masks = resize(masks[None].float(), size, mode="nearest")[0].to(torch.uint8) if len(masks) else masks.new_zeros((0, *size))
        return pixels, {"boxes": boxes[keep] - inside[:2].repeat(2), "labels": target["labels"][keep], "masks": masks[(slice(None), *part)]}


def mask_iou(a, b):
    a, b = a.flatten(1).float(), b.flatten(1).float()
    both = a @ b.T
    return both / (a.sum(1)[:, None] + b.sum(1)[None] - both).clamp(min=1)


def average_precision(found, wanted, thresholds=None, kind="boxes"):
    """Mean over classes and IoU thresholds (0.5 to 0.95) of COCO's average precision: precision at 101 recalls. `found` and `wanted`
    are lists, an entry an image, with boxes (or masks), labels and, of those found, scores. Every detection, the best first, takes
    the object of its class that it overlaps most and that no other has taken; there are no crowds and no areas. With `thresholds`
    of one number: AP at that IoU."""
    thresholds = [0.5 + 0.05 * i for i in range(10)] if thresholds is None else thresholds
    overlap = box_iou if kind == "boxes" else mask_iou
    classes = sorted({int(label) for w in wanted for label in w["labels"]})
    precisions = []
    for c in classes:
        objects = sum(int((w["labels"] == c).sum()) for w in wanted)
        entries = []
        for f, w in zip(found, wanted):
            own, theirs = f["labels"] == c, w["labels"] == c
            order = f["scores"][own].argsort(descending=True, stable=True)
            ious = overlap(f[kind][own][order], w[kind][theirs]) if own.any() and theirs.any() else torch.zeros(int(own.sum()), int(theirs.sum()))
            entries.append((f["scores"][own][order], ious))
        for threshold in thresholds:
            scores, right = [], []
            for s, ious in entries:
                taken = set()
                for score, row in zip(s.tolist(), ious):
                    free = [(iou, j) for j, iou in enumerate(row.tolist()) if j not in taken and iou >= threshold]
                    right.append(bool(free))
                    scores.append(score)
                    if free:
                        taken.add(max(free)[1])
            order = np.argsort(-np.asarray(scores), kind="stable")
            hits = np.cumsum(np.asarray(right, dtype=float)[order]) if len(order) else np.zeros(0)
            precision, recall = hits / np.arange(1, len(hits) + 1), hits / objects
            precision = np.maximum.accumulate(precision[::-1])[::-1]
            at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
            precisions.append(np.mean([precision[i] if i < len(precision) else 0.0 for i in at]))
    return float(np.mean(precisions)) if precisions else float("nan")


def shapes(folder, count, side=96, seed=0):
    """Discs, boxes and triangles on noise, as COCO has them: `train` and `val` (a quarter as many) with their JSON files."""
    draw, folder = random.Random(seed), Path(folder)
    for part, images in (("train", count), ("val", max(1, count // 4))):
        (folder / part).mkdir(parents=True, exist_ok=True)
        all = {"images": [], "annotations": [], "categories": [{"id": i, "name": n} for i, n in ((1, "disc"), (3, "box"), (4, "triangle"))]}
        for i in range(images):
            noise = np.random.default_rng([seed, part == "val", i]).integers(60, 130, (side, side, 3), dtype=np.uint8)
            picture = Image.fromarray(noise)
            for _ in range(draw.randint(1, 3)):
                kind = draw.choice([1, 3, 4])
                r = draw.uniform(0.12, 0.25) * side
                x, y = draw.uniform(r, side - r), draw.uniform(r, side - r)
                turn = {1: np.linspace(0, 2 * np.pi, 24, endpoint=False), 3: np.pi / 4 + np.pi / 2 * np.arange(4), 4: -np.pi / 2 + 2 * np.pi / 3 * np.arange(3)}[kind]
                points = np.stack((x + r * np.cos(turn), y + r * np.sin(turn)), 1)
                colour = {1: (230, 40, 40), 3: (40, 220, 60), 4: (50, 80, 240)}[kind]
                ImageDraw.Draw(picture).polygon([tuple(p) for p in points], fill=colour)
                (left, top), (right, bottom) = points.min(0), points.max(0)
                all["annotations"].append({
                    "id": len(all["annotations"]) + 1, "image_id": i, "category_id": kind, "iscrowd": 0, "area": float(r * r * 3),
                    "bbox": [float(v) for v in (left, top, right - left, bottom - top)], "segmentation": [points.flatten().tolist()]})
            picture.save(folder / part / f"{i:06}.png")
            all["images"].append({"id": i, "file_name": f"{i:06}.png", "width": side, "height": side})
        (folder / f"{part}.json").write_text(json.dumps(all))


if __name__ == "__main__":
    shapes(sys.argv[1], int(sys.argv[2]))
