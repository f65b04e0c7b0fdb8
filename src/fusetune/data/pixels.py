# SPDX-License-Identifier: Apache-2.0
"""Pixels from arrays of the layouts that people have.

Shapes: N images, H height, W width, 3 RGB channels.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from fusetune.errors import DataError

__all__ = ["pixels_of_array"]


def pixels_of_array(values: npt.NDArray[Any], where: str) -> npt.NDArray[np.uint8]:
    """`(N, H, W, 3)` uint8 pixels of N images.

    Args:
        values: `(N, H, W, 3)`, `(N, 3, H, W)` (channels are last where both would fit), or gray
            `(N, H, W)`, `(N, H, W, 1)`, `(N, 1, H, W)`, which fill the three channels. uint8, or
            floats in [0, 1], which are multiplied by 255 and rounded.
        where: What the array is, for messages.

    Raises:
        DataError: Another shape or type, or floats outside [0, 1] (NaN included).
    """
    values = _channels_last(values, where)
    if values.dtype.kind == "f":
        values = _from_shares(values, where)
    if values.dtype != np.uint8:
        raise DataError(
            f"{where} holds {values.dtype} numbers",
            "uint8 pixels from 0 to 255, or floats from 0 to 1",
            "Convert the array, for instance with .astype('uint8').",
        )
    if values.shape[3] == 1:
        return np.repeat(values, 3, axis=3)
    return np.ascontiguousarray(values)


def _channels_last(values: npt.NDArray[Any], where: str) -> npt.NDArray[Any]:
    if values.ndim == 3:
        return values[..., None]
    if values.ndim == 4 and min(values.shape[1:]) > 0:
        for channels in (3, 1):
            if values.shape[3] == channels:
                return values
            if values.shape[1] == channels:
                return values.transpose(0, 2, 3, 1)
    raise DataError(
        f"{where} has the shape {values.shape}",
        "(N, H, W, 3), (N, 3, H, W) or (N, H, W)",
        "Give N color or gray images of one size.",
    )


def _from_shares(values: npt.NDArray[Any], where: str) -> npt.NDArray[np.uint8]:
    low, high = (values.min(), values.max()) if values.size else (0.0, 1.0)
    if not np.isfinite(low + high):
        rows = np.unique(np.argwhere(~np.isfinite(values))[:, 0])
        raise DataError(
            f"{where} holds NaN or infinity in {len(rows):,} of {len(values):,} images (first: row {rows[0]})",
            "finite pixels",
            "Repair or remove these images.",
        )
    if not (low >= 0 and high <= 1):
        raise DataError(
            f"{where} holds floats from {low:g} to {high:g}",
            "floats from 0 (black) to 1 (white), not normalized, or uint8",
            "Undo the normalization: every member applies its own.",
        )
    return np.round(values * 255).astype(np.uint8)
