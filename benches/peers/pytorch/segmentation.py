"""Records heads of segmentation for tests/segment.rs: UPerNet on four maps of one size (with its neck) and on a pyramid, and the
linear head on both.

    python segmentation.py ../../../kernels-tests/fixtures/segmentation

In float64, of values that are rounded to float32 first: parameters under mmsegmentation's names, maps, labels with pixels to be
ignored, the losses after one training step's forward pass (all pixels count in the mean), the gradients of parameters and maps,
the running statistics after it, and the logits that these give. With it the sizes of intersections and unions by torchmetrics
for labels that a formula makes, which the test has as numbers. Needs torch, safetensors and torchmetrics.
"""
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

CLASSES, CHANNELS, AUXILIARY, IMAGES, SIDE, IGNORED = 5, 6, 7, 2, 24, 255


class ConvNorm(nn.Module):
    """mmsegmentation's ConvModule."""

    def __init__(self, inputs, outputs, kernel):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


def resize(x, size):
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class Upernet(nn.Module):
    """The decode head, the auxiliary head and, for maps of one size, the neck."""

    def __init__(self, widths, neck):
        super().__init__()
        if neck:
            w = widths[0]
            self.neck = nn.ModuleDict(
                {
                    "fpn1": nn.Sequential(
                        nn.ConvTranspose2d(w, w, 2, 2), nn.BatchNorm2d(w), nn.GELU(), nn.ConvTranspose2d(w, w, 2, 2)
                    ),
                    "fpn2": nn.Sequential(nn.ConvTranspose2d(w, w, 2, 2)),
                }
            )
        self.has_neck = neck
        c = CHANNELS
        self.decode_head = nn.ModuleDict(
            {
                "psp_modules": nn.ModuleList(
                    nn.Sequential(nn.AdaptiveAvgPool2d(bins), ConvNorm(widths[3], c, 1)) for bins in (1, 2, 3, 6)
                ),
                "bottleneck": ConvNorm(widths[3] + 4 * c, c, 3),
                "lateral_convs": nn.ModuleList(ConvNorm(w, c, 1) for w in widths[:3]),
                "fpn_convs": nn.ModuleList(ConvNorm(c, c, 3) for _ in range(3)),
                "fpn_bottleneck": ConvNorm(4 * c, c, 3),
                "conv_seg": nn.Conv2d(c, CLASSES, 1),
            }
        )
        self.auxiliary_head = nn.ModuleDict(
            {"convs": nn.ModuleList([ConvNorm(widths[2], AUXILIARY, 3)]), "conv_seg": nn.Conv2d(AUXILIARY, CLASSES, 1)}
        )

    def forward(self, maps):
        if self.has_neck:
            fpn = self.neck
            maps = [fpn["fpn1"](maps[0]), fpn["fpn2"](maps[1]), maps[2], F.max_pool2d(maps[3], 2, 2)]
        head, last = self.decode_head, maps[3]
        pooled = [last] + [resize(module(last), last.shape[2:]) for module in head["psp_modules"]]
        levels = [conv(x) for conv, x in zip(head["lateral_convs"], maps)] + [head["bottleneck"](torch.cat(pooled, 1))]
        for i in (3, 2, 1):
            levels[i - 1] = levels[i - 1] + resize(levels[i], levels[i - 1].shape[2:])
        levels = [conv(x) for conv, x in zip(head["fpn_convs"], levels)] + [levels[3]]
        joined = torch.cat([resize(x, levels[0].shape[2:]) for x in levels], 1)
        auxiliary = self.auxiliary_head["conv_seg"](self.auxiliary_head["convs"][0](maps[2]))
        return head["conv_seg"](head["fpn_bottleneck"](joined)), auxiliary


class Linear(nn.Module):
    """Maps joined at the size of the finest, BatchNorm over each, one layer."""

    def __init__(self, widths):
        super().__init__()
        self.decode_head = nn.ModuleDict(
            {
                "norms": nn.ModuleList(nn.BatchNorm2d(w) for w in widths),
                "conv_seg": nn.Conv2d(sum(widths), CLASSES, 1),
            }
        )

    def forward(self, maps):
        size = max((x.shape[2:] for x in maps), key=lambda size: size[0])
        # norms have the statistics of the maps as they are, hence before they are enlarged
        normed = [norm(x) for norm, x in zip(self.decode_head["norms"], maps)]
        return self.decode_head["conv_seg"](torch.cat([resize(x, size) for x in normed], 1)), None


def pixel_loss(logits, labels):
    """mmsegmentation's: pixels to be ignored are zeros in the mean."""
    return F.cross_entropy(resize(logits, (SIDE, SIDE)), labels, ignore_index=IGNORED, reduction="none").mean()


def record(model, maps):
    out = {f"map.{i}": x for i, x in enumerate(maps)}
    labels = torch.randint(0, CLASSES, (IMAGES, SIDE // 4, SIDE // 4)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    labels[:, :3] = IGNORED
    out["labels"] = labels.double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((torch.randn_like(parameter) * 0.4 + (parameter.dim() == 1) * 0.5).float())
    out |= {f"parameter.{name}": p for name, p in model.named_parameters()}
    maps = [x.clone().requires_grad_() for x in maps]
    model.train()
    main, auxiliary = model(maps)
    loss = pixel_loss(main, labels)
    out |= {"loss_head": loss.reshape(1), "main": main}
    if auxiliary is not None:
        loss = loss + 0.4 * pixel_loss(auxiliary, labels)
    out["loss"] = loss.reshape(1)
    loss.backward()
    out |= {f"gradient.{name}": p.grad for name, p in model.named_parameters()}
    out |= {f"map_gradient.{i}": x.grad for i, x in enumerate(maps)}
    out |= {f"running.{name}": b for name, b in model.named_buffers() if "running" in name}
    model.eval()
    out["judged"] = model(maps)[0]
    return {name: value.detach().float().contiguous() for name, value in out.items()}


def metrics():
    from torchmetrics.classification import JaccardIndex, MulticlassAccuracy

    i = torch.arange(4096)
    truth = ((i * 7919) % 1013) % 7
    predicted = torch.where((i * 104729) % 977 < 400, truth, ((i * 31) % 509) % 7)
    truth = torch.where(i % 13 == 0, IGNORED, truth)
    predicted, kept = torch.where(predicted == 5, 4, predicted), truth != 255
    options = {"num_classes": 8, "average": None}
    # torchmetrics counts a class that is nowhere as 0
    print("iou", JaccardIndex(task="multiclass", ignore_index=IGNORED, **options)(predicted, truth).tolist())
    print("accuracy", MulticlassAccuracy(**options)(predicted[kept], truth[kept]).tolist())
    print("all", (predicted[kept] == truth[kept]).double().mean().item())


def main(folder):
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(11)
    flat = [torch.randn(IMAGES, 8, 6, 6).float().double() for _ in range(4)]
    pyramid = [torch.randn(IMAGES, 4 << i, 16 >> i, 16 >> i).float().double() for i in range(4)]
    folder.mkdir(parents=True, exist_ok=True)
    widths = [4, 8, 16, 32]
    models = {
        "upernet_flat": (Upernet([8] * 4, True), flat),
        "upernet_pyramid": (Upernet(widths, False), pyramid),
        "linear_flat": (Linear([8] * 4), flat),
        "linear_pyramid": (Linear(widths), pyramid),
    }
    for name, (model, maps) in models.items():
        save_file(record(model, maps), folder / f"{name}.safetensors")
    torch.set_default_dtype(torch.float32)
    metrics()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
