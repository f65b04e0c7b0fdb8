# SPDX-License-Identifier: Apache-2.0
"""Mean Dice coefficient: the usual score of medical segmentation.

Shapes: N rows, C classes, R resamples.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fusetune.metric import Metric
from fusetune.predictions.kinds import Floats, Kind
from fusetune.predictions.label_maps import LabelMaps
from fusetune.predictions.masks import Masks
from fusetune.predictions.tallies import class_tallies

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

    def statistics(self, prediction: Masks, targets: LabelMaps) -> Floats:
        """`(N, 3 C)` pixels: rightly called so, called so, truly so, of each class."""
        assert np.array_equal(prediction.ids, targets.ids), "prediction and targets differ in rows"
        return (
            class_tallies(prediction, targets)
            .reshape(len(prediction), 3 * len(targets.classes))
            .astype(np.float64)
        )

    def values(self, statistics_NS: Floats, weights_RN: Floats) -> Floats:
        """`(R,)` means over the classes that occur in the resample."""
        pixels_RT = weights_RN @ statistics_NS
        right_RC, called_RC, true_RC = np.split(pixels_RT, 3, axis=1)
        either_RC = called_RC + true_RC
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios_RC = np.where(either_RC > 0, 2 * right_RC / either_RC, 0.0)
            means_R: Floats = ratios_RC.sum(axis=1) / (either_RC > 0).sum(axis=1)
        return means_R
