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
from fusetune.predictions.segmentation.outlines import (
    NOWHERE,
    label_counts,
    near_counts,
    outlines_of,
)
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
        Some passes over the image, and for each pixel of an outline those around it that are nearer than
        the other outline.

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
    maps = said_HW, truth_HW
    num_labels = 1 + max(int(one.max(initial=0)) for one in maps)
    outlines = tuple(outlines_of(one, judged_HW) for one in maps)
    said_L, true_L = (label_counts(one[judged_HW], num_labels) for one in maps)
    lengths = [label_counts(one[one != NOWHERE], num_labels) for one in outlines]
    said, true = outlines
    found = (near_counts(said, true, near, num_labels), near_counts(true, said, near, num_labels))
    precision_L, recall_L = (
        near_L / np.maximum(length_L, 1) for near_L, length_L in zip(found, lengths, strict=True)
    )
    total_L = precision_L + recall_L
    f1_L = 2 * precision_L * recall_L / np.where(total_L > 0, total_L, 1)
    plain_L = (lengths[0] == 0) & (lengths[1] == 0)
    f1_L[plain_L & (said_L > 0) & (true_L > 0)] = 1
    occurs_L = (said_L > 0) | (true_L > 0)
    return float(np.mean(f1_L[occurs_L])) if occurs_L.any() else 1.0
