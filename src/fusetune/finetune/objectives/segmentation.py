# SPDX-License-Identifier: Apache-2.0
"""One class per pixel: cross-entropy and Dice loss on maps of logits.

Shapes: B rows of a batch, N rows, C classes, H W pixels of the images, h w of a model's output.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fusetune.finetune.auxiliary import AUXILIARY_WEIGHT, with_auxiliary
from fusetune.finetune.objective import Objective
from fusetune.finetune.settings import Augmentation, FineTune
from fusetune.members.member import Gives
from fusetune.predictions.kinds import Array, Ids
from fusetune.predictions.segmentation.label_maps import IGNORED, LabelMaps
from fusetune.predictions.segmentation.masks import ArrayMask, Masks
from fusetune.predictions.segmentation.tallies import mean_ratios

__all__ = ["Segmentation"]

Tensor = Any

SMOOTH = 1.0
"""Pixels added above and below in the Dice loss, so that absent classes divide nothing by nothing."""
MOST_CLASSES = 127  # that labels of one byte tell apart


@dataclass(frozen=True, kw_only=True)
class Segmentation(Objective[Masks]):
    """Mean cross-entropy of the pixels, plus the Dice loss of the batch's classes.

    The Dice loss is 1 minus the mean of `2 |p t| / (|p| + |t|)` over the classes that the batch
    shows, of probabilities p and truth t (Milletari et al. "V-Net". 3DV 2016): classes of few pixels
    count as much there as those of many. Maps of another size than the labels are resized to it
    between the pixels' centers. Ignored pixels count nowhere.

    The validation figures are of images at the size that the member sees: `mean_iou` and
    `pixel_accuracy` of all pixels of all rows.

    Args:
        dice_weight: Of the Dice loss; 1 as in nnU-Net (Isensee et al. 2021).
        auxiliary_weight: Of every auxiliary head's loss; see `auxiliary.AUXILIARY_WEIGHT`.
    """

    dice_weight: float = 1.0
    auxiliary_weight: float = AUXILIARY_WEIGHT

    trains: ClassVar[tuple[str, ...]] = ("full", "head", "head_then_full", "gradual", "lora")
    figures: ClassVar[tuple[str, ...]] = ("loss", "mean_iou", "pixel_accuracy")
    unused: ClassVar[tuple[str, ...]] = ("sampling", "distill")
    unused_augmentation: ClassVar[tuple[str, ...]] = ("rand_augment", "mixup", "cutmix")
    takes: ClassVar[Gives] = "maps"
    digests: ClassVar[bool] = True

    def collate(self, targets: LabelMaps, rows: Array) -> Array:
        """`(B, H, W)` positions of classes, -1 for ignored pixels; of label maps of one size."""
        dtype = np.int8 if len(targets.classes) <= MOST_CLASSES else np.int16
        return np.stack([targets.maps[row].read().astype(dtype) for row in rows.tolist()])

    def moved(
        self, targets: Tensor, draws_BD: Tensor, augmentation: Augmentation, sides: tuple[int, int]
    ) -> Tensor:
        """The label maps as augmentation moves their images."""
        from fusetune.finetune.pytorch.augment import label_maps_moved

        return label_maps_moved(targets, draws_BD, augmentation)

    def class_weights(self, targets: Array, num_classes: int, settings: FineTune) -> Array | None:
        """The median share of the classes' pixels, per share of the class (Eigen & Fergus 2015)."""
        if settings.class_weights == "none":
            return None
        counts_C = np.bincount(targets[targets >= 0].astype(np.int64), minlength=num_classes)
        median = np.median(counts_C[counts_C > 0])
        return np.where(counts_C, median / np.maximum(counts_C, 1), 0).astype(np.float32)

    def loss(
        self,
        outputs: Tensor,
        targets: Tensor,
        settings: FineTune,
        weights_C: Tensor | None = None,
    ) -> Tensor:
        """Of `(B, C, h, w)` logits, or of a tuple of them (main head first), and `(B, H, W)` labels."""
        labels, smoothing = targets.long(), settings.label_smoothing or 0.0

        def loss_of(logits: Tensor) -> Tensor:
            return self._loss(_at(logits, targets.shape[1:]), labels, smoothing, weights_C)

        return with_auxiliary(outputs, loss_of, self.auxiliary_weight)

    def _loss(
        self,
        logits: Tensor,
        labels: Tensor,
        smoothing: float = 0.0,
        weights_C: Tensor | None = None,
    ) -> Tensor:
        from torch.nn.functional import cross_entropy

        losses_BHW = cross_entropy(
            logits,
            labels,
            weights_C,
            ignore_index=IGNORED,
            reduction="none",
            label_smoothing=smoothing,
        )
        judged_BHW = labels != IGNORED
        entropy = losses_BHW.sum() / judged_BHW.sum().clamp(min=1)
        return entropy + self.dice_weight * dice_loss(logits, labels, judged_BHW)

    def digest(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """`(1, 2 + 3 C)` loss times rows, rows, and pixels rightly called, called, truly of each class."""
        import torch

        labels, num_classes = targets.long(), outputs.shape[1]
        logits = _at(outputs, targets.shape[1:])
        judged_BHW = labels != IGNORED
        said_K, true_K = logits.argmax(dim=1)[judged_BHW], labels[judged_BHW]
        right_K = true_K[said_K == true_K]
        tallies = [torch.bincount(k, minlength=num_classes) for k in (right_K, said_K, true_K)]
        loss = self._loss(logits, labels).double() * len(labels)
        head = torch.stack([loss, torch.full_like(loss, len(labels))])
        return torch.cat([head, *(one.double() for one in tallies)])[None]

    def scores(self, outputs: Array, targets: Array) -> dict[str, float]:
        """Loss, mean intersection over union and share of right pixels, from digests."""
        loss, rows, *counts = outputs.sum(axis=0)
        right_C, called_C, true_C = np.split(np.array(counts)[None], 3, axis=1)
        mean_iou = float(mean_ratios(right_C, called_C + true_C - right_C)[0])
        return {
            "loss": float(loss / rows),
            "mean_iou": 0.0 if np.isnan(mean_iou) else mean_iou,
            "pixel_accuracy": float(right_C.sum() / max(1, true_C.sum())),
        }

    def to_prediction(self, ids: Ids, columns: tuple[str, ...], outputs: Array) -> Masks:
        """Masks of the outputs' own size, from `(N, C, h, w)` logits."""
        masks = []
        for logits_Chw in outputs:
            powers = np.exp(logits_Chw - logits_Chw.max(axis=0))
            masks.append(ArrayMask(powers / powers.sum(axis=0)))
        return Masks(ids, columns, tuple(masks))


def dice_loss(logits: Tensor, labels: Tensor, judged_BHW: Tensor) -> Tensor:
    """1 minus the mean Dice coefficient of the classes that `(B, H, W)` labels show."""
    from torch.nn.functional import one_hot

    num_classes = logits.shape[1]
    truth = one_hot(labels.clamp(min=0), num_classes).movedim(-1, 1) * judged_BHW[:, None]
    chances = logits.softmax(dim=1) * judged_BHW[:, None]
    over = (0, 2, 3)
    shared_C, sums_C = (chances * truth).sum(over), chances.sum(over) + truth.sum(over)
    present_C = truth.sum(over) > 0
    dice_C = (2 * shared_C + SMOOTH) / (sums_C + SMOOTH)
    return 1 - (dice_C * present_C).sum() / present_C.sum().clamp(min=1)


def _at(logits: Tensor, shape: tuple[int, int]) -> Tensor:
    """Maps at the size of the labels."""
    from torch.nn.functional import interpolate

    if tuple(logits.shape[2:]) == tuple(shape):
        return logits
    return interpolate(logits, list(shape), mode="bilinear", align_corners=False)
