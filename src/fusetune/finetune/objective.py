# SPDX-License-Identifier: Apache-2.0
"""Interface of an objective: what a model is fine-tuned for, without knowing how."""

import abc
from typing import Any, Generic, TypeVar

from fusetune.finetune.settings import FineTune
from fusetune.plugins import plugin_name
from fusetune.predictions.kinds import Array, Ids, Kind
from fusetune.predictions.targets import Targets

__all__ = ["Objective"]

K = TypeVar("K", bound=Kind)

Tensor = Any
"""A tensor of the engine's framework."""


class Objective(abc.ABC, Generic[K]):
    """Turns targets into a loss and a model's outputs into predictions. Frozen dataclasses."""

    @property
    def name(self) -> str:
        """Name in recipes: the plug-in's file."""
        return plugin_name(type(self))

    @abc.abstractmethod
    def collate(self, targets: Targets, rows: Array) -> Array:
        """`(B, ...)` array of the rows' targets, as `loss` wants them."""

    @abc.abstractmethod
    def mixed(self, targets: Tensor, others: Tensor, shares_B: Tensor, num_classes: int) -> Tensor:
        """Targets, as `loss` takes them, of images mixed with others: `shares_B` of the first."""

    @abc.abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor, settings: FineTune) -> Tensor:
        """Mean loss of a batch as a scalar tensor, from what the model returned in training mode."""

    @abc.abstractmethod
    def scores(self, outputs: Array, targets: Array) -> dict[str, float]:
        """Validation figures of all rows; `loss` is among them, and lower is better."""

    @abc.abstractmethod
    def to_prediction(self, ids: Ids, classes: tuple[str, ...], outputs: Array) -> K:
        """The kind of prediction that a fusion combines, from evaluation-mode outputs."""
