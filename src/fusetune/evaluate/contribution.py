# SPDX-License-Identifier: Apache-2.0
"""What each member contributes to the fused score: leave-one-out, and Shapley values.

Shapes: M members that take part, N rows, C classes or other columns, R pairs of permutations.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from fusetune.fuse.forms import linear_pool, over_classes
from fusetune.metric import Metric
from fusetune.metrics.accuracy import Accuracy
from fusetune.metrics.balanced_accuracy import BalancedAccuracy
from fusetune.metrics.macro_f1 import MacroF1
from fusetune.predictions.kinds import Columnar, Floats, Marginals, Probabilities, Values
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import GroundTruth, LabelSets, Numbers, Targets

__all__ = ["Contributions", "contributions"]

T = TypeVar("T", bound=Columnar)

EXACT_MEMBERS = 12  # 4,096 coalitions: half a second on 5,000 rows of 10 classes
DECISIONS = (
    Accuracy,
    BalancedAccuracy,
    MacroF1,
)  # metrics that see nothing but the most probable class
PAIRS = 64  # a few seconds with 100 members; the standard error says whether that is enough


@dataclass(frozen=True, kw_only=True, eq=False)
class Contributions:
    """Contributions in the metric's own units; positive: the member makes the score better.

    Args:
        members: All members of the stack, in its order; those without weight contribute 0.
        leave_one_out_M: What the score loses when that member alone is left out. Two members that
            can stand in for each other both have 0 here, however much they give together.
        shapley_M: Shapley values: they sum to the gain of all over none, and members that can
            stand in for each other share it.
        standard_error_M: Of the Shapley values; 0 where they are exact.
        score_all: Score of all members together.
        score_none: Score of knowing no member: of the class shares, for instance.
        permutations: How many orders of the members were drawn; 0: exact.
    """

    members: tuple[str, ...]
    leave_one_out_M: Floats
    shapley_M: Floats
    standard_error_M: Floats
    score_all: float
    score_none: float
    permutations: int

    def as_results(self) -> dict[str, Any]:
        """An entry for results.json: numbers of each member, and what they sum to."""
        columns = (self.leave_one_out_M, self.shapley_M, self.standard_error_M)
        rows = zip(*(column_M.tolist() for column_M in columns), strict=True)
        names = ("leave_one_out", "shapley", "standard_error")
        each = (dict(zip(names, row, strict=True)) for row in rows)
        return {
            "members": dict(zip(self.members, each, strict=True)),
            "score_all": self.score_all,
            "score_none": self.score_none,
            "permutations": self.permutations,
        }


def contributions(
    stack: Stack[T],
    targets: GroundTruth,
    metric: Metric[T],
    *,
    weights: Mapping[str, float] | None = None,
    pairs: int = PAIRS,
    seed: int,
) -> Contributions:
    """Leave-one-out and Shapley contribution of each member to the fused score on these rows.

    A coalition of members predicts by their weighted average: with the fitted weights, renormalized
    over the coalition, or without `weights` by the plain mean (say so where the fusion is not a
    weighted average: stacking cannot be asked what it would do without a member). The coalition of
    nobody predicts what these very rows show without any member: the class shares, the share of
    rows that have each label, the numbers' means, or the quantiles at the levels asked for. A
    coalition none of whose members has a number predicts it likewise.

    The Shapley value of a member is what it adds to the score, averaged over all orders in which
    the members could have come. Up to 12 members take part in all 2^M coalitions; more are sampled
    by pairs of an order and its reverse, and the standard error is that of the mean of independent
    pairs. The values sum to the gain of all over none either way.

    Use it to see who carries the fusion. Not for choosing members: coalitions are judged by the
    weights fitted for all, and on the rows that choose they look better than they are.

    Args:
        stack: Predictions of the rows to judge on.
        targets: Their truth, in the same order; at least one row.
        metric: What the score is.
        weights: Member → fitted weight, as `Fusion.weights` gives, one above 0; None: all equal.
        pairs: Pairs of orders to draw where more than 12 members take part; at least 2.
        seed: Of the draws.

    Cost: 2^M, or 2 R M, averages of N C numbers and values of the metric.

    Reference: Shapley, A value for n-person games, 1953; Castro, Gómez & Tejada, Polynomial
        calculation of the Shapley value based on sampling, Computers & Operations Research 2009;
        Mitchell, Cooper, Frank & Holmes, Sampling permutations for Shapley value estimation,
        Journal of Machine Learning Research 2022 (an order and its reverse).
    """
    assert len(targets) > 0 and pairs > 1
    weights = dict.fromkeys(stack.members, 1.0) if weights is None else weights
    taking_part = tuple(name for name in stack.members if weights.get(name, 0) > 0)
    assert taking_part, "no member of the stack has weight"
    weights_M = np.array([weights[name] for name in taking_part], dtype=np.float64)
    game = _Game(stack.select(taking_part), targets, metric, weights_M)
    exact = len(taking_part) <= EXACT_MEMBERS
    found = _exact(game) if exact else _sampled(game, pairs, seed)
    spread = {name: index for index, name in enumerate(stack.members)}
    places = [spread[name] for name in taking_part]
    columns = np.zeros((3, len(stack.members)))
    columns[:, places] = found
    return Contributions(
        members=stack.members,
        leave_one_out_M=columns[0],
        shapley_M=columns[1],
        standard_error_M=columns[2],
        score_all=game.score_all,
        score_none=game.score_none,
        permutations=0 if exact else 2 * pairs,
    )


class _Game(Generic[T]):
    """Scores of coalitions, from running sums of the members' weighted predictions."""

    def __init__(
        self,
        stack: Stack[T],
        targets: GroundTruth,
        metric: Metric[Any],
        weights_M: Floats,
    ) -> None:
        self.targets, self.metric, self.weights_M = targets, metric, weights_M
        self.settled_NS: Floats | None = None
        pool = linear_pool(stack.parts, weights_M, stack.classes)
        self.known_MC = np.array(
            [[name in part.columns for name in pool.columns] for part in stack.parts]
        )
        self.partial = not self.known_MC.all()
        self.parts = [over_classes(part, pool.columns) for part in stack.parts]
        nobody = _constant(pool, targets)
        self.unknown_C = np.zeros(len(pool.columns))
        if isinstance(nobody, Values):  # a class that nobody knows has probability 0
            self.unknown_C += nobody.array_NC[
                0, [nobody.names.index(name) for name in pool.columns]
            ]
        self.score_all = self._score(pool)
        self.score_none = self._score(nobody)
        self.alone_M = np.array(
            [self._score(self._alone(index)) for index in range(len(weights_M))]
        )
        if isinstance(metric, DECISIONS) and not self.partial:
            pool = self._settle(pool)
        self.like = pool
        self.part_NC = np.empty(pool.array_NC.shape)  # fresh memory would cost as much as the sums
        self.pooled_NC = np.empty_like(pool.array_NC)

    def _alone(self, member: int) -> T:
        part, known_C = self.parts[member], self.known_MC[member]
        array_NC = np.where(known_C, part.array_NC, self.unknown_C).astype(part.array_NC.dtype)
        return part.with_array(part.columns, array_NC)

    def _settle(self, pool: T) -> T:
        """Set the rows aside that all members, and so all coalitions, decide alike."""
        top_N1 = self.parts[0].array_NC.argmax(axis=1)[:, None]
        settled_N = np.ones(len(pool), dtype=bool)
        for part in self.parts:
            at_top_NC = part.array_NC >= np.take_along_axis(part.array_NC, top_N1, axis=1)
            settled_N &= at_top_NC.sum(axis=1) == 1  # a tie would go by rounding
        rows, rest = np.flatnonzero(settled_N), np.flatnonzero(~settled_N)
        self.settled_NS = self.metric.statistics(pool.take(rows), self.targets.take(rows))
        self.targets = self.targets.take(rest)
        self.parts = [part.take(rest) for part in self.parts]
        return pool.take(rest)

    def add(self, sums_NC: Floats, member: int, out_NC: Floats) -> None:
        """The sums with one more member, written to `out_NC` (which may be `sums_NC`)."""
        part = self.parts[member].array_NC
        np.multiply(part, self.weights_M[member], out=self.part_NC, dtype=np.float64)
        np.add(sums_NC, self.part_NC, out=out_NC)

    def score(self, sums_NC: Floats, members: list[int]) -> float:
        """Score of some members, whose weighted sums these are."""
        if len(members) == 1:
            return float(self.alone_M[members[0]])
        if len(members) == len(self.parts):
            return self.score_all
        mass_C = self.weights_M[members] @ self.known_MC[members]
        np.divide(sums_NC, mass_C, out=self.part_NC, where=mass_C > 0)
        self.part_NC[:, mass_C == 0] = self.unknown_C[mass_C == 0]
        if self.partial and isinstance(self.like, Probabilities):
            self.part_NC /= self.part_NC.sum(axis=1, keepdims=True)
        np.copyto(self.pooled_NC, self.part_NC, casting="same_kind")
        return self._score(self.like.with_array(self.like.columns, self.pooled_NC))

    def gain(self, better: Floats | float, worse: Floats | float) -> Floats:
        """How much better some scores are than others."""
        return np.asarray(self.metric.gain(better, worse))

    def _score(self, prediction: Columnar) -> float:
        statistics_NS = self.metric.statistics(prediction, self.targets)
        if self.settled_NS is not None:
            statistics_NS = np.concatenate([self.settled_NS, statistics_NS])
        return self.metric.value(statistics_NS)


def _exact(game: _Game[T]) -> Floats:
    """`(3, M)`: leave-one-out, Shapley values, zeros."""
    num_members = len(game.parts)
    scores = _all_scores(game)
    numbers = np.arange(len(scores))
    sizes = np.array([number.bit_count() for number in range(len(scores))])
    share = [1 / (num_members * math.comb(num_members - 1, size)) for size in range(num_members)]
    found = np.zeros((3, num_members))
    for member in range(num_members):
        without = numbers[numbers >> member & 1 == 0]
        gains = game.gain(scores[without | 1 << member], scores[without])
        found[0, member] = gains[-1]
        found[1, member] = gains @ np.array(share)[sizes[without]]
    return found


def _all_scores(game: _Game[T]) -> Floats:
    """`(2^M,)` scores of all coalitions, by the number whose bits are its members.

    Depth first, each coalition one member more than the one it came from, always in the members'
    order: nothing is subtracted, so sums round as those of `linear_pool`.
    """
    num_members = len(game.parts)
    scores = np.full(2**num_members, game.score_none)
    sums_DNC = np.zeros((num_members + 1, *game.like.array_NC.shape))

    def visit(members: list[int], number: int) -> None:
        depth = len(members)
        for member in range(members[-1] + 1 if members else 0, num_members):
            game.add(sums_DNC[depth], member, sums_DNC[depth + 1])
            more = [*members, member]
            scores[number | 1 << member] = game.score(sums_DNC[depth + 1], more)
            visit(more, number | 1 << member)

    visit([], 0)
    return scores


def _sampled(game: _Game[T], pairs: int, seed: int) -> Floats:
    """`(3, M)`: leave-one-out, Shapley values, their standard errors.

    What a member adds when it comes first is the largest part of the spread and known exactly, so
    it is not drawn. What an order then sums to in excess of the gain of all is taken off evenly.
    """
    num_members = len(game.parts)
    random = np.random.default_rng(seed)
    sums_NC = np.empty(game.like.array_NC.shape)
    gains_RM = np.tile(game.gain(game.alone_M, game.score_none) / num_members, (pairs, 1))
    for gains_M in gains_RM:
        order = random.permutation(num_members).tolist()
        for turn in (order, order[::-1]):
            scores = _scores_on_the_way(game, turn, sums_NC)
            gains_M[turn[1:]] += game.gain(scores[1:], scores[:-1]) / 2
    excess_R1 = gains_RM.sum(axis=1, keepdims=True) - game.gain(game.score_all, game.score_none)
    gains_RM -= excess_R1 / num_members
    spread_M = gains_RM.std(axis=0, ddof=1) / math.sqrt(pairs)
    left_out_M = game.gain(game.score_all, _scores_without_each(game))
    return np.stack([left_out_M, gains_RM.mean(axis=0), spread_M])


def _scores_on_the_way(game: _Game[T], turn: list[int], sums_NC: Floats) -> Floats:
    """`(M,)` scores of the first member, the first two, ..., all."""
    sums_NC[:] = 0
    scores = []
    for position, member in enumerate(turn):
        game.add(sums_NC, member, sums_NC)
        scores.append(game.score(sums_NC, turn[: position + 1]))
    return np.array(scores)


def _scores_without_each(game: _Game[T]) -> Floats:
    """`(M,)` scores of all members but one, by M log M additions and no subtraction."""
    everyone = list(range(len(game.parts)))
    scores_M = np.empty(len(everyone))

    def visit(left_out: list[int], sums_NC: Floats) -> None:
        if len(left_out) == 1:
            rest = [member for member in everyone if member != left_out[0]]
            scores_M[left_out[0]] = game.score(sums_NC, rest)
            return
        middle = len(left_out) // 2
        halves = (left_out[:middle], left_out[middle:])
        for half, other in (halves, halves[::-1]):
            more_NC = sums_NC.copy()
            for member in other:
                game.add(more_NC, member, more_NC)
            visit(half, more_NC)

    visit(everyone, np.zeros(game.like.array_NC.shape))
    return scores_M


def _constant(like: Columnar, targets: GroundTruth) -> Columnar:
    """Every row predicted alike, by what is known without any member; see `contributions`."""

    def rows(one_C: Floats) -> Floats:
        return np.broadcast_to(one_C, (len(targets), len(one_C)))

    if isinstance(targets, Targets):
        shares_C = np.bincount(targets.labels_N, minlength=len(targets.classes)) / len(targets)
        return Probabilities(targets.ids, targets.classes, rows(shares_C))
    if isinstance(targets, LabelSets):
        return Marginals(targets.ids, targets.classes, rows(targets.present_NC.mean(axis=0)))
    assert isinstance(targets, Numbers) and isinstance(like, Values)
    if like.levels:
        quantiles_C = np.quantile(targets.values_ND[:, 0], like.levels)
        return Values(targets.ids, like.names, rows(quantiles_C), like.levels)
    return Values(targets.ids, targets.names, rows(targets.values_ND.mean(axis=0)))
