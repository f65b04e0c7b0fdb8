# SPDX-License-Identifier: Apache-2.0
"""Hard voting: the class that most members name.

Shapes: M members, N rows (of a block), C classes, R tied rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from fusetune.errors import InvalidValue, unknown_name
from fusetune.fuse.forms import known_classes, over_classes
from fusetune.fuse.method import Fusion, FusionMethod
from fusetune.fuse.per_label import PerLabel, fit_per_label
from fusetune.metric import Metric
from fusetune.predictions.kinds import Array, Floats, Kind, Marginals, Probabilities
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import AnyTargets

__all__ = ["MajorityVote", "Vote"]

TIE_SHARE = 1e-3  # of one vote: survives single precision and files with four digits
ROUNDING = 1e-9  # of all votes: sums of weights that are closer than this are a tie
BLOCK = 2**16  # numbers per block: votes stay in a core's cache


@dataclass(frozen=True, kw_only=True)
class Vote(FusionMethod[Any]):
    """Hard voting: each member names one class, the most named class wins. Needs no targets.

    p(c) = votes for c / votes of all; each member has one vote, or the weight given. A tie goes to
    the tied class with the highest summed probability (so two voters decide by confidence, not by
    the order of the classes), and if these are equal too to the earlier class; the winner of a tie
    gets a thousandth of a vote, so that the decision can be read off the probabilities. A class
    that a member does not know gets no vote of its. Weights weigh the sums as well.

    Use it when the members' probabilities mean nothing. Do not use it when probabilities are
    needed: shares of few votes are coarse, a class without a vote has probability 0, and its
    log-loss is poor.

    Multi-label probabilities: for each label, the share of the members that give it more than 0.5.

    Args:
        weights: Member → its number of votes, at least 0; a member without votes is left out. None
            given: one each. For weights learned from the holdout, see `weighted_mean`.

    Cost:
        Nothing to fit; predicting takes one pass over M N C numbers.

    Reference:
        Lam, Suen. "Application of majority voting to pattern recognition". IEEE SMC A, 1997.
    """

    weights: Mapping[str, float] = field(default_factory=dict, hash=False)

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Probabilities, Marginals})
    needs_targets: ClassVar[bool] = False
    fit_copies: ClassVar[float] = 0.0
    reads_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        wrong = [name for name, weight in self.weights.items() if not 0 <= weight < np.inf]
        if wrong:
            raise InvalidValue(
                f"the weight of '{wrong[0]}' is {self.weights[wrong[0]]}",
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
    ) -> "MajorityVote | PerLabel":
        """The votes of every member; nothing else is read.

        Raises:
            UnknownName: Weights are given, but not of every member.
            InvalidValue: No member has a weight above 0.
        """
        if isinstance(stack.parts[0], Marginals):
            return fit_per_label(self, stack, targets, metric, sample_weights_N)
        if not self.weights:
            return MajorityVote(members=stack.members)
        for name in stack.members:
            if name not in self.weights:
                raise unknown_name("weight", name, self.weights, where="weights")
        kept = {name: self.weights[name] for name in stack.members if self.weights[name] > 0}
        if not kept:
            raise InvalidValue(
                "all weights are 0", "a member with a weight above 0", "Correct the weights."
            )
        return MajorityVote(members=tuple(kept), weights_M=np.array(list(kept.values()), float))


@dataclass(frozen=True, kw_only=True, eq=False)
class MajorityVote(Fusion[Probabilities]):
    """Fitted hard voting: which members vote.

    Args:
        members: Names of the members that vote.
        weights_M: `(M,)` votes of each, above 0; only their ratios matter. None: one each.
    """

    members: tuple[str, ...]
    weights_M: Floats | None = None

    def __call__(self, stack: Stack[Probabilities]) -> Probabilities:
        """Shares of votes over the classes that the members know, ties settled; see `Vote`."""
        parts = stack.select(self.members).parts
        classes = known_classes(parts, stack.classes)
        arrays = [over_classes(part, classes).probs_NC for part in parts]
        weights_M = np.ones(len(parts)) if self.weights_M is None else self.weights_M
        weights_M = weights_M * (len(parts) / weights_M.sum())
        shares_NC = np.empty((len(stack), len(classes)), dtype=np.result_type(*arrays))
        step = max(1, BLOCK // len(classes))
        for start in range(0, len(stack), step):
            rows = slice(start, start + step)
            blocks = [array_NC[rows] for array_NC in arrays]
            _settle(blocks, weights_M, _votes(blocks, weights_M), shares_NC[rows])
        return parts[0].with_array(classes, shares_NC)


def _votes(arrays: list[Floats], weights_M: Floats) -> Floats:
    """`(C, N)` votes, class by class: along long rows, NumPy compares many numbers at once."""
    num_rows, num_classes = arrays[0].shape
    alike = bool((weights_M == 1).all())
    dtype = np.float64 if not alike else np.uint8 if len(arrays) < 256 else np.uint32
    votes_CN = np.zeros((num_classes, num_rows), dtype=dtype)
    probs_CN = np.empty(votes_CN.shape, dtype=np.result_type(*arrays))
    named_CN = np.empty(votes_CN.shape, dtype=bool)
    for array_NC, weight in zip(arrays, weights_M.tolist(), strict=True):
        np.copyto(probs_CN, array_NC.T)
        np.equal(probs_CN, probs_CN.max(axis=0), out=named_CN)
        votes_CN += named_CN.view(np.uint8) if alike else weight * named_CN
    # Where a member's highest probability is that of two classes, it names the earlier.
    twice = np.flatnonzero(votes_CN.sum(axis=0) > len(arrays) * (1 + ROUNDING))
    if len(twice):
        votes_CN[:, twice] = 0
        for array_NC, weight in zip(arrays, weights_M.tolist(), strict=True):
            votes_CN[array_NC.take(twice, axis=0).argmax(axis=1), twice] += dtype(weight)
    return votes_CN


def _settle(arrays: list[Floats], weights_M: Floats, votes_CN: Floats, shares_NC: Floats) -> None:
    """Turn votes into shares, with a thousandth of a vote more for the winner of a tie."""
    num_voters = len(arrays)
    tied_CN = votes_CN >= votes_CN.max(axis=0) - (ROUNDING * num_voters)
    tied = np.flatnonzero(np.add.reduce(tied_CN, axis=0, dtype=np.uint16) > 1)
    np.divide(votes_CN.T, num_voters, out=shares_NC, casting="same_kind")
    if not len(tied):
        return
    sums_RC = np.zeros((len(tied), len(votes_CN)))
    for array_NC, weight in zip(arrays, weights_M.tolist(), strict=True):
        probs_RC = array_NC.take(tied, axis=0)
        sums_RC += probs_RC if weight == 1 else weight * probs_RC.astype(np.float64)
    winners_R = np.where(tied_CN[:, tied].T, sums_RC, -1).argmax(axis=1)
    votes_RC = votes_CN[:, tied].T.astype(np.float64)
    votes_RC[np.arange(len(tied)), winners_R] += TIE_SHARE
    shares_NC[tied] = votes_RC / (num_voters + TIE_SHARE)
