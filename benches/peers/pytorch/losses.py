"""Targets and losses of POA: Sinkhorn-Knopp, cross-entropy over views, masked patches, distillation, KoLeo."""

import torch
import torch.nn.functional as F


@torch.no_grad()
def sinkhorn(logits, temperature, iterations):
    """Targets `[rows, prototypes]` that use all prototypes alike; every row sums to one."""
    logits = logits.float()
    if not len(logits):
        return logits
    q = torch.exp_((logits - logits.max()) / temperature)
    rows, prototypes = q.shape
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(dim=0, keepdim=True) * prototypes
        q /= q.sum(dim=1, keepdim=True) * rows
    return q.mul_(rows)


def cross_entropy(log_probabilities, targets):
    """Cross-entropy of each row."""
    return -(targets * log_probabilities).sum(dim=-1)


def koleo(x):
    """The mean of −log of the distance to the nearest other row, in each group of `[groups, rows, width]`."""
    x = F.normalize(x.float(), dim=-1, eps=1e-8)
    with torch.no_grad():
        alike = x @ x.transpose(1, 2)
        alike.diagonal(dim1=1, dim2=2).fill_(-1.0)
        nearest = alike.argmax(dim=2, keepdim=True).expand_as(x)
    distance = (x - x.gather(1, nearest) + 1e-8).norm(dim=-1)
    return -torch.log(distance + 1e-8).mean(dim=1)


class Student:
    """Log-probabilities of a student's head for its rows: global crops, local crops, masked patches."""

    def __init__(self, logits, temperature, global_rows, local_rows):
        scores = F.log_softmax(logits.float() / temperature, dim=-1)
        self.globals, self.locals, self.masked = scores.split(
            [global_rows, local_rows, len(scores) - global_rows - local_rows]
        )

    def against(self, cls_targets, masked_targets, masked_weights):
        """Losses of the views (local, global) and of the masked patches."""
        images = len(cls_targets) // 2
        local_crops = len(self.locals) // images
        terms = 2 + 2 * local_crops
        # a local crop meets both views' targets: one product with their sum
        both = cls_targets[:images] + cls_targets[images:]
        locals_ = cross_entropy(self.locals.view(local_crops, images, self.locals.shape[1]), both).sum() / (images * terms)
        globals_ = 2.0 * cross_entropy(self.globals, cls_targets).mean() / terms
        masked = (cross_entropy(self.masked, masked_targets) * masked_weights).sum() / len(cls_targets)
        return locals_, globals_, masked

    def distilled_from(self, other):
        """Losses against the other student's probabilities of the same crops (local, global)."""
        return (
            cross_entropy(self.locals, other.locals.detach().exp()).sum() / max(len(self.locals), 1),
            cross_entropy(self.globals, other.globals.detach().exp()).mean(),
        )


def masked_weights(masks):
    """For every masked patch, one over the number of masked patches of its image."""
    return (1.0 / masks.sum(dim=1).clamp(min=1)).unsqueeze(1).expand_as(masks)[masks]
