# SPDX-License-Identifier: Apache-2.0
"""A member: a pretrained model, ready to be fine-tuned on the task's classes."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from fusetune.errors import InvalidValue

__all__ = ["Gives", "Member", "Preprocess", "PreprocessOverride"]

Gives = Literal["logits", "detections", "maps"]
"""One number per class, boxes with scores (see `detectors`), or logits of places in the image."""


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How a member wants its images, from its own checkpoint: resize, center crop, normalize.

    Args:
        size: Side in pixels of the square that the model sees.
        mean: Per RGB channel, of values in [0, 1].
        std: Per RGB channel, of values in [0, 1].
        resize: Length in pixels of the shorter side before the center crop of `size`; None: `size`.
        squash: Both sides are resized to that length, whatever the image's shape, as vision
            transformers of the Hugging Face hub want it.
        letterbox: The whole image is resized until its longer side is `size`, and gray fills the rest
            of the square, as YOLO networks want it; `resize` and `squash` mean nothing then.
        interpolation: Of the resize.
        test_flip: Predictions average an image's outputs with those of its mirror image, left-right
            (test-time augmentation, Krizhevsky et al. 2012).
        test_shift: Predictions average an image's outputs with those of the image moved by so many
            pixels up, down, left and right; 0: not. With `test_flip` too, ten images are seen.
        test_scales: Predictions of maps average those of the image at these multiples of `size`;
            empty: at `size` alone.
        test_window: Predictions of maps are made in windows of this side, each half over the one
            before it, and averaged where they overlap; None: of the whole image at once.
        dense: Outputs have places in the image: it is brought to `size` before anything else.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: int | None = None
    squash: bool = False
    letterbox: bool = False
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    test_flip: bool = False
    test_shift: int = 0
    test_scales: tuple[float, ...] = ()
    test_window: int | None = None
    dense: bool = False

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that an image is resized to before the center crop.

        Example:
            >>> half = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
            >>> Preprocess(size=224, resize=256, **half).resized(100, 200)
            (256, 512)
            >>> Preprocess(size=224, squash=True, **half).resized(100, 200)
            (224, 224)
        """
        target = max(self.resize or self.size, self.size)
        if self.squash:
            return target, target
        scale = target / min(height, width)
        return max(target, round(height * scale)), max(target, round(width * scale))


@dataclass(frozen=True, kw_only=True)
class PreprocessOverride:
    """The recipe's `preprocess:`; what is None stays as the checkpoint has it."""

    size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    resize: int | None = None
    squash: bool | None = None
    letterbox: bool | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic"] | None = None
    test_flip: bool | None = None
    test_shift: int | None = None
    test_scales: tuple[float, ...] | None = None
    test_window: int | None = None

    def __post_init__(self) -> None:
        for name in ("size", "resize", "test_window"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidValue(
                    f"preprocess.{name} is {value}", "a number of pixels above 0", "Write 224."
                )
        if self.test_shift is not None and self.test_shift < 0:
            raise InvalidValue(
                f"preprocess.test_shift is {self.test_shift}",
                "a number of pixels of at least 0",
                "Write 2, or leave it out.",
            )
        if self.test_scales is not None and min(self.test_scales, default=1) <= 0:
            raise InvalidValue(
                f"preprocess.test_scales is {list(self.test_scales)}",
                "numbers above 0",
                "Write [0.75, 1, 1.25].",
            )
        if self.std is not None and min(self.std) <= 0:
            raise InvalidValue(
                f"preprocess.std is {self.std}", "three numbers above 0", "Write 0.25."
            )

    def apply(self, preprocess: Preprocess) -> Preprocess:
        """The checkpoint's preprocessing with the given parts replaced.

        A new `size` without a new `resize` drops the checkpoint's `resize`: the whole image is
        seen, which is what small images need.
        """
        given = {name: value for name, value in vars(self).items() if value is not None}
        if "size" in given:
            given.setdefault("resize", None)
        return replace(preprocess, **given)


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """A loaded model with everything an engine must know of it.

    Args:
        model: The framework's own object (`torch.nn.Module`, ...), its head giving one logit per
            class of `classes`, in that order.
        engine: Name of the engine in `finetune/engines/` that can fine-tune it.
        classes: The task's class names.
        preprocess: The member's own, overrides applied.
        head: Names of the modules that make up the head (`("fc",)`, `("classifier.6",)`,
            `("AuxLogits.fc", "fc")`): what "train the head only" trains.
        head_kept: True if the checkpoint's own head serves the task's classes.
        notes: What the user should know of the loading: missing and unexpected keys, a new head.
        gives: What the model's outputs are.
    """

    model: Any
    engine: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    head: tuple[str, ...]
    head_kept: bool = False
    notes: tuple[str, ...] = ()
    gives: Gives = "logits"
