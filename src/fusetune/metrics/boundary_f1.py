# SPDX-License-Identifier: Apache-2.0
"""Boundary F1: whether outlines lie where they should.

Shapes: N rows, C classes, H W pixels, R resamples.
"""

import weakref
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fusetune.errors import InvalidValue
from fusetune.metric import Metric, weighted_means
from fusetune.predictions.kinds import Array, Floats, Kind
from fusetune.predictions.segmentation.label_maps import LabelMaps
from fusetune.predictions.segmentation.masks import Mask, Masks
from fusetune.predictions.segmentation.tallies import decided_of

__all__ = ["BoundaryF1"]

_KEPT: "weakref.WeakKeyDictionary[Mask, tuple[Any, float]]" = weakref.WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True)
class BoundaryF1(Metric[Masks]):
    """Mean over images of the mean F1 of their classes' outlines; higher is better, 0 to 1.

    Of each class that an image has, or is called to have: the share of its predicted outline within
    a tolerance of the true one (precision), the share of the true one within it of the
    predicted one (recall), and their harmonic mean. An outline is the class's pixels that have a
    neighbor, of four, of another class; ignored pixels are on no outline, and the image's edge makes
    none. A class without any outline, in truth and prediction, counts as 1 if both have it. An image
    whose pixels are all ignored counts as 1.

    Intersection over union hardly sees an object's outline, and this sees nothing else.

    Args:
        tolerance: Distance that is near enough, as a share of the image's diagonal; 0.0075, as in
            the paper.

    Cost:
        Two distance transforms of the image for each class that it has.

    Reference:
        Csurka, Larlus, Perronnin. "What is a good evaluation measure for semantic segmentation?"
        BMVC, 2013.
    """

    tolerance: float = 0.0075

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Masks})
    higher_is_better: ClassVar[bool] = True
    title: ClassVar[str] = "Boundary F1"
    percent: ClassVar[bool] = True
    reads_neighbors: ClassVar[bool] = True
    mean_of_rows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise InvalidValue(
                f"tolerance is {self.tolerance}",
                "a share of the diagonal between 0 and 1",
                "Write 0.0075, the default.",
            )

    def statistics(self, prediction: Masks, targets: LabelMaps) -> Floats:
        """`(N, 1)` mean F1 of each image's classes."""
        assert np.array_equal(prediction.ids, targets.ids), "prediction and targets differ in rows"
        found = np.ones((len(prediction), 1))
        for row, (mask, labels) in enumerate(zip(prediction.masks, targets.maps, strict=True)):
            key, kept = (self.tolerance, prediction.classes, targets.classes), _KEPT.get(mask)
            if kept is None or kept[0][1:] != key or kept[0][0]() is not labels:
                said_HW = decided_of(mask, prediction.classes, targets.classes)
                value = _mean_f1(said_HW, labels.read(), self.tolerance)
                kept = ((weakref.ref(labels), *key), value)
                _KEPT[mask] = kept
            found[row] = kept[1]
        return found

    def values(self, statistics_NS: Floats, weights_RN: Floats) -> Floats:
        """`(R,)` weighted means of the images."""
        return weighted_means(statistics_NS, weights_RN)


def _mean_f1(said_HW: Array, truth_HW: Array, tolerance: float) -> float:
    """Mean F1 over the classes that an image has, or is called to have."""
    judged_HW = truth_HW >= 0
    near = max(1.0, tolerance * float(np.hypot(*truth_HW.shape)))
    values = []
    for label in np.union1d(said_HW[judged_HW], truth_HW[judged_HW]).tolist():
        said, true = (_outline(one, label, judged_HW) for one in (said_HW, truth_HW))
        if not said.any() and not true.any():
            values.append(
                float(((said_HW == label) & judged_HW).any() and (truth_HW == label).any())
            )
            continue
        precision, recall = _share_near(said, true, near), _share_near(true, said, near)
        total = precision + recall
        values.append(2 * precision * recall / total if total else 0.0)
    return float(np.mean(values)) if values else 1.0


def _outline(labels_HW: Array, label: int, judged_HW: Array) -> Array:
    """`(H, W)` booleans: pixels of the class beside judged pixels of another one."""
    own = (labels_HW == label) & judged_HW
    other = (labels_HW != label) & judged_HW
    beside = np.zeros_like(own)
    beside[1:] |= other[:-1]
    beside[:-1] |= other[1:]
    beside[:, 1:] |= other[:, :-1]
    beside[:, :-1] |= other[:, 1:]
    return own & beside


def _share_near(points_HW: Array, others_HW: Array, near: float) -> float:
    """Share of the points that lie within a distance of any of the others."""
    from scipy.ndimage import distance_transform_edt

    if not points_HW.any():
        return 0.0
    around = tuple(_reach(np.asarray(points_HW.any(axis=axis)), near) for axis in (1, 0))
    points_HW, others_HW = points_HW[around], others_HW[around]
    if not others_HW.any():
        return 0.0
    distances_HW = distance_transform_edt(~others_HW)
    return float((distances_HW[points_HW] <= near).mean())


def _reach(occupied: Array, near: float) -> slice:
    """From the first to the last that is occupied, and what lies near these."""
    places, margin = np.flatnonzero(occupied), int(np.ceil(near))
    return slice(max(0, int(places[0]) - margin), int(places[-1]) + margin + 1)
