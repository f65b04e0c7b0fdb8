# SPDX-License-Identifier: Apache-2.0
"""Mean absolute error, in the unit of the number predicted.

Shapes: N rows, D numbers, R resamples, S statistics of a row (here 1).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fusetune.metric import Metric, weighted_means
from fusetune.predictions.kinds import Floats, Kind, Values
from fusetune.predictions.points import point_errors
from fusetune.predictions.targets import Numbers

__all__ = ["Mae"]


@dataclass(frozen=True, kw_only=True)
class Mae(Metric[Values]):
    """Mean of |predicted - true|, in the target's unit; lower is better, from 0.

    With several numbers per row the mean over them: bring them to one scale first. Of quantiles
    the median is judged. The best constant is the median, not the mean: do not use it where sums
    have to come out right (see `rmse`).

    Reference:
        Boscovich, R. J. 1757, as told by Stigler, "The History of Statistics", Harvard, 1986.

    Example:
        >>> prediction = Values(["a", "b"], ("price",), np.array([[3.0], [1.0]]))
        >>> targets = Numbers(prediction.ids, ("price",), np.array([[4.0], [8.0]]))
        >>> Mae().value(Mae().statistics(prediction, targets))
        4.0
    """

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Values})
    higher_is_better: ClassVar[bool] = False
    title: ClassVar[str] = "MAE"
    mean_of_rows: ClassVar[bool] = True

    def statistics(self, prediction: Values, targets: Numbers) -> Floats:
        """`(N, 1)` absolute errors, averaged over the numbers."""
        return np.abs(point_errors(prediction, targets)).mean(axis=1, keepdims=True)

    def values(self, statistics_NS: Floats, weights_RN: Floats) -> Floats:
        """`(R,)` weighted mean errors."""
        return weighted_means(statistics_NS, weights_RN)
