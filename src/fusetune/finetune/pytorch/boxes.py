# SPDX-License-Identifier: Apache-2.0
"""Where the objects of augmented images are: what `augment` does to pixels, done to boxes.

Nothing here waits for the device, or copies numbers to it, so that a step can be recorded.

Shapes: B rows of a batch, K objects of a row, D draws per row.
"""

import math

import torch
from torch import Tensor

from fusetune.finetune.pytorch.augment import (
    AREA,
    ASPECT,
    DOWN,
    FLIP,
    LEFT,
    MOST_ASPECT,
    RIGHT,
    TOP,
)
from fusetune.finetune.settings import Augmentation

__all__ = ["LABEL", "moved_objects"]

LABEL = 4  # the column of an object's class; -1 is no object
LEAST_PIXELS = 2.0  # of both sides of what is left of an object at the edge


def moved_objects(
    objects_BK6: Tensor, draws_BD: Tensor, augmentation: Augmentation, sides: tuple[int, int]
) -> Tensor:
    """The objects of images that `augmented` changed by the same draws.

    Objects are cut at the image's edge; those whose center is beyond it (Liu et al. 2016), or of
    which less than two pixels are left, are none any more.

    Args:
        objects_BK6: Left, top, right, bottom as shares of the image, class, whether ignored.
        draws_BD: See `epoch_draws`.
        augmentation: What was done.
        sides: Height and width of the images in pixels.
    """
    boxes = objects_BK6[..., :LABEL]
    if augmentation.flip or augmentation.crop_padding:
        boxes = _flipped_and_shifted(boxes, draws_BD, augmentation, sides)
    if augmentation.resized_crop is not None:
        boxes = _within_windows(boxes, draws_BD, augmentation.resized_crop)
    centers = (boxes[..., :2] + boxes[..., 2:]) / 2
    cut = boxes.clamp(0, 1)
    across, down = (cut[..., 2:] - cut[..., :2]).unbind(dim=-1)
    large = (across * sides[1] >= LEAST_PIXELS) & (down * sides[0] >= LEAST_PIXELS)
    inside = ((centers >= 0) & (centers <= 1)).all(dim=-1)
    unmoved = (boxes == objects_BK6[..., :LABEL]).all(dim=-1)
    labels = torch.where(unmoved | (large & inside), objects_BK6[..., LABEL], -1.0)
    return torch.cat([cut, labels[..., None], objects_BK6[..., LABEL + 1 :]], dim=-1)


def _flipped_and_shifted(
    boxes: Tensor, draws_BD: Tensor, augmentation: Augmentation, sides: tuple[int, int]
) -> Tensor:
    left, top, right, bottom = boxes.unbind(dim=-1)
    if augmentation.flip:
        flips = draws_BD[:, FLIP, None] < 0.5
        left, right = torch.where(flips, 1 - right, left), torch.where(flips, 1 - left, right)
    if pad := augmentation.crop_padding:
        height, width = sides
        shifts_B2 = (draws_BD[:, DOWN : RIGHT + 1] * (2 * pad + 1)).floor() - pad
        down, across = shifts_B2[:, :1] / height, shifts_B2[:, 1:] / width
        # A mirrored image is shifted the same way as one that is not: after the mirror.
        left, right, top, bottom = left - across, right - across, top - down, bottom - down
    return torch.stack([left, top, right, bottom], dim=-1)


def _within_windows(boxes: Tensor, draws_BD: Tensor, least: float) -> Tensor:
    """Shares of the windows that `_window_grid` takes."""
    area_B = least + (1 - least) * draws_BD[:, AREA]
    aspect_B = torch.exp((2 * draws_BD[:, ASPECT] - 1) * math.log(MOST_ASPECT))
    sizes_B2 = torch.stack([area_B * aspect_B, area_B / aspect_B], dim=1).sqrt().clamp(max=1)
    starts_B2 = (1 - sizes_B2) * torch.stack([draws_BD[:, LEFT], draws_BD[:, TOP]], dim=1)
    starts, sizes = (part.repeat(1, 2)[:, None] for part in (starts_B2, sizes_B2))
    return (boxes - starts) / sizes
