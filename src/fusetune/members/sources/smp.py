# SPDX-License-Identifier: Apache-2.0
"""Models of segmentation-models-pytorch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fusetune.errors import InvalidValue, WeightsError, unknown_name
from fusetune.members import hub
from fusetune.members.heads import forked_seed
from fusetune.members.loading import Pretrained, check_fields, make_member
from fusetune.members.member import Member, Preprocess, PreprocessOverride
from fusetune.members.source import Source
from fusetune.members.weights import read_weights
from fusetune.plugins import missing_extra

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Smp"]

ENCODER, SIZE, MULTIPLE = "resnet34", 256, 32
IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
GIVEN_ELSEWHERE = ("_model_class", "classes", "encoder_name", "encoder_weights", "in_channels")


@dataclass(frozen=True, kw_only=True)
class Smp(Source):
    """Any architecture of segmentation-models-pytorch: `unet`, `fpn`, `deeplabv3plus`, `segformer`, ...

    `weights: default` are those of the encoder on ImageNet, downloaded once into the hub's cache; the
    decoder is new. A folder that `save_pretrained` wrote (`config.json`, `model.safetensors`) says
    the architecture itself: `model` is then only a name, `encoder` and `arguments` are refused. Images are resized to a square of 256
    pixels, normalized with ImageNet's mean and deviation, unless `preprocess` says otherwise.

    Args:
        encoder: Name of the encoder: `mobilenet_v2`, `tu-convnext_tiny`, ...; null: `resnet34`, the
            library's default, or the folder's.
        arguments: Other arguments of `create_model`, by name.

    Example:
        >>> Smp(model="unet").member_name
        'smp-unet'
    """

    encoder: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def files(self) -> tuple[Path, ...]:
        """The files of the folder, or the weights file."""
        return hub.layout_files(self._folder) if self._folder else super().files()

    def portable(self) -> Self:
        """With the folder's architecture spelled out, so that it may go."""
        config = self._config()
        if not config:
            return replace(self, weights="none")
        others = {key: value for key, value in config.items() if key not in GIVEN_ELSEWHERE}
        return replace(
            self,
            model=config["_model_class"].lower(),
            encoder=config["encoder_name"],
            weights="none",
            arguments=others,
        )

    def check(self) -> None:
        """Find what can be wrong; the first call in a process imports the library."""
        try:
            import segmentation_models_pytorch as smp
        except ImportError as error:
            raise missing_extra(str(error.name), "smp") from None
        check_fields(self, folders=True)
        config = self._config()
        if config and (self.encoder is not None or self.arguments):
            raise InvalidValue(
                f"'{self.member_name}' has encoder or arguments, and a folder that says both",
                "one of them",
                "Leave encoder and arguments out, or give the weights' file instead of the folder.",
            )
        model = str(config["_model_class"]).lower() if config else self.model
        if model not in (known := sorted(smp.MODEL_ARCHITECTURES_MAPPING)):
            raise unknown_name("architecture of segmentation-models-pytorch", model, known)
        if (size := self._preprocess().size) % MULTIPLE:
            raise InvalidValue(
                f"'{self.member_name}' has preprocess.size {size}",
                f"a multiple of {MULTIPLE} pixels",
                f"Write preprocess: {{size: {max(MULTIPLE, size - size % MULTIPLE)}}}.",
            )

    def load(self, classes: tuple[str, ...], *, pretrained: bool = True, seed: int = 0) -> Member:
        """Build the model, read or fetch its weights."""
        self.check()
        folder = self._folder
        reads = pretrained and isinstance(self.weights, Path)
        with forked_seed(seed):
            model = self._build(len(self.classes or classes), fetches=pretrained)
        weights = None
        if reads:
            weights = hub.read_folder(folder) if folder else read_weights(Path(self.weights))
        found = Pretrained(
            model=model,
            weights=weights,
            classes=self.classes if isinstance(self.weights, Path) else None,
            preprocess=self._preprocess(),
        )
        return make_member(self, found, classes, seed=seed)

    def _build(self, num_classes: int, *, fetches: bool) -> "nn.Module":
        import segmentation_models_pytorch as smp

        source = self.portable()
        encoder = source.encoder or ENCODER
        encoder_weights = "imagenet" if fetches and self.weights == "default" else None
        try:
            return smp.create_model(
                source.model,
                encoder,
                encoder_weights,
                classes=num_classes,
                **source.arguments,
            )
        except Exception as error:  # an unknown encoder, wrong arguments, no network
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise WeightsError(
                f"'{self.member_name}' cannot be built with the encoder '{encoder}' ({reason})",
                "an encoder and arguments that segmentation-models-pytorch knows, and its weights",
                "Correct encoder or arguments; without network, write weights: none or a file.",
            ) from error

    @property
    def _folder(self) -> Path | None:
        given = self.weights
        return given if isinstance(given, Path) and given.is_dir() else None

    def _config(self) -> dict[str, Any]:
        """The folder's `config.json`; empty without a folder."""
        if self._folder is None:
            return {}
        config = hub.read_config(self._folder)
        if not {"_model_class", "encoder_name"} <= set(config):
            raise WeightsError(
                f"'{self._folder / 'config.json'}' names no _model_class and encoder_name "
                f"({json.dumps(sorted(config))[:80]})",
                "what save_pretrained of segmentation-models-pytorch writes",
                "Give such a folder, or use the source transformers_segmentation.",
            )
        return dict(config)

    def _preprocess(self) -> Preprocess:
        own = Preprocess(size=SIZE, **IMAGENET)
        return (self.preprocess or PreprocessOverride()).apply(own)
