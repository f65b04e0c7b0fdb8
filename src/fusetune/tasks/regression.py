# SPDX-License-Identifier: Apache-2.0
"""Regression: one or several numbers per row, or quantiles of one, predicted elsewhere."""

from dataclasses import dataclass
from typing import ClassVar

from fusetune.predictions.kinds import Kind, Values
from fusetune.task import Task

__all__ = ["Regression"]


@dataclass(frozen=True, kw_only=True)
class Regression(Task):
    """Which numbers belong to a row? Fuses prediction files; fine-tunes nothing."""

    title: ClassVar[str] = "Regression"
    kind: ClassVar[type[Kind]] = Values
    objective: ClassVar[str | None] = None
    default_metric: ClassVar[str] = "rmse"
    metrics: ClassVar[tuple[str, ...]] = ("rmse", "mae")
    methods: ClassVar[tuple[str, ...]] = (
        "mean",
        "median",
        "weighted_mean",
        "stacking",
        "greedy_selection",
    )
