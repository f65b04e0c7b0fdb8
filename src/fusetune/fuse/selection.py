# SPDX-License-Identifier: Apache-2.0
"""Greedy forward selection of members, for any metric; fast where the metric allows it.

Shapes: M members, N rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusetune.fuse.selection_values import tie_losses, values_for
from fusetune.metric import Metric
from fusetune.predictions.kinds import Floats, Values
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import AnyTargets

__all__ = ["Plan", "select"]

TIE = 1e-12  # values closer than this differ by rounding only
DECIMALS = 6  # of values that are compared after the first round, as in AutoGluon
EXACT = 15  # decimals that round nothing away
SMALL = 1e-4  # values that start below are not rounded, as in AutoGluon

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """How a selection goes.

    Args:
        rounds: Number of additions, at least 1.
        initial_best: Start from so many members, the best by themselves; 0: from none.
        penalties_M: `(M,)` what the pool's value is lowered by as soon as a member is in it, in the
            metric's units; None: nothing.
    """

    rounds: int = 25
    initial_best: int = 0
    penalties_M: Floats | None = None


def select(
    stack: Stack[Any], targets: AnyTargets, metric: Metric[Any], weights_N: Floats, plan: Plan
) -> Integers:
    """How often each member is chosen, in the best prefix of a greedy forward selection.

    Each round adds the member, with replacement, whose addition makes the pool's metric best. Ties
    go to members chosen already, then to the lower log-loss (squared error, for values), then to
    the earlier member. Of all prefixes the one with the best metric is kept; ties go to the lower
    log-loss, then the shorter. From the second round on, values that agree to six decimals (for
    values: to a millionth of the first round's) are ties, so that no member enters for nothing.

    Args:
        stack: Predictions of M members for N rows.
        targets: The truth, in the same order.
        metric: What decides.
        weights_N: `(N,)` weights of the rows, with mean 1.
        plan: Rounds and options.

    Returns:
        `(M,)` counts, at least one of them above 0.
    """
    everyone = np.arange(len(stack.members))
    counts_M = np.zeros(len(everyone), dtype=np.int64)
    greedy = _Greedy(stack, targets, metric, weights_N, plan)
    alone = greedy.start(everyone)
    first = min(plan.initial_best, len(everyone))
    for member in alone[: max(0, first - 1)].tolist():
        greedy.add(counts_M, member)
    best_M, best_gain, best_loss = counts_M, -np.inf, np.inf
    for number in range(plan.rounds + bool(first)):
        allowed = alone[[first - 1]] if first and not number else everyone
        member, gain, loss = greedy.best(counts_M, allowed)
        greedy.add(counts_M, member)
        if gain > best_gain + TIE or (gain > best_gain - TIE and loss < best_loss - TIE):
            best_M, best_gain, best_loss = counts_M.copy(), gain, loss
    return best_M


class _Greedy:
    """Steps of a selection, with values as they are compared.

    Values of numbers have a unit, and are compared as multiples of the best member's.
    """

    def __init__(
        self,
        stack: Stack[Any],
        targets: AnyTargets,
        metric: Metric[Any],
        weights_N: Floats,
        plan: Plan,
    ) -> None:
        self.losses = tie_losses(stack, targets, weights_N)
        self.values = values_for(stack, targets, metric, weights_N, self.losses)
        self.sign = 1 if metric.higher_is_better else -1
        self.penalties_M = plan.penalties_M
        self.relative = isinstance(stack.parts[0], Values)
        self.gain_unit = self.loss_unit = 1.0
        self.decimals = EXACT

    def start(self, members: Integers) -> Integers:
        """Fix how values are compared, and sort the members from the best alone to the worst."""
        none_M = np.zeros(len(members), dtype=np.int64)
        gains_M, losses_M = self._gains(none_M, members), self._losses(none_M, members)
        if self.relative:
            self.gain_unit = abs(float(gains_M.max())) or 1.0
            self.loss_unit = float(losses_M.min()) or 1.0
        best = abs(float(gains_M.max())) / self.gain_unit
        self.decimals = DECIMALS if SMALL < best < np.inf else EXACT
        return np.lexsort((members, losses_M, -gains_M))

    def best(self, counts_M: Integers, members: Integers) -> tuple[int, float, float]:
        """The member to add, and the gain and loss of the pool with it, rounded."""
        gains = self._gains(counts_M, members)
        compared = gains.round(self.decimals) if counts_M.any() else gains
        tied = members[compared >= compared.max() - TIE]
        if counts_M[tied].any():
            tied = tied[counts_M[tied] > 0]
        losses = self._losses(counts_M, tied)
        member = int(tied[np.flatnonzero(losses <= losses.min() + TIE)[0]])
        gain, loss = float(gains[members == member][0]), float(losses.min())
        return member, round(gain, self.decimals), round(loss, self.decimals)

    def add(self, counts_M: Integers, member: int) -> None:
        """Add a member to the pool; the counts are changed."""
        self.values.add(member)
        if self.values is not self.losses:
            self.losses.add(member)
        counts_M[member] += 1

    def _gains(self, counts_M: Integers, members: Integers) -> Floats:
        """Value of the pool with one more of each, less the price; higher is better, NaN worst."""
        gains = self.sign * self.values.with_each(counts_M, members)
        if self.penalties_M is not None:
            used_M = counts_M > 0
            prices = np.where(used_M[members], 0, self.penalties_M[members])
            gains = gains - prices - self.penalties_M[used_M].sum()
        return np.nan_to_num(gains, nan=-np.finfo(float).max) / self.gain_unit

    def _losses(self, counts_M: Integers, members: Integers) -> Floats:
        return self.losses.with_each(counts_M, members) / self.loss_unit
