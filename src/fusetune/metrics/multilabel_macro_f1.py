# SPDX-License-Identifier: Apache-2.0
"""Multi-label macro F1: the mean over classes of the F1 of there or not there.

Shapes: N rows, C classes, R resamples, S statistics of a row (here 2 C).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fusetune.errors import InvalidValue
from fusetune.metric import Metric
from fusetune.predictions.kinds import Floats, Kind, Marginals
from fusetune.predictions.label_sets import said
from fusetune.predictions.targets import LabelSets

__all__ = ["MultilabelMacroF1"]


@dataclass(frozen=True, kw_only=True)
class MultilabelMacroF1(Metric[Marginals]):
    """Mean F1 of the classes, each counting alike however rare; higher is better, 0 to 1.

    F1 = 2 TP / (rows with the class + rows said to have it); a class is said to be there where its
    probability is **above** the threshold, and one that the member does not know never. Averaged over
    the classes that occur in the truth or are said, as scikit-learn's
    `f1_score(average="macro", zero_division=nan)`: in a resample, those that occur there; NaN where
    none does.

    Args:
        threshold: Of the probability, 0 to 1; 0.5 as in scikit-learn, though a lower one is mostly
            better for rare classes.

    Reference:
        Lewis, Schapire, Callan, Papka. "Training algorithms for linear text classifiers". SIGIR
        1996.

    Example:
        >>> prediction = Marginals(["a"], ("cat", "dog"), np.array([[0.75, 0.5]]))
        >>> targets = LabelSets(prediction.ids, ("cat", "dog"), np.array([[True, True]]))
        >>> MultilabelMacroF1().value(MultilabelMacroF1().statistics(prediction, targets))
        0.5
    """

    threshold: float = 0.5

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Marginals})
    higher_is_better: ClassVar[bool] = True
    title: ClassVar[str] = "Multi-label macro F1"
    percent: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise InvalidValue(
                f"threshold is {self.threshold}", "a number from 0 to 1", "Write 0.5, the default."
            )

    def statistics(self, prediction: Marginals, targets: LabelSets) -> Floats:
        """`(N, 2 C)`: is the class said and there (1 or 0); and how many of both (0, 1 or 2)."""
        is_said_NC = said(prediction, targets) > self.threshold
        both_NC = is_said_NC & targets.present_NC
        either_NC = is_said_NC.astype(int) + targets.present_NC
        return np.concatenate([both_NC, either_NC], axis=1).astype(np.float64)

    def values(self, statistics_NS: Floats, weights_RN: Floats) -> Floats:
        """`(R,)` means of F1 over the classes that have weight: one matrix product for all."""
        both_RC, either_RC = np.split(weights_RN @ statistics_NS, 2, axis=1)
        occurs_RC = either_RC > 0
        f1_RC = 2 * both_RC / np.where(occurs_RC, either_RC, 1)
        with np.errstate(invalid="ignore"):  # nothing occurs: no value, NaN
            values_R: Floats = f1_RC.sum(axis=1) / occurs_RC.sum(axis=1)
        return values_R
