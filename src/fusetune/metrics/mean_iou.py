# SPDX-License-Identifier: Apache-2.0
"""Mean intersection over union: the usual score of semantic segmentation.

Shapes: N rows, C classes, R resamples.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fusetune.metric import Metric
from fusetune.predictions.kinds import Floats, Kind
from fusetune.predictions.segmentation.label_maps import LabelMaps
from fusetune.predictions.segmentation.masks import Masks
from fusetune.predictions.segmentation.tallies import mean_ratios, tally_statistics

__all__ = ["MeanIou"]


@dataclass(frozen=True, kw_only=True)
class MeanIou(Metric[Masks]):
    """Mean over classes of |called and truly so| / |called or truly so|; higher is better, 0 to 1.

    Pixels are counted over all rows before the division, as in Pascal VOC and Cityscapes: a value of
    the data set, not a mean of images' values. Averaged over the classes that occur among the truth
    or what is called (in a resample, those that occur in it). A class that the truth does not know
    counts against the class that is missed; ignored pixels count nowhere; the earlier class wins a
    tie.

    Reference:
        Everingham et al. "The Pascal visual object classes (VOC) challenge". IJCV, 2010.

    Example:
        >>> said = [[[0.9, 0.2, 0.3]], [[0.1, 0.8, 0.7]]]  # two classes, one line of three pixels
        >>> masks = Masks.from_arrays(["a"], ("road", "car"), [np.array(said)])
        >>> truth = LabelMaps.from_arrays(["a"], ("road", "car"), [np.array([[0, 1, 0]])])
        >>> round(MeanIou().value(MeanIou().statistics(masks, truth)), 4)
        0.5
    """

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Masks})
    higher_is_better: ClassVar[bool] = True
    title: ClassVar[str] = "Mean IoU"
    percent: ClassVar[bool] = True
    of_tallies: ClassVar[bool] = True

    def statistics(self, prediction: Masks, targets: LabelMaps) -> Floats:
        """`(N, 3 C)` pixels: rightly called so, called so, truly so, of each class."""
        return tally_statistics(prediction, targets)

    def values(self, statistics_NS: Floats, weights_RN: Floats) -> Floats:
        """`(R,)` means over the classes that occur in the resample."""
        right_RC, called_RC, true_RC = np.split(weights_RN @ statistics_NS, 3, axis=1)
        return mean_ratios(right_RC, called_RC + true_RC - right_RC)
