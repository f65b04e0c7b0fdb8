# SPDX-License-Identifier: Apache-2.0
"""Confusion: what a class's name is worth, for members that give nothing else.

Shapes: N rows, C classes.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fusetune.calibrate.calibrator import Calibration, Calibrator
from fusetune.calibrate.fitting import by_name, fit_rows, in_its_order, positive
from fusetune.predictions.kinds import Array, Floats, Kind, Probabilities
from fusetune.predictions.targets import Targets

__all__ = ["Confusion", "ConfusionCalibration"]


@dataclass(frozen=True, kw_only=True)
class Confusion(Calibrator[Probabilities]):
    """P(true class | class that the member names), counted and smoothed.

    A row becomes the row of the confusion matrix that belongs to its most probable class (the
    earlier one in the fit's order wins an exact tie):

        q_c = (count(named, c) + k r(named, c)) / (count(named) + k),   k = prior_rows C

    where r is what one expects of a class that was never named: the named one with probability
    A, the others by their share of the rows. A = (right + 1) / (W + 2) is the member's accuracy
    and a class's share (count + 1) / (W + C), both by Laplace's rule, with W the weight of the
    fit rows (mean 1).

    For members that give only labels (rows of one 1 and zeros): their certainty would cost an
    infinite log-loss, and weighs too much in any average. Do not use it for members with
    probabilities: all but the name is thrown away (see `temperature`).

    Args:
        prior_rows: Rows that the expectation counts for, per class; 1 is Laplace's rule.

    Cost:
        One pass over N C numbers.

    Reference:
        Xu, Krzyzak, Suen. "Methods of combining multiple classifiers and their applications to
        handwriting recognition". IEEE Transactions on Systems, Man, and Cybernetics, 1992 (the
        confusion matrix as beliefs). The expectation is ours.

    Example:
        >>> ids = [f"row{n}" for n in range(100)]
        >>> named = Probabilities(ids, ("cat", "dog"), np.tile([1.0, 0.0], (100, 1)))
        >>> targets = Targets.from_names(ids, ["cat"] * 80 + ["dog"] * 20)
        >>> Confusion().fit(named, targets)(named).probs_NC[0].round(2).tolist()
        [0.8, 0.2]
    """

    prior_rows: float = 1.0

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Probabilities})

    def __post_init__(self) -> None:
        positive("prior_rows", self.prior_rows)

    def fit(
        self, prediction: Probabilities, targets: Targets, *, sample_weights_N: Array | None = None
    ) -> "ConfusionCalibration":
        """The smoothed rows of the confusion matrix."""
        rows = fit_rows(prediction, targets, sample_weights_N)
        num_classes = len(prediction.classes)
        pairs_N = rows.probs_NC.argmax(axis=1) * num_classes + rows.true_NC.argmax(axis=1)
        counted = np.bincount(pairs_N, rows.weights_N, num_classes**2).astype(np.float64)
        counts_CC = counted.reshape(num_classes, num_classes)
        prior = self.prior_rows * num_classes
        beliefs_CC = counts_CC + prior * _expectation(counts_CC)
        beliefs_CC /= counts_CC.sum(axis=1, keepdims=True) + prior
        return ConfusionCalibration(classes=prediction.classes, beliefs_CC=beliefs_CC)


@dataclass(frozen=True, kw_only=True, eq=False)
class ConfusionCalibration(Calibration[Probabilities]):
    """Fitted beliefs.

    Args:
        classes: C class names.
        beliefs_CC: `(C, C)` row: the class named; column: the probability of the true class.
    """

    classes: tuple[str, ...]
    beliefs_CC: Floats

    def __call__(self, prediction: Probabilities) -> Probabilities:
        """The row of the class that is named."""
        named_N = by_name(prediction, self.classes).argmax(axis=1)
        return in_its_order(prediction, self.classes, self.beliefs_CC[named_N])


def _expectation(counts_CC: Floats) -> Floats:
    """`(C, C)` beliefs about a class that was never named, from the other rows."""
    num_classes, total = len(counts_CC), float(counts_CC.sum())
    if num_classes == 1:
        return np.ones((1, 1))
    accuracy = (float(np.trace(counts_CC)) + 1) / (total + 2)
    shares_C = (counts_CC.sum(axis=0) + 1) / (total + num_classes)
    others_CC = np.tile(shares_C, (num_classes, 1))
    np.fill_diagonal(others_CC, 0)
    others_CC *= (1 - accuracy) / others_CC.sum(axis=1, keepdims=True)
    np.fill_diagonal(others_CC, accuracy)
    return others_CC
