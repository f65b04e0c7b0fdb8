# SPDX-License-Identifier: Apache-2.0
"""Weights by agreement: a member counts as much as it covaries with the others. No targets.

Shapes: M members, N rows, C classes.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fusetune.fuse.forms import WeightedAverage, fit_weights, known_classes, over_classes
from fusetune.fuse.method import FusionMethod
from fusetune.fuse.threads import one_thread
from fusetune.metric import Metric
from fusetune.predictions.kinds import Array, Floats, Kind, Probabilities
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import Targets

__all__ = ["Agreement", "vote_covariance", "voting_skills"]

IDENTIFIED = 3  # members: two agree as they do whichever of them is the better
ROUNDS, TOLERANCE = 1_000, 1e-12  # some ten rounds are usual
NEGLIGIBLE = 1e-9  # of the largest weight


@dataclass(frozen=True, kw_only=True)
class Agreement(FusionMethod[Probabilities]):
    """Weighted averaging with weights from the members' agreement, beyond chance. No targets.

    Q(i, j) = sum over classes c of the covariance over rows of [i votes c] and [j votes c]: the
    share of rows on which i and j agree, minus what two unrelated voters with their habits would
    agree on. If members err independently given the true class, and a member's errors fall evenly
    on the classes, then Q(i, j) = v_i v_j for i ≠ j, where v is proportional to the member's
    accuracy above chance; with two classes the errors need not be even, and v is proportional to
    the balanced accuracy above chance. The weights are the v >= 0 that minimize the sum over i ≠ j
    of (Q(i, j) - v_i v_j)^2, with v_i^2 at most Q(i, i), divided by their sum.

    So a member that votes at random, or always for one class, has a weight near 0, and one that
    disagrees with the rest more than chance has none and need not run. Votes are the most
    probable classes (ties: the earlier). One or two members, and members that all covary with
    nobody, are averaged with equal weights.

    Do not use it when some members are near copies of each other: they agree because they err
    alike, and outweigh a better member that stands alone. With targets `weighted_mean` knows.

    Cost:
        M^2 N C multiplications for the covariances, then nothing to speak of.

    Reference:
        Parisi, Strino, Nadler, Kluger. "Ranking and combining multiple predictors without labeled
        data". PNAS, 2014 (the spectral meta-learner: two classes; weights by the same v). More
        classes by summing over them, the fit beside the diagonal (as in Harman, Jones. "Factor
        analysis by minimizing residuals". Psychometrika, 1966) and averaging probabilities instead
        of votes are ours.

    Example:
        >>> from fusetune.metrics.log_loss import LogLoss
        >>> def votes(labels):
        ...     probs_NC = [[0.9, 0.1] if label == "x" else [0.1, 0.9] for label in labels]
        ...     return Probabilities(np.arange(8), ("x", "y"), np.array(probs_NC))
        >>> members = {"a": "xxxxyyyy", "b": "xxxxyyyx", "c": "yxxxyyyy", "coin": "xyxyxyxy"}
        >>> stack = Stack.align({name: votes(labels) for name, labels in members.items()})
        >>> fusion = Agreement().fit(stack, None, LogLoss())
        >>> {name: round(weight, 2) for name, weight in fusion.weights().items()}
        {'a': 0.4, 'b': 0.3, 'c': 0.3}
    """

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Probabilities})
    needs_targets: ClassVar[bool] = False

    def fit(
        self,
        stack: Stack[Probabilities],
        targets: Targets | None,
        metric: Metric[Probabilities],
        *,
        sample_weights_N: Array | None = None,
    ) -> WeightedAverage:
        """Members with agreement above chance; neither targets nor metric are read."""
        weights_N = fit_weights(stack, targets, sample_weights_N)
        even = WeightedAverage(members=stack.members, weights_M=np.ones(len(stack.members)))
        if len(stack.members) < IDENTIFIED:
            return even
        classes = known_classes(stack.parts, stack.classes)
        votes_MN = np.stack(
            [over_classes(part, classes).probs_NC.argmax(axis=1) for part in stack.parts]
        )
        order = np.argsort(stack.ids)  # sums then do not depend on the order of the rows
        with one_thread():
            covariance_MM = vote_covariance(votes_MN[:, order], len(classes), weights_N[order])
        skills_M = voting_skills(covariance_MM)
        if not skills_M.any():
            return even
        return WeightedAverage.of(dict(zip(stack.members, skills_M.tolist(), strict=True)))


def vote_covariance(votes_MN: Array, num_classes: int, weights_N: Floats) -> Floats:
    """`(M, M)` sums over classes of the covariances of the votes, as indicators.

    Args:
        votes_MN: `(M, N)` class indices.
        num_classes: C.
        weights_N: `(N,)` non-negative weights of the rows, not all 0.

    Example:
        >>> votes_MN = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 1, 0, 1]])
        >>> vote_covariance(votes_MN, 2, np.ones(4)).tolist()
        [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 0.5]]
    """
    shares_N = weights_N / weights_N.sum()
    covariance_MM = np.zeros((len(votes_MN), len(votes_MN)))
    for label in range(num_classes):
        voted_MN = (votes_MN == label).astype(np.float64)
        voted_MN -= (voted_MN @ shares_N)[:, None]
        covariance_MM += (voted_MN * shares_N) @ voted_MN.T
    return covariance_MM


def voting_skills(covariance_MM: Floats) -> Floats:
    """`(M,)` v >= 0 whose products come nearest to the covariances beside the diagonal.

    By coordinate descent: the best v_i for given others is sum_j Q(i, j) v_j / sum_j v_j^2 over
    j ≠ i, cut off at 0 and at the member's own deviation sqrt(Q(i, i)). All 0 if no two members
    agree more than by chance.

    Example:
        >>> covariance_MM = np.array([[0.5, 0.3, 0.2], [0.3, 0.5, 0.24], [0.2, 0.24, 0.5]])
        >>> voting_skills(covariance_MM).round(3).tolist()
        [0.5, 0.6, 0.4]
    """
    others_MM = covariance_MM - np.diag(covariance_MM.diagonal())
    most_M = np.sqrt(np.maximum(covariance_MM.diagonal(), 0))
    skills_M = np.where(others_MM.sum(axis=1) > 0, most_M, 0)
    for _ in range(ROUNDS):
        before_M = skills_M.copy()
        for member, row_M in enumerate(others_MM):
            squares = skills_M @ skills_M - skills_M[member] ** 2
            best = (row_M @ skills_M) / squares if squares > TOLERANCE else 0.0
            skills_M[member] = min(max(best, 0.0), most_M[member])
        if abs(skills_M - before_M).max() <= TOLERANCE:
            break
    skills_M[skills_M < NEGLIGIBLE * skills_M.max()] = 0
    return skills_M
