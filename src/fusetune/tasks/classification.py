# SPDX-License-Identifier: Apache-2.0
"""Classification of anything: one class per row, predicted elsewhere."""

from dataclasses import dataclass
from typing import ClassVar

from fusetune.predictions.kinds import Kind, Probabilities
from fusetune.task import Task

__all__ = ["Classification"]


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """Which of C classes is a row of? Fuses prediction files; fine-tunes nothing."""

    title: ClassVar[str] = "Classification"
    kind: ClassVar[type[Kind]] = Probabilities
    objective: ClassVar[str | None] = None
    default_metric: ClassVar[str] = "accuracy"
    metrics: ClassVar[tuple[str, ...]] = (
        "accuracy",
        "log_loss",
        "brier",
        "expected_calibration_error",
        "macro_f1",
    )
    methods: ClassVar[tuple[str, ...]] = (
        "vote",
        "mean",
        "weighted_mean",
        "log_pool",
        "stacking",
        "greedy_selection",
    )
