"""What is timed: the recipes of poa-gpu, read from their TOML files, so that both sides run the same sizes."""

import dataclasses
import os
import tomllib

REPOSITORY = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))
# What recipes leave unsaid is as in this one.
DEFAULTS = "vit_ee1200"
# By the name of the step benchmark.
STEPS = {"tiny": "bench_tiny", "vit-s": "bench_vit_s", "vit-l": "bench_vit_l"}


@dataclasses.dataclass
class Recipe:
    """Sizes of a training step."""

    patch: int
    width: int
    depth: int
    head_dim: int
    network: tuple  # width and depth of the elastic student
    global_size: int
    local_size: int
    local_crops: int
    batch: int
    prototypes: list
    hidden: int
    bottleneck: int
    mlp_ratio: int = 4
    layerscale: float = 1e-5
    lambda_ie: float = 0.8
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    sinkhorn_iterations: int = 3
    koleo_weight: float = 0.1
    ibot_weight: float = 1.0
    lr: float = 1e-4
    weight_decay: float = 0.04
    clip: float = 1.5
    momentum: float = 0.992
    layerwise_decay: float = 0.9
    patch_embed_lr: float = 0.2


def read(name):
    """The sections of a recipe's file."""
    with open(os.path.join(REPOSITORY, "configs", f"{name}.toml"), "rb") as file:
        return tomllib.load(file)


def load(step, batch=None):
    """The recipe of a step benchmark, with another batch where one is given."""
    base, changes = read(DEFAULTS), read(STEPS[step])
    student, crops, dino, train = (base[name] | changes.get(name, {}) for name in ("student", "crops", "dino", "train"))
    return Recipe(
        patch=student["patch_size"],
        width=student["max_embed_dim"],
        depth=student["max_depth"],
        head_dim=student["head_dim"],
        network=tuple(int(n) for n in student["fixed_network"].split("x")),
        global_size=crops["global_crops_size"],
        local_size=crops["local_crops_size"],
        local_crops=crops["local_crops_number"],
        batch=batch or train["batch_size_per_gpu"],
        prototypes=dino["head_n_prototypes"],
        hidden=dino["head_hidden_dim"],
        bottleneck=dino["head_bottleneck_dim"],
    )
