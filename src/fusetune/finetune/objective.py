# SPDX-License-Identifier: Apache-2.0
"""Interface of an objective: what a model is fine-tuned for, without knowing how."""

import abc
from dataclasses import fields
from typing import Any, ClassVar, Generic, Self, TypeVar

from fusetune.errors import InvalidValue
from fusetune.finetune.settings import Augmentation, FineTune
from fusetune.members.member import Gives
from fusetune.metric import Metric
from fusetune.plugins import discover, plugin_name
from fusetune.predictions.kinds import Array, Ids, Kind
from fusetune.predictions.targets import AnyTargets

__all__ = ["Objective"]

K = TypeVar("K", bound=Kind)

Tensor = Any
"""A tensor of the engine's framework."""


class Objective(abc.ABC, Generic[K]):
    """Turns targets into a loss and a model's outputs into predictions. Frozen dataclasses.

    Their fields are plain values, so that an ensemble can be saved with them.
    """

    keeps_heads: ClassVar[bool] = True
    """Whether outputs of a checkpoint's own head mean what `to_prediction` takes them for."""
    figures: ClassVar[tuple[str, ...]] = ("loss",)
    """Names of what `scores` gives; of all but `loss`, higher is better."""
    judged: ClassVar[type[Kind] | None] = None
    """The kind of its predictions, where any metric of that kind may choose the epoch."""
    softens: ClassVar[bool] = True
    """Whether a teacher's outputs can be softened by a temperature."""
    trains: ClassVar[tuple[str, ...]] = ()
    """Ways to train, where its models' heads are no linear layers; none: all of them."""
    unused: ClassVar[tuple[str, ...]] = ()
    """Keys of `finetune:` that mean nothing here: they have to stay at their defaults."""
    unused_augmentation: ClassVar[tuple[str, ...]] = ("crop",)
    """Keys of `finetune.augmentation:` likewise."""
    usual_smoothing: ClassVar[float] = 0.0
    """Of labels; see `FineTune.for_head`."""
    takes: ClassVar[Gives] = "logits"
    """What its models give."""
    digests: ClassVar[bool] = False
    """Whether all rows' outputs are too large to be kept: `scores` takes what `digest` makes of them."""

    @property
    def name(self) -> str:
        """Name in recipes: the plug-in's file."""
        return plugin_name(type(self))

    def check(self, settings: FineTune) -> None:
        """Refuse settings that would be read and ignored, or that name what is not there.

        Raises:
            InvalidValue: Names the key.
        """
        if settings.stop_by not in (known := dict.fromkeys((*self.figures, *self.metrics()))):
            raise InvalidValue(
                f"finetune.stop_by is {settings.stop_by}",
                f"one of {', '.join(known)} with the objective {self.name}",
                "Change it, or leave it out for the default.",
            )
        if self.trains and settings.train not in self.trains:
            raise InvalidValue(
                f"finetune.train is {settings.train}, and with the objective {self.name} a head is no "
                "linear layer",
                f"one of {', '.join(self.trains)}",
                "Change it, or leave it out for full.",
            )
        if settings.distill and not self.softens and settings.distill.temperature != 2:
            raise InvalidValue(
                f"finetune.distill.temperature is {settings.distill.temperature}, and the objective "
                f"{self.name} has none",
                "keys that change something",
                "Leave it out.",
            )
        self._check_unused(settings, self.unused, "finetune")
        self._check_unused(settings.augmentation, self.unused_augmentation, "finetune.augmentation")

    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that may choose the epoch beside its own figures."""
        found = {} if self.judged is None else discover(Metric)
        return tuple(name for name, metric in found.items() if self.judged in metric.accepts)

    def _check_unused(
        self, settings: FineTune | Augmentation, unused: tuple[str, ...], where: str
    ) -> None:
        defaults = {field.name: field.default for field in fields(settings)}
        for name in unused:
            if getattr(settings, name) not in (defaults[name], 0):
                raise InvalidValue(
                    f"{where}.{name} is {getattr(settings, name)}, and the objective {self.name} "
                    "does not use it",
                    "keys that change something",
                    "Leave it out.",
                )

    def fitted(self, targets: AnyTargets) -> Self:
        """The objective with what it has to know of the train rows' targets; most know nothing."""
        return self

    @abc.abstractmethod
    def collate(self, targets: AnyTargets, rows: Array) -> Array:
        """`(B, ...)` array of the rows' targets, as `loss` wants them."""

    def mixed(self, targets: Tensor, others: Tensor, shares_B: Tensor, num_classes: int) -> Tensor:
        """Targets, as `loss` takes them, of images mixed with others: `shares_B` of the first."""
        return others + (targets - others) * shares_B[:, None]

    def moved(
        self, targets: Tensor, draws_BD: Tensor, augmentation: Augmentation, sides: tuple[int, int]
    ) -> Tensor:
        """Targets of augmented images: what has a place there moves along; most have none.

        Args:
            targets: Of the batch.
            draws_BD: What the images were augmented by.
            augmentation: How.
            sides: Height and width of the images in pixels.
        """
        return targets

    def shown(self, targets: Tensor) -> tuple[Tensor, ...]:
        """What a model in training takes beside the images: detectors, the targets; most, nothing."""
        return ()

    def class_weights(self, targets: Array, num_classes: int, settings: FineTune) -> Array | None:
        """`(C,)` float32 weights that `loss` takes, from all train rows' targets; None: no weights."""
        return None

    def strata(self, targets: Array, settings: FineTune) -> Array | None:
        """`(N,)` numbers of the groups that every epoch draws evenly from; None: every row once."""
        return None

    @abc.abstractmethod
    def loss(
        self,
        outputs: Tensor,
        targets: Tensor,
        settings: FineTune,
        weights_C: Tensor | None = None,
    ) -> Tensor:
        """Mean loss of a batch as a scalar tensor, from what the model returned in training mode.

        A model that was `shown` the targets returned its losses.
        """

    def soft_targets(self, outputs: Array, temperature: float) -> Array:
        """`(N, D)` float32 of a teacher's raw outputs, as `teaching_loss` takes them; means mean mixtures.

        Of objectives whose `unused` names `distill`, never called.
        """
        raise NotImplementedError

    def teaching_loss(self, outputs: Tensor, soft_BD: Tensor, temperature: float) -> Tensor:
        """Mean distance of a batch from the teacher's soft targets, as a scalar tensor."""
        raise NotImplementedError

    def digest(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What `scores` takes of a batch's outputs in evaluation mode: any number of rows."""
        raise NotImplementedError

    @abc.abstractmethod
    def scores(self, outputs: Array, targets: Array) -> dict[str, float]:
        """Validation figures of all rows, by their names in `figures`.

        Args:
            outputs: `(N, ...)` in evaluation mode; if it `digests`, all batches' digests.
            targets: As `collate` gave them.
        """

    @abc.abstractmethod
    def to_prediction(self, ids: Ids, columns: tuple[str, ...], outputs: Array) -> K:
        """The kind of prediction that a fusion combines, from evaluation-mode outputs.

        Args:
            ids: `(N,)` row names.
            columns: C names of classes or numbers, one per output.
            outputs: `(N, C)`.
        """
