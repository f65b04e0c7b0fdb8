# SPDX-License-Identifier: Apache-2.0
"""Small anchor-free detectors with the backbones of three families, for the source `mini_detection`.

Every position of one map, at a quarter of the image's side, says for each class whether an object
is there, how far its edges are, and how central the position is. Coarser maps are added to it from
the top down. For the contract of `forward`, see `detectors`.

Reference: Tian et al. "FCOS: fully convolutional one-stage object detection". ICCV 2019; with one
level of the pyramid (Lin et al. "Feature pyramid networks for object detection". CVPR 2017).

Shapes: B rows of a batch, K objects, P positions, D detections, C classes, H W pixels.
"""

import math
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from fusetune.members.detectors import NUM_DETECTIONS, train_objects
from fusetune.members.mini_nets import InceptionBlock, ResidualBlock, conv

STRIDE = 4
WIDTH = 32  # channels of the pyramid
PRIOR = 0.01  # what a new head takes the chance of an object to be (Lin et al. 2017, focal loss)
ALPHA, GAMMA = 0.25, 2.0  # of the focal loss, as there
RADIUS = 1.5  # strides around an object's center whose positions learn it, as in FCOS's own code
MOST_OVERLAP = 0.6  # of two detections of a class, as there


class Backbone(nn.Module):
    """Three stages, at a quarter, an eighth and a sixteenth of the image's side."""

    def __init__(self, stages: list[nn.Module], widths: tuple[int, int, int]) -> None:
        super().__init__()
        self.stages, self.widths = nn.ModuleList(stages), widths

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps of features, the finest first."""
        maps, features = [], images
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        return maps


def _resnet() -> Backbone:
    stages = [
        nn.Sequential(
            conv(3, 16), ResidualBlock(16, 24, stride=2), ResidualBlock(24, 48, stride=2)
        ),
        ResidualBlock(48, 64, stride=2),
        ResidualBlock(64, 80, stride=2),
    ]
    return Backbone(stages, (48, 64, 80))


def _vgg() -> Backbone:
    def stage(*widths: int) -> nn.Sequential:
        return nn.Sequential(nn.MaxPool2d(2), *(conv(a, b) for a, b in pairwise(widths)))

    first = nn.Sequential(conv(3, 16), nn.MaxPool2d(2), conv(16, 32), *stage(32, 48))
    return Backbone([first, stage(48, 64, 64), stage(64, 80)], (48, 64, 80))


def _inception() -> Backbone:
    stages = [
        nn.Sequential(
            conv(3, 16), nn.MaxPool2d(2), conv(16, 32), nn.MaxPool2d(2), InceptionBlock(32, 12)
        ),
        nn.Sequential(nn.MaxPool2d(2), InceptionBlock(48, 20)),
        nn.Sequential(nn.MaxPool2d(2), InceptionBlock(80, 24)),
    ]
    return Backbone(stages, (48, 80, 96))


BACKBONES: Mapping[str, Callable[[], Backbone]] = {
    "inception": _inception,
    "resnet": _resnet,
    "vgg": _vgg,
}


class MiniDetector(nn.Module):
    """A backbone, its pyramid, and what every position of it says.

    Args:
        backbone: With three stages.
        num_classes: C, at least 1.
    """

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.backbone, self.num_classes = backbone, num_classes
        self.laterals = nn.ModuleList([nn.Conv2d(width, WIDTH, 1) for width in backbone.widths])
        self.tower = nn.Sequential(conv(WIDTH, WIDTH), conv(WIDTH, WIDTH))
        self.classify = nn.Conv2d(WIDTH, num_classes, 3, padding=1)
        self.locate = nn.Conv2d(WIDTH, 5, 3, padding=1)
        for layer in (self.classify, self.locate):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.classify.bias, -math.log((1 - PRIOR) / PRIOR))

    def forward(self, images: Tensor, objects: Tensor | None = None) -> Tensor:
        """Three losses (class, box, centrality), or `(B, D, 6)` detections; see `detectors`."""
        maps = self.backbone(images)
        merged = self.laterals[-1](maps[-1])
        for lateral, features in zip(self.laterals[-2::-1], maps[-2::-1], strict=True):
            merged = functional.interpolate(merged, features.shape[2:]) + lateral(features)
        features = self.tower(merged)
        classes, places = (
            layer(features).flatten(2).transpose(1, 2).float()
            for layer in (self.classify, self.locate)
        )
        height, width = features.shape[2:]
        sides = images.new_full((4,), images.shape[3])
        sides[1::2] = images.shape[2]  # filled: recorded steps copy nothing from the host
        ys, xs = torch.meshgrid(
            torch.arange(height, device=images.device),
            torch.arange(width, device=images.device),
            indexing="ij",
        )
        points_P2 = (torch.stack([xs.flatten(), ys.flatten()], dim=1) + 0.5) * STRIDE
        edges = functional.softplus(places[..., :4]) * 2 * STRIDE
        boxes = torch.cat([points_P2 - edges[..., :2], points_P2 + edges[..., 2:]], dim=-1)
        objects = train_objects(images, objects, training=self.training)
        if objects is None:
            return detections(classes, places[..., 4], boxes / sides)
        corners = objects[..., :4] * sides
        there = (objects[..., 4] >= 0) & (objects[..., 5] == 0)
        return losses(
            (classes, places[..., 4], boxes), points_P2, (corners, objects[..., 4], there)
        )


def losses(
    said: tuple[Tensor, Tensor, Tensor], points_P2: Tensor, objects: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """Focal loss of the classes, generalized IoU loss of the boxes, cross-entropy of centrality.

    Args:
        said: `(B, P, C)` logits, `(B, P)` logits of centrality, `(B, P, 4)` corners in pixels.
        points_P2: `(P, 2)` the positions in pixels.
        objects: `(B, K, 4)` corners in pixels, `(B, K)` classes, `(B, K)` whether they are there.
    """
    classes, central, boxes = said
    owners_BP, owned_BP = assigned(points_P2, objects[0], objects[2])
    corners = objects[0].gather(1, owners_BP[..., None].expand(-1, -1, 4))
    labels_BP = objects[1].gather(1, owners_BP).long().clamp(min=0)
    wanted = functional.one_hot(labels_BP, classes.shape[2]) * owned_BP[..., None]
    chances = classes.sigmoid()
    missed = torch.where(wanted > 0, 1 - chances, chances)
    weights = torch.where(wanted > 0, ALPHA, 1 - ALPHA) * missed**GAMMA
    entropy = functional.binary_cross_entropy_with_logits
    focal = (weights * entropy(classes, wanted.to(classes.dtype), reduction="none")).sum()
    sides_BP4 = torch.cat([points_P2 - corners[..., :2], corners[..., 2:] - points_P2], dim=-1)
    sides_BP4 = sides_BP4.clamp(min=1e-3)
    low, high = (
        torch.minimum(sides_BP4[..., :2], sides_BP4[..., 2:]),
        torch.maximum(sides_BP4[..., :2], sides_BP4[..., 2:]),
    )
    centrality = (low / high).prod(dim=-1).sqrt() * owned_BP
    number = owned_BP.sum().clamp(min=1)
    box = ((1 - generalized_overlap(boxes, corners)) * centrality).sum()
    placed = entropy(central, centrality, reduction="none") * owned_BP
    return torch.stack(
        [focal / number, box / centrality.sum().clamp(min=1e-3), placed.sum() / number]
    )


def assigned(points_P2: Tensor, corners_BK4: Tensor, there_BK: Tensor) -> tuple[Tensor, Tensor]:
    """`(B, P)` object that each position learns, the smallest around it; and whether there is one."""
    points = points_P2[None, :, None]
    corners = corners_BK4[:, None]
    centers = (corners[..., :2] + corners[..., 2:]) / 2
    near = ((points - centers).abs() <= RADIUS * STRIDE).all(dim=-1)
    inside = ((points > corners[..., :2]) & (points < corners[..., 2:])).all(dim=-1)
    areas_BK = (corners_BK4[..., 2:] - corners_BK4[..., :2]).prod(dim=-1)
    areas = torch.where(near & inside & there_BK[:, None], areas_BK[:, None], torch.inf)
    least_BP, owners_BP = areas.min(dim=-1)
    return owners_BP, least_BP.isfinite()


def generalized_overlap(boxes: Tensor, others: Tensor) -> Tensor:
    """Generalized IoU of boxes `(..., 4)` one by one (Rezatofighi et al. 2019), from -1 to 1."""
    union, shared = _union_and_shared(boxes, others)
    around = torch.maximum(boxes[..., 2:], others[..., 2:]) - torch.minimum(
        boxes[..., :2], others[..., :2]
    )
    whole = around.prod(dim=-1).clamp(min=1e-6)
    return shared / union - (whole - union) / whole


def _union_and_shared(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    low = torch.maximum(boxes[..., :2], others[..., :2])
    high = torch.minimum(boxes[..., 2:], others[..., 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    areas = [(one[..., 2:] - one[..., :2]).prod(dim=-1) for one in (boxes, others)]
    return (areas[0] + areas[1] - shared).clamp(min=1e-6), shared


def detections(classes: Tensor, central: Tensor, boxes: Tensor) -> Tensor:
    """`(B, D, 6)` the best boxes of every class that overlap little; see `detectors`."""
    num_classes = classes.shape[2]
    scores = (classes.sigmoid() * central.sigmoid()[..., None]).sqrt().flatten(1)
    scores, order = scores.topk(min(NUM_DETECTIONS, scores.shape[1]), dim=1)
    places, labels = order // num_classes, order % num_classes
    corners = boxes.gather(1, places[..., None].expand(-1, -1, 4)).clamp(0, 1)
    union, shared = _union_and_shared(corners[:, :, None], corners[:, None])
    covers = (shared / union > MOST_OVERLAP) & (labels[:, :, None] == labels[:, None])
    stays = torch.ones_like(labels, dtype=torch.bool)
    for place in range(labels.shape[1]):  # by falling score
        covered = covers[:, place] & stays[:, place, None]
        covered[:, : place + 1] = False
        stays &= ~covered
    labels = torch.where(stays, labels, -1)
    return torch.cat([corners, scores[..., None], labels[..., None].to(scores.dtype)], dim=-1)


def build(name: str, num_classes: int) -> MiniDetector:
    """The detector with that backbone and fresh weights, drawn from torch's global random state.

    Args:
        name: A key of `BACKBONES`.
        num_classes: At least 1.

    Raises:
        KeyError: `name` is not in `BACKBONES`.
    """
    return MiniDetector(BACKBONES[name](), num_classes)
