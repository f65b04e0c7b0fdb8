# SPDX-License-Identifier: Apache-2.0
"""Pixel accuracy: the share of pixels that are called what they are.

Shapes: N rows, C classes, R resamples.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fusetune.metric import Metric
from fusetune.predictions.kinds import Floats, Kind
from fusetune.predictions.segmentation.label_maps import LabelMaps
from fusetune.predictions.segmentation.masks import Masks
from fusetune.predictions.segmentation.tallies import tally_statistics

__all__ = ["PixelAccuracy"]


@dataclass(frozen=True, kw_only=True)
class PixelAccuracy(Metric[Masks]):
    """Share of all pixels that are called what they are; higher is better, 0 to 1.

    Pixels are counted over all rows, so that large images count more; ignored pixels do not count, and
    the earlier class wins a tie. Common classes decide it: prefer `mean_iou` where rare ones matter.

    Reference:
        Long, Shelhamer, Darrell. "Fully convolutional networks for semantic segmentation". CVPR,
        2015.

    Example:
        >>> said = [[[0.9, 0.2, 0.3]], [[0.1, 0.8, 0.7]]]  # two classes, one line of three pixels
        >>> masks = Masks.from_arrays(["a"], ("road", "car"), [np.array(said)])
        >>> truth = LabelMaps.from_arrays(["a"], ("road", "car"), [np.array([[0, 1, 0]])])
        >>> round(PixelAccuracy().value(PixelAccuracy().statistics(masks, truth)), 4)
        0.6667
    """

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Masks})
    higher_is_better: ClassVar[bool] = True
    title: ClassVar[str] = "Pixel accuracy"
    percent: ClassVar[bool] = True
    of_tallies: ClassVar[bool] = True

    def statistics(self, prediction: Masks, targets: LabelMaps) -> Floats:
        """`(N, 3 C)` pixels: rightly called so, called so, truly so, of each class."""
        return tally_statistics(prediction, targets)

    def values(self, statistics_NS: Floats, weights_RN: Floats) -> Floats:
        """`(R,)` shares; NaN without a pixel."""
        right_RC, _, true_RC = np.split(weights_RN @ statistics_NS, 3, axis=1)
        with np.errstate(invalid="ignore"):
            shares_R: Floats = right_RC.sum(axis=1) / true_RC.sum(axis=1)
        return shares_R
