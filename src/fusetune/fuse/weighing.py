# SPDX-License-Identifier: Apache-2.0
"""Weights of members by an objective, shrunk towards equal weights as far as cross-validation says.

Shapes: M members, N rows, L likelihoods, C columns, G grid points, F folds, K problems.
"""

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusetune.fuse.evidence import cells_ML, densities_MN, error_blocks, likelihoods_ML
from fusetune.fuse.simplex import (
    log_loss_weights,
    residual_gram,
    searched_weights,
    squared_error_weights,
)
from fusetune.predictions.kinds import Floats, Values
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import AnyTargets

__all__ = [
    "GRID",
    "Holdout",
    "JudgedWeights",
    "LikelihoodWeights",
    "SearchedWeights",
    "SquaredErrorWeights",
    "Weights",
    "shrunk",
]

GRID = (1.0, 0.75, 0.5, 0.25, 0.0)  # shares of equal weights, the safest first
TIE = 1e-12  # losses closer than this differ by rounding only
LEAST = 1e-100  # of a member's density, as a share of the row's highest
ROUGH = 1e-6  # largest duality gap, in nats, of weights that only choose the grid point

Integers = npt.NDArray[np.int64]
Question = tuple[Callable[[Floats], float], Callable[[], Sequence[Floats]]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Holdout:
    """Rows to fit weights on.

    Args:
        stack: Predictions of M members for N rows.
        targets: The truth, in the same order.
        shares_N: `(N,)` weights of the rows, summing to 1.
        folds_N: `(N,)` folds of the rows, counted from 0, to choose the shrinkage by.
    """

    stack: Stack[Any]
    targets: AnyTargets
    shares_N: Floats
    folds_N: Integers

    @property
    def num_folds(self) -> int:
        """F."""
        return int(self.folds_N.max()) + 1


class Weights(abc.ABC):
    """Weights on the simplex by one objective, fitted on all folds or on all but one."""

    num_members: int

    @abc.abstractmethod
    def fit(self, left_out: int | None = None) -> Floats:
        """`(M,)` best weights on all rows but those of one fold; equal weights if none is left."""

    @abc.abstractmethod
    def losses(self, weights_GM: Floats, fold: int) -> Floats:
        """`(G,)` sums over a fold's rows of what several weights lose there."""


def shrunk(
    problems: Sequence[Weights], num_folds: int, share: float | None
) -> tuple[Floats, float]:
    """Weights of every problem, each moved by one share towards equal weights.

    Args:
        problems: One, or one for each column.
        num_folds: F, the folds to choose the share by; with fewer than two, equal weights.
        share: Share of equal weights in 0 to 1; None: the one of `GRID` whose weights, fitted on
            the other folds, lose least in the mean over the folds; ties go to the larger share.

    Returns:
        `(len(problems), M)` weights whose rows sum to 1, and the share.

    Cost:
        F + 1 fits of each problem where the share is chosen.
    """
    equal_M = np.full(problems[0].num_members, 1 / problems[0].num_members)
    if len(equal_M) == 1:
        return np.ones((len(problems), 1)), 0.0
    if share is None and num_folds < 2:
        share = 1.0
    if share == 1:
        return np.tile(equal_M, (len(problems), 1)), 1.0
    fitted = [problem.fit() for problem in problems]
    if share is None:
        grid_G1 = np.array(GRID)[:, None]
        losses_G = np.zeros(len(GRID))
        for problem in problems:
            for fold in range(num_folds):
                weights_GM = grid_G1 * equal_M + (1 - grid_G1) * problem.fit(fold)
                losses_G += problem.losses(weights_GM, fold)
        share = GRID[int(np.flatnonzero(losses_G <= losses_G.min() + TIE)[0])]
    return np.stack([share * equal_M + (1 - share) * weights_M for weights_M in fitted]), share


class LikelihoodWeights(Weights):
    """Weights with the smallest log-loss.

    Args:
        likelihoods_ML: `(M, L)` probabilities of what is true, above 0.
        shares_L: `(L,)` non-negative, summing to 1.
        folds_L: `(L,)` fold of each.
        tolerance: Largest duality gap, in nats.
    """

    def __init__(
        self, likelihoods_ML: Floats, shares_L: Floats, folds_L: Integers, tolerance: float
    ) -> None:
        self.likelihoods_ML, self.shares_L, self.folds_L = likelihoods_ML, shares_L, folds_L
        self.tolerance = tolerance
        self.num_members = len(likelihoods_ML)
        self.fitted_M: Floats | None = None

    @classmethod
    def of(
        cls, holdout: Holdout, tolerance: float, *, per_column: bool
    ) -> "list[LikelihoodWeights]":
        """One problem for what is true, or one for each class against the rest."""
        stack, targets = holdout.stack, holdout.targets
        shares_N, folds_N = holdout.shares_N, holdout.folds_N
        if per_column:
            cells = (cells_ML(stack, targets, column) for column in range(len(stack.classes)))
            return [cls(cells_MN, shares_N, folds_N, tolerance) for cells_MN in cells]
        if isinstance(stack.parts[0], Values):
            logs_MN = densities_MN(stack, targets, shares_N)
            relative_MN = np.exp(logs_MN - logs_MN.max(axis=0))  # same weights, no overflow
            return [cls(np.maximum(relative_MN, LEAST), shares_N, folds_N, tolerance)]
        true_ML = likelihoods_ML(stack, targets)
        repeats = true_ML.shape[1] // len(stack)
        shares_L = np.repeat(shares_N / repeats, repeats)
        return [cls(true_ML, shares_L, np.repeat(folds_N, repeats), tolerance)]

    def fit(self, left_out: int | None = None) -> Floats:
        """The weights; those without a fold start from those of all rows."""
        if left_out is None:
            self.fitted_M, _ = log_loss_weights(self.likelihoods_ML, self.shares_L, self.tolerance)
            return self.fitted_M
        shares_L = np.where(self.folds_L == left_out, 0.0, self.shares_L)
        if not shares_L.any():
            return np.full(self.num_members, 1 / self.num_members)
        return log_loss_weights(self.likelihoods_ML, shares_L, ROUGH, self.fitted_M)[0]

    def losses(self, weights_GM: Floats, fold: int) -> Floats:
        """Log-losses, in nats times shares."""
        inside = np.flatnonzero(self.folds_L == fold)
        pools_GL = weights_GM @ self.likelihoods_ML[:, inside]
        return -np.log(pools_GL) @ self.shares_L[inside]


class SquaredErrorWeights(Weights):
    """Weights with the smallest squared error.

    Args:
        grams_FMM: `(F, M, M)` inner products of the members' errors in each fold.
    """

    def __init__(self, grams_FMM: Floats) -> None:
        self.grams_FMM = grams_FMM
        self.num_members = grams_FMM.shape[1]

    @classmethod
    def of(cls, holdout: Holdout, *, per_column: bool) -> "list[SquaredErrorWeights]":
        """One problem for all columns, or one for each."""
        num_members, num_columns = len(holdout.stack.members), len(holdout.stack.classes)
        num_problems = num_columns if per_column else 1
        grams_KFMM = np.zeros((num_problems, holdout.num_folds, num_members, num_members))
        for fold in range(holdout.num_folds):
            rows = np.flatnonzero(holdout.folds_N == fold)
            whole = holdout.num_folds == 1
            stack = holdout.stack if whole else holdout.stack.take(rows)
            targets = holdout.targets if whole else holdout.targets.take(rows)
            for errors_MNC in error_blocks(stack, targets, holdout.shares_N[rows]):
                for problem in range(num_problems):
                    some_MNC = errors_MNC[:, :, [problem]] if per_column else errors_MNC
                    grams_KFMM[problem, fold] += residual_gram(some_MNC)
        return [cls(grams_FMM) for grams_FMM in grams_KFMM]

    def fit(self, left_out: int | None = None) -> Floats:
        """The weights, from the sum of the other folds' inner products."""
        kept = [fold for fold in range(len(self.grams_FMM)) if fold != left_out]
        gram_MM = self.grams_FMM[kept].sum(axis=0)
        if not gram_MM.any():
            return np.full(self.num_members, 1 / self.num_members)
        return squared_error_weights(gram_MM)[0]

    def losses(self, weights_GM: Floats, fold: int) -> Floats:
        """Squared errors."""
        return np.einsum("gm,mk,gk->g", weights_GM, self.grams_FMM[fold], weights_GM)


class SearchedWeights(Weights):
    """Weights with a high value of anything that can be asked for some rows.

    Args:
        on: From rows to the value of weights on them (higher is better, NaN is none), and to a
            function that finds weights to start from.
        holdout: The rows.
    """

    def __init__(self, on: Callable[[Integers], Question], holdout: Holdout) -> None:
        self.on, self.shares_N, self.folds_N = on, holdout.shares_N, holdout.folds_N
        self.num_members = len(holdout.stack.members)

    def fit(self, left_out: int | None = None) -> Floats:
        """The weights."""
        used_N = self.shares_N > 0
        if left_out is not None:
            used_N = used_N & (self.folds_N != left_out)
        if not used_N.any():
            return np.full(self.num_members, 1 / self.num_members)
        value, starts = self.on(np.flatnonzero(used_N))
        return searched_weights(value, starts())[0]

    def losses(self, weights_GM: Floats, fold: int) -> Floats:
        """Minus the values, times the fold's share of all rows."""
        inside = np.flatnonzero((self.folds_N == fold) & (self.shares_N > 0))
        if not len(inside):
            return np.zeros(len(weights_GM))
        value, _ = self.on(inside)
        values_G = np.array([value(weights_M) for weights_M in weights_GM])
        known = np.isfinite(values_G).all()  # a fold without the rare class may have no value
        return -self.shares_N[inside].sum() * values_G if known else np.zeros(len(weights_GM))


class JudgedWeights(Weights):
    """Weights by one objective, whose shrinkage is chosen by another.

    Args:
        fitted: What gives the weights.
        judged: What says how much they lose.
    """

    def __init__(self, fitted: Weights, judged: Weights) -> None:
        self.fitted, self.judged, self.num_members = fitted, judged, fitted.num_members

    def fit(self, left_out: int | None = None) -> Floats:
        """The weights of the first."""
        return self.fitted.fit(left_out)

    def losses(self, weights_GM: Floats, fold: int) -> Floats:
        """The losses of the second."""
        return self.judged.losses(weights_GM, fold)
