# SPDX-License-Identifier: Apache-2.0
"""Mean Dice coefficient: the usual score of medical segmentation.

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

__all__ = ["MeanDice"]


@dataclass(frozen=True, kw_only=True)
class MeanDice(Metric[Masks]):
    """Mean over classes of 2 |called and truly so| / (|called so| + |truly so|), 0 to 1.

    Higher is better. As `mean_iou`, pixels are counted over all rows before the division, and
    classes are averaged that occur; it is less hard on small overlaps.

    Reference:
        Dice, L. R. "Measures of the amount of ecologic association between species". Ecology, 1945.

    Example:
        >>> said = [[[0.9, 0.2, 0.3]], [[0.1, 0.8, 0.7]]]  # two classes, one line of three pixels
        >>> masks = Masks.from_arrays(["a"], ("road", "car"), [np.array(said)])
        >>> truth = LabelMaps.from_arrays(["a"], ("road", "car"), [np.array([[0, 1, 0]])])
        >>> round(MeanDice().value(MeanDice().statistics(masks, truth)), 4)
        0.6667
    """

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Masks})
    higher_is_better: ClassVar[bool] = True
    title: ClassVar[str] = "Mean Dice"
    percent: ClassVar[bool] = True
    of_tallies: ClassVar[bool] = True

    def statistics(self, prediction: Masks, targets: LabelMaps) -> Floats:
        """`(N, 3 C)` pixels: rightly called so, called so, truly so, of each class."""
        return tally_statistics(prediction, targets)

    def values(self, statistics_NS: Floats, weights_RN: Floats) -> Floats:
        """`(R,)` means over the classes that occur in the resample."""
        right_RC, called_RC, true_RC = np.split(weights_RN @ statistics_NS, 3, axis=1)
        return mean_ratios(2 * right_RC, called_RC + true_RC)
