# SPDX-License-Identifier: Apache-2.0
"""Hamming accuracy: the share of multi-label decisions that are right.

Shapes: N rows, C classes, R resamples, S statistics of a row (here 1).
"""

from dataclasses import dataclass
from typing import ClassVar

from fusetune.errors import InvalidValue
from fusetune.metric import Metric, weighted_means
from fusetune.predictions.kinds import Floats, Kind, Marginals
from fusetune.predictions.label_sets import said
from fusetune.predictions.targets import LabelSets

__all__ = ["HammingAccuracy"]


@dataclass(frozen=True, kw_only=True)
class HammingAccuracy(Metric[Marginals]):
    """Share of (row, class) pairs whose decision, there or not, is right; higher is better, 0 to 1.

    A class is there where its probability is **above** the threshold, as in scikit-learn's
    `OneVsRestClassifier`; one that the member does not know is never there. It is 1 minus the Hamming
    loss. Where classes are rare, saying nothing scores high: do not select by it there (see
    `multilabel_macro_f1`).

    Args:
        threshold: Of the probability, 0 to 1; 0.5 is best for this metric if the probabilities are
            calibrated.

    Reference:
        Schapire, Singer. "Improved boosting algorithms using confidence-rated predictions".
        Machine Learning, 1999.

    Example:
        >>> prediction = Marginals(["a"], ("cat", "dog"), [[0.75, 0.5]])
        >>> targets = LabelSets(prediction.ids, ("cat", "dog"), [[True, True]])
        >>> HammingAccuracy().value(HammingAccuracy().statistics(prediction, targets))
        0.5
    """

    threshold: float = 0.5

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Marginals})
    higher_is_better: ClassVar[bool] = True
    title: ClassVar[str] = "Hamming accuracy"
    percent: ClassVar[bool] = True
    mean_of_rows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise InvalidValue(
                f"threshold is {self.threshold}", "a number from 0 to 1", "Write 0.5, the default."
            )

    def statistics(self, prediction: Marginals, targets: LabelSets) -> Floats:
        """`(N, 1)` shares of the targets' classes that are decided rightly."""
        right_NC = (said(prediction, targets) > self.threshold) == targets.present_NC
        return right_NC.mean(axis=1, keepdims=True)

    def values(self, statistics_NS: Floats, weights_RN: Floats) -> Floats:
        """`(R,)` weighted shares."""
        return weighted_means(statistics_NS, weights_RN)
