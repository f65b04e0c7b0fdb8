# SPDX-License-Identifier: Apache-2.0
"""Any number of boxes per row: detectors match objects to their outputs, and give their losses.

Shapes: B rows of a batch, N rows, K objects of a row, D detections of a row, C classes, L losses.
"""

import importlib.util
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fusetune.finetune.objective import Objective
from fusetune.finetune.settings import Augmentation, FineTune
from fusetune.members.member import Gives
from fusetune.plugins import missing_extra
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.detection.matches import Summary, match_statistics, summary_values
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.kinds import Array, Ids
from fusetune.predictions.ragged import offsets_of
from fusetune.predictions.targets import replaced

__all__ = ["Detection"]

Tensor = Any

LABEL = 4


@dataclass(frozen=True, kw_only=True)
class Detection(Objective[Boxes]):
    """The sum of the losses that a detector gives for the objects it is shown.

    Coordinates are shares of the image on the way in and out, which resizing leaves as they are.
    The validation figures come from its detections: `coco_map` is COCO's mean average precision and
    `loss` is 1 minus that, as what a detector is trained for has no value in evaluation mode. Crowds
    and ignored objects are not shown.
    """

    trains: ClassVar[tuple[str, ...]] = ("full", "head", "head_then_full", "gradual")
    figures: ClassVar[tuple[str, ...]] = ("loss", "coco_map")
    unused: ClassVar[tuple[str, ...]] = (
        "label_smoothing",
        "class_weights",
        "sampling",
        "distill",
        "compile",
    )
    unused_augmentation: ClassVar[tuple[str, ...]] = ("crop", "rand_augment", "mixup", "cutmix")
    takes: ClassVar[Gives] = "detections"

    def check(self, settings: FineTune) -> None:
        """As every objective; and refuse to start without what average precision is computed by.

        Raises:
            InvalidValue: Names the key.
            MissingExtra: numba is not installed.
        """
        if importlib.util.find_spec("numba") is None:
            raise missing_extra("numba", "detection")
        super().check(settings)

    def collate(self, targets: Objects, rows: Array) -> Array:
        """`(B, K, 6)` left, top, right, bottom as shares of the image, class or -1, whether ignored."""
        assert targets.sizes_N2 is not None and targets.ignored_K is not None
        most = int(np.diff(targets.offsets).max(initial=1))
        dense_NK6 = np.zeros((len(targets), max(1, most), 6), dtype=np.float32)
        dense_NK6[..., LABEL] = -1
        rows_K = targets.rows_K
        places_K = np.arange(len(rows_K)) - targets.offsets[rows_K]
        shares_K4 = targets.boxes_K4 / np.tile(targets.sizes_N2, 2)[rows_K]
        dense_NK6[rows_K, places_K, :LABEL] = shares_K4.clip(0, 1)
        dense_NK6[rows_K, places_K, LABEL] = targets.labels_K
        dense_NK6[rows_K, places_K, LABEL + 1] = targets.ignored_K
        return dense_NK6[rows]

    def moved(
        self, targets: Tensor, draws_BD: Tensor, augmentation: Augmentation, sides: tuple[int, int]
    ) -> Tensor:
        """The objects where augmentation puts them; see `pytorch.boxes`."""
        from fusetune.finetune.pytorch.boxes import moved_objects

        return moved_objects(targets, draws_BD, augmentation, sides)

    def shown(self, targets: Tensor) -> tuple[Tensor, ...]:
        """The objects."""
        return (targets,)

    def loss(
        self,
        outputs: Tensor,
        targets: Tensor,
        settings: FineTune,
        weights_C: Tensor | None = None,
    ) -> Tensor:
        """The sum of `(L,)` losses."""
        return outputs.sum()

    def scores(self, outputs: Array, targets: Array) -> dict[str, float]:
        """Mean average precision of `(N, D, 6)` detections, and what it lacks to 1."""
        ids = np.arange(len(targets)).astype(str)
        num = int(max(outputs[..., 5].max(initial=0), targets[..., LABEL].max(initial=0))) + 1
        names = tuple(map(str, range(num)))
        found = targets[..., LABEL] >= 0
        truth = Objects(
            ids,
            names,
            offsets_of(found.sum(axis=1)),
            targets[found][:, :LABEL],
            targets[found][:, LABEL].astype(np.int64),
            ignored_K=targets[found][:, LABEL + 1] > 0,
            relative=True,
        )
        statistics_NS = match_statistics(self.to_prediction(ids, names, outputs), truth)
        value = float(summary_values(Summary(), statistics_NS, np.ones((1, len(ids))))[0])
        coco_map = 0.0 if np.isnan(value) else value
        return {"loss": 1 - coco_map, "coco_map": coco_map}

    def to_prediction(self, ids: Ids, columns: tuple[str, ...], outputs: Array) -> Boxes:
        """Boxes in shares of the image, from `(N, D, 6)` corners, scores and classes; -1: no box."""
        rows_K, places_K = np.nonzero(outputs[..., 5] >= 0)
        found_K6 = outputs[rows_K, places_K]
        parts = (found_K6[:, :4], found_K6[:, 4], found_K6[:, 5].astype(np.int64))
        return replaced(Boxes.from_entries(ids, columns, rows_K, parts), relative=True)
