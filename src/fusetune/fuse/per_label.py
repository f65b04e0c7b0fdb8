# SPDX-License-Identifier: Apache-2.0
"""Multi-label fusing by methods that fuse classes: every label a pool of two outcomes, yes and no.

Shapes: M members, N rows, C labels.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fusetune.fuse.forms import WeightedAverage, known_classes
from fusetune.fuse.method import Fusion, FusionMethod
from fusetune.metric import Metric
from fusetune.predictions.kinds import Array, Marginals, Probabilities
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import LabelSets, Targets

__all__ = ["PerLabel", "fit_per_label", "yes_or_no"]

OUTCOMES = ("no", "yes")  # an exact tie goes to the earlier one: a label is there above 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class PerLabel(Fusion[Marginals]):
    """A fusion for every label, of the members that know it.

    Args:
        labels: C names of labels.
        fusions: One for each, of `Probabilities` over the classes no and yes.
    """

    labels: tuple[str, ...]
    fusions: tuple[Fusion[Any], ...]
    members: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        used = dict.fromkeys(name for fusion in self.fusions for name in fusion.members)
        object.__setattr__(self, "members", tuple(used))
        assert len(self.labels) == len(self.fusions) > 0

    def __call__(self, stack: Stack[Marginals]) -> Marginals:
        """What each label's fusion says of yes, labels in the stack's order."""
        fusions = dict(zip(self.labels, self.fusions, strict=True))
        labels = tuple(name for name in stack.classes if name in fusions)
        dtype = np.result_type(*(part.probs_NC for part in stack.select(self.members).parts))
        probs_NC = np.empty((len(stack), len(labels)), dtype=dtype)
        for column, label in enumerate(labels):
            fused = fusions[label](yes_or_no(stack, label))
            probs_NC[:, column] = fused.probs_NC[:, OUTCOMES.index("yes")]
        return stack.parts[0].with_array(labels, probs_NC)


def fit_per_label(
    method: FusionMethod[Any],
    stack: Stack[Marginals],
    targets: LabelSets | None,
    metric: Metric[Any],
    sample_weights_N: Array | None,
) -> PerLabel:
    """Fit a method that accepts `Probabilities`, and does not read the metric, to every label.

    A label that the targets do not have is fused by the plain mean: there is nothing to fit to.

    Cost:
        C fits with two classes.
    """
    labels = known_classes(stack.parts, stack.classes)
    fusions = []
    for label in labels:
        pool = yes_or_no(stack, label)
        present = None
        if targets is not None:
            present_N = targets.over([label])[:, 0]
            present = Targets(stack.ids, OUTCOMES, present_N.astype(np.int64))
        if targets is None or label in targets.classes:
            fusion = method.fit(pool, present, metric, sample_weights_N=sample_weights_N)
        else:
            fusion = WeightedAverage(members=pool.members, weights_M=np.ones(len(pool.members)))
        fusions.append(fusion)
    return PerLabel(labels=labels, fusions=tuple(fusions))


def yes_or_no(stack: Stack[Marginals], label: str) -> Stack[Probabilities]:
    """The members that know a label, each with the probabilities of no and yes."""
    parts: dict[str, Probabilities] = {}
    for name, part in zip(stack.members, stack.parts, strict=True):
        if label not in part.classes:
            continue
        probs_N = part.probs_NC[:, part.classes.index(label)]
        both_N2 = np.stack([1 - probs_N, probs_N], axis=1)
        first = next(iter(parts.values()), None)  # whose ids are checked already
        parts[name] = (
            Probabilities(part.ids, OUTCOMES, both_N2)
            if first is None
            else first.with_array(OUTCOMES, both_N2)
        )
    return Stack(tuple(parts), tuple(parts.values()), OUTCOMES, stack.features)
