# SPDX-License-Identifier: Apache-2.0
"""The truth of detection: the objects of every row.

Shapes: N rows, K objects of all rows, C classes.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from fusetune.predictions.detection.boxes import check_boxes
from fusetune.predictions.kinds import Array, Floats, Ids, as_ids
from fusetune.predictions.ragged import Offsets, as_offsets, entries_of, rows_of_entries
from fusetune.predictions.targets import GroundTruth, replaced

__all__ = ["Objects"]

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Objects(GroundTruth):
    """The true objects of every row; a row may have none.

    Args:
        ids: `(N,)` unique row names.
        classes: C class names; every object is of one of them, not every one need occur.
        offsets: `(N + 1,)` row n owns the objects from `offsets[n]` to `offsets[n + 1]`.
        boxes_K4: `(K, 4)` floats: left, top, right, bottom; kept in double precision.
        labels_K: `(K,)` positions in `classes`.
        crowd_K: `(K,)` True for a box around many objects: it can hold any number of detections,
            which then count neither way. None: no such.
        ignored_K: `(K,)` True for an object that need not be found: crowds, and what is marked as
            difficult. None: the crowds.
        areas_K: `(K,)` areas by which COCO calls an object small, medium or large; None: of the
            boxes (COCO's files give those of the masks).
        relative: Whether coordinates are shares of the image's width and height, else pixels.
        sizes_N2: `(N, 2)` width and height of the images in pixels; None where they are not known.
    """

    ids: Ids
    classes: tuple[str, ...]
    offsets: Offsets
    boxes_K4: Floats
    labels_K: Offsets
    crowd_K: Flags | None = None
    ignored_K: Flags | None = None
    areas_K: Floats | None = None
    relative: bool = False
    sizes_N2: Floats | None = None

    def __post_init__(self) -> None:
        ids, classes = as_ids(self.ids), tuple(str(name) for name in self.classes)
        labels_K = np.asarray(self.labels_K, dtype=np.int64)
        offsets = as_offsets(self.offsets, len(ids), len(labels_K))
        given_K4 = np.asarray(self.boxes_K4, dtype=np.float64)
        boxes_K4 = check_boxes(given_K4, ids, rows_of_entries(offsets), relative=self.relative)
        none_K = np.zeros(len(labels_K), dtype=bool)
        crowd_K = none_K if self.crowd_K is None else np.asarray(self.crowd_K, dtype=bool)
        ignored_K = crowd_K if self.ignored_K is None else np.asarray(self.ignored_K, dtype=bool)
        sides_K2 = boxes_K4[:, 2:] - boxes_K4[:, :2]
        areas: Array = sides_K2.prod(axis=1) if self.areas_K is None else np.asarray(self.areas_K)
        assert len(crowd_K) == len(ignored_K) == len(areas) == len(labels_K)
        assert not len(labels_K) or 0 <= labels_K.min() <= labels_K.max() < len(classes)
        assert self.sizes_N2 is None or self.sizes_N2.shape == (len(ids), 2)
        made = {"ids": ids, "classes": classes, "offsets": offsets, "boxes_K4": boxes_K4}
        made |= {"labels_K": labels_K, "crowd_K": crowd_K, "areas_K": areas}
        for name, value in (made | {"ignored_K": ignored_K | crowd_K}).items():
            object.__setattr__(self, name, value)

    @property
    def strata_N(self) -> Offsets:
        """Each row's rarest class, so that rare ones reach every fold; C where a row has none."""
        shape = (len(self.ids), len(self.classes))
        present_NC = np.zeros(shape, dtype=bool)
        present_NC[self.rows_K, self.labels_K] = True
        counts_C = present_NC.sum(axis=0)
        rarity_NC = np.where(present_NC, counts_C, len(self.ids) + 1)
        rarest_N = rarity_NC.argmin(axis=1) if shape[1] else np.zeros(shape[0], dtype=np.int64)
        return np.where(present_NC.any(axis=1), rarest_N, shape[1])

    @property
    def rows_K(self) -> Offsets:
        """`(K,)` the position of each object's row."""
        return rows_of_entries(self.offsets)

    def take(self, rows: Array) -> Self:
        """The objects of some rows, by position or by mask, in the order given."""
        offsets, entries = entries_of(self.offsets, rows)
        assert self.crowd_K is not None and self.ignored_K is not None and self.areas_K is not None
        return replaced(
            self,
            ids=self.ids[rows],
            offsets=offsets,
            boxes_K4=self.boxes_K4[entries],
            labels_K=self.labels_K[entries],
            crowd_K=self.crowd_K[entries],
            ignored_K=self.ignored_K[entries],
            areas_K=self.areas_K[entries],
            sizes_N2=None if self.sizes_N2 is None else self.sizes_N2[rows],
        )
