# SPDX-License-Identifier: Apache-2.0
"""torchvision's models of semantic segmentation."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fusetune.errors import InvalidValue, unknown_name
from fusetune.members.heads import forked_seed
from fusetune.members.loading import Pretrained, check_backbone, check_fields, make_member
from fusetune.members.member import Member, Preprocess, PreprocessOverride
from fusetune.members.source import Source
from fusetune.members.torchvision_files import fetched, torchvision_models
from fusetune.members.weights import load_weights, read_weights

if TYPE_CHECKING:
    from torch import nn
    from torchvision.models import WeightsEnum

__all__ = ["TorchvisionSegmentation"]

LEAST_SIZE = 32


@dataclass(frozen=True, kw_only=True)
class TorchvisionSegmentation(Source):
    """LR-ASPP, DeepLabV3 and FCN of torchvision: `lraspp_mobilenet_v3_large`, `fcn_resnet50`, ...

    `weights: default` are torchvision's (COCO images, classes of Pascal VOC), downloaded once into
    torch's cache; a file takes their place where there is no network. Images are resized to a square,
    whatever their shape, of the side to which torchvision resizes the shorter one (520 pixels).

    Args:
        auxiliary: Have the auxiliary head, which helps training from scratch and costs time;
            LR-ASPP has none. Weights of it that the model has no place for are passed over.
        backbone: Weights file of the backbone alone, as torchvision publishes them for
            classification (`resnet50`, `mobilenet_v3_large`); null: it has none of its own. With
            `weights: none` only.

    Example:
        >>> TorchvisionSegmentation(model="fcn_resnet50").member_name
        'torchvision_segmentation-fcn_resnet50'
    """

    auxiliary: bool = False
    backbone: Path | None = None

    @classmethod
    def model_names(cls) -> tuple[str, ...]:
        """All of them."""
        models = torchvision_models()
        return tuple(models.list_models(module=models.segmentation))

    def own_classes(self) -> tuple[str, ...] | None:
        """Those of Pascal VOC for the default weights."""
        if self.weights != "default" or self.classes:
            return super().own_classes()
        return tuple(self._entry().meta["categories"])

    def files(self) -> tuple[Path, ...]:
        """The weights file and the backbone's."""
        return (*super().files(), *((self.backbone,) if self.backbone else ()))

    def portable(self) -> Self:
        """Without the backbone's file, which fine-tuned weights replace."""
        return replace(self, backbone=None)

    def check(self) -> None:
        """Find what can be wrong; the first call in a process imports torchvision."""
        self._entry()
        check_fields(self, known_classes=self.weights == "default")
        if self._preprocess().size < LEAST_SIZE:
            raise InvalidValue(
                f"'{self.member_name}' has preprocess.size {self._preprocess().size}",
                f"at least {LEAST_SIZE} pixels",
                "Write preprocess: {size: 256}.",
            )
        if self.auxiliary and self.model.startswith("lraspp"):
            raise InvalidValue(
                f"'{self.member_name}' has auxiliary: true, and no auxiliary head",
                "a model that has one",
                "Leave auxiliary out.",
            )
        check_backbone(self, self.backbone)

    def load(self, classes: tuple[str, ...], *, pretrained: bool = True, seed: int = 0) -> Member:
        """Build the model, read or download its weights."""
        self.check()
        own, reads = self.own_classes(), pretrained and self.weights != "none"
        with forked_seed(seed):
            model = self._build(len(own or self.classes or classes))
        notes: tuple[str, ...] = ()
        if pretrained and self.backbone is not None:
            weights = read_weights(self.backbone)
            notes = tuple(load_weights(model.backbone, weights, head=(), keep_head=True))
        found = Pretrained(
            model=model,
            weights=read_weights(self._file()) if reads else None,
            classes=own,
            preprocess=self._preprocess(),
            notes=notes,
        )
        return make_member(self, found, classes, seed=seed)

    def _entry(self) -> "WeightsEnum":
        """The library's own description of the model's default weights."""
        if self.model not in self.model_names():
            raise unknown_name("segmentation model of torchvision", self.model, self.model_names())
        return torchvision_models().get_model_weights(self.model).DEFAULT

    def _file(self) -> Path:
        if isinstance(self.weights, Path):
            return self.weights
        return fetched(self._entry(), self.member_name)

    def _preprocess(self) -> Preprocess:
        preset: Any = self._entry().transforms()
        own = Preprocess(size=preset.resize_size[0], mean=tuple(preset.mean), std=tuple(preset.std))
        return (self.preprocess or PreprocessOverride()).apply(own)

    def _build(self, num_classes: int) -> "nn.Module":
        """The model, which gives maps of logits instead of a dictionary of them."""
        options = {} if self.model.startswith("lraspp") else {"aux_loss": self.auxiliary}
        model: nn.Module = torchvision_models().get_model(
            self.model, weights=None, weights_backbone=None, num_classes=num_classes, **options
        )
        model.register_forward_hook(_maps)
        return model


def _maps(model: "nn.Module", _: Any, output: Any) -> Any:  # noqa: ANN401 - torchvision's dictionary
    if model.training and "aux" in output:
        return output["out"], output["aux"]
    return output["out"]
