# SPDX-License-Identifier: Apache-2.0
"""Test-time augmentation: the views of an image whose outputs a prediction averages.

Shapes: B rows of a batch, H height, W width, 3 RGB channels.
"""

from collections.abc import Callable, Iterator

from torch import Tensor
from torch.nn import functional

from fusetune.members.member import Preprocess

__all__ = ["Views", "as_they_are", "prediction_views"]

Views = Callable[[Tensor], Iterator[Tensor]]
"""From a batch to the batches that are seen in its place, all of one shape."""


def as_they_are(images: Tensor) -> Iterator[Tensor]:
    """The images and nothing else."""
    yield images


def prediction_views(preprocess: Preprocess) -> Views:
    """The images, and with them what `test_shift` and `test_flip` ask for.

    What a shift lays bare repeats the image's edge.
    """
    shift, flip = preprocess.test_shift, preprocess.test_flip

    def views(images: Tensor) -> Iterator[Tensor]:
        for moved in shifted(images, shift):
            yield moved
            if flip:
                yield moved.flip(3)

    return views


def shifted(images: Tensor, shift: int) -> Iterator[Tensor]:
    """`(B, 3, H, W)` as they are, and moved up, down, left and right."""
    yield images
    if shift:
        height, width = images.shape[2:]
        padded = functional.pad(images, [shift] * 4, mode="replicate")
        for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            top, left = (1 - down) * shift, (1 - right) * shift
            yield padded[:, :, top : top + height, left : left + width]
