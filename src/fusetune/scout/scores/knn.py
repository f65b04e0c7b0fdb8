# SPDX-License-Identifier: Apache-2.0
"""Leave-one-out accuracy of the nearest neighbors in the features."""

from dataclasses import dataclass

import numpy as np

from fusetune.errors import InvalidValue
from fusetune.scout.score import TransferScore, View

__all__ = ["Knn"]


@dataclass(frozen=True, kw_only=True)
class Knn(TransferScore):
    """Share of rows whose nearest other rows, by cosine, vote for their class.

    Args:
        neighbors: How many vote, weighted by exp(similarity / 0.07), as Wu et al. 2018 and Caron
            et al. 2021 (DINO) do; fewer where there are fewer other rows. 20 as in DINO.

    Cost:
        N² D multiplications.

    Reference:
        Wu, Xiong, Yu, Lin. "Unsupervised feature learning via non-parametric instance
        discrimination". CVPR 2018.
    """

    neighbors: int = 20

    def __post_init__(self) -> None:
        if self.neighbors < 1:
            raise InvalidValue(
                f"neighbors is {self.neighbors}", "a whole number of at least 1", "Write 20."
            )

    def value(self, view: View) -> float:
        """Accuracy in [0, 1]; 0 for a single row."""
        from sklearn.neighbors import NearestNeighbors

        num = min(self.neighbors, len(view.labels_N) - 1)
        if num < 1:
            return 0.0
        lengths_N = np.linalg.norm(view.features_ND, axis=1, keepdims=True)
        unit_ND = view.features_ND / np.maximum(lengths_N, np.finfo(np.float32).tiny)
        search = NearestNeighbors(n_neighbors=num, metric="euclidean").fit(unit_ND)
        distances_NK, others_NK = search.kneighbors()  # without the row itself
        weights_NK = np.exp((1 - distances_NK**2 / 2) / TEMPERATURE)
        votes_NC = np.zeros((len(unit_ND), view.num_classes))
        rows_NK = np.broadcast_to(np.arange(len(unit_ND))[:, None], others_NK.shape)
        np.add.at(votes_NC, (rows_NK, view.labels_N[others_NK]), weights_NK)
        return float((votes_NC.argmax(axis=1) == view.labels_N).mean())


TEMPERATURE = 0.07
