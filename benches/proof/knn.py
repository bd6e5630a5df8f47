"""k-nearest-neighbour classification of features, as DINO does it."""

import torch
import torch.nn.functional as F

BATCH = 500


@torch.no_grad()
def accuracies(feature, votes, classified, evaluation):
    """Top-1 for each number of neighbours of a recipe's `[evaluation]`. `feature` maps a batch to rows; `votes` and
    `classified` are images and labels."""
    rows = lambda images: F.normalize(torch.cat([feature(b) for b in images.split(BATCH)]), dim=1)
    (train, labels), (val, wanted) = votes, classified
    ks = evaluation["k"]
    alike, nearest = (rows(val) @ rows(train).T).topk(min(max(ks), len(train)), dim=1)
    weights, voted = torch.exp(alike / evaluation["temperature"]), labels[nearest]
    top1 = {}
    for k in ks:
        sums = torch.zeros(len(val), int(labels.max()) + 1)
        sums.scatter_add_(1, voted[:, :k], weights[:, :k])
        top1[k] = (sums.argmax(dim=1) == wanted).float().mean().item()
    return top1
