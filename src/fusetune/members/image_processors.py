# SPDX-License-Identifier: Apache-2.0
"""From the settings of a transformers image processor to a member's preprocessing."""

from collections.abc import Mapping
from typing import Any

from fusetune.errors import InvalidValue
from fusetune.members.member import Preprocess

__all__ = ["preprocess_of"]

INTERPOLATIONS = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # Pillow's own numbers
BYTE = 255.0
CONVNEXT_SQUASH_PIXELS = 384  # from this size on ConvNeXt's processor no longer crops
LEVIT_MARGIN = 256 / 224


def preprocess_of(settings: Mapping[str, Any], member: str) -> Preprocess:
    """The same resize, crop and normalization, with pixels in [0, 1].

    Interpolations that Pillow and torch do not both have (Lanczos, box, Hamming) become bicubic.

    Args:
        settings: `to_dict()` of the processor, defaults filled in.
        member: Name for messages.

    Raises:
        InvalidValue: It wants images that are not square, or says no size.
    """
    size, resize, squash = _sides(settings, member)
    mean, std = _normalization(settings)
    if settings.get("do_flip_channel_order"):  # to BGR: the source turns the first layer instead
        mean, std = mean[::-1], std[::-1]
    interpolation: Any = INTERPOLATIONS.get(int(settings.get("resample") or 0), "bicubic")
    return Preprocess(
        size=size, mean=mean, std=std, resize=resize, squash=squash, interpolation=interpolation
    )


def _sides(settings: Mapping[str, Any], member: str) -> tuple[int, int, bool]:
    """Side of the crop, side of the resize before it, and whether the latter squashes."""
    crop = _side(settings["crop_size"], member) if settings.get("do_center_crop") else None
    given = settings.get("size") or {}
    kind = str(settings.get("image_processor_type", ""))
    edge = given.get("shortest_edge")
    if edge is None:
        resize = _side(given, member)
        return crop or resize, resize, True
    if kind.startswith("ConvNext") and edge >= CONVNEXT_SQUASH_PIXELS:
        return edge, edge, True
    if share := settings.get("crop_pct"):
        return crop or edge, int(edge / share), False
    margin = LEVIT_MARGIN if kind.startswith("Levit") else 1.0
    return crop or edge, int(margin * edge), False


def _side(size: Mapping[str, Any], member: str) -> int:
    height, width = size.get("height"), size.get("width")
    if not height or height != width:
        wanted = f"images of {height}×{width} pixels" if height else "images of no fixed size"
        raise InvalidValue(
            f"the image processor of '{member}' wants {wanted}",
            "square images of one size",
            "Say how its images are prepared: preprocess: {size: 224, mean: [...], std: [...]}.",
        )
    return int(height)


def _normalization(
    settings: Mapping[str, Any],
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation for pixels in [0, 1], whatever the processor's own scale is."""
    factor = settings["rescale_factor"] if settings.get("do_rescale", True) else 1.0
    offset = 1.0 if settings.get("rescale_offset") else 0.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    if settings.get("do_normalize"):
        mean, std = tuple(settings["image_mean"]), tuple(settings["image_std"])
    if settings.get("include_top"):  # EfficientNet divides by the deviations once more
        std = tuple(a * b for a, b in zip(std, settings["image_std"], strict=True))
    scale = BYTE * factor
    shifted = tuple((value + offset) / scale for value in mean)
    scaled = tuple(value / scale for value in std)
    return shifted, scaled  # type: ignore[return-value]
