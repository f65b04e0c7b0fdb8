# SPDX-License-Identifier: Apache-2.0
"""Macro F1: the mean over classes of the harmonic mean of precision and recall.

Shapes: N rows, C classes, R resamples, S statistics of a row (here 2).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fusetune.metric import Metric
from fusetune.predictions.kinds import Floats, Kind, Probabilities
from fusetune.predictions.targets import Targets

__all__ = ["MacroF1"]


@dataclass(frozen=True, kw_only=True)
class MacroF1(Metric[Probabilities]):
    """Mean F1 of the classes, each counting alike however rare; higher is better, 0 to 1.

    F1 = 2 TP / (rows of the class + rows predicted as the class). Averaged over the classes that
    occur among the truth or the predictions, as scikit-learn's `f1_score(average="macro")` does:
    in a resample, over those that occur in the resample. The earlier class wins an exact tie.

    Reference:
        Lewis, Schapire, Callan, Papka. "Training algorithms for linear text classifiers". SIGIR
        1996.

    Example:
        >>> from fusetune.predictions.targets import Targets
        >>> prediction = Probabilities(["a", "b"], ("cat", "dog"), np.array([[0.9, 0.1], [0.6, 0.4]]))
        >>> targets = Targets.from_names(prediction.ids, ["cat", "dog"])
        >>> round(MacroF1().value(MacroF1().statistics(prediction, targets)), 4)
        0.3333
    """

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Probabilities})
    higher_is_better: ClassVar[bool] = True
    title: ClassVar[str] = "Macro F1"
    percent: ClassVar[bool] = True
    weighs_classes_evenly: ClassVar[bool] = True

    def statistics(self, prediction: Probabilities, targets: Targets) -> Floats:
        """`(N, 2)`: true and predicted class, numbered over the union of the class names."""
        assert np.array_equal(prediction.ids, targets.ids), "prediction and targets differ in rows"
        union = dict.fromkeys((*targets.classes, *prediction.classes))
        position = {name: index for index, name in enumerate(union)}
        columns = np.array([position[name] for name in prediction.classes])
        predicted_N = columns[prediction.probs_NC.argmax(axis=1)]
        return np.stack([targets.labels_N, predicted_N], axis=1).astype(np.float64)

    def values(self, statistics_NS: Floats, weights_RN: Floats) -> Floats:
        """`(R,)` means of F1 over the classes that have weight in the resample."""
        true_N, predicted_N = statistics_NS.astype(np.int64).T
        right_N = true_N == predicted_N
        num_classes = int(statistics_NS.max(initial=-1)) + 1
        values_R = np.empty(len(weights_RN))
        for index, weights_N in enumerate(weights_RN):
            right_C = np.bincount(true_N[right_N], weights_N[right_N], num_classes)
            either_C = np.bincount(true_N, weights_N, num_classes)
            either_C += np.bincount(predicted_N, weights_N, num_classes)
            occurs_C = either_C > 0
            f1_C = 2 * right_C[occurs_C] / either_C[occurs_C]
            values_R[index] = f1_C.mean() if len(f1_C) else np.nan
        return values_R
