# SPDX-License-Identifier: Apache-2.0
"""Split conformal intervals: numbers with a band that holds the truth as often as promised.

Shapes: N rows, D numbers.
"""

from dataclasses import dataclass

import numpy as np

from fusetune.calibrate.conformal import conformal_quantile
from fusetune.calibrate.fitting import share
from fusetune.errors import PredictionError, name_some
from fusetune.fitted import Fitted
from fusetune.predictions.kinds import Array, Floats, Ids, Values
from fusetune.predictions.points import point_errors, quantile_errors
from fusetune.predictions.targets import Numbers
from fusetune.predictions.weights import row_weights

__all__ = ["ConformalIntervals", "IntervalCalibration", "Intervals"]


@dataclass(frozen=True, kw_only=True)
class ConformalIntervals:
    """Intervals that cover new numbers with a stated probability, whatever the model.

    Of numbers, predicted y' ± q, where q is the conformal quantile of |y - y'| on the fit rows:
    equally wide for every row; with several numbers each has a width of its own and is covered by
    itself. Of quantiles [lowest - q, highest + q] with q that of max(lowest - y, y - highest)
    (conformalized quantile regression): as wide as the row demands, and narrower than predicted
    where q is below 0; ends that would cross meet in their middle.

    The promise holds on average over rows drawn like the fit rows, not for each kind of row. Do
    not use it on rows that fitted the model, nor where time or groups tie rows together.

    Args:
        coverage: Share of new rows to cover; 0.9 as in the second paper.

    Reference:
        Lei, G'Sell, Rinaldo, Tibshirani, Wasserman. "Distribution-free predictive inference for
        regression". JASA, 2018; Romano, Patterson, Candès. "Conformalized quantile regression".
        NeurIPS 2019.

    Example:
        >>> ids = [f"row{n}" for n in range(9)]
        >>> said = Values(ids, ("price",), np.zeros((9, 1)))
        >>> so = Numbers(ids, ("price",), np.arange(9.0)[:, None])
        >>> intervals = ConformalIntervals(coverage=0.8).fit(said, so)(said)
        >>> intervals.low_ND[0].tolist(), intervals.high_ND[0].tolist()
        ([-7.0], [7.0])
    """

    coverage: float = 0.9

    def __post_init__(self) -> None:
        share("coverage", self.coverage)

    def fit(self, prediction: Values, targets: Numbers) -> "IntervalCalibration":
        """The margins, from rows that fitted neither the model nor the fusion.

        Args:
            prediction: Numbers, or quantiles of one number (two levels at least).
            targets: The true numbers, in the same order of rows.

        Raises:
            PredictionError: There are too few rows for the coverage, or columns do not fit.
        """
        row_weights(prediction.ids, None, "the intervals")
        if prediction.levels:
            errors_ND = quantile_errors(prediction, targets)
            if len(prediction.levels) < 2:
                raise PredictionError(
                    f"the only quantile is that of level {prediction.levels[0]:g}",
                    "a lower and a higher one",
                    "Predict quantiles on both sides, such as 0.05 and 0.95.",
                )
            scores_ND = np.maximum(errors_ND[:, :1], -errors_ND[:, -1:])
        else:
            scores_ND = np.abs(point_errors(prediction, targets))
        return IntervalCalibration(
            names=targets.names,
            said=prediction.names,
            levels=prediction.levels,
            margins_D=np.array([conformal_quantile(s_N, self.coverage) for s_N in scores_ND.T]),
            coverage=self.coverage,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class IntervalCalibration(Fitted):
    """Fitted margins.

    Args:
        names: D names of the true numbers.
        said: Names of the prediction's columns.
        levels: Their quantile levels; empty: they are the numbers themselves.
        margins_D: `(D,)` added on both sides; below 0 they narrow quantiles.
        coverage: Share of new rows that is covered.
    """

    names: tuple[str, ...]
    said: tuple[str, ...]
    levels: tuple[float, ...]
    margins_D: Floats
    coverage: float

    def __call__(self, prediction: Values) -> "Intervals":
        """The intervals of new rows, in double precision.

        Raises:
            PredictionError: The prediction has other columns or levels than those fitted on.
        """
        if set(prediction.names) != set(self.said) or prediction.levels != self.levels:
            raise PredictionError(
                f"the prediction has the columns {name_some(prediction.names)} with "
                f"{len(prediction.levels) or 'no'} quantile levels",
                f"{name_some(self.said)} with {len(self.levels) or 'no'} levels, on which the "
                "intervals were fitted",
                "Give predictions of the same model, or fit the intervals again.",
            )
        if prediction.levels:
            low_ND, high_ND = prediction.values_ND[:, :1], prediction.values_ND[:, -1:]
        else:
            wanted = self.names if len(self.names) > 1 else self.said
            order = [prediction.names.index(name) for name in wanted]
            low_ND = high_ND = np.take(prediction.values_ND, order, axis=1)
        low_ND, high_ND = low_ND - self.margins_D, high_ND + self.margins_D
        middle_ND = (low_ND + high_ND) / 2
        return Intervals(
            ids=prediction.ids,
            names=self.names,
            low_ND=np.minimum(low_ND, middle_ND),
            high_ND=np.maximum(high_ND, middle_ND),
            coverage=self.coverage,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Intervals:
    """An interval per row and number.

    Args:
        ids: `(N,)` row names.
        names: D names of the numbers.
        low_ND: `(N, D)` lower ends.
        high_ND: `(N, D)` upper ends, at least as high.
        coverage: Share of rows whose interval holds the true number, by promise.
    """

    ids: Ids
    names: tuple[str, ...]
    low_ND: Floats
    high_ND: Floats
    coverage: float

    def covers(self, targets: Numbers) -> Array:
        """`(N, D)` booleans: does the closed interval hold the true number?"""
        assert np.array_equal(self.ids, targets.ids) and self.names == targets.names
        inside_ND: Array = (self.low_ND <= targets.values_ND) & (targets.values_ND <= self.high_ND)
        return inside_ND
