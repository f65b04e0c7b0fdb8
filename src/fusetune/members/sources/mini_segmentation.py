# SPDX-License-Identifier: Apache-2.0
"""Small segmenters that learn in minutes on a CPU."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

from fusetune.errors import InvalidValue, unknown_name
from fusetune.members.heads import forked_seed
from fusetune.members.loading import Pretrained, check_backbone, check_fields, make_member
from fusetune.members.member import Member, Preprocess, PreprocessOverride
from fusetune.members.source import Source
from fusetune.members.weights import load_weights, read_weights

__all__ = ["MiniSegmentation"]

BACKBONES, DECODERS = ("inception", "resnet", "squeezenet", "vgg"), ("aspp", "fpn", "unet")
MODELS = tuple(f"{backbone}_{decoder}" for backbone in BACKBONES for decoder in DECODERS)
SIZE = 128
LEAST_SIZE = 32
HEAD = ("decoder", "classify")


@dataclass(frozen=True, kw_only=True)
class MiniSegmentation(Source):
    """Segmenters of 0.3 to 1.6 million weights: `resnet_fpn`, `vgg_unet`, `squeezenet_aspp`, ...

    A backbone of the families of the source `mini`, or SqueezeNet 1.1's, and a decoder: a feature
    pyramid, a U-Net or atrous pooling. They start at random, or from a file that an earlier run
    wrote. The head, which `train: head` trains, is the decoder. Images are resized to a square of
    128 pixels, whatever their shape; `preprocess: {size}` says otherwise.

    Args:
        backbone: Weights file of the backbone alone (`features.*` of torchvision's SqueezeNet 1.1 for
            `squeezenet_*`); null: it starts at random. With `weights: none` only.

    Example:
        >>> MiniSegmentation(model="resnet_fpn").member_name
        'mini_segmentation-resnet_fpn'
    """

    weights: Literal["default", "none"] | Path = "none"
    backbone: Path | None = None

    @classmethod
    def model_names(cls) -> tuple[str, ...]:
        """All twelve."""
        return MODELS

    def files(self) -> tuple[Path, ...]:
        """The weights file and the backbone's."""
        return (*super().files(), *((self.backbone,) if self.backbone else ()))

    def portable(self) -> Self:
        """Without the backbone's file, which fine-tuned weights replace."""
        return replace(self, backbone=None)

    def check(self) -> None:
        """Find what can be wrong, without importing torch."""
        if self.model not in MODELS:
            raise unknown_name("model of source mini_segmentation", self.model, MODELS)
        if self.weights == "default":
            raise InvalidValue(
                f"'{self.member_name}' has weights: default, and there are none",
                "weights: none, or a file",
                "Write weights: none.",
            )
        check_fields(self)
        if self._preprocess().size < LEAST_SIZE:
            raise InvalidValue(
                f"'{self.member_name}' has preprocess.size {self._preprocess().size}",
                f"at least {LEAST_SIZE} pixels",
                f"Write preprocess: {{size: {SIZE}}}.",
            )
        check_backbone(self, self.backbone)

    def load(self, classes: tuple[str, ...], *, pretrained: bool = True, seed: int = 0) -> Member:
        """Build the segmenter, and read its weights or its backbone's, if they are in a file."""
        self.check()
        from fusetune.members import segmentation_nets

        reads = pretrained and isinstance(self.weights, Path)
        backbone, _, decoder = self.model.partition("_")
        with forked_seed(seed):
            model = segmentation_nets.build(backbone, decoder, len(self.classes or classes))
        notes: tuple[str, ...] = ()
        if pretrained and self.backbone is not None:
            weights = read_weights(self.backbone)
            notes = tuple(load_weights(model.backbone, weights, head=(), keep_head=True))
        found = Pretrained(
            model=model,
            weights=read_weights(Path(self.weights)) if reads else None,
            classes=self.classes if self.weights != "none" else None,
            preprocess=self._preprocess(),
            notes=notes,
        )
        return replace(make_member(self, found, classes, seed=seed), head=HEAD)

    def _preprocess(self) -> Preprocess:
        pretrained = self.model.startswith("squeezenet")
        mean = (0.485, 0.456, 0.406) if pretrained else (0.5, 0.5, 0.5)
        std = (0.229, 0.224, 0.225) if pretrained else (0.25, 0.25, 0.25)
        return (self.preprocess or PreprocessOverride()).apply(
            Preprocess(size=SIZE, mean=mean, std=std)
        )
