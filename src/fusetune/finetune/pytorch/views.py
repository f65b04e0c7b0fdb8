# SPDX-License-Identifier: Apache-2.0
"""Test-time augmentation: the views of an image whose outputs a prediction averages.

Shapes: B rows of a batch, C classes, H height, W width, h w of an output, 3 RGB channels.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from fusetune.members.member import Preprocess

__all__ = ["Run", "Views", "as_they_are", "prediction_views"]

Run = Callable[[Tensor], Tensor]
"""From a batch of images to what a model says of them."""
Views = Callable[[Run, Tensor], Tensor]
"""From a model and a batch of images to the means of what it says of their views."""


def as_they_are(run: Run, images: Tensor) -> Tensor:
    """What it says of the images and nothing else."""
    return run(images)


def prediction_views(preprocess: Preprocess) -> Views:
    """The images, and with them what `test_shift`, `test_flip` and so on ask for."""
    if preprocess.dense:
        return _views_of_maps(preprocess)
    shift, flip = preprocess.test_shift, preprocess.test_flip

    def views(run: Run, images: Tensor) -> Tensor:
        seen = []
        for moved in shifted(images, shift):
            seen.append(run(moved))
            if flip:
                seen.append(run(moved.flip(3)))
        return torch.stack(seen).mean(dim=0) if len(seen) > 1 else seen[0]

    return views


def shifted(images: Tensor, shift: int) -> Iterator[Tensor]:
    """`(B, 3, H, W)` as they are, and moved up, down, left and right.

    What a shift lays bare repeats the image's edge.
    """
    yield images
    if shift:
        height, width = images.shape[2:]
        padded = functional.pad(images, [shift] * 4, mode="replicate")
        for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            top, left = (1 - down) * shift, (1 - right) * shift
            yield padded[:, :, top : top + height, left : left + width]


def _views_of_maps(preprocess: Preprocess) -> Views:
    """Maps of mirrored and resized images are mirrored and resized back before they are averaged."""
    scales, window = preprocess.test_scales or (1.0,), preprocess.test_window

    def views(run: Run, images: Tensor) -> Tensor:
        def of_one(seen: Tensor) -> Tensor:
            return run(seen) if window is None else in_windows(run, seen, window)

        sides, maps = images.shape[2:], []
        for scale in scales:
            shape = [max(1, round(side * scale)) for side in sides]
            resized = images if scale == 1 else _resized(images, shape, antialias=True)
            maps.append(of_one(resized))
            if preprocess.test_flip:
                maps.append(of_one(resized.flip(3)).flip(3))
        if len(maps) == 1 and scales == (1.0,):
            return maps[0]
        return torch.stack([_resized(one, sides) for one in maps]).mean(dim=0)

    return views


def in_windows(run: Run, images: Tensor, side: int) -> Tensor:
    """`(B, C, H, W)` means of what a model says in square windows, each half over the one before it."""
    height, width = images.shape[2:]
    total: Tensor | None = None
    times = images.new_zeros(height, width)
    for top in _starts(height, side):
        for left in _starts(width, side):
            part = (..., slice(top, top + side), slice(left, left + side))
            said = _resized(run(images[part]), images[part].shape[2:])
            if total is None:
                total = said.new_zeros(*said.shape[:2], height, width)
            total[part] += said
            times[part] += 1
    assert total is not None
    return total / times


def _starts(length: int, side: int) -> list[int]:
    """Where windows begin: evenly, no further apart than half a window.

    Example:
        >>> _starts(10, 4), _starts(3, 4)
        ([0, 2, 4, 6], [0])
    """
    rest = max(0, length - side)
    number = -(-rest // max(1, side // 2))
    return [round(rest * step / max(1, number)) for step in range(number + 1)]


def _resized(maps: Tensor, shape: "list[int] | torch.Size", *, antialias: bool = False) -> Tensor:
    if tuple(maps.shape[2:]) == tuple(shape):
        return maps
    return functional.interpolate(
        maps, list(shape), mode="bilinear", antialias=antialias, align_corners=False
    )
