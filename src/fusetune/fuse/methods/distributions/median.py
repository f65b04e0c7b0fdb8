# SPDX-License-Identifier: Apache-2.0
"""The median of the members' probabilities, class by class."""

from dataclasses import dataclass
from typing import Any, ClassVar

from fusetune.fuse.method import FusionMethod
from fusetune.fuse.ordered import OrderedAverage
from fusetune.metric import Metric
from fusetune.predictions.kinds import Array, Columnar, Kind, Marginals, Probabilities, Values
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import AnyTargets

__all__ = ["Median"]


@dataclass(frozen=True, kw_only=True)
class Median(FusionMethod[Any]):
    """Median: p(c) ∝ median of p_m(c) over the members that know the class. Needs no targets.

    With an even number of members, the mean of the two middle ones; rows are divided by their
    sums. Up to half of the members may be arbitrarily wrong without a say. A row whose medians are
    all 0 (each member sure of another class) becomes the members' mean. One member passes through.

    Use it where some members fail badly and nobody knows which, or on which rows. Do not use it
    with three or four good members: it throws away what the outer ones know, and `mean` is better.

    Values and quantiles are treated column by column; they, and multi-label probabilities, are not
    divided by sums.

    Cost:
        Nothing to fit; predicting sorts M values for each of N C numbers.

    Reference:
        Kittler, Hatef, Duin, Matas. "On combining classifiers". IEEE PAMI, 1998.
    """

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Probabilities, Marginals, Values})
    needs_targets: ClassVar[bool] = False
    fit_copies: ClassVar[float] = 0.0

    def fit(
        self,
        stack: Stack[Columnar],
        targets: AnyTargets,
        metric: Metric[Any],
        *,
        sample_weights_N: Array | None = None,
    ) -> OrderedAverage:
        """Which members take part; nothing else is read."""
        return OrderedAverage(members=stack.members, low=0.5, high=0.5)
