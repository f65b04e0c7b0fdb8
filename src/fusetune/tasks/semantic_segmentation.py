# SPDX-License-Identifier: Apache-2.0
"""Semantic segmentation: one class per pixel."""

from dataclasses import dataclass
from typing import ClassVar

from fusetune.predictions.kinds import Kind
from fusetune.predictions.segmentation.masks import Masks
from fusetune.task import Task

__all__ = ["SemanticSegmentation"]


@dataclass(frozen=True, kw_only=True)
class SemanticSegmentation(Task):
    """Which of C classes does each pixel of an image show?"""

    title: ClassVar[str] = "Semantic segmentation"
    kind: ClassVar[type[Kind]] = Masks
    objective: ClassVar[str | None] = "segmentation"
    default_metric: ClassVar[str] = "mean_iou"
    metrics: ClassVar[tuple[str, ...]] = ("mean_iou", "pixel_accuracy", "mean_dice", "boundary_f1")
    methods: ClassVar[tuple[str, ...]] = (
        "mean",
        "geometric_mean",
        "label_voting",
        "staple",
        "weighted_mean",
        "stacking",
    )
