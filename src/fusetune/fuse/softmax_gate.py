# SPDX-License-Identifier: Apache-2.0
"""Row-wise weights of fixed members: a softmax of linear functions of the row's features.

Shapes: M members, N rows, F features, D numbers that are predicted.
"""

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from fusetune.fuse.threads import one_thread
from fusetune.predictions.kinds import Array, Floats

__all__ = ["GateLoss", "LogLosses", "SquaredErrors", "choose_gate", "fit_gate", "gate_weights"]

CONSTANTS = 0.01  # penalty of a constant, as a share of a coefficient's
FLOOR = 1e-9  # of a weight: members that know a class keep it possible


class GateLoss(abc.ABC):
    """Loss of the weighted average in every row, and its slope by the weights."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int]:
        """Rows and members."""

    @abc.abstractmethod
    def __call__(self, weights_NM: Floats) -> tuple[Floats, Floats]:
        """`(N,)` losses and `(N, M)` derivatives, for weights that sum to 1 in every row."""

    @abc.abstractmethod
    def take(self, rows: Array) -> Self:
        """The loss of some rows."""


@dataclass(frozen=True, eq=False)
class LogLosses(GateLoss):
    """-log sum_m w_m p_m(true class), in nats.

    Args:
        true_NM: `(N, M)` probabilities of the true classes, above 0.
    """

    true_NM: Floats

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and members."""
        return len(self.true_NM), self.true_NM.shape[1]

    def __call__(self, weights_NM: Floats) -> tuple[Floats, Floats]:
        """Losses and slopes."""
        pool_N = np.einsum("nm,nm->n", weights_NM, self.true_NM)
        return -np.log(pool_N), -self.true_NM / pool_N[:, None]

    def take(self, rows: Array) -> Self:
        """The loss of some rows."""
        return type(self)(self.true_NM[rows])


@dataclass(frozen=True, eq=False)
class SquaredErrors(GateLoss):
    """Half the sum over D of (sum_m w_m error_m)^2.

    Args:
        errors_NMD: `(N, M, D)` the members' estimates minus the truth.
    """

    errors_NMD: Floats

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and members."""
        return len(self.errors_NMD), self.errors_NMD.shape[1]

    def __call__(self, weights_NM: Floats) -> tuple[Floats, Floats]:
        """Losses and slopes."""
        pool_ND = np.einsum("nm,nmd->nd", weights_NM, self.errors_NMD)
        return (pool_ND**2).sum(axis=1) / 2, np.einsum("nd,nmd->nm", pool_ND, self.errors_NMD)

    def take(self, rows: Array) -> Self:
        """The loss of some rows."""
        return type(self)(self.errors_NMD[rows])


def gate_weights(features_NF: Floats, coefficients_FM: Floats) -> Floats:
    """`(N, M)` softmax over members of features times coefficients, at least 1e-9.

    Args:
        features_NF: `(N, F)` features, without the constant.
        coefficients_FM: `(F + 1, M)`; the last row holds the constants.
    """
    logits_NM = features_NF @ coefficients_FM[:-1] + coefficients_FM[-1]
    weights_NM = np.exp(logits_NM - logits_NM.max(axis=1, initial=-np.inf, keepdims=True))
    weights_NM /= weights_NM.sum(axis=1, keepdims=True)
    floored_NM: Floats = np.maximum(weights_NM, FLOOR)
    return floored_NM


def fit_gate(
    features_NF: Floats,
    loss: GateLoss,
    weights_N: Floats,
    penalty: float,
    start_FM: Floats,
) -> Floats:
    """Coefficients that minimize the rows' losses plus an L2 penalty.

    sum_n s_n loss_n + penalty/2 (|V|^2 + 0.01 |a|^2), with coefficients V and constants a: a strong
    penalty leaves weights that are the same for all rows, a stronger one equal weights. Not convex;
    L-BFGS from the start given.

    Args:
        features_NF: `(N, F)` features, without the constant.
        loss: What a row costs.
        weights_N: `(N,)` non-negative weights s of the rows.
        penalty: Above 0.
        start_FM: `(F + 1, M)` first guess.

    Returns:
        `(F + 1, M)` coefficients; the last row holds the constants a.

    Cost:
        About a hundred passes over N F M multiplications.
    """
    from scipy.optimize import minimize

    total = max(float(weights_N.sum()), 1.0)
    strengths_F1 = np.append(np.full(features_NF.shape[1], penalty), CONSTANTS * penalty)[:, None]

    def objective(flat: Floats) -> tuple[float, Floats]:
        coefficients_FM = flat.reshape(start_FM.shape)
        share_NM = gate_weights(features_NF, coefficients_FM)
        losses_N, slope_NM = loss(share_NM)
        slope_NM = slope_NM - np.einsum("nm,nm->n", share_NM, slope_NM)[:, None]
        slope_NM *= share_NM * weights_N[:, None]
        pull_FM = strengths_F1 * coefficients_FM
        value = losses_N @ weights_N + (pull_FM * coefficients_FM).sum() / 2
        pull_FM[:-1] += features_NF.T @ slope_NM
        pull_FM[-1] += slope_NM.sum(axis=0)
        return float(value) / total, pull_FM.ravel() / total

    with one_thread():
        found = minimize(
            objective,
            start_FM.ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 300, "gtol": 1e-6, "ftol": 1e-11},
        )
    coefficients_FM: Floats = found.x.reshape(start_FM.shape)
    return coefficients_FM


def choose_gate(
    features_NF: Floats,
    loss: GateLoss,
    weights_N: Floats,
    penalties: Sequence[float],
    folds_N: Array,
) -> tuple[float, Floats] | None:
    """The gate whose penalty loses least out of fold, if it loses less than equal weights do.

    The penalty is weakened for as long as the cross-validated loss falls. The gain over equal
    weights has to be above its standard error, or there is no gate.

    Args:
        features_NF: `(N, F)` features, without the constant.
        loss: What a row costs.
        weights_N: `(N,)` non-negative weights of the rows.
        penalties: Strengths to choose from; a single one is taken without asking.
        folds_N: `(N,)` fold of each row.

    Returns:
        The penalty and the `(F + 1, M)` coefficients fitted on all rows, or None.
    """
    even_N, _ = loss(np.full(loss.shape, 1 / loss.shape[1]))
    zeros_FM = np.zeros((features_NF.shape[1] + 1, loss.shape[1]))
    strongest_first = sorted(penalties, reverse=True)
    best = strongest_first[0]
    if len(strongest_first) > 1:
        shares_N = weights_N / weights_N.sum()
        splits = [(folds_N != fold, folds_N == fold) for fold in np.unique(folds_N)]
        starts = [zeros_FM for _ in splits]
        best_N, before = np.full(len(even_N), np.inf), np.inf
        for penalty in strongest_first:
            losses_N = np.empty(len(even_N))
            for index, (fit, judge) in enumerate(splits):
                starts[index] = fit_gate(
                    features_NF[fit], loss.take(fit), weights_N[fit], penalty, starts[index]
                )
                share_NM = gate_weights(features_NF[judge], starts[index])
                losses_N[judge], _ = loss.take(judge)(share_NM)
            if shares_N @ losses_N > before:  # the loss falls, then rises, as the penalty weakens
                break
            best, best_N, before = penalty, losses_N, float(shares_N @ losses_N)
        gain = float(shares_N @ (even_N - best_N))
        error = float(np.sqrt(shares_N**2 @ (even_N - best_N - gain) ** 2))
        if gain <= error:
            return None
    return best, fit_gate(features_NF, loss, weights_N, best, zeros_FM)
