# SPDX-License-Identifier: Apache-2.0
"""Image regression: one or several numbers per image."""

from dataclasses import dataclass
from typing import ClassVar

from fusetune.predictions.kinds import Kind, Values
from fusetune.task import Task

__all__ = ["ImageRegression"]


@dataclass(frozen=True, kw_only=True)
class ImageRegression(Task):
    """Which numbers belong to an image?"""

    title: ClassVar[str] = "Image regression"
    kind: ClassVar[type[Kind]] = Values
    objective: ClassVar[str | None] = "regression"
    default_metric: ClassVar[str] = "rmse"
    metrics: ClassVar[tuple[str, ...]] = ("rmse", "mae")
    methods: ClassVar[tuple[str, ...]] = (
        "mean",
        "median",
        "weighted_mean",
        "stacking",
        "greedy_selection",
    )
