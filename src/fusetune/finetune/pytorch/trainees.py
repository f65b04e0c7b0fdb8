# SPDX-License-Identifier: Apache-2.0
"""What an epoch trains, and what it sees: a whole model and pixels, or its head and features.

A head on features that were computed before gives what the whole model gives where the rest is
frozen and images stay as they are, without running that rest again.

Shapes: B rows of a batch, D features.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from fusetune.finetune.batches import FeatureStore, PixelStore
from fusetune.finetune.engine import Split
from fusetune.finetune.pytorch.features import linear_head
from fusetune.finetune.pytorch.inputs import (
    Digest,
    FeatureInput,
    Feed,
    ModelInput,
    model_outputs,
)
from fusetune.finetune.pytorch.optimizer import trains_head_alone
from fusetune.finetune.pytorch.precision import memory_format
from fusetune.finetune.settings import FineTune
from fusetune.members.member import Member
from fusetune.predictions.kinds import Array

__all__ = ["Trainee", "Trainees"]


@dataclass(frozen=True, eq=False)
class Trainee:
    """A model with the rows that it is trained and judged on.

    Args:
        model: On the device.
        train: Its train rows.
        validation: Its validation rows.
        model_input: From a batch of these to what the model takes.
    """

    model: nn.Module
    train: Feed
    validation: Feed
    model_input: ModelInput | FeatureInput

    def validation_outputs(self, precision: str, digest: Digest | None = None) -> Array:
        """`(N, ...)` outputs of its validation rows in evaluation mode, or what is kept of them."""
        return model_outputs(
            self.model, self.validation, self.model_input, precision, digest=digest
        )


class Trainees:
    """A member's model, and its head alone, which shares its weights.

    Args:
        member: Its model on the device.
        splits: Train and validation rows.
        device: Of the model.
    """

    def __init__(self, member: Member, splits: tuple[Split, Split], device: torch.device) -> None:
        self._member, self._splits, self._device = member, splits, device

    def of(self, settings: FineTune, epoch: int) -> Trainee:
        """The one of an epoch, counted from 0."""
        if settings.augmentation.is_off and trains_head_alone(self._member, settings, epoch):
            return self._head or self._whole
        return self._whole

    @cached_property
    def _whole(self) -> Trainee:
        preprocess, device = self._member.preprocess, self._device
        train, validation = (
            Feed(PixelStore(split.images, preprocess), device) for split in self._splits
        )
        model_input = ModelInput(preprocess, device, memory_format(device))
        return Trainee(self._member.model, train, validation, model_input)

    @cached_property
    def _head(self) -> Trainee | None:
        """None if the features, or a layer to read them, are not there."""
        features = [split.features_ND for split in self._splits]
        given = [array for array in features if array is not None]
        layer = linear_head(self._member, given[0].shape[1]) if given else None
        if layer is None or len(given) < len(features):
            return None
        train, validation = (Feed(FeatureStore(array), self._device) for array in given)
        return Trainee(layer, train, validation, FeatureInput(self._member.preprocess))
