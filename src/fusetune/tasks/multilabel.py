# SPDX-License-Identifier: Apache-2.0
"""Multi-label classification: any number of classes per row, predicted elsewhere."""

from dataclasses import dataclass
from typing import ClassVar

from fusetune.predictions.kinds import Kind, Marginals
from fusetune.task import Task

__all__ = ["Multilabel"]


@dataclass(frozen=True, kw_only=True)
class Multilabel(Task):
    """Which of C classes are there in a row? Fuses prediction files; fine-tunes nothing."""

    title: ClassVar[str] = "Multi-label classification"
    kind: ClassVar[type[Kind]] = Marginals
    objective: ClassVar[str | None] = None
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
