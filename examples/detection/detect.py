"""Detection and instance segmentation with a network that `poa-gpu extract` wrote, by torchvision: Cascade Mask R-CNN with a pyramid.

    poa-gpu extract --checkpoint runs/photos --network small --out vit-s
    python examples/detection/detect.py vit-s --train coco/train2017 coco/annotations/instances_train2017.json \\
        --val coco/val2017 coco/annotations/instances_val2017.json --out detector
    python examples/detection/detect.py net --shapes /tmp/shapes --tiny        # images of shapes, made first; a minute on a CPU

The defaults are the official configuration of a ViT-S: 36 epochs of 16 images, AdamW at 3e-4 with layer decay 0.7 (a ViT-B: 1e-4
and 0.65, drop path 0.2), a tenth after 27 and 33 epochs, short sides of 480 to 800. Needs torch, torchvision, timm and safetensors;
AP is pycocotools' where that is installed. `torchrun --nproc-per-node 8` shares the images among GPUs.
"""

import argparse
import json
import math
import os
import random
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Subset
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.rpn import AnchorGenerator, RegionProposalNetwork, RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from backbones import Maps, Pyramid, load, parameter_groups
from cascade import CascadeHeads
from coco import Augment, Coco, average_precision, shapes


def detector(args, classes):
    model, kind, mean, std = load(args.network, args.drop_path)
    pyramid = Pyramid(Maps(model, kind), args.channels)
    levels = [args.anchor * 2**i for i in range(5)]
    anchors = AnchorGenerator(tuple((side,) for side in levels), ((0.5, 1.0, 2.0),) * 5)
    counts = {"training": args.proposals, "testing": args.proposals // 2}
    rpn = RegionProposalNetwork(anchors, RPNHead(args.channels, 3), 0.7, 0.3, 256, 0.5, counts, counts, 0.7)
    norm = torch.nn.SyncBatchNorm if args.world > 1 else torch.nn.BatchNorm2d
    heads = CascadeHeads(args.channels, classes + 1, args.stages, args.proposals // 4, norm=norm)
    sides = list(range(args.sides[0], args.sides[1] + 1, args.sides[2]))
    transform = GeneralizedRCNNTransform(sides, args.longest, mean, std, size_divisible=math.lcm(32, pyramid.maps.patch))
    return GeneralizedRCNN(pyramid, rpn, heads, transform)


def together(batch):
    return list(zip(*batch))


@torch.no_grad()
def evaluate(model, data, args):
    """AP of boxes and masks over `data`."""
    model.eval()
    found, wanted = [], []
    for i in range(len(data)):
        pixels, target = data[i]
        one = model([pixels.to(args.device)])[0]
        one = {key: value.cpu() for key, value in one.items()}
        one["masks"] = one["masks"][:, 0] > 0.5
        found.append(one)
        wanted.append(target)
    model.train()
    try:
        return official(found, data, args)
    except ImportError:
        return {
            "box AP": average_precision(found, wanted), "box AP50": average_precision(found, wanted, [0.5]),
            "mask AP": average_precision(found, wanted, kind="masks"), "mask AP50": average_precision(found, wanted, [0.5], "masks"),
        }


def official(found, data, args):
    """pycocotools' numbers."""
    import numpy as np
    from pycocotools import mask as rle
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    ids = {label: id for id, label in data.label.items()}
    results = []
    for about, one in zip(data.images, found):
        for box, label, score, mask in zip(one["boxes"].tolist(), one["labels"].tolist(), one["scores"].tolist(), one["masks"]):
            packed = rle.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
            packed["counts"] = packed["counts"].decode()
            x, y, right, bottom = box
            results.append({"image_id": about["id"], "category_id": ids[label], "bbox": [x, y, right - x, bottom - y], "score": score,
                            "segmentation": packed})
    if not results:
        return {"box AP": 0.0, "box AP50": 0.0, "mask AP": 0.0, "mask AP50": 0.0}
    truth, scores = COCO(args.val[1]), {}
    for name, kind in (("box", "bbox"), ("mask", "segm")):
        judged = COCOeval(truth, truth.loadRes(results), kind)
        judged.evaluate(), judged.accumulate(), judged.summarize()
        scores[f"{name} AP"], scores[f"{name} AP50"] = judged.stats[0], judged.stats[1]
    return scores


def rate(args, step, steps_per_epoch):
    """The factor on the learning rates."""
    if step < args.warmup:
        return 0.001 + (1 - 0.001) * step / args.warmup
    return 0.1 ** sum(step >= epoch * steps_per_epoch for epoch in args.drops)


def train(args):
    data = Coco(*args.train, Augment(part=None) if args.tiny else Augment())
    val = Coco(*args.val)
    if data.names != val.names:
        raise SystemExit(f"{args.val[1]}: its categories are not those of {args.train[1]}")
    torch.manual_seed(args.seed + args.rank), random.seed(args.seed + args.rank)
    model = detector(args, len(data.names)).to(args.device).train()
    groups = parameter_groups(model, args.lr, args.layer_decay, args.weight_decay)
    optimizer = torch.optim.AdamW(groups)
    rates = [group["lr"] for group in groups]
    own = Subset(data, data.with_objects()[args.rank :: args.world])
    each = max(1, args.batch // args.world)
    if len(own) < each:
        raise SystemExit(f"{args.train[0]}: {len(own)} images with objects, less than the {each} of a step; give --batch")
    loader = DataLoader(own, each, shuffle=True, drop_last=True, collate_fn=together, num_workers=args.workers)
    shared = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=True) if args.world > 1 else model
    step, total = 0, args.steps or args.epochs * len(loader)
    history = []
    while step < total:
        for images, targets in loader:
            for group, base in zip(groups, rates):
                group["lr"] = base * rate(args, step, len(loader))
            images = [image.to(args.device) for image in images]
            targets = [{key: value.to(args.device) for key, value in target.items()} for target in targets]
            losses = shared(images, targets)
            loss = sum(losses.values())
            if not torch.isfinite(loss):
                raise SystemExit(f"step {step}: the loss is {loss.item()}; give a smaller --lr")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
            history.append(loss.item())
            if args.rank == 0 and (step % args.log == 0 or step == total):
                parts = ", ".join(f"{name} {value.item():.3f}" for name, value in losses.items())
                print(f"step {step} of {total}: loss {loss.item():.4f} ({parts})", flush=True)
            if step == total:
                break
    if args.rank == 0:
        scores = evaluate(model, val, args)
        print(", ".join(f"{name} {100 * score:.1f}" for name, score in scores.items()))
        if args.out:
            Path(args.out).mkdir(parents=True, exist_ok=True)
            torch.save({"model": model.state_dict(), "names": data.names}, Path(args.out, "detector.pth"))
            Path(args.out, "results.json").write_text(json.dumps({"losses": history, **scores}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="a folder of poa-gpu extract --format timm")
    parser.add_argument("--train", nargs=2, metavar=("FOLDER", "JSON"))
    parser.add_argument("--val", nargs=2, metavar=("FOLDER", "JSON"))
    parser.add_argument("--shapes", metavar="FOLDER", help="makes images of shapes there, and takes them")
    parser.add_argument("--out", help="where weights and results go")
    parser.add_argument("--tiny", action="store_true", help="small images, few proposals and channels: to try it on a CPU")
    parser.add_argument("--stages", type=int, default=3, choices=(1, 2, 3), help="of the cascade")
    parser.add_argument("--epochs", type=int, default=36)
    parser.add_argument("--steps", type=int, help="in place of epochs")
    parser.add_argument("--drops", type=int, nargs="*", default=[27, 33], help="epochs after which rates are a tenth")
    parser.add_argument("--batch", type=int, default=16, help="images of a step, of all GPUs")
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--layer-decay", type=float, default=0.7)
    parser.add_argument("--drop-path", type=float, default=0.1)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--warmup", type=int, default=500, help="steps")
    parser.add_argument("--sides", type=int, nargs=3, default=[480, 800, 32], metavar=("LEAST", "MOST", "STEP"), help="of the short side")
    parser.add_argument("--longest", type=int, default=1333)
    parser.add_argument("--anchor", type=int, default=32, help="pixels a side of the smallest anchors: 8 times the finest stride")
    parser.add_argument("--channels", type=int, default=256, help="of the pyramid and the heads")
    parser.add_argument("--proposals", type=int, default=2000, help="of an image in training; half of them in tests, a quarter in a loss")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=int, default=50)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    if args.tiny:
        tiny = {"sides": [96, 96, 32], "longest": 128, "batch": 4, "warmup": 5, "workers": 0, "log": 5, "anchor": 16, "channels": 32, "proposals": 128, "lr": 1e-3, "drop_path": 0.0}
        for key, value in tiny.items():
            if getattr(args, key) == parser.get_default(key):
                setattr(args, key, value)
        args.steps = args.steps or 60
    args.rank, args.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if args.world > 1:
        torch.distributed.init_process_group()
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if args.shapes:
        shapes(args.shapes, 60)
        args.train, args.val = ([str(Path(args.shapes, part)), str(Path(args.shapes, f"{part}.json"))] for part in ("train", "val"))
    if not args.train or not args.val:
        parser.error("give --train FOLDER JSON and --val FOLDER JSON, or --shapes FOLDER")
    train(args)


if __name__ == "__main__":
    main()
