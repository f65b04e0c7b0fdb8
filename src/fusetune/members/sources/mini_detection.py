# SPDX-License-Identifier: Apache-2.0
"""Small detectors that learn from nothing in minutes on a CPU."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fusetune.errors import InvalidValue, unknown_name
from fusetune.members.detectors import Detector, check_preprocess, make_detector
from fusetune.members.heads import forked_seed
from fusetune.members.loading import check_fields
from fusetune.members.member import Member, Preprocess, PreprocessOverride
from fusetune.members.source import Source
from fusetune.members.weights import read_weights

__all__ = ["MiniDetection"]

MODELS = ("inception", "resnet", "vgg")
SIZE = 64
MULTIPLE = 16


@dataclass(frozen=True, kw_only=True)
class MiniDetection(Source):
    """Three anchor-free detectors of about 0.2 million weights, for images of 64 to 128 pixels.

    They differ in their backbones, as the networks of the source `mini` do. There are no pretrained
    weights: they start at random, or from a file that an earlier run wrote. Images are resized to a
    square of 64 pixels, whatever their shape; `preprocess: {size}` says otherwise.

    Example:
        >>> MiniDetection(model="resnet").member_name
        'mini_detection-resnet'
    """

    weights: Literal["default", "none"] | Path = "none"

    @classmethod
    def model_names(cls) -> tuple[str, ...]:
        """The three."""
        return MODELS

    def check(self) -> None:
        """Find what can be wrong, without importing torch."""
        if self.model not in MODELS:
            raise unknown_name("model of source mini_detection", self.model, MODELS)
        if self.weights == "default":
            raise InvalidValue(
                f"'{self.member_name}' has weights: default, and there are none",
                "weights: none, or a file",
                "Write weights: none.",
            )
        check_fields(self)
        check_preprocess(self, self._preprocess())
        size = self._preprocess().size
        if size % MULTIPLE:
            raise InvalidValue(
                f"'{self.member_name}' has preprocess.size {size}",
                f"a multiple of {MULTIPLE} pixels",
                f"Write preprocess: {{size: {max(MULTIPLE, size - size % MULTIPLE)}}}.",
            )

    def load(self, classes: tuple[str, ...], *, pretrained: bool = True, seed: int = 0) -> Member:
        """Build the detector for these classes, and read its weights, if they are in a file."""
        self.check()
        from fusetune.members import detector_nets

        with forked_seed(seed):
            model = detector_nets.build(self.model, len(classes))
        reads = pretrained and isinstance(self.weights, Path)
        built = Detector(
            model=model,
            weights=read_weights(Path(self.weights)) if reads else None,
            classes=self.classes,
            preprocess=self._preprocess(),
            class_layers=("classify",),
            head=("tower", "classify", "locate"),
        )
        return make_detector(self, built, classes)

    def _preprocess(self) -> Preprocess:
        own = Preprocess(size=SIZE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), squash=True)
        return (self.preprocess or PreprocessOverride()).apply(own)
