"""Box heads in stages (Cascade R-CNN): each takes the boxes of the one before and asks for a better overlap.

Stages at IoU 0.5, 0.6 and 0.7, whose losses weigh 1, 0.5 and 0.25; cross-entropy, and 10 times GIoU of the decoded boxes of the own
class. Scores are the mean of all stages' on the last stage's boxes. One mask head, trained on the first stage's proposals (the
official configuration has one a stage). With one stage it is Mask R-CNN with these losses.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference, maskrcnn_loss
from torchvision.ops import MultiScaleRoIAlign, generalized_box_iou_loss

#: IoU that makes a proposal an object, weight of the losses, deviations that box offsets are divided by
STAGES = ((0.5, 1.0, (0.1, 0.1, 0.2, 0.2)), (0.6, 0.5, (0.05, 0.05, 0.1, 0.1)), (0.7, 0.25, (0.033, 0.033, 0.067, 0.067)))
GIOU = 10.0


class CascadeHeads(nn.Module):
    """`roi_heads` of torchvision's GeneralizedRCNN."""

    def __init__(self, channels, classes, stages=3, samples=512, score=0.05, nms=0.5, most=100, norm=nn.BatchNorm2d):
        super().__init__()
        levels = ["0", "1", "2", "3"]
        self.stages, self.weights = nn.ModuleList(), [weight for _, weight, _ in STAGES[:stages]]
        for iou, _, deviations in STAGES[:stages]:
            self.stages.append(RoIHeads(
                MultiScaleRoIAlign(levels, 7, 2), FastRCNNConvFCHead((channels, 7, 7), [channels] * 4, [1024], norm),
                FastRCNNPredictor(1024, classes), iou, iou, samples, 0.25, [1 / d for d in deviations], score, nms, most))
        self.mask_pool = MultiScaleRoIAlign(levels, 14, 2)
        self.mask_head = MaskRCNNHeads(channels, [channels] * 4, 1)
        self.mask_predictor = MaskRCNNPredictor(channels, channels, classes)

    def run(self, stage, features, proposals, sizes):
        """Class logits, and a box of every class for each proposal."""
        x = stage.box_head(stage.box_roi_pool(features, proposals, sizes))
        logits, offsets = stage.box_predictor(x)
        return logits, stage.box_coder.decode(offsets, proposals)

    def refined(self, logits, boxes, labels, counts, sizes):
        """The boxes that go to the next stage: those of the own class, or of the best one where that is none."""
        best = logits[:, 1:].argmax(1) + 1
        classes = best if labels is None else torch.where(labels > 0, labels, best)
        own = boxes[torch.arange(len(boxes)), classes].detach().split(counts)
        limit = lambda b, size: torch.stack((b[:, 0].clamp(0, size[1]), b[:, 1].clamp(0, size[0]),
                                             b[:, 2].clamp(0, size[1]), b[:, 3].clamp(0, size[0])), 1)
        return [limit(b, size) for b, size in zip(own, sizes)]

    def losses(self, features, proposals, sizes, targets):
        total = {}
        for i, (stage, weight) in enumerate(zip(self.stages, self.weights)):
            proposals, matched, labels, _ = stage.select_training_samples(proposals, targets)
            wanted = [t["boxes"][m] if len(t["boxes"]) else p.new_zeros(p.shape) for t, m, p in zip(targets, matched, proposals)]
            logits, boxes = self.run(stage, features, proposals, sizes)
            counts, labels_of = [len(p) for p in proposals], labels
            labels, wanted = torch.cat(labels), torch.cat(wanted)
            total[f"class_{i}"] = weight * F.cross_entropy(logits, labels)
            objects = torch.where(labels > 0)[0]
            giou = generalized_box_iou_loss(boxes[objects, labels[objects]], wanted[objects], reduction="sum")
            total[f"box_{i}"] = weight * GIOU * giou / max(1, labels.numel())
            if i == 0:
                positive = [torch.where(l > 0)[0] for l in labels_of]
                regions = [p[at] for p, at in zip(proposals, positive)]
                masks = self.mask_predictor(self.mask_head(self.mask_pool(features, regions, sizes)))
                total["mask"] = maskrcnn_loss(masks, regions, [t["masks"] for t in targets], [t["labels"] for t in targets],
                                              [m[at] for m, at in zip(matched, positive)])
            proposals = self.refined(logits, boxes, labels, counts, sizes)
        return total

    def detections(self, features, proposals, sizes):
        scores, counts = 0, [len(p) for p in proposals]
        for i, stage in enumerate(self.stages):
            logits, boxes = self.run(stage, features, proposals, sizes)
            scores = scores + F.softmax(logits, -1) / len(self.stages)
            if i + 1 < len(self.stages):
                proposals = self.refined(logits, boxes, None, counts, sizes)
        stage = self.stages[-1]
        chosen = choose(stage, boxes.split(counts), scores.split(counts), sizes)
        regions = [c["boxes"] for c in chosen]
        masks = self.mask_predictor(self.mask_head(self.mask_pool(features, regions, sizes)))
        for found, mask in zip(chosen, maskrcnn_inference(masks, [c["labels"] for c in chosen])):
            found["masks"] = mask
        return chosen

    def forward(self, features, proposals, sizes, targets=None):
        if self.training:
            return [], self.losses(features, proposals, sizes, targets)
        return self.detections(features, proposals, sizes), {}


def choose(stage, boxes, scores, sizes):
    """Boxes of every image above the least score, without those that overlap a better one of their class."""
    from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

    chosen = []
    for boxes, scores, size in zip(boxes, scores, sizes):
        classes = scores.shape[1]
        boxes = clip_boxes_to_image(boxes, size)[:, 1:].reshape(-1, 4)
        labels = torch.arange(1, classes, device=scores.device).repeat(len(scores))
        scores = scores[:, 1:].reshape(-1)
        keep = torch.where(scores > stage.score_thresh)[0]
        keep = keep[remove_small_boxes(boxes[keep], 1e-2)]
        keep = keep[batched_nms(boxes[keep], scores[keep], labels[keep], stage.nms_thresh)][: stage.detections_per_img]
        chosen.append({"boxes": boxes[keep], "labels": labels[keep], "scores": scores[keep]})
    return chosen
