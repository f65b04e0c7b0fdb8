# SPDX-License-Identifier: Apache-2.0
"""Soft voting, or plain averaging: the mean of the members' predictions."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fusetune.fuse.forms import WeightedAverage
from fusetune.fuse.method import FusionMethod
from fusetune.metric import Metric
from fusetune.predictions.kinds import Array, Kind, Marginals, Probabilities, Values
from fusetune.predictions.segmentation.masks import Masks
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import AnyTargets

__all__ = ["Mean"]


@dataclass(frozen=True, kw_only=True)
class Mean(FusionMethod[Any]):
    """Soft voting: p(c) = 1/M sum of p_m(c). Needs no targets, so it cannot overfit.

    The usual baseline, hard to beat with members of like quality and few holdout rows. Do not use
    it when some members are much worse than others: `weighted_mean` and `greedy_selection` drop
    them. Over classes that some members do not know, the mean is over those that do.
    Values are averaged column by column; of quantiles, that is Vincentization. Masks are averaged pixel by pixel.

    Cost:
        Nothing to fit; predicting takes one pass over M N C numbers.

    Reference:
        Hansen, Salamon. "Neural network ensembles". IEEE PAMI, 1990.
    """

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Probabilities, Marginals, Values, Masks})
    needs_targets: ClassVar[bool] = False
    fit_copies: ClassVar[float] = 0.0

    def fit(
        self,
        stack: Stack[Any],
        targets: AnyTargets,
        metric: Metric[Any],
        *,
        sample_weights_N: Array | None = None,
    ) -> WeightedAverage:
        """Equal weights for all members; nothing else is read."""
        return WeightedAverage(members=stack.members, weights_M=np.ones(len(stack.members)))
