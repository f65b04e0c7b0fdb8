# SPDX-License-Identifier: Apache-2.0
"""Inverse-error weighting: members count the more, the smaller their own errors.

Shapes: M members, N rows.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from fusetune.errors import InvalidValue
from fusetune.fuse.evidence import error_blocks
from fusetune.fuse.forms import WeightedAverage, fit_weights
from fusetune.fuse.method import FusionMethod
from fusetune.metric import Metric
from fusetune.predictions.kinds import Array, Floats, Kind, Marginals, Probabilities, Values
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import AnyTargets

__all__ = ["InverseError"]


@dataclass(frozen=True, kw_only=True)
class InverseError(FusionMethod[Any]):
    """Weights w_m proportional to 1 / e_m, where e_m is the member's own error on the holdout.

    e is the mean squared error (Brier's score, for classes): the best weights for values if errors
    are unbiased and not correlated. Members without any error share all weight. It estimates one
    number per member, so a few dozen rows do; it drops nobody.

    Do not use it when members resemble each other: it counts ten copies ten times, where
    `weighted_mean` sees their correlation and `greedy_selection` takes one.

    Args:
        error: `squared_error`, or `metric`: the user's metric, and 1 minus it where higher is
            better. Of quantiles it is always the metric.
        power: Weights are (1 / e)^power: 0 is the plain mean, more favors the best members. 1 for
            the mean squared error, as in the paper.

    Cost:
        One pass over M N C numbers.

    Reference:
        Bates, Granger. "The combination of forecasts". Operational Research Quarterly, 1969.
    """

    error: Literal["squared_error", "metric"] = "squared_error"
    power: float = 1.0

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Probabilities, Marginals, Values})

    def __post_init__(self) -> None:
        if self.error not in ("squared_error", "metric"):
            raise InvalidValue(
                f"error is '{self.error}'", "squared_error or metric", "Write squared_error."
            )
        if not 0 <= self.power < np.inf:
            raise InvalidValue(
                f"power is {self.power}", "a finite number of at least 0", "Write 1, the default."
            )

    def fit(
        self,
        stack: Stack[Any],
        targets: AnyTargets,
        metric: Metric[Any],
        *,
        sample_weights_N: Array | None = None,
    ) -> WeightedAverage:
        """Weights by the inverse errors; the metric is read where it is the error."""
        weights_N = fit_weights(stack, targets, sample_weights_N)
        first = stack.parts[0]
        if self.error == "metric" or (isinstance(first, Values) and first.levels):
            errors_M = _metric_errors(stack, targets, metric, weights_N)
        else:
            blocks = error_blocks(stack, targets, weights_N / weights_N.sum())
            squares = [np.einsum("mnc,mnc->m", block, block) for block in blocks]
            errors_M = np.sum(squares, axis=0)
        return WeightedAverage.of(
            dict(zip(stack.members, _inverse(errors_M, self.power).tolist(), strict=True))
        )


def _metric_errors(
    stack: Stack[Any], targets: AnyTargets, metric: Metric[Any], weights_N: Floats
) -> Floats:
    """`(M,)` errors of at least 0; infinite where the metric has no value."""
    values = [metric.value(metric.statistics(part, targets), weights_N) for part in stack.parts]
    errors_M = 1 - np.array(values) if metric.higher_is_better else np.array(values)
    return np.maximum(np.nan_to_num(errors_M, nan=np.inf), 0)


def _inverse(errors_M: Floats, power: float) -> Floats:
    """`(M,)` weights, the largest 1; equal if no member has a finite error."""
    least = float(errors_M.min())
    if least == 0 or not np.isfinite(least):
        return (errors_M == least).astype(np.float64) if power else np.ones(len(errors_M))
    weights_M: Floats = (least / errors_M) ** power
    return weights_M
