# SPDX-License-Identifier: Apache-2.0
"""torchvision's detection models."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from fusetune.errors import InvalidValue, unknown_name
from fusetune.members.detectors import Detector, check_preprocess, make_detector
from fusetune.members.heads import forked_seed
from fusetune.members.loading import check_backbone, check_fields
from fusetune.members.member import Member, Preprocess, PreprocessOverride
from fusetune.members.source import Source
from fusetune.members.torchvision_files import fetched, torchvision_models
from fusetune.members.weights import load_weights, read_weights

if TYPE_CHECKING:
    from torch import nn

__all__ = ["TorchvisionDetection"]

IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
BYTES: dict[str, Any] = {"mean": (0.48235, 0.45882, 0.40784), "std": (1 / 255,) * 3}
HALVES: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
ONE_STAGE = ("head.classification_head.cls_logits",)
LEAST_SCORE = 0.01
"""Of a detection, as torchvision's SSD has it: its other models leave out what fusing can still use."""


@dataclass(frozen=True)
class Family:
    """What detectors of one kind share.

    Args:
        class_layers: Names of the layers as wide as the number of classes.
        head: Names of the modules that make up the head.
        background: Whether class 0 is the background.
        scores: Name of the module that leaves out low scores.
        normalize: Mean and standard deviation of its pixels.
        least: Side in pixels below which its last convolutions see nothing.
    """

    class_layers: tuple[str, ...]
    head: tuple[str, ...]
    background: bool
    scores: str = ""
    normalize: dict[str, Any] = field(default_factory=lambda: IMAGENET)
    least: int = 1


TWO_STAGES = Family(
    ("roi_heads.box_predictor",), ("net.rpn.head", "net.roi_heads"), True, scores="roi_heads"
)
FAMILIES = {
    "fasterrcnn": TWO_STAGES,
    "fcos": Family(ONE_STAGE, ("net.head",), False),
    "retinanet": Family(ONE_STAGE, ("net.head",), False),
    "ssd300": Family(
        ("head.classification_head",), ("net.head",), True, normalize=BYTES, least=268
    ),
    "ssdlite320": Family(("head.classification_head",), ("net.head",), True, normalize=HALVES),
}


@dataclass(frozen=True, kw_only=True)
class TorchvisionDetection(Source):
    """Detection models of torchvision: `ssdlite320_mobilenet_v3_large`, `retinanet_resnet50_fpn`, ...

    `weights: default` are torchvision's COCO weights, downloaded once into torch's cache; a file
    takes their place where there is no network. The layers that know the classes are new unless
    `classes` says that a file's are the task's, in the same order. Images are resized to a square,
    whatever their shape, of the side that the model was made for (320 or 300), else of 800 pixels.

    Args:
        backbone: Weights file of the backbone alone, as torchvision publishes them for
            classification (`resnet50`, `mobilenet_v3_large`); null: it has none of its own. With
            `weights: none` only, and not of SSDs, whose backbones are others.

    Example:
        >>> TorchvisionDetection(model="fcos_resnet50_fpn").member_name
        'torchvision_detection-fcos_resnet50_fpn'
    """

    backbone: Path | None = None

    SIZES: ClassVar[dict[str, int]] = {"320": 320, "300": 300}
    SIZE: ClassVar[int] = 800
    """The shorter side that torchvision resizes to."""

    @classmethod
    def model_names(cls) -> tuple[str, ...]:
        """The detection models that give boxes and nothing else."""
        models = torchvision_models()
        names = models.list_models(module=models.detection)
        return tuple(name for name in names if name.partition("_")[0] in FAMILIES)

    def files(self) -> tuple[Path, ...]:
        """The weights file and the backbone's."""
        return (*super().files(), *((self.backbone,) if self.backbone else ()))

    def portable(self) -> Self:
        """Without the backbone's file, which fine-tuned weights replace."""
        return replace(self, backbone=None)

    def check(self) -> None:
        """Find what can be wrong; the first call in a process imports torchvision."""
        if self.model not in self.model_names():
            raise unknown_name("detection model of torchvision", self.model, self.model_names())
        check_fields(self)
        check_preprocess(self, self._preprocess())
        least, size = FAMILIES[self.model.partition("_")[0]].least, self._preprocess().size
        if size < least:
            raise InvalidValue(
                f"'{self.member_name}' has preprocess.size {size}",
                f"a side of at least {least} pixels",
                "Write preprocess: {size: 300}, or take another model.",
            )
        if self.backbone is not None and self.model.startswith("ssd"):
            raise InvalidValue(
                f"'{self.member_name}' has a backbone, and those of SSDs are cut and extended",
                "a model with a feature pyramid",
                "Leave backbone out.",
            )
        check_backbone(self, self.backbone)

    def load(self, classes: tuple[str, ...], *, pretrained: bool = True, seed: int = 0) -> Member:
        """Build the model for these classes, read or download its weights."""
        self.check()
        from fusetune.members.torchvision_detectors import TorchvisionDetector

        family = FAMILIES[self.model.partition("_")[0]]
        with forked_seed(seed):
            net = self._build(len(classes) + family.background)
        notes = self._load_backbone(net) if pretrained and self.backbone else ()
        built = Detector(
            model=TorchvisionDetector(net, first_label=int(family.background)),
            part="net",
            weights=read_weights(self._file()) if pretrained and self.weights != "none" else None,
            classes=self.classes,
            preprocess=self._preprocess(),
            class_layers=family.class_layers,
            head=family.head,
            notes=notes,
        )
        return make_detector(self, built, classes)

    def _file(self) -> Path:
        if isinstance(self.weights, Path):
            return self.weights
        return fetched(torchvision_models().get_model_weights(self.model).DEFAULT, self.member_name)

    def _preprocess(self) -> Preprocess:
        family, _, _ = self.model.partition("_")
        sizes = [side for part, side in self.SIZES.items() if part in self.model]
        own = Preprocess(size=(sizes or [self.SIZE])[0], squash=True, **FAMILIES[family].normalize)
        return (self.preprocess or PreprocessOverride()).apply(own)

    def _build(self, num_classes: int) -> "nn.Module":
        """The model, which takes normalized squares as they are."""
        net = torchvision_models().get_model(
            self.model, weights=None, weights_backbone=None, num_classes=num_classes
        )
        size = self._preprocess().size
        net.transform.fixed_size = (size, size)
        net.transform.image_mean, net.transform.image_std = [0.0] * 3, [1.0] * 3
        family = FAMILIES[self.model.partition("_")[0]]
        net.get_submodule(family.scores).score_thresh = LEAST_SCORE
        return net

    def _load_backbone(self, net: "nn.Module") -> tuple[str, ...]:
        """Copy a classification checkpoint's layers into the backbone's body."""
        assert self.backbone is not None
        weights = read_weights(self.backbone)
        return load_weights(net.backbone.body, weights, head=(), keep_head=True)
