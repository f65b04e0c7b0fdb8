# SPDX-License-Identifier: Apache-2.0
"""Object detection: any number of boxes per image, each of a class."""

from dataclasses import dataclass
from typing import ClassVar

from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.kinds import Kind
from fusetune.task import Task

__all__ = ["ObjectDetection"]


@dataclass(frozen=True, kw_only=True)
class ObjectDetection(Task):
    """Which objects does an image show, and where?"""

    title: ClassVar[str] = "Object detection"
    kind: ClassVar[type[Kind]] = Boxes
    objective: ClassVar[str | None] = "detection"
    default_metric: ClassVar[str] = "coco_map"
    metrics: ClassVar[tuple[str, ...]] = (
        "coco_map",
        "coco_map50",
        "coco_map75",
        "coco_map_small",
        "coco_map_medium",
        "coco_map_large",
        "coco_recall1",
        "coco_recall10",
        "coco_recall100",
        "coco_recall_small",
        "coco_recall_medium",
        "coco_recall_large",
    )
    methods: ClassVar[tuple[str, ...]] = (
        "nms",
        "soft_nms",
        "non_maximum_weighted",
        "weighted_boxes",
        "tuned_boxes",
        "stacked_boxes",
    )
