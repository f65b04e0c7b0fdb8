# SPDX-License-Identifier: Apache-2.0
"""Object detection models of Hugging Face's transformers."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from fusetune.errors import InvalidValue, counted
from fusetune.members.detectors import Detector, check_preprocess, make_detector
from fusetune.members.heads import forked_seed
from fusetune.members.image_processors import preprocess_of
from fusetune.members.loading import check_fields
from fusetune.members.member import Member, Preprocess, PreprocessOverride
from fusetune.members.source import Source
from fusetune.members.transformers_checkpoints import Checkpoint
from fusetune.members.transformers_models import build_model, quiet
from fusetune.members.weights import Weights

__all__ = ["TransformersDetection"]

ANY = Preprocess(size=1, mean=(0.0,) * 3, std=(1.0,) * 3, squash=True)


@dataclass(frozen=True, kw_only=True)
class TransformersDetection(Source):
    """Any object detection model of transformers, by its repository on the hub: `hustvl/yolos-tiny`.

    DETR and its successors (Conditional, Deformable, RT-DETR, ...) and YOLOS, each trained by its own
    loss. `weights: default` fetches the repository once into the hub's cache. A folder in the hub's
    layout takes its place; `model` is then only a name. Where the task's classes are among those of
    the checkpoint's `id2label` (or of `classes`), their part of the head is kept; else the layers
    that know the classes are new, and those of boxes are kept. Images are normalized as the
    checkpoint's own image processor does it, but resized to a square, of the side that it gives the
    shorter one. Code that comes with a repository is never run.

    Args:
        config: The architecture, as `config.json` describes it, for a weights file or for
            `weights: none`; null: the folder's, or the repository's.

    Example:
        >>> TransformersDetection(model="hustvl/yolos-tiny").member_name
        'transformers_detection-hustvl-yolos-tiny'
    """

    config: Mapping[str, Any] | None = None

    def files(self) -> tuple[Path, ...]:
        """The files of the folder, or the weights file."""
        return self._checkpoint.files

    def own_classes(self) -> tuple[str, ...] | None:
        """The user's, or the checkpoint's `id2label`."""
        return self._checkpoint.own_classes()

    def check(self) -> None:
        """Find what can be wrong; the first call in a process imports transformers."""
        self._checkpoint.check()
        check_preprocess(self, (self.preprocess or PreprocessOverride()).apply(ANY))

    def load(self, classes: tuple[str, ...], *, pretrained: bool = True, seed: int = 0) -> Member:
        """Build the model for these classes, read or fetch its weights."""
        self.check()
        checkpoint, own = self._checkpoint, self.own_classes()
        check_fields(self, known_classes=own is not None, folders=True)
        config, weights, notes = checkpoint.config(), None, tuple[str, ...]()
        from fusetune.members.transformers_detectors import (
            TransformersDetector,
            class_layers,
            head_modules,
        )

        with quiet(), forked_seed(seed):
            layers = class_layers(config)
            if pretrained and self.weights != "none":
                if not checkpoint.is_published:
                    config.num_labels = len(own or classes)
                weights = checkpoint.read(config)
                weights, own, notes = self._chosen(weights, layers, own, classes)
            config.num_labels = len(classes)
            net = build_model(config, checkpoint.job)
        built = Detector(
            model=TransformersDetector(net, len(classes)),
            part="net",
            weights=weights,
            classes=own,
            preprocess=self._preprocess(),
            class_layers=layers,
            head=tuple(f"net.{name}" for name in head_modules(net, layers)),
            notes=notes,
        )
        return make_detector(self, built, classes)

    def portable(self) -> Self:
        """The same with the architecture spelled out, so that folder and repository may go."""
        return replace(self, weights="none", config=self._checkpoint.spelled_out())

    @property
    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(self, self.config, "object detection")

    def _chosen(
        self,
        weights: Weights,
        layers: tuple[str, ...],
        own: tuple[str, ...] | None,
        classes: tuple[str, ...],
    ) -> tuple[Weights, tuple[str, ...] | None, tuple[str, ...]]:
        """The weights, the classes that they are of, and a note: the task's, if they know these all."""
        from fusetune.members.transformers_detectors import rows_of_classes

        if own is None or self.head == "replace" or not set(classes) <= set(own):
            return weights, own, ()
        widths = {len(weights.tensors[name]) for name in weights.tensors if _is_of(name, layers)}
        if not widths <= {len(own), len(own) + 1}:
            raise InvalidValue(
                f"'{self.member_name}' names {counted(len(own), 'class')}, and its head has "
                f"{' or '.join(map(str, sorted(widths)))} outputs",
                "one class name per output, but for that of no object",
                "Correct classes: [...], in the order of the checkpoint's outputs.",
            )
        others = len(own) - len(classes)
        notes = (f"{counted(others, 'class')} of its own left out: not the task's",)
        return rows_of_classes(weights, layers, own, classes), classes, notes if others else ()

    def _preprocess(self) -> Preprocess:
        given, settings = self.preprocess or PreprocessOverride(), self._checkpoint.processor()
        if not settings:
            assert given.size and given.mean and given.std
            own = Preprocess(size=given.size, mean=given.mean, std=given.std, squash=True)
            return given.apply(own)
        if given.size is not None:  # whatever the processor wants
            side = {"height": given.size, "width": given.size}
            settings = {**settings, "size": side, "do_center_crop": False}
        own = preprocess_of(settings, self.member_name)
        return given.apply(replace(own, squash=True, resize=None))


def _is_of(name: str, layers: tuple[str, ...]) -> bool:
    return name.rpartition(".")[0] in layers
