# SPDX-License-Identifier: Apache-2.0
"""The geometric mean of the members' probabilities."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fusetune.errors import InvalidValue
from fusetune.fuse.forms import known_classes
from fusetune.fuse.log_opinion import LogAverage
from fusetune.fuse.method import FusionMethod
from fusetune.fuse.per_label import PerLabel, fit_per_label
from fusetune.fuse.segmentation.fusion import PixelWise
from fusetune.metric import Metric
from fusetune.predictions.kinds import Array, Kind, Marginals, Probabilities
from fusetune.predictions.segmentation.masks import Masks
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import AnyTargets

__all__ = ["GeometricMean"]


@dataclass(frozen=True, kw_only=True)
class GeometricMean(FusionMethod[Any]):
    """Log-opinion pool: p(c) ∝ product of p_m(c)^(1/M), the softmax of the mean logits.

    Needs no targets. A member that all but rules a class out has a veto, so probabilities are
    smoothed before the logarithm. Over classes that some members do not know, the mean logarithm
    is over those that do.

    Use it where each member gives weight to wrong classes of its own, and none is badly wrong: it
    is sharper than `mean`. Do not use it where a member is over-confident and wrong: one
    probability near 0 outweighs all other members.

    Multi-label probabilities are fused label by label, each a pool of the outcomes yes and no: the
    sigmoid of the mean logit. Masks are fused pixel by pixel.

    Args:
        smoothing: Share of each row spread evenly over the member's classes before the logarithm,
            in (0, 1): no logarithm is below log(smoothing / C). 1e-3 did best on our pools, of
            1e-2 to 1e-7, by log-loss on even seeds of benchmarks/fusion_pools.py.

    Cost:
        Nothing to fit; predicting takes M N C logarithms.

    Reference:
        Genest, Zidek. "Combining probability distributions". Statistical Science, 1986.
    """

    smoothing: float = 1e-3

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Probabilities, Marginals, Masks})
    needs_targets: ClassVar[bool] = False
    fit_copies: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.smoothing < 1:
            raise InvalidValue(
                f"smoothing is {self.smoothing}",
                "a share between 0 and 1",
                "Write 1e-3, the default.",
            )

    def fit(
        self,
        stack: Stack[Any],
        targets: AnyTargets,
        metric: Metric[Any],
        *,
        sample_weights_N: Array | None = None,
    ) -> LogAverage | PerLabel | PixelWise:
        """Which members take part; nothing else is read."""
        if isinstance(stack.parts[0], Marginals):
            return fit_per_label(self, stack, targets, metric, sample_weights_N)
        classes = known_classes(stack.parts, stack.classes)
        average = LogAverage(
            members=stack.members,
            classes=classes,
            weights_M=np.full(len(stack.members), 1 / len(stack.members)),
            biases_C=np.zeros(len(classes)),
            smoothing=self.smoothing,
        )
        return PixelWise(fusion=average) if isinstance(stack.parts[0], Masks) else average
