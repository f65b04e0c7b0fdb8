# SPDX-License-Identifier: Apache-2.0
"""Area under the ROC curve: how well a class's rows are ranked above the others.

Shapes: N rows, C classes, P rows of a class, Q other rows, R resamples, S statistics of a row.
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
        weights_NR = np.ascontiguousarray(weights_RN.T)  # rows of the data set are moved about
        areas_CR = [
            _areas(scores_N, labels_N == first + column, weights_NR)
            for column, scores_N in enumerate(scores_NC.T)
        ]
        ranked_R = np.sum(~np.isnan(areas_CR), axis=0)
        with np.errstate(invalid="ignore"):  # no class to rank: no value, NaN
            means_R: Floats = np.nansum(areas_CR, axis=0) / ranked_R
        return means_R


def _areas(scores_N: Floats, positive_N: Array, weights_NR: Floats) -> Floats:
    """`(R,)` areas of one class, NaN where it or the rest has no weight; sorts once for all."""
    own_P, others_Q = np.flatnonzero(positive_N), np.flatnonzero(~positive_N)
    others_Q = others_Q[np.argsort(scores_N[others_Q], kind="stable")]
    # Weight of the first 0, 1, ... Q others; an equal score is half below.
    first_QR = np.zeros((len(others_Q) + 1, weights_NR.shape[1]))
    np.cumsum(weights_NR[others_Q], axis=0, out=first_QR[1:])
    ranked_Q, scores_P = scores_N[others_Q], scores_N[own_P]
    lower_P, upper_P = (np.searchsorted(ranked_Q, scores_P, side) for side in ("left", "right"))
    below_PR = first_QR[lower_P]
    if (lower_P < upper_P).any():
        below_PR = (below_PR + first_QR[upper_P]) / 2
    weights_PR = weights_NR[own_P]
    pairs_R = weights_PR.sum(axis=0) * first_QR[-1]
    with np.errstate(invalid="ignore"):
        areas_R: Floats = np.einsum("pr,pr->r", weights_PR, below_PR) / pairs_R
    return areas_R
