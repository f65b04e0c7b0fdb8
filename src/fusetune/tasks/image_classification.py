# SPDX-License-Identifier: Apache-2.0
"""Image classification: one class per image."""

from dataclasses import dataclass
from typing import ClassVar

from fusetune.predictions.kinds import Kind, Probabilities
from fusetune.task import Task

__all__ = ["ImageClassification"]


@dataclass(frozen=True, kw_only=True)
class ImageClassification(Task):
    """Which of C classes does an image show?"""

    title: ClassVar[str] = "Image classification"
    kind: ClassVar[type[Kind]] = Probabilities
    objective: ClassVar[str | None] = "classification"
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
