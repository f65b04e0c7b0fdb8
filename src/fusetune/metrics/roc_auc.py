# SPDX-License-Identifier: Apache-2.0
"""Area under the ROC curve: how well a class's rows are ranked above the others.

Shapes: N rows, C classes, G groups of rows with equal scores, R resamples, S statistics of a row.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fusetune.metric import Metric
from fusetune.predictions.kinds import Array, Floats, Kind, Probabilities
from fusetune.predictions.targets import Targets

__all__ = ["RocAuc"]


@dataclass(frozen=True, kw_only=True)
class RocAuc(Metric[Probabilities]):
    """Chance that a row of the class ranks above a row of another; higher is better, 0 to 1.

    AUC_c = P(p_c of a row of class c > p_c of another row) + P(they are equal) / 2. With two classes
    it is that of the second one of the targets; with more the mean over the classes against the
    rest. Classes without rows, or without other rows, are left out: in a resample, those that the
    resample leaves out; where none remains the value is NaN. As scikit-learn's
    `roc_auc_score(multi_class="ovr")`, which refuses classes without rows. A class that the member
    does not know has probability 0 everywhere, so its AUC is 1/2.

    It reads ranks only: do not use it where the probabilities themselves count (see `log_loss`).

    Cost:
        One sort of N numbers per class, then a pass over R N numbers per class.

    Reference:
        Hanley, McNeil. "The meaning and use of the area under a receiver operating characteristic
        (ROC) curve". Radiology, 1982.

    Example:
        >>> probs_NC = np.array([[0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
        >>> prediction = Probabilities(["a", "b", "c"], ("no", "yes"), probs_NC)
        >>> targets = Targets.from_names(prediction.ids, ["no", "no", "yes"])
        >>> RocAuc().value(RocAuc().statistics(prediction, targets))
        0.75
    """

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Probabilities})
    higher_is_better: ClassVar[bool] = True
    title: ClassVar[str] = "ROC AUC"
    percent: ClassVar[bool] = True

    def statistics(self, prediction: Probabilities, targets: Targets) -> Floats:
        """`(N, 1 + C)`: the true class's number and the classes' probabilities.

        With two classes `(N, 2)`: whether it is the second one, and that one's probability.
        """
        assert np.array_equal(prediction.ids, targets.ids), "prediction and targets differ in rows"
        position = {name: index for index, name in enumerate(prediction.classes)}
        scores_NC = np.zeros((len(prediction), len(targets.classes)))
        for column, name in enumerate(targets.classes):
            if name in position:
                scores_NC[:, column] = prediction.probs_NC[:, position[name]]
        kept_NC = scores_NC[:, 1:] if len(targets.classes) == 2 else scores_NC
        return np.concatenate([targets.labels_N[:, None], kept_NC], axis=1)

    def values(self, statistics_NS: Floats, weights_RN: Floats) -> Floats:
        """`(R,)` means of the areas over the classes that can be ranked in the resample."""
        scores_NC, labels_N = statistics_NS[:, 1:], statistics_NS[:, 0]
        first = 1 if scores_NC.shape[1] == 1 else 0  # of two classes only the second is there
        areas_CR = [
            _areas(scores_N, labels_N == first + column, weights_RN)
            for column, scores_N in enumerate(scores_NC.T)
        ]
        ranked_R = np.sum(~np.isnan(areas_CR), axis=0)
        with np.errstate(invalid="ignore"):  # no class to rank: no value, NaN
            means_R: Floats = np.nansum(areas_CR, axis=0) / ranked_R
        return means_R


def _areas(scores_N: Floats, positive_N: Array, weights_RN: Floats) -> Floats:
    """`(R,)` areas of one class, NaN where it or the rest has no weight; sorts once for all."""
    if not len(scores_N):
        return np.full(len(weights_RN), np.nan)
    order = np.argsort(scores_N, kind="stable")
    sorted_N = scores_N[order]
    firsts = np.flatnonzero(np.concatenate([[True], sorted_N[1:] > sorted_N[:-1]]))
    sorted_RN = weights_RN[:, order]
    positive_RG = np.add.reduceat(sorted_RN * positive_N[order], firsts, axis=1)
    negative_RG = np.add.reduceat(sorted_RN * ~positive_N[order], firsts, axis=1)
    below_RG = np.cumsum(negative_RG, axis=1) - negative_RG / 2  # an equal score is half below
    pairs_R = positive_RG.sum(axis=1) * negative_RG.sum(axis=1)
    with np.errstate(invalid="ignore"):
        areas_R: Floats = np.einsum("rg,rg->r", positive_RG, below_RG) / pairs_R
    return areas_R
