# SPDX-License-Identifier: Apache-2.0
"""Detections: any number of boxes per row, each with a score and a class name.

Shapes: N rows, K boxes of all rows, C classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from fusetune.errors import PredictionError, name_some
from fusetune.predictions.kinds import Array, Floats, Ids, Kind, as_ids
from fusetune.predictions.ragged import (
    Offsets,
    as_offsets,
    entries_of,
    offsets_of,
    rows_of_entries,
)
from fusetune.predictions.targets import replaced

__all__ = ["Boxes", "check_boxes"]

ROTATED = {5: "a center, two sides and an angle", 8: "four corners"}
WIDTHS = (2, 4, 6)  # segments, boxes, volumes: low ends, then high ends
LARGEST = 1e100  # of coordinates: areas and volumes stay finite
FARTHEST = 2.0  # relative boxes may stick out of the image, but not by more than its size


@dataclass(frozen=True, eq=False)
class Boxes(Kind):
    """Boxes with scores and class **names**, row after row in flat arrays; a row may have none.

    A class that the member does not know is absent from `classes`: it cannot be held against the
    member that it finds none.

    Args:
        ids: `(N,)` unique row names.
        classes: C unique names of all classes that the member can find.
        offsets: `(N + 1,)` row n owns the boxes from `offsets[n]` to `offsets[n + 1]`.
        boxes_K4: `(K, 4)` floats: left, top, right, bottom; kept as given (no copy). Segments
            `(K, 2)` and volumes `(K, 6)`, low ends first, are fused alike, but no metric judges them.
        scores_K: `(K,)` floats in [0, 1].
        labels_K: `(K,)` positions in `classes`.
        relative: Whether coordinates are shares of the image's width and height, else pixels.

    Raises:
        PredictionError: NaN, a negative side or a score outside [0, 1] (the row is named), rotated
            boxes, repeated ids or classes.
    """

    ids: Ids
    classes: tuple[str, ...]
    offsets: Offsets
    boxes_K4: Floats
    scores_K: Floats
    labels_K: Offsets
    relative: bool = False

    def __post_init__(self) -> None:
        boxes_K4 = np.asarray(self.boxes_K4)
        if boxes_K4.dtype not in (np.float32, np.float64):
            boxes_K4 = boxes_K4.astype(np.float64)
        scores_K = np.asarray(self.scores_K, dtype=boxes_K4.dtype)
        labels_K = np.asarray(self.labels_K, dtype=np.int64)
        ids, classes = as_ids(self.ids), tuple(str(name) for name in self.classes)
        if len(set(classes)) < len(classes):
            repeated = sorted({name for name in classes if classes.count(name) > 1})
            raise PredictionError(
                f"the classes {name_some(repeated)} are named twice", "each once", "Rename them."
            )
        offsets = as_offsets(self.offsets, len(ids), len(scores_K))
        rows_K = rows_of_entries(offsets)
        boxes_K4 = check_boxes(boxes_K4, ids, rows_K, relative=self.relative)
        assert len(boxes_K4) == len(scores_K) == len(labels_K)
        assert not len(labels_K) or 0 <= labels_K.min() <= labels_K.max() < len(classes)
        bad_K = ~((scores_K >= 0) & (scores_K <= 1))
        if bad_K.any():
            first = int(bad_K.argmax())
            raise PredictionError(
                f"a box of row '{ids[rows_K[first]]}' has the score {scores_K[first]:.4g} "
                f"({int(bad_K.sum()):,} such boxes)",
                "scores between 0 and 1",
                "Apply a sigmoid or softmax to the detector's logits, or mend its training.",
            )
        values = (ids, classes, offsets, boxes_K4, scores_K, labels_K)
        names = ("ids", "classes", "offsets", "boxes_K4", "scores_K", "labels_K")
        for name, value in zip(names, values, strict=True):
            object.__setattr__(self, name, value)

    @classmethod
    def from_entries(
        cls, ids: Ids, classes: Sequence[str], rows_K: Array, found: tuple[Array, Array, Array]
    ) -> Self:
        """Boxes from entries in any order of the rows; a row's own keep theirs.

        Args:
            ids: `(N,)` row names.
            classes: C class names.
            rows_K: `(K,)` position of each box's row.
            found: Boxes `(K, 4)`, scores `(K,)`, labels `(K,)`.
        """
        rows_K = np.asarray(rows_K, dtype=np.int64)
        order = np.argsort(rows_K, kind="stable")
        offsets = offsets_of(np.bincount(rows_K, minlength=len(ids)))
        boxes_K4, scores_K, labels_K = (np.asarray(part)[order] for part in found)
        return cls(ids, tuple(classes), offsets, boxes_K4, scores_K, labels_K)

    @property
    def columns(self) -> tuple[str, ...]:
        """The classes."""
        return self.classes

    @property
    def rows_K(self) -> Offsets:
        """`(K,)` the position of each box's row."""
        return rows_of_entries(self.offsets)

    def take(self, rows: Array) -> Self:
        """The boxes of some rows, by position or by mask, in the order given."""
        offsets, entries = entries_of(self.offsets, rows)
        return replaced(
            self,
            ids=self.ids[rows],
            offsets=offsets,
            boxes_K4=self.boxes_K4[entries],
            scores_K=self.scores_K[entries],
            labels_K=self.labels_K[entries],
        )

    def chunks(self, memory_bytes: int) -> Iterator[Self]:
        """Consecutive pieces of at most `memory_bytes` of boxes (at least one row)."""
        box_bytes = 5 * self.boxes_K4.itemsize + self.labels_K.itemsize
        start = 0
        while start < len(self):
            most = self.offsets[start] + memory_bytes // box_bytes
            stop = max(start + 1, int(np.searchsorted(self.offsets, most, side="right")) - 1)
            yield self.take(np.arange(start, min(stop, len(self))))
            start = stop

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """One prediction from pieces with the same classes in the same order and disjoint rows."""
        assert parts and len({(part.classes, part.relative) for part in parts}) == 1
        return replaced(
            parts[0],
            ids=as_ids(np.concatenate([part.ids for part in parts])),
            offsets=offsets_of(np.concatenate([np.diff(part.offsets) for part in parts])),
            boxes_K4=np.concatenate([part.boxes_K4 for part in parts]),
            scores_K=np.concatenate([part.scores_K for part in parts]),
            labels_K=np.concatenate([part.labels_K for part in parts]),
        )

    def over(self, columns: tuple[str, ...]) -> Self:
        """The same boxes with the classes in another order, and perhaps more of them."""
        if columns == self.classes:
            return self
        position = {name: index for index, name in enumerate(columns)}
        places_C = np.array([position[name] for name in self.classes], dtype=np.int64)
        return replaced(self, classes=columns, labels_K=places_C[self.labels_K])

    def scaled(self, factors_N2: Floats, *, relative: bool) -> Self:
        """The same boxes in another unit: each row's coordinates times its two factors (x, y)."""
        factors_K4 = np.tile(factors_N2, 2)[self.rows_K]
        boxes_K4 = (self.boxes_K4 * factors_K4).astype(self.boxes_K4.dtype)
        return replaced(self, boxes_K4=boxes_K4, relative=relative)


def check_boxes(boxes_K4: Floats, ids: Ids, rows_K: Offsets, *, relative: bool) -> Floats:
    """Refuse what is no axis-parallel box; the row is named.

    Raises:
        PredictionError: Rotated boxes, another shape, NaN, a negative side, or relative boxes far
            outside of their image.
    """
    if not boxes_K4.size:
        width = boxes_K4.shape[-1] if boxes_K4.shape[-1] in WIDTHS else 4
        return boxes_K4.reshape(0, width)
    width, axes = boxes_K4.shape[-1], boxes_K4.shape[-1] // 2
    if width in ROTATED and boxes_K4.ndim == 2:
        raise PredictionError(
            f"the boxes are rotated: {width} numbers each ({ROTATED[width]})",
            "four numbers: left, top, right, bottom",
            "Rotated boxes are not supported; give the upright boxes around them.",
        )
    if boxes_K4.ndim != 2 or width not in WIDTHS:
        raise PredictionError(
            f"the boxes have the shape {boxes_K4.shape}",
            "four numbers for each: left, top, right, bottom",
            "Write one line of four numbers per box.",
        )
    faults = {
        "holds NaN or infinity": ~np.isfinite(boxes_K4).all(axis=1),
        "has a negative side": (boxes_K4[:, :axes] > boxes_K4[:, axes:]).any(axis=1),
    }
    if boxes_K4.dtype == np.float64:
        faults[f"lies beyond {LARGEST:g}"] = (np.abs(boxes_K4) > LARGEST).any(axis=1)
    if relative:
        faults["lies far outside of its image"] = (np.abs(boxes_K4) > FARTHEST).any(axis=1)
    for fault, bad_K in faults.items():
        if bad_K.any():
            first = int(bad_K.argmax())
            numbers = ", ".join(f"{value:.6g}" for value in boxes_K4[first])
            raise PredictionError(
                f"a box of row '{ids[rows_K[first]]}' {fault}: ({numbers}) "
                f"({int(bad_K.sum()):,} such boxes)",
                "finite numbers: left, top, right, bottom"
                + (", as shares of the image" if relative else ""),
                "Check whether the numbers are corners, or a center or corner with two sides.",
            )
    return boxes_K4
