"""Average precision by hand, and masks and parts as they must be: `python examples/detection/check.py`."""

import random

import numpy as np
import torch

from coco import Augment, average_precision, mask_iou, mask_of


def entry(boxes, labels, scores=None):
    one = {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64)}
    return one if scores is None else {**one, "scores": torch.tensor(scores)}


def near(got, want):
    assert abs(got - want) < 1e-9, f"{got} instead of {want}"


# two objects; the best detection is right, the second wrong, the third right: precision 1 up to recall 1/2, then 2/3
wanted = [entry([[0, 0, 10, 10], [20, 20, 30, 30]], [1, 1])]
found = [entry([[0, 0, 10, 10], [50, 50, 60, 60], [20, 20, 30, 30]], [1, 1, 1], [0.9, 0.8, 0.7])]
near(average_precision(found, wanted, [0.5]), (51 * 1 + 50 * 2 / 3) / 101)
# a second detection of an object that is taken is wrong
found = [entry([[0, 0, 10, 10], [0, 0, 10, 9]], [1, 1], [0.9, 0.8])]
near(average_precision(found, wanted, [0.5]), 51 / 101)
# of IoU 0.8: right up to 0.8, wrong from 0.85 on
found = [entry([[0, 0, 10, 8]], [1], [0.9])]
near(average_precision(found, [entry([[0, 0, 10, 10]], [1])]), 0.7)
# the wrong class is no detection, and a class without detections counts 0
wanted = [entry([[0, 0, 10, 10]], [1]), entry([[5, 5, 9, 9]], [2])]
found = [entry([[0, 0, 10, 10]], [1], [0.5]), entry([[5, 5, 9, 9]], [1], [0.4])]
near(average_precision(found, wanted, [0.5]), 0.5)
assert np.isnan(average_precision([], []))

a = torch.zeros(2, 4, 4)
a[0, :2], a[1, :, :2] = 1, 1
assert torch.allclose(mask_iou(a, a), torch.tensor([[1, 1 / 3], [1 / 3, 1]]))
assert mask_of({"size": [2, 3], "counts": [1, 2, 3]}, 3, 2).tolist() == [[0, 1, 0], [1, 0, 0]]
assert mask_of([[0, 0, 2, 0, 2, 1, 0, 1]], 4, 3).tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]

# whatever part is taken, boxes lie around their masks
random.seed(1)
for _ in range(60):
    masks = torch.zeros(1, 60, 80, dtype=torch.uint8)
    masks[0, 20:40, 30:60] = 1
    image = masks.float().expand(3, -1, -1).clone()
    target = {"boxes": torch.tensor([[30.0, 20, 60, 40]]), "labels": torch.tensor([1]), "masks": masks}
    pixels, target = Augment(sides=(60, 90, 120), part=(50, 100))(image, target)
    if len(target["boxes"]):
        rows, columns = torch.where(target["masks"][0] > 0)
        around = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
        assert (around - target["boxes"][0]).abs().max() <= 1.5, (around, target["boxes"])
        assert ((pixels[0] > 0.5) ^ (target["masks"][0] > 0)).float().mean() < 0.05
print("right")
