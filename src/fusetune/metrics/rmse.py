# SPDX-License-Identifier: Apache-2.0
"""Root mean squared error, in the unit of the number predicted.

Shapes: N rows, D numbers, R resamples, S statistics of a row (here D).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fusetune.metric import Metric
from fusetune.predictions.kinds import Floats, Kind, Values
from fusetune.predictions.points import point_errors
from fusetune.predictions.targets import Numbers

__all__ = ["Rmse"]


@dataclass(frozen=True, kw_only=True)
class Rmse(Metric[Values]):
    """sqrt(mean of (predicted - true)^2), in the target's unit; lower is better, from 0.

    With several numbers per row the mean of their errors, as scikit-learn's
    `root_mean_squared_error` has it: bring them to one scale first. Of quantiles the median is
    judged. Do not use it where a few extreme rows should not decide (see `mae`).

    Reference:
        Gauss, C. F. "Theoria combinationis observationum erroribus minimis obnoxiae". 1823.

    Example:
        >>> prediction = Values(["a", "b"], ("price",), np.array([[3.0], [1.0]]))
        >>> targets = Numbers(prediction.ids, ("price",), np.array([[4.0], [8.0]]))
        >>> Rmse().value(Rmse().statistics(prediction, targets))
        5.0
    """

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Values})
    higher_is_better: ClassVar[bool] = False
    title: ClassVar[str] = "RMSE"
    mean_of_rows: ClassVar[bool] = True

    def statistics(self, prediction: Values, targets: Numbers) -> Floats:
        """`(N, D)` squared errors."""
        return point_errors(prediction, targets) ** 2

    def values(self, statistics_NS: Floats, weights_RN: Floats) -> Floats:
        """`(R,)` means over the numbers of the root of the weighted mean."""
        with np.errstate(invalid="ignore"):  # no rows: no value, NaN
            means_RD = weights_RN @ statistics_NS / weights_RN.sum(axis=1, keepdims=True)
        values_R: Floats = np.sqrt(means_RD).mean(axis=1)
        return values_R
