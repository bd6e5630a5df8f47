#!/usr/bin/env python3
"""Records what `tests/baselines.rs` compares with: losses and gradient norms of one step of the paper's variants of POA, of the
baselines, and of each loss of the elastic student alone, in plain PyTorch and double precision, on the images and weights of
the official ViT record.

    variants.py kernels-tests/fixtures/vit kernels-tests/fixtures/variants/expected.json
"""

import json
import os
import sys

import torch

import fixture
import losses
import model

# the losses compute in single precision, whatever they are given; here that is double
torch.Tensor.float = torch.Tensor.double

NETWORK = (32, 3)
CASES = ("poa", "v1", "v2", "v3", "alone", "ibot", "cross_view", "same_view", "without_alpha")


def targets(network, shape, batch, recipe, h, centred):
    """Targets of a teacher's head at a shape: of class tokens with the views exchanged, of masked patches."""
    images, _, masks = batch
    tokens = network.backbone(images, *shape)
    logits = network.dino_head(h, torch.cat([tokens[:, 0].roll(recipe.batch, dims=0), tokens[:, 1:][masks]]))
    parts = logits.split([len(images), len(logits) - len(images)])
    if centred:
        # the centres begin at zero
        return [(part / recipe.teacher_temperature).softmax(-1) for part in parts]
    return [losses.sinkhorn(part, recipe.teacher_temperature, recipe.sinkhorn_iterations) for part in parts]


def features(network, shape, batch):
    """A student's class tokens of global and local crops, and masked patches."""
    images, local, masks = batch
    tokens = network.backbone(images, *shape, masks)
    return tokens[:, 0], network.backbone(local, *shape)[:, 0], tokens[:, 1:][masks]


def step(case, student, teacher, batch, recipe):
    """The total and its terms as poa-gpu names them, without the halves of the official names."""
    intact, images = (recipe.width, recipe.depth), batch[0]
    shapes = {"v1": [NETWORK], "v2": [NETWORK], "alone": [intact], "ibot": [intact]}.get(case, [intact, NETWORK])
    seen = [features(student, shape, batch) for shape in shapes]
    weights = losses.masked_weights(batch[2])
    share = recipe.lambda_ie if len(shapes) == 2 else 1.0
    shares = (share, 1.0 - share)
    count, terms, total = len(recipe.prototypes), {}, 0.0
    for h in range(count):
        with torch.no_grad():
            of_teacher = targets(teacher, NETWORK if case == "v1" else intact, batch, recipe, h, case == "ibot")
            of_elastic = targets(teacher, NETWORK, batch, recipe, h, False)
        heads = [
            losses.Student(student.dino_head(h, torch.cat(f)), recipe.student_temperature, len(images), len(f[1]))
            for f in seen
        ]
        both = [s.against(*of_teacher, weights) for s in heads]
        view = list(shares)
        if case == "same_view":
            view[1] = 0.0
        local, global_ = (sum(w * loss[i] for w, loss in zip(view, both)) for i in range(2))
        masked = sum(w * loss[2] for w, loss in zip(shares, both))
        total = total + (local + global_ + recipe.ibot_weight * masked) / count
        terms |= {f"dino_local_crops_loss_{h}": local, f"dino_global_crops_loss_{h}": global_, f"ibot_loss_{h}": masked}
        if len(shapes) == 2 and case != "cross_view":
            distilled = heads[1].distilled_from(heads[0])
            total = total + shares[1] * sum(distilled) / count
            terms |= {f"distill_{part}_crops_loss_{h}": v for part, v in zip(("local", "global"), distilled)}
        if case == "v3":
            further = heads[1].against(*of_elastic, weights)[:2]
            total = total + shares[1] * sum(further) / count
            terms |= {f"elastic_teacher_{part}_crops_loss_{h}": v for part, v in zip(("local", "global"), further)}
    if case != "ibot":
        spread = sum(losses.koleo(cls.unflatten(0, (2, recipe.batch))).sum() for cls, _, _ in seen)
        terms["koleo_loss"] = recipe.koleo_weight * spread / len(shapes)
        total = total + terms["koleo_loss"]
    return total, terms


def main():
    folder, out = sys.argv[1:]
    with open(os.path.join(folder, "fixture.json")) as file:
        recipe = fixture.sizes(json.load(file))
    load = lambda name: {
        key: value.double() if value.is_floating_point() else value
        for key, value in fixture.read(os.path.join(folder, f"{name}.safetensors")).items()
    }
    data, record = load("batch"), {}
    batch = data["step0.global_crops"], data["step0.local_crops"], data["step0.masks"].bool()
    for case in CASES:
        model.ElasticLinear.scaled = case != "without_alpha"
        student, teacher = (model.Network(recipe).double() for _ in range(2))
        student.load_state_dict(load("student"))
        teacher.load_state_dict(load("teacher"))
        total, terms = step(case, student, teacher.requires_grad_(False), batch, recipe)
        total.backward()
        norm = lambda module: torch.stack([p.grad.norm() for p in module.parameters() if p.grad is not None]).norm()
        record[case] = {
            "total": total.item(),
            # these two are logged as half of what enters the total
            "components": {k: v.item() * (0.5 if k.startswith(("ibot", "koleo")) else 1.0) for k, v in terms.items()},
            "grad_norm": {"backbone": norm(student.backbone).item(), "dino_head": norm(student.dino_head).item()},
        }
    os.makedirs(os.path.dirname(out), exist_ok=True)
    with open(out, "w") as file:
        json.dump({"network": NETWORK, "cases": record}, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
