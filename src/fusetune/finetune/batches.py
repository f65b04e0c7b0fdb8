# SPDX-License-Identifier: Apache-2.0
"""Batches of pixels: in what order rows come, at what size they are kept.

Shapes: B rows of a batch, H height, W width, 3 RGB channels.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fusetune.data.inputs import ChosenImages, Images, PixelImages
from fusetune.finetune.letterbox import GRAY, places
from fusetune.finetune.randomness import Keys, mixed_seed, uniforms
from fusetune.members.member import Preprocess
from fusetune.predictions.kinds import Array, Floats
from fusetune.runtime.machine import available_bytes, num_threads

__all__ = [
    "FeatureStore",
    "PixelStore",
    "Store",
    "epoch_order",
    "fitted",
    "in_batches",
    "is_fitted",
    "num_decoders",
    "room_for_pixels",
    "row_slices",
]

Pixels = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.int64]

CACHE_BYTES = 4 * 2**30  # decoded pixels of one split kept in memory; above, decoded every epoch
MEMORY_SHARE = 0.5
"""Of the available memory, for pixels that are read in random order: beyond it, that would wait for
the disk, which takes longer than decoding them, and a model has to fit beside them."""
UNKNOWN_MEMORY = 4 * 2**30  # bytes taken to be available where the system does not say
MOST_DECODERS = 16  # keep up with a fast GPU


class Store(Protocol):
    """What a split's rows are read from, batch by batch: pixels, or features."""

    @property
    def is_decoded(self) -> bool:
        """True if batches only need to be copied."""

    @property
    def num_bytes(self) -> int | None:
        """Size of all rows in memory; None if they are not kept there."""

    def __len__(self) -> int:
        """Number of rows."""

    def batch(self, rows: Rows) -> Array:
        """`(B, ...)` some of the rows; a copy."""


class FeatureStore:
    """The features of a split, which stand in for its images.

    Args:
        features_ND: `(N, D)` float32.
    """

    is_decoded = True

    def __init__(self, features_ND: Floats) -> None:
        self._features_ND = features_ND
        self.num_bytes = features_ND.nbytes

    def __len__(self) -> int:
        return len(self._features_ND)

    def batch(self, rows: Rows) -> Array:
        """`(B, D)` features of some rows; a copy."""
        return self._features_ND[rows]


class PixelStore:
    """The pixels of a split at one working size, decoded once where memory allows.

    Images that are all of one size and no larger than the member's input are kept as they are and
    resized per batch, unless outputs have places in them; all others are resized and center-cropped
    to the member's input here.

    Args:
        images: N images.
        preprocess: The member's own.
    """

    def __init__(self, images: Images, preprocess: Preprocess) -> None:
        self.images = images
        self._preprocess = preprocess
        self._is_fitted = is_fitted(images, preprocess)
        self._cache: Pixels | None = None
        self._filled = np.zeros(len(images), dtype=bool)
        self._decoders = ThreadPoolExecutor(
            num_decoders()
        )  # whose threads start when they are needed
        side = preprocess.size
        most = min(CACHE_BYTES, room_for_pixels())
        if not self._is_fitted and len(images) * side * side * 3 <= most:
            self._cache = np.empty((len(images), side, side, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def is_decoded(self) -> bool:
        """True if batches only need to be copied."""
        return self._is_fitted or bool(self._filled.all())

    @property
    def num_bytes(self) -> int | None:
        """Size of all pixels in memory; None if they are decoded anew in every epoch."""
        if self._is_fitted:
            return len(self.images) * self.images.pixels(0).nbytes if len(self.images) else 0
        return None if self._cache is None else self._cache.nbytes

    def batch(self, rows: npt.NDArray[np.int64]) -> Pixels:
        """`(B, H, W, 3)` pixels of some rows; a copy."""
        if self._is_fitted:
            return pixels_of(self.images, rows)
        if self._cache is None:
            return np.stack(self._fitted(rows))
        absent = rows[~self._filled[rows]]
        if not len(absent):
            return self._cache[rows]
        for row, pixels in zip(absent, self._fitted(absent), strict=True):
            self._cache[row] = pixels
        self._filled[absent] = True
        return self._cache[rows]

    def _fitted(self, rows: npt.NDArray[np.int64]) -> list[Pixels]:
        def one(row: int) -> Pixels:
            return fitted(self.images.pixels(int(row)), self._preprocess)

        return list(self._decoders.map(one, rows))


def epoch_order(
    keys: Keys, strata_N: npt.NDArray[np.int64] | None = None, *, seed: int, epoch: int
) -> Rows:
    """`(N,)` rows of one epoch, in an order that depends on the seed, the epoch and the ids.

    Args:
        keys: Of the N rows.
        strata_N: Groups to take as many rows from, give or take one; None: every row once.
        seed: Of the run.
        epoch: Counted from 0.
    """
    draws_seed = mixed_seed(seed, "order", epoch)
    if strata_N is None:
        draws = uniforms(draws_seed, keys, 1)[:, 0]
        return np.lexsort((keys, draws))
    rows, copies = _balanced(keys, strata_N, mixed_seed(seed, "sample", epoch))
    copy_keys = keys[rows] ^ (copies.astype(np.uint64) << np.uint64(32))
    return rows[np.lexsort((copy_keys, uniforms(draws_seed, copy_keys, 1)[:, 0]))]


def _balanced(keys: Keys, strata_N: npt.NDArray[np.int64], seed: int) -> tuple[Rows, Rows]:
    """Rows, and which copy of its row each one is: from a random start, round and round."""
    order = np.lexsort((keys, uniforms(seed, keys, 1)[:, 0]))
    strata = np.unique(strata_N)
    sizes = len(keys) // len(strata) + (np.arange(len(strata)) < len(keys) % len(strata))
    parts = [order[strata_N[order] == stratum] for stratum in strata]
    rows = [np.resize(part, size) for part, size in zip(parts, sizes, strict=True)]
    copies = [np.arange(size) // len(part) for part, size in zip(parts, sizes, strict=True)]
    return np.concatenate(rows), np.concatenate(copies)


def in_batches(order: Rows, batch_size: int) -> list[Rows]:
    """Rows of every batch of one epoch.

    A last batch of a single row joins the one before it: batch normalization cannot train on it.
    """
    starts = list(range(0, len(order), batch_size))
    if len(starts) > 1 and len(order) - starts[-1] == 1:
        starts.pop()
    return np.split(order, starts[1:])


def row_slices(num: int, batch_size: int) -> Iterator[npt.NDArray[np.int64]]:
    """Consecutive rows, in batches, for prediction."""
    for start in range(0, num, batch_size):
        yield np.arange(start, min(start + batch_size, num))


def is_fitted(images: Images, preprocess: Preprocess) -> bool:
    """True for pixels that are all of one size, no larger than a member's input, or of just its size."""
    base = images.base if isinstance(images, ChosenImages) else images
    if not isinstance(base, PixelImages):
        return False
    sides = base.pixels_NHW3.shape[1:3]
    if preprocess.dense or preprocess.letterbox:
        return set(sides) == {preprocess.size}
    return max(sides) <= preprocess.size


def pixels_of(images: Images, rows: Rows) -> Pixels:
    """`(B, H, W, 3)` of fitted images, copied."""
    if isinstance(images, ChosenImages):
        return pixels_of(images.base, images.rows_N[rows])
    assert isinstance(images, PixelImages)
    return images.pixels_NHW3[rows]


def room_for_pixels() -> float:
    """Bytes of pixels that this machine has the memory for now."""
    free = available_bytes()
    return MEMORY_SHARE * (UNKNOWN_MEMORY if free is None else free)


def num_decoders() -> int:
    """Threads that decode: Pillow releases the interpreter meanwhile."""
    return max(2, min(MOST_DECODERS, num_threads()))


def fitted(pixels: Pixels, preprocess: Preprocess) -> Pixels:
    """Resize, then crop the center square, or fill one up, as the checkpoint does it."""
    from PIL import Image

    resample = Image.Resampling[preprocess.interpolation.upper()]
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if preprocess.letterbox:
        (start,), (size,) = places(np.array([picture.size]), preprocess.size)
        square = Image.new("RGB", (preprocess.size, preprocess.size), (GRAY, GRAY, GRAY))
        square.paste(picture.resize(tuple(size.tolist()), resample), tuple(start.tolist()))
        return np.asarray(square)
    height, width = preprocess.resized(*pixels.shape[:2])
    resized = np.asarray(picture.resize((width, height), resample))
    top, left = ((side - preprocess.size) // 2 for side in resized.shape[:2])
    return resized[top : top + preprocess.size, left : left + preprocess.size]
