# SPDX-License-Identifier: Apache-2.0
"""Greedy selection: the members whose average scores best, chosen one by one with replacement.

Shapes: M members, N rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from fusetune.errors import InvalidValue, unknown_name
from fusetune.fuse.forms import WeightedAverage, fit_weights
from fusetune.fuse.method import FusionMethod
from fusetune.fuse.selection import Plan, select
from fusetune.fuse.threads import one_thread
from fusetune.metric import Metric
from fusetune.predictions.kinds import Array, Floats, Kind, Marginals, Probabilities, Values
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import AnyTargets

__all__ = ["GreedySelection"]


@dataclass(frozen=True, kw_only=True)
class GreedySelection(FusionMethod[Any]):
    """Start empty; each round add the member that makes the average's metric best.

    Members may be chosen again, so counts become weights: p(c) = 1/k sum of the k chosen p_m(c).
    Optimizes the user's own metric, whatever it is, and drops members that do not help. Ties go to
    members chosen already (fewer have to run), then to the lower log-loss (squared error, for
    values), then to the earlier member. The prefix of the rounds with the best metric is kept; of
    equals the one with the lower log-loss, then the shorter.

    Do not use it with very few holdout rows (below some 100) and many members: it takes noise for
    skill. Bags of members, a start from the best few and a price for every member temper that.

    Args:
        rounds: Number of additions; 25 as in AutoGluon's weighted ensembles, enough for weights in
            steps of 4 %.
        bags: Select so many times, each time among a random part of the members, and average the
            weights; 0: once, among all. The paper's remedy for noise with hundreds of members.
        bag_share: Share of the members in a bag; half, as in the paper.
        initial_best: Start from so many members, the best by themselves, one vote each; the first
            prefix that can be kept is all of them. 0: from none.
        cost_penalty: What the metric has to gain for a member of cost 1 to be worth it, in the
            metric's units (0.001 is a tenth of a point of accuracy). Paid once per member.
        costs: Member → its cost, in units of your choice; none given: 1 each.
        seed: Draws the bags; any number serves, 0 as everywhere else.

    Cost:
        Log-loss: M L additions a round for L true probabilities, and a sixteenth as many
        logarithms. Brier and RMSE: M^2 N C once, then M^2 a round. Accuracy: M for each row and
        class that a member could flip, a round. Any other metric, and stacks in which members
        know different classes: M whole evaluations of the metric a round. Bags: so many times.

    Reference:
        Caruana, Niculescu-Mizil, Crew, Ksikes. "Ensemble selection from libraries of models". ICML
        2004. By default we start from nothing, and draw no bags of members.
    """

    rounds: int = 25
    bags: int = 0
    bag_share: float = 0.5
    initial_best: int = 0
    cost_penalty: float = 0.0
    costs: Mapping[str, float] = field(default_factory=dict, hash=False)
    seed: int = 0

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Probabilities, Marginals, Values})
    fit_copies: ClassVar[float] = 5.0

    def __post_init__(self) -> None:
        at_least = {"rounds": 1, "bags": 0, "initial_best": 0, "cost_penalty": 0}
        for name, least in at_least.items():
            given = getattr(self, name)
            if not given >= least:
                kind = "number" if name == "cost_penalty" else "whole number"
                default = type(self).__dataclass_fields__[name].default
                raise InvalidValue(
                    f"{name} is {given}",
                    f"a {kind} of at least {least}",
                    f"Write {default}, the default.",
                )
        if not 0 < self.bag_share <= 1:
            raise InvalidValue(
                f"bag_share is {self.bag_share}",
                "a share above 0, up to 1",
                "Write 0.5, the default.",
            )
        wrong = [name for name, cost in self.costs.items() if not 0 <= cost < np.inf]
        if wrong:
            raise InvalidValue(
                f"the cost of '{wrong[0]}' is {self.costs[wrong[0]]}",
                "a finite number of at least 0",
                "Correct it.",
            )

    def fit(
        self,
        stack: Stack[Any],
        targets: AnyTargets,
        metric: Metric[Any],
        *,
        sample_weights_N: Array | None = None,
    ) -> WeightedAverage:
        """The chosen members, weighted by how often they were chosen.

        Raises:
            UnknownName: Costs are given, but not of every member.
        """
        weights_N = fit_weights(stack, targets, sample_weights_N)
        with one_thread():
            if not self.bags:
                return WeightedAverage.of(self._chosen(stack, targets, metric, weights_N))
            shares = dict.fromkeys(stack.members, 0.0)
            for names in self._bags(stack.members):
                bag = stack.select(names)
                counts = self._chosen(bag, targets, metric, weights_N)
                for name, count in counts.items():
                    shares[name] += count / sum(counts.values()) / self.bags
            return WeightedAverage.of(shares)

    def _chosen(
        self, stack: Stack[Any], targets: AnyTargets, metric: Metric[Any], weights_N: Floats
    ) -> dict[str, int]:
        plan = Plan(
            rounds=self.rounds,
            initial_best=self.initial_best,
            penalties_M=self._penalties(stack.members) if self.cost_penalty else None,
        )
        counts_M = select(stack, targets, metric, weights_N, plan)
        return dict(zip(stack.members, counts_M.tolist(), strict=True))

    def _penalties(self, members: tuple[str, ...]) -> Floats:
        for name in members:
            if self.costs and name not in self.costs:
                raise unknown_name("cost", name, self.costs, where="costs")
        return self.cost_penalty * np.array([self.costs.get(name, 1.0) for name in members])

    def _bags(self, members: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Names in each bag, in the members' order; the draw does not depend on that order."""
        random, names = np.random.default_rng(self.seed), sorted(members)
        size = max(1, round(self.bag_share * len(names)))
        bags = [set(random.choice(names, size, replace=False).tolist()) for _ in range(self.bags)]
        return [tuple(name for name in members if name in bag) for bag in bags]
