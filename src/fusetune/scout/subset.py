# SPDX-License-Identifier: Apache-2.0
"""Which checkpoints to fine-tune: those whose probes fuse best, which are not just the best ones.

Shapes: N rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusetune.fuse.forms import linear_pool
from fusetune.metric import Metric
from fusetune.metrics.log_loss import LogLoss
from fusetune.predictions.kinds import Floats, Probabilities
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import Targets

__all__ = ["Proposal", "propose"]

STANDARD_ERRORS = 2  # by which a candidate has to make the mean worse to be left out


@dataclass(frozen=True)
class Proposal:
    """A subset of the candidates, and what their probes reach together.

    Args:
        weights: Candidate → weight in the mean of the probes, in the order in which they were taken.
        value: The user's metric of that mean, on the rows that chose it: somewhat flattering.
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
    """Take, one by one, the candidate with which the mean of the probes has the lowest log-loss.

    A checkpoint that errs on other rows than the ones chosen already is taken before a better
    one that errs on the same. Without a cost penalty one is left out only if it makes the mean
    worse by more than two standard errors of the rows: fine-tuned members differ more than their
    probes, so that what changes nothing here is of use later. With one it has to gain it. Log-loss
    decides whatever the metric is: on some hundred rows, an accuracy has ties and luck enough to
    propose a network with random weights.

    Args:
        probes: Candidate → probe's predictions of the same rows, which the probes were not fitted on.
        targets: True classes of these rows.
        metric: Of the `value` that is returned.
        most: Candidates to take at most, at least 1.
        cost_penalty: What a candidate of mean cost has to gain, in log-loss.
        costs: Candidate → cost in any unit; divided by their mean. None: all cost the same.

    Reference:
        Caruana, Niculescu-Mizil, Crew, Ksikes. "Ensemble selection from libraries of models". ICML
        2004; here without replacement.
    """
    assert most >= 1
    stack = Stack.align(dict(probes), ids=targets.ids, classes=targets.classes)
    prices = _prices(stack.members, cost_penalty, costs)
    taken: list[str] = []
    losses_N = np.full(len(targets.ids), np.inf)
    while len(taken) < min(most, len(probes)):
        tried = {
            name: _losses(stack, [*taken, name], targets)
            for name in stack.members
            if name not in taken
        }
        best = min(tried, key=lambda name: float(tried[name].mean()) + prices[name])
        rises_N = tried[best] - losses_N
        if taken:
            error = float(rises_N.std()) / np.sqrt(len(rises_N))
            allowed = 0.0 if cost_penalty else STANDARD_ERRORS * error
            if rises_N.mean() + prices[best] > allowed:
                break
        taken.append(best)
        losses_N = tried[best]
    mean = _mean(stack, taken)
    return Proposal(
        dict.fromkeys(taken, 1 / len(taken)), metric.value(metric.statistics(mean, targets))
    )


def _prices(
    members: Sequence[str], cost_penalty: float, costs: Mapping[str, float] | None
) -> dict[str, float]:
    """What each candidate has to gain."""
    given = costs or dict.fromkeys(members, 1.0)
    mean = sum(given.values()) / len(given)
    return {name: cost_penalty * (given[name] / mean if mean else 1.0) for name in members}


def _mean(stack: Stack[Probabilities], names: Sequence[str]) -> Probabilities:
    return linear_pool(stack.select(names).parts, np.ones(len(names)), stack.classes)


def _losses(stack: Stack[Probabilities], names: Sequence[str], targets: Targets) -> Floats:
    """`(N,)` losses of the mean of some probes."""
    return LogLoss().statistics(_mean(stack, names), targets)[:, 0]
