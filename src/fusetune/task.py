# SPDX-License-Identifier: Apache-2.0
"""Interface of a task: the problem, seen from the user's side."""

import abc
from typing import ClassVar

from fusetune.plugins import plugin_name
from fusetune.predictions.kinds import Kind

__all__ = ["Task"]


class Task(abc.ABC):
    """What is predicted from what. Plug-ins are frozen dataclasses without hyperparameters."""

    title: ClassVar[str]
    kind: ClassVar[type[Kind]]
    """The kind that its members give; fusion methods that accept it fit the task."""
    objective: ClassVar[str | None]
    """Name of the objective in `finetune/objectives/`; None: its members are prediction files."""
    default_metric: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]
    """Metrics that results always show, the default first."""
    methods: ClassVar[tuple[str, ...]]
    """Fusion methods fitted when the recipe names none."""

    @property
    def name(self) -> str:
        """Name in recipes: the plug-in's file."""
        return plugin_name(type(self))
