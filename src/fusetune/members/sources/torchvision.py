# SPDX-License-Identifier: Apache-2.0
"""torchvision's image classification models."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fusetune.errors import InvalidValue, unknown_name
from fusetune.members.heads import forked_seed
from fusetune.members.loading import Pretrained, check_fields, make_member
from fusetune.members.member import Member, Preprocess, PreprocessOverride
from fusetune.members.source import Source
from fusetune.members.torchvision_files import fetched, torchvision_models
from fusetune.members.weights import Weights, read_weights

if TYPE_CHECKING:
    from torch import nn
    from torchvision.models import WeightsEnum

__all__ = ["Torchvision"]


@dataclass(frozen=True, kw_only=True)
class Torchvision(Source):
    """Any classification model of torchvision, by the name of its function: `resnet18`, `vgg16`, ...

    `weights: default` are torchvision's best ImageNet weights, downloaded once into torch's cache
    (`TORCH_HOME`); a file takes their place where there is no network. Preprocessing is that of the
    default weights in any case.

    * Inception v3 keeps its auxiliary head only at its full 299 pixels: it cannot see fewer.
      Pretrained GoogLeNet goes without, as torchvision never trained its auxiliary heads.
    * Vision transformers are built for `preprocess: {size}`, and their position embeddings are
      interpolated from the checkpoint's.

    Example:
        >>> Torchvision(model="resnet18").member_name
        'torchvision-resnet18'
    """

    INCEPTION_AUX_SIZE: ClassVar[int] = 299

    @classmethod
    def model_names(cls) -> tuple[str, ...]:
        """All classification models."""
        return tuple(torchvision_models().list_models(module=torchvision_models()))

    def own_classes(self) -> tuple[str, ...] | None:
        """ImageNet's for the default weights."""
        if self.weights == "none" or self.classes or not self._is_default():
            return super().own_classes()
        return tuple(self._entry().meta["categories"])

    def check(self) -> None:
        """Find what can be wrong; the first call in a process imports torchvision."""
        entry = self._entry()
        check_fields(self, known_classes=self._is_default())
        size, least = self._preprocess().size, entry.meta["min_size"][0]
        if self.model.startswith("vit_"):
            patch = int(self.model.rpartition("_")[2])
            good, expected = size % patch == 0, f"a multiple of its patches' {patch} pixels"
        elif self.model.startswith("maxvit"):
            good, expected = size % least == 0, f"a multiple of {least} pixels"
        else:
            # Swin pads: what torchvision calls its least size is the size it was trained at.
            good, expected = size >= least or self.model.startswith("swin"), f"at least {least}"
        if not good:
            raise InvalidValue(
                f"'{self.member_name}' has preprocess.size {size}",
                expected,
                f"Write preprocess: {{size: {max(least, 32)}}}.",
            )

    def load(self, classes: tuple[str, ...], *, pretrained: bool = True, seed: int = 0) -> Member:
        """Build the model, read or download its weights."""
        self.check()
        categories = tuple(self._entry().meta["categories"])
        own = self.own_classes()
        weights = self._read() if pretrained and self.weights != "none" else None
        with forked_seed(seed):
            model = self._build(len(own or self.classes or categories))
        found = Pretrained(
            model=model,
            weights=weights,
            classes=own,
            preprocess=self._preprocess(),
        )
        return make_member(self, found, classes, seed=seed)

    def _entry(self) -> "WeightsEnum":
        """The library's own description of the model's default weights."""
        if self.model not in self.model_names():
            raise unknown_name(
                "classification model of torchvision", self.model, self.model_names()
            )
        return torchvision_models().get_model_weights(self.model).DEFAULT

    def _preprocess(self) -> Preprocess:
        preset = self._entry().transforms()
        return (self.preprocess or PreprocessOverride()).apply(
            Preprocess(
                size=preset.crop_size[0],
                mean=tuple(preset.mean),
                std=tuple(preset.std),
                resize=preset.resize_size[0],
                interpolation=preset.interpolation.value,
            )
        )

    def _is_default(self) -> bool:
        """True for the default weights, also as a file that was fetched by hand."""
        given = self.weights
        return given == "default" or (isinstance(given, Path) and given.name == self._file_name())

    def _file_name(self) -> str:
        return str(self._entry().url.rpartition("/")[2])

    def _build(self, num_classes: int) -> "nn.Module":
        from torchvision import models

        options: dict[str, Any] = {"num_classes": num_classes}
        size, scratch = self._preprocess().size, self.weights == "none"
        if self.model in ("inception_v3", "googlenet"):
            # The published weights expect TensorFlow's normalization; the model converts to it.
            own = self.preprocess is None or (self.preprocess.mean, self.preprocess.std) == (
                None,
                None,
            )
            options["transform_input"] = own and not scratch
            options["init_weights"] = scratch
            full = size >= self.INCEPTION_AUX_SIZE
            options["aux_logits"] = full if self.model == "inception_v3" else scratch
        elif self.model.startswith("vit_"):
            options["image_size"] = size
        elif self.model.startswith("maxvit"):
            options["input_size"] = (size, size)
        return models.get_model(self.model, weights=None, **options)

    def _read(self) -> Weights:
        weights = read_weights(
            self.weights
            if isinstance(self.weights, Path)
            else fetched(self._entry(), self.member_name)
        )
        tensors = dict(weights.tensors)
        if self.model.startswith("densenet"):  # names that torch no longer allows
            old = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)")
            tensors = {old.sub(r"\1\2", name): tensor for name, tensor in tensors.items()}
        if self.model.startswith("vit_") and "encoder.pos_embedding" in tensors:
            from torchvision.models.vision_transformer import interpolate_embeddings

            patch = int(self.model.rpartition("_")[2])
            tensors = interpolate_embeddings(self._preprocess().size, patch, tensors)
        return Weights(weights.path, tensors, weights.versions, weights.notes)
