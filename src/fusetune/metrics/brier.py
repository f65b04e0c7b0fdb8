# SPDX-License-Identifier: Apache-2.0
"""Brier score: the squared distance between the probabilities and the truth.

Shapes: N rows, C classes, R resamples, S statistics of a row (here 1).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fusetune.metric import Metric, weighted_means
from fusetune.predictions.kinds import Floats, Kind, Probabilities
from fusetune.predictions.targets import Targets

__all__ = ["Brier"]


@dataclass(frozen=True, kw_only=True)
class Brier(Metric[Probabilities]):
    """Mean over rows of the squared errors summed over all classes; lower is better, 0 to 2.

    The original definition, for any number of classes. Two-class tools often give half of it
    (scikit-learn's `scale_by_half`). A class that the member does not know has probability 0.

    Reference:
        Brier, G. W. "Verification of forecasts expressed in terms of probability". Monthly Weather
        Review, 1950.

    Example:
        >>> from fusetune.predictions.targets import Targets
        >>> prediction = Probabilities(["a"], ("cat", "dog"), np.array([[0.75, 0.25]]))
        >>> targets = Targets.from_names(prediction.ids, ["cat"])
        >>> Brier().value(Brier().statistics(prediction, targets))
        0.125
    """

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Probabilities})
    higher_is_better: ClassVar[bool] = False
    title: ClassVar[str] = "Brier score"
    mean_of_rows: ClassVar[bool] = True

    def statistics(self, prediction: Probabilities, targets: Targets) -> Floats:
        """`(N, 1)` squared errors of the rows, summed over classes."""
        assert np.array_equal(prediction.ids, targets.ids), "prediction and targets differ in rows"
        columns_N = targets.columns(prediction.classes)
        known_N = columns_N >= 0
        errors_NC = prediction.probs_NC.astype(np.float64)
        errors_NC[np.flatnonzero(known_N), columns_N[known_N]] -= 1
        return (np.einsum("nc,nc->n", errors_NC, errors_NC) + ~known_N)[:, None]

    def values(self, statistics_NS: Floats, weights_RN: Floats) -> Floats:
        """`(R,)` weighted mean squared errors."""
        return weighted_means(statistics_NS, weights_RN)
