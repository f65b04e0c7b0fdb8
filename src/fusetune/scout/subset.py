# SPDX-License-Identifier: Apache-2.0
"""Which checkpoints to fine-tune: those whose probes fuse best, which are not just the best ones."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fusetune.fuse.methods.distributions.greedy_selection import GreedySelection
from fusetune.metric import Metric
from fusetune.metrics.log_loss import LogLoss
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import Targets

__all__ = ["Proposal", "propose"]


@dataclass(frozen=True)
class Proposal:
    """A subset of the candidates, and what their probes reach together.

    Args:
        weights: Candidate → weight in the fusion of the probes, summing to 1, the heaviest first.
        value: The user's metric of that fusion, on the rows that chose it: somewhat flattering.
    """

    weights: Mapping[str, float]
    value: float


def propose(
    probes: Mapping[str, Probabilities],
    targets: Targets,
    metric: Metric[Any],
    *,
    most: int,
    cost_penalty: float = 0.0,
    costs: Mapping[str, float] | None = None,
) -> Proposal:
    """Greedy selection on the probes' log-loss, cut before it takes one candidate too many.

    A checkpoint that errs on other rows than the ones chosen already is taken before a better
    one that errs on the same. Log-loss decides whatever the metric is: on some hundred rows, an
    accuracy has ties and luck enough to propose a network with random weights.

    Args:
        probes: Candidate → probe's predictions of the same rows, which the probes were not fitted on.
        targets: True classes of these rows.
        metric: Of the `value` that is returned.
        most: Candidates to take at most, at least 1.
        cost_penalty: What a candidate of mean cost has to gain, in log-loss.
        costs: Candidate → cost in any unit; divided by their mean. None: all cost the same.

    Reference:
        Caruana, Niculescu-Mizil, Crew, Ksikes. "Ensemble selection from libraries of models". ICML
        2004.
    """
    assert most >= 1
    stack = Stack.align(dict(probes), ids=targets.ids, classes=targets.classes)
    mean = sum((costs or {}).values()) / len(probes)
    shares = {name: cost / mean for name, cost in (costs or {}).items()} if mean else {}
    method = GreedySelection(cost_penalty=cost_penalty, costs=shares)
    fusion = method.fit(stack, targets, LogLoss())
    rounds = method.rounds
    while len(fusion.members) > most:
        rounds -= 1
        fusion = replace(method, rounds=rounds).fit(stack, targets, LogLoss())
    weights = dict(sorted(fusion.weights().items(), key=lambda item: -item[1]))
    value = metric.value(metric.statistics(fusion(stack), targets))
    return Proposal(weights, value)
