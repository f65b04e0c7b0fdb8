# SPDX-License-Identifier: Apache-2.0
"""The highest of the members' probabilities, class by class."""

from dataclasses import dataclass
from typing import Any, ClassVar

from fusetune.fuse.method import FusionMethod
from fusetune.fuse.ordered import OrderedAverage
from fusetune.metric import Metric
from fusetune.predictions.kinds import Array, Columnar, Kind, Marginals, Probabilities
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import AnyTargets

__all__ = ["Max"]


@dataclass(frozen=True, kw_only=True)
class Max(FusionMethod[Any]):
    """Maximum rule: p(c) ∝ max of p_m(c) over the members that know the class. Needs no targets.

    Rows are divided by their sums. The most confident member decides. One member passes through.

    Use it for members that are each sure only of what they know (specialists). Do not use it with
    over-confident members: one that is always sure always decides.

    Multi-label probabilities are not divided by sums.

    Cost:
        Nothing to fit; predicting sorts M values for each of N C numbers.

    Reference:
        Kittler, Hatef, Duin, Matas. "On combining classifiers". IEEE PAMI, 1998.
    """

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Probabilities, Marginals})
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
        return OrderedAverage(members=stack.members, low=1.0, high=0.0)
