# SPDX-License-Identifier: Apache-2.0
"""Which epoch, or which head, is better: figures of the validation rows, and the one that decides."""

import math
from typing import Any

import numpy as np

from fusetune.finetune.objective import Objective
from fusetune.metric import Metric
from fusetune.plugins import find
from fusetune.predictions.kinds import Array
from fusetune.predictions.targets import AnyTargets

__all__ = ["Judging"]


class Judging:
    """Scores validation rows, and says how good that is by what `stop_by` names.

    Args:
        objective: Gives the figures.
        stop_by: One of these, or a metric of the objective's predictions.
        truth: Of the validation rows.
        columns: Names of the classes or numbers that outputs are of.

    Attributes:
        targets: The truth, as the objective's loss takes it.
    """

    def __init__(
        self, objective: Objective[Any], stop_by: str, truth: AnyTargets, columns: tuple[str, ...]
    ) -> None:
        self.targets = objective.collate(truth, np.arange(len(truth.ids)))
        self._objective, self._by, self._truth, self._columns = objective, stop_by, truth, columns
        own = stop_by in objective.figures
        self._metric: Metric[Any] | None = None if own else find(Metric, stop_by)()

    def figures(self, outputs: Array) -> dict[str, float]:
        """The objective's, and the metric's value where a metric decides.

        Args:
            outputs: Of all validation rows, as `Objective.scores` takes them.
        """
        figures = self._objective.scores(outputs, self.targets)
        if self._metric is None or not math.isfinite(figures["loss"]):
            return figures
        prediction = self._objective.to_prediction(self._truth.ids, self._columns, outputs)
        value = self._metric.value(self._metric.statistics(prediction, self._truth))
        return {**figures, self._by: value}

    def goodness(self, figures: dict[str, float]) -> tuple[float, float]:
        """Higher is better: what decides, and of equals the lower loss; no value is worst."""
        lower_loss = -figures["loss"]
        if self._by == "loss":
            return lower_loss, lower_loss
        value = figures.get(self._by, math.nan)
        if self._metric is not None and not self._metric.higher_is_better:
            value = -value
        return (-math.inf if math.isnan(value) else value), lower_loss
