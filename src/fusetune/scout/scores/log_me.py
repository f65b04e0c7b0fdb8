# SPDX-License-Identifier: Apache-2.0
"""LogME: the evidence for a linear model on the features.

Shapes: N rows, D features, K = min(N, D) singular values, C classes.
"""

from dataclasses import dataclass

import numpy as np

from fusetune.predictions.kinds import Floats
from fusetune.scout.score import TransferScore, View

__all__ = ["LogMe"]

TINY = 1e-12  # of the labels' variance: what a perfect fit leaves


@dataclass(frozen=True, kw_only=True)
class LogMe(TransferScore):
    """Maximum log evidence of Bayesian linear regression of each class on the features, per row.

    For every class's indicator y: weights ~ N(0, 1/a), y ~ N(features · weights, 1/b), the weights
    integrated out, a and b where the evidence is largest; then the mean over the classes. Nothing is
    left to overfit, so that it needs no held-out rows.

    Args:
        rounds: Most fixed-point steps; 100, of which about five are needed as a rule.

    Cost:
        One singular value decomposition of (N, D), shared by the classes.

    Reference:
        You, Liu, Wang, Long. "LogME: practical assessment of pre-trained models for transfer
        learning". ICML 2021; the fixed point of the journal version, "Ranking and tuning pre-trained
        models", JMLR 2022.
    """

    rounds: int = 100

    def value(self, view: View) -> float:
        """Mean log evidence per row and class."""
        features_ND = view.features_ND.astype(np.float64)
        left_NK, singular_K, _ = np.linalg.svd(features_ND, full_matrices=False)
        targets_NC = view.one_hot_NC
        projected_KC = left_NK.T @ targets_NC
        evidences = [
            self._evidence(singular_K**2, projected_K**2, float(target_N @ target_N), view)
            for projected_K, target_N in zip(projected_KC.T, targets_NC.T, strict=True)
        ]
        return float(np.mean(evidences))

    def _evidence(self, squares_K: Floats, fitted_K: Floats, total: float, view: View) -> float:
        """Largest log evidence of one class, per row.

        Args:
            squares_K: Squared singular values of the features.
            fitted_K: Squared coordinates of the indicator along the left singular vectors.
            total: Squared length of the indicator.
            view: For N and D.
        """
        num_rows, num_features = view.features_ND.shape
        beyond = max(0.0, total - float(fitted_K.sum()))  # what no features can explain
        a = b = 1.0
        weights = residual = 0.0
        for _ in range(self.rounds):
            ratio = a / b
            effective = float((squares_K / (squares_K + ratio)).sum())
            weights = float((squares_K * fitted_K / (squares_K + ratio) ** 2).sum())
            residual = float((fitted_K * (ratio / (squares_K + ratio)) ** 2).sum()) + beyond
            a = effective / max(weights, TINY)
            b = (num_rows - effective) / max(residual, TINY)
            if abs(a / b - ratio) <= 1e-6 * ratio:
                break
        determinant = np.log(a + b * squares_K).sum() + (num_features - len(squares_K)) * np.log(a)
        evidence = num_features * np.log(a) + num_rows * np.log(b) - determinant
        evidence -= b * residual + a * weights + num_rows * np.log(2 * np.pi)
        return float(evidence) / (2 * num_rows)
