# SPDX-License-Identifier: Apache-2.0
"""One class for every pixel: the truth of segmentation, and members that give no probabilities.

Shapes: N rows, C classes, H W pixels.
"""

import abc
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from fusetune.predictions.kinds import Array, Floats, Ids, as_ids
from fusetune.predictions.segmentation.masks import Mask, Places, Size, begins
from fusetune.predictions.targets import GroundTruth

__all__ = ["IGNORED", "ArrayLabels", "LabelMap", "LabelMaps", "LabelMask", "Labels", "class_counts"]

IGNORED = -1
"""Pixels of no class: the truth does not judge them, a member does not vote on them."""

Integers = npt.NDArray[np.int64]
LabelMap = npt.NDArray[np.int16]


class Labels(abc.ABC):
    """One row's labels `(H, W)`: positions of classes, or `IGNORED`."""

    size: Size
    _sample: tuple[Places, LabelMap] | None = None

    @abc.abstractmethod
    def read(self) -> LabelMap:
        """`(H, W)` labels; not to be changed."""

    def sample(self, places_P: Places) -> LabelMap:
        """`(P,)` labels of some pixels, by their positions line after line; kept, as masks keep them."""
        if self._sample is None or not begins(self._sample[0], places_P):
            self._sample = (places_P, self.read().reshape(-1)[places_P])
        return self._sample[1][: len(places_P)]


class ArrayLabels(Labels):
    """Labels in memory."""

    def __init__(self, labels_HW: Array) -> None:
        self.labels_HW = np.asarray(labels_HW).astype(np.int16)
        self.size = (self.labels_HW.shape[0], self.labels_HW.shape[1])

    def read(self) -> LabelMap:
        """See `Labels`."""
        return self.labels_HW


class LabelMask(Mask):
    """Labels as probabilities: all on the label, or spread evenly where there is none."""

    def __init__(self, labels: Labels, num_classes: int) -> None:
        super().__init__(labels.size, num_classes)
        self.labels = labels

    def band(self, top: int, bottom: int) -> Floats:
        """See `Mask`."""
        return self._one_hot(self.labels.read()[top:bottom])

    def pixels(self, places_P: Places) -> Floats:
        """See `Mask`."""
        return self._one_hot(self.labels.read().reshape(-1)[places_P])

    def _one_hot(self, labels: LabelMap) -> Floats:
        hot = np.zeros((self.num_classes, *labels.shape), dtype=np.float32)
        for index in range(self.num_classes):
            hot[index] = labels == index
        hot[:, labels == IGNORED] = 1 / self.num_classes
        return hot


@dataclass(frozen=True, eq=False)
class LabelMaps(GroundTruth):
    """The true class of every pixel of every row; `IGNORED` pixels count nowhere.

    Args:
        ids: `(N,)` unique row names.
        classes: C class names; not every one need occur.
        maps: N label maps, read when they are needed.
        counts_NC: `(N, C)` numbers of pixels of each class.
    """

    ids: Ids
    classes: tuple[str, ...]
    maps: tuple[Labels, ...]
    counts_NC: Integers

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", as_ids(self.ids))
        object.__setattr__(self, "classes", tuple(str(name) for name in self.classes))
        object.__setattr__(self, "maps", tuple(self.maps))
        assert self.counts_NC.shape == (len(self.ids), len(self.classes))
        assert len(self.maps) == len(self.ids)

    @classmethod
    def from_arrays(cls, ids: Ids, classes: tuple[str, ...], arrays: list[Array]) -> Self:
        """Label maps in memory: N arrays `(H, W)` of positions in `classes`, or -1."""
        maps = tuple(ArrayLabels(array) for array in arrays)
        counts = [class_counts(one.read(), len(classes)) for one in maps]
        return cls(ids, classes, maps, np.array(counts).reshape(-1, len(classes)))

    @property
    def strata_N(self) -> Integers:
        """Each row's rarest class, so that rare ones reach every fold; C where a row has none."""
        present_NC = self.counts_NC > 0
        rows_C = present_NC.sum(axis=0)
        rarity_NC = np.where(present_NC, rows_C, len(self.ids) + 1)
        return np.where(present_NC.any(axis=1), rarity_NC.argmin(axis=1), len(self.classes))

    def take(self, rows: Array) -> Self:
        """The label maps of some rows, by position or by mask, in the order given."""
        positions = np.arange(len(self.ids))[rows]
        maps = tuple(self.maps[n] for n in positions.tolist())
        return type(self)(self.ids[rows], self.classes, maps, self.counts_NC[rows])


def class_counts(labels_HW: LabelMap, num_classes: int) -> Integers:
    """`(C,)` numbers of pixels of each class.

    Example:
        >>> class_counts(np.array([[0, 2], [-1, 2]], dtype=np.int16), 3).tolist()
        [1, 0, 2]
    """
    return np.bincount(labels_HW.reshape(-1).astype(np.int64) + 1, minlength=num_classes + 1)[1:]
