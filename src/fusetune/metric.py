# SPDX-License-Identifier: Apache-2.0
"""Interface of a metric: statistics of every row once, then cheap to resample, stream and select by.

Shapes: N rows, S statistics of a row, R resamples.
"""

import abc
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar, final

import numpy as np

from fusetune.errors import InvalidValue
from fusetune.plugins import plugin_name
from fusetune.predictions.kinds import Array, Floats, Kind
from fusetune.predictions.targets import AnyTargets

__all__ = ["Metric", "check_kind", "same_width", "weighted_means"]

K = TypeVar("K", bound=Kind)


class Metric(abc.ABC, Generic[K]):
    """A number that says how good predictions are. Plug-ins are frozen dataclasses."""

    accepts: ClassVar[frozenset[type[Kind]]]
    higher_is_better: ClassVar[bool]
    title: ClassVar[str]
    percent: ClassVar[bool] = False
    """Values are shares, which people read in percent, and their differences in points."""

    weighs_classes_evenly: ClassVar[bool] = False
    """A rare class counts as much as a common one: the best decision then divides by the shares."""
    reads_neighbors: ClassVar[bool] = False
    """Of masks: a pixel's neighbors matter, so that single pixels do not have the value."""
    of_tallies: ClassVar[bool] = False
    """Of masks: statistics are `tally_statistics`, which any pixels of a row have."""
    mean_of_rows: ClassVar[bool] = False
    """With one statistic per row, values rise with its weighted mean, or fall: swaps only flip signs."""

    @property
    def name(self) -> str:
        """Name in recipes and results: the plug-in's file."""
        return plugin_name(type(self))

    @abc.abstractmethod
    def statistics(self, prediction: K, targets: AnyTargets) -> Floats:
        """`(N, S)` numbers per row, enough to compute the value on any weighting of the rows.

        Rows of any length (matches of boxes) are padded with zeros to the longest: S may differ
        from one prediction to the next, and `same_width` makes it equal. `prediction` and `targets` have the same ids in the same order; class names are matched
        here, and a class that the member does not know has probability 0.
        """

    @abc.abstractmethod
    def values(self, statistics_NS: Floats, weights_RN: Floats) -> Floats:
        """`(R,)` values under R weightings of the rows (counts of a resample, for instance)."""

    @final
    def value(self, statistics_NS: Floats, weights_N: Array | None = None) -> float:
        """The value on all rows, weighted if weights are given."""
        weights_N = np.ones(len(statistics_NS)) if weights_N is None else weights_N
        return float(self.values(statistics_NS, np.asarray(weights_N, dtype=float)[None])[0])

    @final
    def gain(self, better: Floats | float, worse: Floats | float) -> Floats | float:
        """How much better the first value is than the second: positive is better."""
        return better - worse if self.higher_is_better else worse - better


def check_kind(metric: Metric[Any], kind: type[Kind]) -> None:
    """Refuse a metric that cannot judge predictions of a kind.

    Raises:
        InvalidValue: The metric accepts other kinds only.
    """
    if kind not in metric.accepts:
        judged = ", ".join(sorted(one.__name__ for one in metric.accepts))
        raise InvalidValue(
            f"the metric '{metric.name}' judges {judged}",
            f"a metric of {kind.__name__}, which the members give",
            "Choose another metric; `fusetune list metrics` names them.",
        )


def same_width(statistics: Sequence[Floats]) -> list[Floats]:
    """Statistics of the same metric, padded with zeros, which say nothing, to the widest.

    Example:
        >>> [one.tolist() for one in same_width([np.array([[1.0]]), np.array([[2.0, 3.0]])])]
        [[[1.0, 0.0]], [[2.0, 3.0]]]
    """
    most = max((statistics_NS.shape[1] for statistics_NS in statistics), default=0)
    return [
        statistics_NS
        if statistics_NS.shape[1] == most
        else np.pad(statistics_NS, ((0, 0), (0, most - statistics_NS.shape[1])))
        for statistics_NS in statistics
    ]


def weighted_means(statistics_NS: Floats, weights_RN: Floats) -> Floats:
    """`(R,)` weighted means of the first statistic: the `values` of every metric that is a mean.

    NaN where the weights are all 0.
    """
    with np.errstate(invalid="ignore"):  # no rows: no value, NaN
        sums_R = weights_RN @ np.ones(weights_RN.shape[1])  # twice as fast as `sum`
        means_R: Floats = weights_RN @ statistics_NS[:, 0] / sums_R
    return means_R
