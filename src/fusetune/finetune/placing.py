# SPDX-License-Identifier: Apache-2.0
"""From what members say in shares of an image, or of a square, to places in the image itself.

Shapes: N rows, C classes, H W pixels of an image, h w of what a member gives.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from fusetune.data.image_sizes import image_sizes
from fusetune.data.inputs import Images
from fusetune.data.label_truth import resized_maps
from fusetune.finetune.engine import Engine, Report
from fusetune.finetune.letterbox import boxes_of_images, objects_in_squares
from fusetune.finetune.objective import Objective
from fusetune.members.member import Member, Preprocess
from fusetune.plugins import find
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.kinds import Ids, Kind
from fusetune.predictions.segmentation.label_maps import LabelMaps
from fusetune.predictions.segmentation.masks import ArrayMask, Mask, Masks, Size
from fusetune.predictions.segmentation.resampled import ResampledMask, resampled
from fusetune.predictions.targets import GroundTruth

__all__ = ["as_seen", "in_full_size", "in_pixels", "kept_size", "predicted_pieces"]

PIECE_BYTES = 256 * 2**20
"""Of the outputs of maps that are held at once."""


def as_seen(truth: GroundTruth, preprocess: Preprocess) -> GroundTruth:
    """The truth beside images as a member sees them: label maps, and letterboxed images, are squares of its size."""
    if isinstance(truth, LabelMaps):
        return resized_maps(truth, preprocess.size)
    if isinstance(truth, Objects) and preprocess.letterbox:
        return objects_in_squares(truth, preprocess.size)
    return truth


def predicted_pieces(
    member: Member,
    ids: Ids,
    images: tuple[Images, Images],
    objective: Objective[Any],
    report: Report,
) -> Iterator[Kind]:
    """What a member predicts of images, in their pixels: all rows at once, of maps some after others.

    Args:
        member: Its weights loaded.
        ids: `(N,)` row names.
        images: N images as they were given, and the same ones, perhaps at the member's size.
        objective: Turns outputs into predictions.
        report: Takes progress events.
    """
    given, seen = images
    engine, num = find(Engine, member.engine)(), max(1, len(ids))
    if member.gives == "maps":
        num = max(1, PIECE_BYTES // (4 * len(member.classes) * member.preprocess.size**2))
    for start in range(0, max(1, len(ids)), num):
        rows = np.arange(start, min(start + num, len(ids)))
        outputs = engine.outputs(member, seen.take(rows), report)
        said = objective.to_prediction(ids[rows], member.classes, outputs)
        yield in_pixels(said, given.take(rows), member.preprocess)


def in_pixels(prediction: Kind, images: Images, preprocess: Preprocess) -> Kind:
    """The same prediction; boxes in pixels of the images, masks of their shape.

    A mask is as fine as the model's output, at most as fine as the image; see `kept_size`.
    """
    if isinstance(prediction, Boxes) and prediction.relative and preprocess.letterbox:
        return boxes_of_images(prediction, image_sizes(images), preprocess.size)
    if isinstance(prediction, Boxes) and prediction.relative:
        return prediction.scaled(image_sizes(images), relative=False)
    if isinstance(prediction, Masks):
        sizes = [(int(height), int(width)) for width, height in image_sizes(images).tolist()]
        masks: list[Mask] = []
        for mask, size in zip(prediction.masks, sizes, strict=True):
            shaped = ResampledMask(mask, kept_size(size, mask.size)).array()
            masks.append(ArrayMask(shaped.astype(np.float16)))
        return Masks(prediction.ids, prediction.classes, tuple(masks))
    return prediction


def in_full_size(prediction: Kind, images: Images) -> Kind:
    """Masks as large as their images, computed where they are read; all else as it is."""
    if not isinstance(prediction, Masks):
        return prediction
    sizes = [(int(height), int(width)) for width, height in image_sizes(images).tolist()]
    return resampled(prediction, sizes)


def kept_size(image: Size, made: Size) -> Size:
    """The image's shape, its shorter side that of the square that was made of it, or its own.

    Example:
        >>> kept_size((180, 240), (128, 128)), kept_size((180, 240), (256, 256))
        ((128, 171), (180, 240))
    """
    scale = min(1.0, max(made) / min(image))
    return max(1, round(image[0] * scale)), max(1, round(image[1] * scale))
