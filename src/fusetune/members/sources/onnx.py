# SPDX-License-Identifier: Apache-2.0
"""Networks in ONNX files, used as they are."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fusetune.errors import InvalidValue
from fusetune.members.decoder import Decoder
from fusetune.members.detectors import check_preprocess
from fusetune.members.loading import check_classes, known_classes
from fusetune.members.member import Member, Preprocess, PreprocessOverride
from fusetune.members.onnx_models import (
    Channels,
    ClassScores,
    Detections,
    Meaning,
    OnnxModel,
    Scores,
    check_file,
    read_content,
)
from fusetune.members.onnx_sizes import with_size
from fusetune.members.source import Source
from fusetune.plugins import find, missing_extra

__all__ = ["Onnx"]


@dataclass(frozen=True, kw_only=True)
class Onnx(Source):
    """A network of any framework as an ONNX file, `weights: FILE`; `model` is a name of your own.

    It is used as it is: `finetune: none`. `classes` names what it knows, in its order; of these the
    task's are kept, by name, and those that it does not know are absent from its predictions.
    onnxruntime runs it on the processor, by as many threads as its process has. Its input is a
    square of floats, of the file's size; where the file leaves that open, `preprocess: {size}` says
    it. Of a file for one size, another is tried: the sizes that are written in it are scaled.

    Args:
        decoder: What a detector's outputs mean: `fastestdet`, `yolo` or `detr`; null: a classifier.
        outputs: Of a classifier: `logits`; `probabilities`, which sum to 1; or `marginals`, each
            class by itself, for sets of labels.
        channels: Order of the colors that it sees, `rgb` or `bgr`; null: the decoder's, or `rgb`.
            `preprocess: {mean, std}` are of red, green and blue all the same, from 0 to 1; networks
            that take 0 to 255 have a mean of 0 and a deviation of 0.00392157.

    Example:
        >>> Onnx(model="fastestdet", weights=Path("fastestdet.onnx")).member_name
        'onnx-fastestdet'
    """

    decoder: str | None = None
    outputs: Scores = "logits"
    channels: Channels | None = None

    engine: ClassVar[str] = "onnx"

    def check(self) -> None:
        """Find what can be wrong without reading the file."""
        for package, extra in (("onnxruntime", "onnx"), ("onnx", "onnx"), ("safetensors", "torch")):
            if importlib.util.find_spec(package) is None:
                raise missing_extra(package, extra)
        if self.classes is None or not self.classes:
            raise InvalidValue(
                f"'{self.member_name}' has no classes",
                "the class names of the network's outputs, in their order",
                "Add classes: [...].",
            )
        check_classes(self)
        if self.head == "replace":
            raise InvalidValue(
                f"'{self.member_name}' has head: replace",
                "a network that is used as it is",
                "Leave head out.",
            )
        if self.decoder is not None:
            self._check_detector(self.decoder)
        elif views := [
            name for name in ("test_scales", "test_window") if getattr(self._given, name)
        ]:
            raise InvalidValue(
                f"'{self.member_name}' has preprocess.{views[0]}",
                "views of whole images",
                "Leave it out.",
            )
        elif None in (self._given.mean, self._given.std):
            raise InvalidValue(
                f"'{self.member_name}' does not say how its images are normalized",
                "preprocess: {mean, std}, as it was trained with",
                "Add preprocess: {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}.",
            )
        if isinstance(self.weights, Path):
            check_file(self.weights)

    def load(self, classes: tuple[str, ...], *, pretrained: bool = True, seed: int = 0) -> Member:
        """Read the network, and let it see images once."""
        self.check()
        kept, notes = known_classes(self, classes)
        model = OnnxModel(self._meaning(kept), self._channels, self.member_name)
        size = self._given.size
        if pretrained or size is None:
            size, more = self._read(model)
            notes += more
        if pretrained:
            model.try_out(size)
        return Member(
            model=model,
            engine=self.engine,
            classes=kept,
            preprocess=self._preprocess(size),
            head=(),
            head_kept=True,
            notes=tuple(notes),
            gives="logits" if self.decoder is None else "detections",
        )

    @property
    def _given(self) -> PreprocessOverride:
        return self.preprocess or PreprocessOverride()

    @property
    def _channels(self) -> Channels:
        own = "rgb" if self.decoder is None else find(Decoder, self.decoder).channels
        return self.channels or own

    def _preprocess(self, size: int) -> Preprocess:
        """The recipe's; what it leaves out is the decoder's."""
        if self.decoder is None:
            assert self._given.mean and self._given.std
            own = Preprocess(size=size, mean=self._given.mean, std=self._given.std)
        else:
            decoder = find(Decoder, self.decoder)
            own = Preprocess(
                size=size,
                mean=decoder.mean,
                std=decoder.std,
                squash=True,
                letterbox=decoder.letterbox,
            )
        return self._given.apply(own)

    def _meaning(self, kept: Sequence[str]) -> Meaning:
        own = self.classes or ()
        places = tuple(own.index(name) for name in kept)
        if self.decoder is None:
            return ClassScores(self.outputs, len(own), places)
        return Detections(find(Decoder, self.decoder)(), len(own), places)

    def _read(self, model: OnnxModel) -> tuple[int, tuple[str, ...]]:
        """Give the network its file; the side of the images that it then takes, and notes."""
        if not isinstance(self.weights, Path):
            raise InvalidValue(
                f"'{self.member_name}' has weights: {self.weights}",
                "an ONNX file: the source onnx has no models of its own",
                "Write weights: path/to/file.onnx, and a name of your own as model.",
            )
        content, wanted = read_content(self.weights), self._given.size
        model.load(content)
        own = model.size
        if own is None and wanted is None:
            raise InvalidValue(
                f"the network of '{self.member_name}' takes images of any size",
                "the one that it was trained for",
                "Add preprocess: {size: 224}.",
            )
        if own is None or wanted in (None, own):
            return own or wanted or 0, ()
        assert wanted is not None
        model.load(with_size(content, own, wanted))
        return wanted, (f"exported for images of {own} pixels, changed to take {wanted}",)

    def _check_detector(self, decoder: str) -> None:
        """Refuse what a detector has no use for."""
        find(Decoder, decoder)
        if importlib.util.find_spec("numba") is None:
            raise missing_extra("numba", "detection")
        if self.outputs != "logits":
            raise InvalidValue(
                f"'{self.member_name}' has outputs: {self.outputs} and a decoder",
                "a decoder, which knows what the outputs are",
                "Leave outputs out.",
            )
        check_preprocess(self, self._preprocess(self._given.size or 1))
