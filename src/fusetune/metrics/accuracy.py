# SPDX-License-Identifier: Apache-2.0
"""Accuracy: the share of rows whose most probable class is the true one.

Shapes: N rows, R resamples, S statistics of a row (here 1).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fusetune.metric import Metric, weighted_means
from fusetune.predictions.kinds import Floats, Kind, Probabilities
from fusetune.predictions.targets import Targets

__all__ = ["Accuracy"]


@dataclass(frozen=True, kw_only=True)
class Accuracy(Metric[Probabilities]):
    """Share of rows whose most probable class is the true one; higher is better, 0 to 1.

    The earlier class of the prediction wins an exact tie, as `numpy.argmax` and scikit-learn have
    it. A row whose true class the member does not know is wrong.

    Example:
        >>> from fusetune.predictions.targets import Targets
        >>> prediction = Probabilities(["a", "b"], ("cat", "dog"), np.array([[0.9, 0.1], [0.5, 0.5]]))
        >>> targets = Targets.from_names(prediction.ids, ["cat", "dog"])
        >>> Accuracy().value(Accuracy().statistics(prediction, targets))
        0.5
    """

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Probabilities})
    higher_is_better: ClassVar[bool] = True
    title: ClassVar[str] = "Accuracy"
    percent: ClassVar[bool] = True
    mean_of_rows: ClassVar[bool] = True

    def statistics(self, prediction: Probabilities, targets: Targets) -> Floats:
        """`(N, 1)`: 1 where the most probable class is the true one, else 0."""
        assert np.array_equal(prediction.ids, targets.ids), "prediction and targets differ in rows"
        top_N = prediction.probs_NC.argmax(axis=1)
        return (top_N == targets.columns(prediction.classes)).astype(float)[:, None]

    def values(self, statistics_NS: Floats, weights_RN: Floats) -> Floats:
        """`(R,)` weighted shares of right rows."""
        return weighted_means(statistics_NS, weights_RN)
