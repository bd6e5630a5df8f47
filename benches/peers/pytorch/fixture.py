"""Replays a record of the official code, as in `kernels-tests/fixtures/vit`, with the step that is timed."""

import json
import os
import struct

import torch

import model
import recipe as recipes

TOLERANCES = {"losses": 1e-4, "gradient norms": 1e-4, "gradients": 1e-4, "student": 1e-4, "teacher": 1e-5}
DTYPES = {"F32": torch.float32, "F64": torch.float64, "U8": torch.uint8, "I64": torch.int64}
# Softmax does not depend on the keys' bias: its gradient is rounding error, which AdamW makes a step of.
WITHOUT_GRADIENT = "attn.qkv.linear.bias"


def read(path):
    """The tensors of a safetensors file."""
    with open(path, "rb") as file:
        data = bytearray(file.read())
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    body = memoryview(data)[8 + length :]
    tensor = lambda e: torch.frombuffer(body[slice(*e["data_offsets"])], dtype=DTYPES[e["dtype"]]).view(e["shape"])
    return {name: tensor(entry).clone() for name, entry in header.items()}


def sizes(record):
    """The record's settings as a recipe."""
    student, crops, heads = record["student"], record["crops"], record["heads"]
    loss, optim = record["loss"], record["optim"]
    return recipes.Recipe(
        patch=student["patch_size"],
        width=student["max_embed_dim"],
        depth=student["max_depth"],
        head_dim=student["head_dim"],
        network=None,
        global_size=crops["global_size"],
        local_size=crops["local_size"],
        local_crops=crops["local_number"],
        batch=crops["batch"],
        prototypes=heads["prototypes"],
        hidden=heads["hidden_dim"],
        bottleneck=heads["bottleneck_dim"],
        layerscale=student["layerscale"],
        lambda_ie=loss["lambda_ie"],
        student_temperature=loss["student_temp"],
        teacher_temperature=loss["teacher_temp"],
        sinkhorn_iterations=loss["sinkhorn_iterations"],
        koleo_weight=loss["koleo_weight"],
        ibot_weight=loss["ibot_weight"],
        lr=optim["lr"],
        weight_decay=optim["weight_decay"],
        clip=optim["clip_grad"],
        momentum=optim["teacher_momentum"],
        layerwise_decay=optim["layerwise_decay"],
        patch_embed_lr=optim["patch_embed_lr_mult"],
    )


def relative(got, want):
    """‖got − want‖ / ‖want‖ in double precision."""
    got, want = got.detach().cpu().double(), want.double()
    return ((got - want).norm() / want.norm().clamp(min=1e-300)).item()


def replay(folder, device):
    """Runs the recorded steps and prints the worst relative error of each kind. Whether all are small enough."""
    from step import Trainer

    with open(os.path.join(folder, "fixture.json")) as file:
        record = json.load(file)
    if record["arch"] != "vit":
        raise SystemExit(f"{folder}: a record of {record['arch']}; only ViT is timed here")
    load = lambda name: read(os.path.join(folder, f"{name}.safetensors"))
    recipe, data, expected = sizes(record), load("batch"), load("expected")
    for name, want in record["param_groups"].items():
        got = model.multipliers(name, recipe.depth, recipe.layerwise_decay, recipe.patch_embed_lr)
        if any(abs(g - w) > 1e-12 for g, w in zip(got, (want["lr_multiplier"], want["wd_multiplier"]))):
            raise SystemExit(f"{name}: multipliers {got}, recorded {want}")
    trainer = Trainer(recipe, device, torch.float32)
    trainer.load(load("student"), load("teacher"))
    worst = dict.fromkeys(TOLERANCES, (0.0, "nothing"))

    def compare(kind, name, error):
        if not error <= worst[kind][0]:  # also where it is not a number
            worst[kind] = (error, name)

    for t, want in enumerate(record["steps"]):
        crops = [data[f"step{t}.{part}"].to(device) for part in ("global_crops", "local_crops", "masks")]
        batch = (*crops[:2], crops[2].bool())
        network = tuple(want["network"])
        if t == 0:
            # clipping changes the gradients in place, so those that were recorded need a pass of their own
            trainer.losses(batch, network)[0].backward()
            for name, p in trainer.student.named_parameters():
                compare("gradients", name, relative(p.grad, expected[f"step0.grad.{name}"]))
            trainer.optimizer.zero_grad(set_to_none=True)
        total, components, norms = trainer.step(batch, network)
        compare("losses", f"step {t} total", abs(total.item() / want["total"] - 1.0))
        for name, value in want["components"].items():
            # these two are recorded as half of what enters the total
            factor = 0.5 if name.startswith(("ibot", "koleo")) else 1.0
            compare("losses", f"step {t} {name}", abs(factor * components[name].item() / value - 1.0))
        for name, value in want["grad_norm"].items():
            compare("gradient norms", f"step {t} {name}", abs(norms[name].item() / value - 1.0))
    last = len(record["steps"]) - 1
    for kind in ("student", "teacher"):
        for name, p in getattr(trainer, kind).named_parameters():
            if not name.endswith(WITHOUT_GRADIENT):
                compare(kind, name, relative(p, expected[f"step{last}.{kind}.{name}"]))
    for kind, (error, name) in worst.items():
        verdict = "" if error <= TOLERANCES[kind] else "   TOO LARGE"
        print(f"{kind:<15} worst {error:.1e} (at most {TOLERANCES[kind]:.0e}) at {name}{verdict}")
    return all(error <= TOLERANCES[kind] for kind, (error, _) in worst.items())
