#!/usr/bin/env python3
"""Times whole POA training steps in PyTorch: teacher, intact student, elastic student, every loss, one backward pass,
clipping, AdamW and EMA, of the recipes that `cargo bench -- step/` times. Stochastic depth is off.

Before anything is timed the first step is checked: a loss near what untrained heads give, finite gradients.
`--verify FIXTURE` replays a record of the official code instead and compares losses, gradients and weights.
"""

import argparse
import contextlib
import copy
import json
import math
import resource
import statistics
import sys

import torch

import losses
import model
import recipe as recipes
import timing


def random_batch(recipe, device):
    """Crops, and masks for half of the global ones with as many patches as the official draw gives on average."""
    images = 2 * recipe.batch
    crops = lambda count, size: torch.randn(count, 3, size, size, device=device)
    patches = (recipe.global_size // recipe.patch) ** 2
    masks = torch.zeros(images, patches, dtype=torch.bool)
    masked = images // 2
    for i in range(masked):
        share = 0.1 + 0.4 * (i + 0.5) / masked
        masks[i, torch.randperm(patches)[: int(patches * share)]] = True
    masks = masks[torch.randperm(images)].to(device)
    local = crops(recipe.local_crops * recipe.batch, recipe.local_size)
    return crops(images, recipe.global_size), local, masks


class Trainer:
    """Student, teacher and optimizer, and one step of them."""

    def __init__(self, recipe, device, dtype):
        self.recipe, self.device = recipe, device
        self.student = model.Network(recipe).to(device)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        lower = dtype != torch.float32
        self.autocast = (
            (lambda: torch.autocast(device, dtype=dtype)) if lower else contextlib.nullcontext
        )
        self.scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)
        groups = {}
        for name, p in self.student.named_parameters():
            key = model.multipliers(name, recipe.depth, recipe.layerwise_decay, recipe.patch_embed_lr)
            groups.setdefault(key, []).append(p)
        groups = [
            {"params": ps, "lr": recipe.lr * lr, "weight_decay": recipe.weight_decay * wd}
            for (lr, wd), ps in groups.items()
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8, fused=True)
        # clipped each by itself
        self.modules = {"backbone": self.student.backbone, "dino_head": self.student.dino_head}

    def load(self, student, teacher):
        """Takes parameters under their official names."""
        self.student.load_state_dict(student)
        self.teacher.load_state_dict(teacher)

    def students(self, batch, network):
        """Per student: normed class tokens of global and local crops, and masked patches; there may be none of the two
        last."""
        images, local, masks = batch
        for width, depth in ((self.recipe.width, self.recipe.depth), network):
            tokens = self.student.backbone(images, width, depth, masks)
            cls = tokens[:0, 0] if local is None else self.student.backbone(local, width, depth)[:, 0]
            yield tokens[:, 0], cls, tokens[:, 1:][masks]

    def losses(self, batch, network):
        """The total and its components under their official names."""
        r, (images, _, masks) = self.recipe, batch
        with torch.no_grad(), self.autocast():
            tokens = self.teacher.backbone(images, r.width, r.depth)
            # student view a meets teacher view b
            cls = tokens[:, 0].roll(r.batch, dims=0)
            teacher = torch.cat([cls, tokens[:, 1:][masks]])
        with self.autocast():
            features = list(self.students(batch, network))
        weights = losses.masked_weights(masks)
        shares = (r.lambda_ie, 1.0 - r.lambda_ie)
        components, total = {}, 0.0
        for h in range(len(r.prototypes)):
            with torch.no_grad(), self.autocast():
                logits = self.teacher.dino_head(h, teacher)
            cls_targets, masked_targets = (
                losses.sinkhorn(part, r.teacher_temperature, r.sinkhorn_iterations)
                for part in logits.split([len(images), len(logits) - len(images)])
            )
            students = []
            for parts in features:
                with self.autocast():
                    logits = self.student.dino_head(h, torch.cat(parts))
                students.append(losses.Student(logits, r.student_temperature, len(images), len(parts[1])))
            both = [s.against(cls_targets, masked_targets, weights) for s in students]
            views = [sum(share * loss[i] for share, loss in zip(shares, both)) for i in range(3)]
            distilled = students[1].distilled_from(students[0])
            head = views[0] + views[1] + r.ibot_weight * views[2] + shares[1] * (distilled[0] + distilled[1])
            total = total + head / len(r.prototypes)
            components[f"dino_local_crops_loss_{h}"] = views[0]
            components[f"dino_global_crops_loss_{h}"] = views[1]
            components[f"ibot_loss_{h}"] = views[2]
            components[f"distill_local_crops_loss_{h}"], components[f"distill_global_crops_loss_{h}"] = distilled
        spread = sum(losses.koleo(cls.unflatten(0, (2, r.batch))).sum() for cls, _, _ in features)
        components["koleo_loss"] = 0.5 * r.koleo_weight * spread
        return total + components["koleo_loss"], components

    def step(self, batch, network):
        """One training step. Returns the total, the components and the gradients' norms, still on the device."""
        total, components = self.losses(batch, network)
        self.scaler.scale(total).backward()
        self.scaler.unscale_(self.optimizer)
        norms = {
            name: torch.nn.utils.clip_grad_norm_(module.parameters(), self.recipe.clip)
            for name, module in self.modules.items()
        }
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            teacher, student = list(self.teacher.parameters()), list(self.student.parameters())
            torch._foreach_lerp_(teacher, student, 1.0 - self.recipe.momentum)
        return total.detach(), components, norms


def check_first(trainer, batch, network):
    """Fails where the first step's loss is not that of untrained heads, or a gradient is not finite.

    Untrained, every cross-entropy is about log(prototypes); there are 1 of the views, about 0.5 of masked patches and
    2 · 0.2 of distillation; KoLeo adds 0.2 of −log(distance).
    """
    recipe = trainer.recipe
    entropy = statistics.fmean(math.log(p) for p in recipe.prototypes)
    total, _, norms = trainer.step(batch, network)
    if trainer.scaler.is_enabled():
        # the first scales are too large on purpose; steps are skipped until one fits
        for _ in range(20):
            if all(math.isfinite(n) for n in norms.values()):
                break
            total, _, norms = trainer.step(batch, network)
    total, low, high = total.item(), 1.3 * entropy, 2.5 * entropy + 3.0
    if not low < total < high:
        sys.exit(f"the first loss is {total:.3f}; {low:.1f} to {high:.1f} expected: nothing timed")
    if not all(math.isfinite(n) for n in norms.values()):
        sys.exit(f"the first gradients have norms {norms}: nothing timed")
    return total


def peak_mib(device):
    """The most memory used so far: of the device, or resident."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() >> 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def time_step(args):
    """Times one recipe and returns (name, median seconds, peak MiB, first loss)."""
    recipe = recipes.load(args.step, args.batch)
    torch.manual_seed(0)
    trainer = Trainer(recipe, args.device, timing.set_precision(args.precision))
    batch = random_batch(recipe, args.device)
    first = check_first(trainer, batch, recipe.network)
    seconds = timing.median(lambda: trainer.step(batch, recipe.network), args.device, args.samples)
    return f"step/{args.step}", seconds, peak_mib(args.device), first


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", nargs="?", choices=recipes.STEPS, help="which recipe")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=timing.PRECISIONS, default="f32",
                        help="f32, and bf16 by autocast, on both; others on cuda alone")
    parser.add_argument("--threads", type=int, help="threads of PyTorch on the CPU")
    parser.add_argument("--batch", type=int, help="images, instead of the recipe's")
    parser.add_argument("--samples", type=int, default=5, help="steps that are timed")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--verify", metavar="FIXTURE", help="folder of a record, as kernels-tests/fixtures/vit")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.precision not in ("f32", "bf16") and args.device == "cpu":
        parser.error(f"--precision {args.precision} is for --device cuda")
    if args.verify:
        import fixture

        sys.exit(0 if fixture.replay(args.verify, args.device) else 1)
    if not args.step:
        parser.error("name a recipe, or --verify FIXTURE")
    name, seconds, peak, first = time_step(args)
    if args.json:
        print(json.dumps({"seconds": {name: seconds}, "peak_mib": peak, "first_loss": first}))
        return
    print(timing.describe(args.device))
    print(f"{name} {args.precision}: {seconds * 1e3:.1f} ms (median of {args.samples}), peak {peak} MiB, "
          f"first loss {first:.3f}")


if __name__ == "__main__":
    main()
