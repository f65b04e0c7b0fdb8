# SPDX-License-Identifier: Apache-2.0
"""Masks of another size than their image: probabilities between pixels, read band by band.

Shapes: C classes, H W pixels.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fusetune.predictions.kinds import Floats
from fusetune.predictions.segmentation.masks import (
    ComputedMask,
    Mask,
    Masks,
    Places,
    Size,
    mask_like,
)

__all__ = ["ResampledMask", "resampled"]

Integers = npt.NDArray[np.int64]


class ResampledMask(ComputedMask):
    """The mask at another size: bilinear between the centers of its pixels, as image libraries have it.

    Probabilities are resampled, never labels; weights sum to 1, and so do the classes. Where the new
    size is smaller, pixels between those that are read are left out. Numbers are those of torch's
    `interpolate(mode="bilinear", align_corners=False)`.

    Args:
        mask: The mask, of at least one pixel.
        size: New height and width.
    """

    def __init__(self, mask: Mask, size: Size) -> None:
        super().__init__(size, mask.num_classes)
        assert 0 not in mask.size
        self.mask = mask

    def computed(self, top: int, bottom: int) -> Floats:
        """See `ComputedMask`."""
        upper, lower, share = _between(self.mask.size[0], self.size[0])
        left, right, share_W = _between(self.mask.size[1], self.size[1])
        if bottom <= top:
            return np.zeros((self.num_classes, 0, self.size[1]), dtype=np.float32)
        first, last = int(upper[top]), int(lower[bottom - 1]) + 1
        lines = self.mask.band(first, last)
        before = np.take(lines, left, axis=2)
        wide = _mixed(before, np.take(lines, right, axis=2), share_W)
        above = np.take(wide, upper[top:bottom] - first, axis=1)
        below = np.take(wide, lower[top:bottom] - first, axis=1)
        return _mixed(above, below, share[top:bottom, None])

    def pixels(self, places_P: Places) -> Floats:
        """See `Mask`; of the four old pixels around each, in the order in which bands mix them."""
        (height, width), (lines_P, columns_P) = self.mask.size, np.divmod(places_P, self.size[1])
        upper, lower, share_H = _between(height, self.size[0])
        left, right, share_W = _between(width, self.size[1])
        wide = []
        for line in (upper, lower):
            before, after = (
                self.mask.pixels(line[lines_P] * width + column[columns_P])
                for column in (left, right)
            )
            wide.append(_mixed(before, after, share_W[columns_P]))
        return _mixed(wide[0], wide[1], share_H[lines_P])


def resampled(masks: Masks, sizes: Sequence[Size]) -> Masks:
    """The same masks at other sizes, row by row; those that have theirs already stay as they are."""
    made = [
        mask if mask.size == size else ResampledMask(mask, size)
        for mask, size in zip(masks.masks, sizes, strict=True)
    ]
    return mask_like(masks, masks.ids, made)


def _mixed(first: Floats, second: Floats, share: Floats) -> Floats:
    """`first` and a share of the way to `second`, in whose place it is computed."""
    second -= first
    second *= share.astype(second.dtype)
    second += first
    return second


def _between(old: int, new: int) -> tuple[Integers, Integers, Floats]:
    """For each new place: the old ones before and after it, and how far it is towards the latter.

    Example:
        >>> [one.tolist() for one in _between(2, 4)]
        [[0, 0, 0, 1], [1, 1, 1, 1], [0.0, 0.25, 0.75, 0.0]]
    """
    places = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    before = np.floor(places).astype(np.int64)
    return before, np.minimum(before + 1, old - 1), places - before
