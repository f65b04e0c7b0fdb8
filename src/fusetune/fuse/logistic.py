# SPDX-License-Identifier: Apache-2.0
"""Penalized multinomial logistic regression on top of given logits.

Shapes: N rows, C classes, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fusetune.fuse.valley import valley
from fusetune.predictions.kinds import Array, Floats

__all__ = ["EXACT", "ROUGH", "LogisticProblem", "choose_penalty", "logistic_losses", "softmax"]

EXACT = 1e-4  # largest slope, where a step of 1 is about a standard error of the coefficients
ROUGH = 0.05  # chose the same penalties as 1e-3, and lost nothing on 30 rows; 0.2 did


@dataclass(frozen=True, eq=False)
class LogisticProblem:
    """min over W of sum_n w_n loss_n + penalty/2 |W|^2, loss of the logits base + features W.

    Args:
        features_NF: `(N, F)` features.
        base_NC: `(N, C)` logits that stand as they are.
        columns_N: `(N,)` true classes; rows of weight 0 may hold -1.
        weights_N: `(N,)` non-negative weights.
    """

    features_NF: Floats
    base_NC: Floats
    columns_N: Array
    weights_N: Floats
    base_CN: Floats = field(init=False)

    def __post_init__(self) -> None:
        # Classes before rows: sums over a few classes then run along whole columns of rows.
        object.__setattr__(self, "base_CN", np.ascontiguousarray(self.base_NC.T))

    def take(self, rows: Array) -> "LogisticProblem":
        """The same problem on some rows."""
        parts = (self.features_NF, self.base_NC, self.columns_N, self.weights_N)
        return LogisticProblem(*(part[rows] for part in parts))

    def zeros(self) -> Floats:
        """`(F, C)` coefficients that leave the base as it is."""
        return np.zeros((self.features_NF.shape[1], self.base_NC.shape[1]))

    def fit(self, penalty: float, start_FC: Floats, tolerance: float = EXACT) -> Floats:
        """`(F, C)` minimizer by L-BFGS, in coordinates in which the curvature is about 1.

        The members' log-probabilities nearly agree, so the curvature is ill-conditioned; dividing
        it out saves three of four passes.
        """
        from scipy.optimize import minimize

        scale_FF = self._scale(penalty, start_FC)
        scaled_FN = np.ascontiguousarray((self.features_NF @ scale_FF).T)
        ridge_FF = penalty * scale_FF.T @ scale_FF
        shape, rows_N = start_FC.shape[::-1], np.arange(len(self.weights_N))

        def objective(flat: Floats) -> tuple[float, Floats]:
            scaled_CF = flat.reshape(shape)
            logits_CN = scaled_CF @ scaled_FN
            logits_CN += self.base_CN
            logits_CN -= logits_CN.max(axis=0)
            true_N = logits_CN[self.columns_N, rows_N]
            errors_CN = np.exp(logits_CN, out=logits_CN)
            sums_N = errors_CN.sum(axis=0)
            loss = float((np.log(sums_N) - true_N) @ self.weights_N)
            errors_CN *= self.weights_N / sums_N
            errors_CN[self.columns_N, rows_N] -= self.weights_N
            pulled_CF = scaled_CF @ ridge_FF
            slope_CF = errors_CN @ scaled_FN.T + pulled_CF
            return loss + float(np.vdot(pulled_CF, scaled_CF)) / 2, slope_CF.ravel()

        found = minimize(
            objective,
            np.linalg.solve(scale_FF, start_FC).T.ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 500, "gtol": tolerance, "ftol": 1e-13},
        )
        coefficients_FC: Floats = scale_FF @ found.x.reshape(shape).T
        return coefficients_FC

    def losses(self, coefficients_FC: Floats) -> Floats:
        """`(N,)` losses of the rows."""
        return logistic_losses(self.base_NC + self.features_NF @ coefficients_FC, self.columns_N)

    def _scale(self, penalty: float, start_FC: Floats) -> Floats:
        """`(F, F)` matrix T with T'HT = 1 for the curvature H at the start, classes averaged."""
        probs_NC = softmax(self.base_NC + self.features_NF @ start_FC)
        bend_N = self.weights_N * (1 - (probs_NC**2).sum(axis=1)) / probs_NC.shape[1]
        curvature_FF = (self.features_NF.T * bend_N) @ self.features_NF
        curvature_FF[np.diag_indices(len(curvature_FF))] += penalty
        scale_FF: Floats = np.linalg.inv(np.linalg.cholesky(curvature_FF)).T
        return scale_FF


def choose_penalty(problem: LogisticProblem, penalties: Sequence[float], folds_N: Array) -> float:
    """The penalty with the lowest cross-validated loss, from the middle on for as long as it falls.

    Each fold starts where the fit on all rows ended, and is fitted until it has left it.

    Args:
        problem: All rows.
        penalties: To choose from.
        folds_N: `(N,)` fold numbers from 0.
    """
    strongest_first = sorted(penalties, reverse=True)
    splits = [(folds_N != fold, folds_N == fold) for fold in np.unique(folds_N)]
    if len(strongest_first) == 1 or len(splits) < 2:
        return strongest_first[0]
    parts = [(problem.take(fit), problem.take(judge)) for fit, judge in splits]
    starts = [problem.zeros()]

    def loss(index: int) -> float:
        starts.append(problem.fit(strongest_first[index], starts[-1], ROUGH))
        fitted = (
            (fit.fit(strongest_first[index], starts[-1], ROUGH), judge) for fit, judge in parts
        )
        return sum(float(judge.losses(found_FC) @ judge.weights_N) for found_FC, judge in fitted)

    return strongest_first[valley(loss, len(strongest_first), 1e-9)]


def logistic_losses(logits_NC: Floats, columns_N: Array) -> Floats:
    """`(N,)` losses -log softmax(logits)[true class], in nats."""
    top_N = logits_NC.max(axis=1)
    log_sums_N = top_N + np.log(np.exp(logits_NC - top_N[:, None]).sum(axis=1))
    losses_N: Floats = log_sums_N - logits_NC[np.arange(len(logits_NC)), columns_N]
    return losses_N


def softmax(logits_NC: Floats) -> Floats:
    """`(N, C)` probabilities of logits."""
    probs_NC = logits_NC - logits_NC.max(axis=1, keepdims=True)
    np.exp(probs_NC, out=probs_NC)
    probs_NC /= probs_NC.sum(axis=1, keepdims=True)
    return probs_NC
