# SPDX-License-Identifier: Apache-2.0
"""Pinball loss: how good predicted quantiles are.

Shapes: N rows, D quantiles, R resamples, S statistics of a row (here 1).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fusetune.metric import Metric, weighted_means
from fusetune.predictions.kinds import Floats, Kind, Values
from fusetune.predictions.points import quantile_errors
from fusetune.predictions.targets import Numbers

__all__ = ["Pinball"]


@dataclass(frozen=True, kw_only=True)
class Pinball(Metric[Values]):
    """Mean over rows and quantiles of the quantile loss, in the target's unit; lower is better.

    For a quantile q of level a and the truth y it is a (y - q) where y lies above and
    (1 - a) (q - y) where it lies below: least, on average, for the true quantile. At the level 0.5
    it is half the absolute error. Levels count alike: twice the mean over many even levels
    approaches the continuous ranked probability score. Do not compare predictions with
    different levels.

    Reference:
        Koenker, Bassett. "Regression quantiles". Econometrica, 1978.

    Example:
        >>> prediction = Values(["a"], ("q10", "q90"), np.array([[1.0, 5.0]]), levels=(0.1, 0.9))
        >>> targets = Numbers(prediction.ids, ("price",), np.array([[6.0]]))
        >>> round(Pinball().value(Pinball().statistics(prediction, targets)), 4)
        0.7
    """

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Values})
    higher_is_better: ClassVar[bool] = False
    title: ClassVar[str] = "Pinball loss"
    mean_of_rows: ClassVar[bool] = True

    def statistics(self, prediction: Values, targets: Numbers) -> Floats:
        """`(N, 1)` losses, averaged over the quantiles."""
        errors_ND = quantile_errors(prediction, targets)
        levels_D = np.array(prediction.levels)
        losses_ND = np.where(errors_ND > 0, (1 - levels_D) * errors_ND, -levels_D * errors_ND)
        return losses_ND.mean(axis=1, keepdims=True)

    def values(self, statistics_NS: Floats, weights_RN: Floats) -> Floats:
        """`(R,)` weighted mean losses."""
        return weighted_means(statistics_NS, weights_RN)
