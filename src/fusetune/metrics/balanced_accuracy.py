# SPDX-License-Identifier: Apache-2.0
"""Balanced accuracy: the mean over classes of the share of their rows that are right.

Shapes: N rows, C classes, R resamples, S statistics of a row (here 2).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fusetune.metric import Metric
from fusetune.predictions.kinds import Floats, Kind, Probabilities
from fusetune.predictions.targets import Targets

__all__ = ["BalancedAccuracy"]


@dataclass(frozen=True, kw_only=True)
class BalancedAccuracy(Metric[Probabilities]):
    """Mean recall of the classes, each counting alike however rare; higher is better, 0 to 1.

    Averaged over the classes that occur among the truth, as scikit-learn's
    `balanced_accuracy_score` does: in a resample, over those that occur in the resample. The
    earlier class of the prediction wins an exact tie; a class that the member does not know is
    never right. Do not select by it on few rows: a class with two rows moves it in halves.

    Reference:
        Brodersen, Ong, Stephan, Buhmann. "The balanced accuracy and its posterior distribution".
        ICPR 2010.

    Example:
        >>> prediction = Probabilities(["a", "b", "c"], ("cat", "dog"), np.tile([0.9, 0.1], (3, 1)))
        >>> targets = Targets.from_names(prediction.ids, ["cat", "cat", "dog"])
        >>> BalancedAccuracy().value(BalancedAccuracy().statistics(prediction, targets))
        0.5
    """

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Probabilities})
    higher_is_better: ClassVar[bool] = True
    title: ClassVar[str] = "Balanced accuracy"
    percent: ClassVar[bool] = True
    weighs_classes_evenly: ClassVar[bool] = True

    def statistics(self, prediction: Probabilities, targets: Targets) -> Floats:
        """`(N, 2)`: the true class's number, and 1 where the most probable class is the true one."""
        assert np.array_equal(prediction.ids, targets.ids), "prediction and targets differ in rows"
        top_N = prediction.probs_NC.argmax(axis=1)
        right_N = top_N == targets.columns(prediction.classes)
        return np.stack([targets.labels_N, right_N], axis=1).astype(np.float64)

    def values(self, statistics_NS: Floats, weights_RN: Floats) -> Floats:
        """`(R,)` means of the recall over the classes that have weight in the resample."""
        true_N, right_N = statistics_NS.astype(np.int64).T
        num_classes = int(true_N.max(initial=-1)) + 1
        values_R = np.empty(len(weights_RN))
        for index, weights_N in enumerate(weights_RN):
            wrong_right_C2 = np.bincount(2 * true_N + right_N, weights_N, 2 * num_classes)
            wrong_C, right_C = wrong_right_C2.reshape(-1, 2).T
            occurs_C = wrong_C + right_C > 0
            recall_C = right_C[occurs_C] / (wrong_C + right_C)[occurs_C]
            values_R[index] = recall_C.mean() if len(recall_C) else np.nan
        return values_R
