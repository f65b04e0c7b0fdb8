# SPDX-License-Identifier: Apache-2.0
"""Log-loss: the mean negative logarithm of the true class's probability.

Shapes: N rows, R resamples, S statistics of a row (here 1).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fusetune.metric import Metric, weighted_means
from fusetune.predictions.kinds import Floats, Kind, Probabilities
from fusetune.predictions.targets import Targets

__all__ = ["LogLoss"]


@dataclass(frozen=True, kw_only=True)
class LogLoss(Metric[Probabilities]):
    """Mean of -log(probability of the true class), in nats; lower is better, from 0.

    Probabilities are clipped to [eps, 1 - eps] with the eps of their own precision (1.2e-7 for
    float32), as in scikit-learn. A class that the member does not know has probability 0, so the
    row costs -log(eps).

    Reference:
        Good, I. J. "Rational decisions". Journal of the Royal Statistical Society B, 1952.

    Example:
        >>> from fusetune.predictions.targets import Targets
        >>> prediction = Probabilities(["a"], ("cat", "dog"), np.array([[0.75, 0.25]]))
        >>> targets = Targets.from_names(prediction.ids, ["cat"])
        >>> round(LogLoss().value(LogLoss().statistics(prediction, targets)), 4)
        0.2877
    """

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Probabilities})
    higher_is_better: ClassVar[bool] = False
    title: ClassVar[str] = "Log-loss"
    mean_of_rows: ClassVar[bool] = True

    def statistics(self, prediction: Probabilities, targets: Targets) -> Floats:
        """`(N, 1)` losses of the rows."""
        assert np.array_equal(prediction.ids, targets.ids), "prediction and targets differ in rows"
        columns_N = targets.columns(prediction.classes)
        true_N = prediction.probs_NC[np.arange(len(columns_N)), columns_N]
        true_N[columns_N < 0] = 0
        eps = np.finfo(true_N.dtype).eps
        return -np.log(np.clip(true_N, eps, 1 - eps).astype(np.float64))[:, None]

    def values(self, statistics_NS: Floats, weights_RN: Floats) -> Floats:
        """`(R,)` weighted mean losses."""
        return weighted_means(statistics_NS, weights_RN)
