# SPDX-License-Identifier: Apache-2.0
"""What is chosen among: the fusion methods, and the best single member.

Shapes: N rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from fusetune.calibrated import CalibratedMembers
from fusetune.choose.losses import row_losses
from fusetune.errors import InvalidValue
from fusetune.fuse.forms import WeightedAverage, fit_weights
from fusetune.fuse.method import FusionMethod
from fusetune.metric import Metric
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.kinds import Array, Kind, Marginals, Probabilities, Values
from fusetune.predictions.segmentation.masks import Masks
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import AnyTargets

__all__ = ["AUTO", "BEST", "BEST_MEMBER", "TIE", "BestMember", "Methods", "all_candidates"]

AUTO, BEST, BEST_MEMBER = "auto", "best", "best_member"
SIMPLEST_FIRST = (
    BEST_MEMBER,
    "mean",
    "vote",
    "median",
    "trimmed_mean",
    "max",
    "geometric_mean",
    "rank_mean",
    "weighted_mean",
    "greedy_selection",
    "log_pool",
    "label_voting",
    "staple",
    "stacking",
)
TIE = 1e-12  # values closer than this differ by rounding only

Methods: TypeAlias = Mapping[str, FusionMethod[Any]]


@dataclass(frozen=True, kw_only=True)
class BestMember(FusionMethod[Any]):
    """The single member with the best metric; ties: the lower loss, then the earlier member.

    The loss is log-loss for probabilities and squared error for values; see `row_losses`. Boxes
    have none: the earlier member wins.
    """

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset(
        {Probabilities, Marginals, Values, Boxes, Masks}
    )

    def fit(
        self,
        stack: Stack[Any],
        targets: AnyTargets,
        metric: Metric[Any],
        *,
        sample_weights_N: Array | None = None,
    ) -> WeightedAverage:
        """That member, with all the weight."""
        weights_N = fit_weights(stack, targets, sample_weights_N)
        sign = 1 if metric.higher_is_better else -1
        gains = [
            sign * metric.value(metric.statistics(part, targets), weights_N) for part in stack.parts
        ]
        tied = [m for m, gain in enumerate(gains) if not gain < max(gains) - TIE]
        if isinstance(stack.parts[0], Boxes):
            return WeightedAverage.of({stack.members[tied[0]]: 1})
        losses = [float(row_losses(stack.parts[m], targets) @ weights_N) for m in tied]
        least = min(losses) + TIE * len(stack)
        best = next(m for m, loss in zip(tied, losses, strict=True) if loss <= least)
        return WeightedAverage.of({stack.members[best]: 1})


def all_candidates(methods: Methods, kind: type[Kind]) -> dict[str, FusionMethod[Any]]:
    """The best single member and the methods, the simplest first.

    The best member is found among members as they are, unless `methods` has a `BestMember` of
    calibrated ones: decision values and labels are no probabilities before.

    Raises:
        InvalidValue: A method has a reserved name, or does not accept the kind.
    """
    for name, method in methods.items():
        calibrated = isinstance(method, CalibratedMembers) and isinstance(method.method, BestMember)
        if name in (AUTO, BEST) or (name == BEST_MEMBER and not calibrated):
            raise InvalidValue(
                f"a fusion method is called '{name}'",
                "a name other than auto, best and best_member",
                "Rename it.",
            )
        if kind not in method.accepts:
            kinds = ", ".join(sorted(accepted.__name__ for accepted in method.accepts))
            raise InvalidValue(
                f"the fusion method '{name}' fuses {kinds}",
                f"a method for {kind.__name__}",
                "Leave it out, or choose another method.",
            )
    given: dict[str, FusionMethod[Any]] = {BEST_MEMBER: BestMember(), **methods}
    known = [name for name in SIMPLEST_FIRST if name in given]
    return {name: given[name] for name in dict.fromkeys((*known, *given))}
