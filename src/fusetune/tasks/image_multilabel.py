# SPDX-License-Identifier: Apache-2.0
"""Image multi-label classification: any number of classes per image."""

from dataclasses import dataclass
from typing import ClassVar

from fusetune.predictions.kinds import Kind, Marginals
from fusetune.task import Task

__all__ = ["ImageMultilabel"]


@dataclass(frozen=True, kw_only=True)
class ImageMultilabel(Task):
    """Which of C classes does an image show, any number of them?"""

    title: ClassVar[str] = "Image multi-label classification"
    kind: ClassVar[type[Kind]] = Marginals
    objective: ClassVar[str | None] = "multilabel"
    default_metric: ClassVar[str] = "multilabel_macro_f1"
    metrics: ClassVar[tuple[str, ...]] = (
        "multilabel_macro_f1",
        "multilabel_log_loss",
        "hamming_accuracy",
    )
    methods: ClassVar[tuple[str, ...]] = (
        "vote",
        "mean",
        "weighted_mean",
        "log_pool",
        "stacking",
        "greedy_selection",
    )
