# SPDX-License-Identifier: Apache-2.0
"""Multi-label log-loss: the mean over classes of the log-loss of there or not there.

Shapes: N rows, C classes, R resamples, S statistics of a row (here 1).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fusetune.metric import Metric, weighted_means
from fusetune.predictions.kinds import Floats, Kind, Marginals
from fusetune.predictions.label_sets import said
from fusetune.predictions.targets import LabelSets

__all__ = ["MultilabelLogLoss"]


@dataclass(frozen=True, kw_only=True)
class MultilabelLogLoss(Metric[Marginals]):
    """Mean over rows and classes of -log(probability of what is so), in nats; lower is better.

    That is p where the class is there and 1 - p where it is not (binary cross-entropy). Clipped
    to [eps, 1 - eps] with the eps of the probabilities' own precision, as `log_loss`; a class that
    the member does not know has probability 0. Do not use it to judge decisions (see
    `multilabel_macro_f1`).

    Reference:
        Good, I. J. "Rational decisions". Journal of the Royal Statistical Society B, 1952.

    Example:
        >>> prediction = Marginals(["a"], ("cat", "dog"), np.array([[0.75, 0.25]]))
        >>> targets = LabelSets(prediction.ids, ("cat", "dog"), np.array([[True, False]]))
        >>> metric = MultilabelLogLoss()
        >>> round(metric.value(metric.statistics(prediction, targets)), 4)
        0.2877
    """

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Marginals})
    higher_is_better: ClassVar[bool] = False
    title: ClassVar[str] = "Multi-label log-loss"
    mean_of_rows: ClassVar[bool] = True

    def statistics(self, prediction: Marginals, targets: LabelSets) -> Floats:
        """`(N, 1)` losses of the rows, averaged over the targets' classes."""
        said_NC = said(prediction, targets)
        eps = np.finfo(said_NC.dtype).eps
        clipped_NC = np.clip(said_NC, eps, 1 - eps).astype(np.float64)
        so_NC = np.where(targets.present_NC, clipped_NC, 1 - clipped_NC)
        return -np.log(so_NC).mean(axis=1, keepdims=True)

    def values(self, statistics_NS: Floats, weights_RN: Floats) -> Floats:
        """`(R,)` weighted mean losses."""
        return weighted_means(statistics_NS, weights_RN)
