# SPDX-License-Identifier: Apache-2.0
"""The mean of the members' probabilities without the extremes, class by class."""

from dataclasses import dataclass
from typing import Any, ClassVar

from fusetune.errors import InvalidValue
from fusetune.fuse.method import FusionMethod
from fusetune.fuse.ordered import OrderedAverage
from fusetune.metric import Metric
from fusetune.predictions.kinds import Array, Columnar, Kind, Marginals, Probabilities, Values
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import AnyTargets

__all__ = ["TrimmedMean"]


@dataclass(frozen=True, kw_only=True)
class TrimmedMean(FusionMethod[Any]):
    """Trimmed mean: the lowest and the highest p_m(c) are left out, then averaged. Needs no targets.

    Of the K members that know a class, floor(share K) are cut at either end, but one or two always
    stay; rows are divided by their sums. Share 0 is `mean`, 0.5 the median. With the default,
    nothing is cut from fewer than five members. One member passes through.

    Use it with many members of which some fail now and then. Do not use it with few good members,
    or where the members that stand out are the good ones: learned weights see that.

    Args:
        share: Cut at either end, in [0, 0.5]; 0.2 lies in the middle of the 10 to 30 % that
            Jose and Winkler recommend.

    Values and quantiles are treated column by column; they, and multi-label probabilities, are not
    divided by sums.

    Cost:
        Nothing to fit; predicting sorts M values for each of N C numbers.

    Reference:
        Jose, Winkler. "Simple robust averages of forecasts: some empirical results".
        International Journal of Forecasting, 2008.
    """

    share: float = 0.2

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Probabilities, Marginals, Values})
    needs_targets: ClassVar[bool] = False
    fit_copies: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 0.5:
            raise InvalidValue(
                f"share is {self.share}",
                "a share of the members between 0 and 0.5",
                "Write 0.2, the default, or 0.5 for the median.",
            )

    def fit(
        self,
        stack: Stack[Columnar],
        targets: AnyTargets,
        metric: Metric[Any],
        *,
        sample_weights_N: Array | None = None,
    ) -> OrderedAverage:
        """Which members take part; nothing else is read."""
        return OrderedAverage(members=stack.members, low=self.share, high=self.share)
