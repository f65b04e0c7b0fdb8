# SPDX-License-Identifier: Apache-2.0
"""H-score: how far apart the classes' mean features lie, measured in the features' spread.

Shapes: N rows, D features, C classes.
"""

from dataclasses import dataclass

import numpy as np

from fusetune.scout.score import TransferScore, View

__all__ = ["HScore"]


@dataclass(frozen=True, kw_only=True)
class HScore(TransferScore):
    """tr(cov(features)⁻¹ cov(mean features of the row's class)), the covariance shrunk.

    With more features than rows the plain score is C - 1 whatever the features are; shrinking the
    covariance towards a multiple of the identity (Ledoit & Wolf 2004), the numerator by the same
    share, keeps it a measure.

    Cost:
        One (D, D) system.

    Reference:
        Bao et al. "An information-theoretic approach to transferability in task transfer learning".
        ICIP 2019; Ibrahim, Ponomareva, Mazumder. "Newer is not always better: rethinking
        transferability metrics, their peculiarities, stability and performance". ECML PKDD 2022.
    """

    def value(self, view: View) -> float:
        """The regularized H-score, 0 to C - 1 in the limit of many rows."""
        from scipy.linalg import solve
        from sklearn.covariance import ledoit_wolf

        features_ND = view.features_ND.astype(np.float64)
        features_ND -= features_ND.mean(axis=0)
        covariance_DD, shrinkage = ledoit_wolf(features_ND, assume_centered=True)
        counts_C = np.bincount(view.labels_N, minlength=view.num_classes)
        means_CD = view.one_hot_NC.T @ features_ND / np.maximum(counts_C, 1)[:, None]
        between_DD = (means_CD * counts_C[:, None]).T @ means_CD / len(features_ND)
        if not covariance_DD.trace() > 0:
            return 0.0  # all rows alike
        ratio_DD = solve(covariance_DD, between_DD, assume_a="pos")
        return float((1 - shrinkage) * ratio_DD.trace())
